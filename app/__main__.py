"""`python -m app [INPUTS] [OUTPUTS]`: segment every case of a folder."""

import argparse
import contextlib
import functools
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app import __version__
from app.case import Case, CaseError, is_case_name, printable, read_case, write_labels
from app.intensity import DEFAULT_WINDOW, WINDOWS, parse_window
from app.job import LOADING, Job
from app.memory import available_memory
from app.network import AUTO, PRECISIONS, Network, WeightsError, load
from app.scans.options import (
    about_scans,
    add_memory_limit,
    add_scan_options,
    as_option,
    natural,
)
from app.segment import (
    DEFAULT_MODE,
    IMAGE_CROPS,
    LEAST_ASKED,
    MODES,
    MOST_STEP,
    VOLUME_CROPS,
    Clock,
    Progress,
    segment,
)
from app.stop import Stopped, Stopper, leave
from app.whole import remove_partials, whole_file

INPUTS = Path("/workspace/inputs")
OUTPUTS = Path("/workspace/outputs")
STEPS = ("read", "encode", "decode", "write")
BAR_WIDTH = 24
CLEAR_LINE = "\r\033[K"

log = logging.getLogger("app")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got '{text}'")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m app",
        description="Segment every 2DBox_*.npz and 3DBox_*.npz of a folder.",
        epilog="Exit status: 0 when every case was written, 1 when one was not, 2 on wrong usage, "
        "143 or 130 when stopped by SIGTERM or SIGINT.",
    )
    parser.add_argument("inputs", nargs="?", type=Path, default=INPUTS, help=f"default {INPUTS}")
    parser.add_argument("outputs", nargs="?", type=Path, help=f"default {OUTPUTS}")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="a folder with a manifest.json")
    parser.add_argument(
        "--precision", choices=(AUTO, *PRECISIONS), default=AUTO,
        help=f"type of the arithmetic (default {AUTO}: the fastest that suits this CPU)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=MODES, default=DEFAULT_MODE,
        help=f"exact follows LiteMedSAM's rules (default {DEFAULT_MODE})",
    )  # fmt: skip
    parser.add_argument(
        "--crops", type=natural, metavar="N",
        help="most crops of a slice, enlarged for small boxes, in mode best (default "
        f"{IMAGE_CROPS}, of a volume {VOLUME_CROPS})",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=_positive, metavar="K",
        help="ask every K-th slice of a box and interpolate between (default: in mode best as many "
        f"as leave {LEAST_ASKED}, {MOST_STEP} at most; in mode exact 1)",
    )  # fmt: skip
    parser.add_argument("--threads", type=_positive, help="default: all this process may use")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS",
        help="give up a case that takes longer, between two boxes (default: never)",
    )  # fmt: skip
    add_memory_limit(parser)
    parser.add_argument("--only", metavar="GLOB", default="*", help="file names to segment")
    parser.add_argument(
        "--window", type=as_option(parse_window), default=DEFAULT_WINDOW,
        help=f"for CT in Hounsfield units: {', '.join(WINDOWS)} or LEVEL,WIDTH (default soft)",
    )  # fmt: skip
    parser.add_argument(
        "--failures", type=Path, metavar="FILE",
        help="write a JSON list of the failed cases, each with its file and message",
    )  # fmt: skip
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace outputs (default)")
    existing.add_argument("--skip-existing", action="store_true", help="keep those that are there")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--verbose", action="store_true", help="also say what each file holds")
    words.add_argument("--quiet", action="store_true", help="only warnings and errors")
    add_scan_options(parser)
    parser.add_argument("--version", action="version", version=f"SwiftMedSAM {__version__}")
    return parser


class FolderError(ValueError):
    """Inputs or outputs that nothing can be done with; the message names the folder."""


class OutOfTime(Exception):
    """A case takes longer than --timeout; the message names the file and how far it came."""


@dataclass
class Report:
    """How far a run has come."""

    written: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # messages by file name


class ProgressBar:
    """One line on a terminal; nothing at all elsewhere."""

    def __init__(self, cases: int, *, enabled: bool) -> None:
        self._cases, self._enabled = cases, enabled

    def show(self, case: int, name: str, done: int, total: int) -> None:
        """Draw the state: `done` of `total` slices of the `case`-th case."""
        if self._enabled:
            part = (case - 1 + done / total) / self._cases
            bar = ("#" * round(part * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
            sys.stderr.write(f"{CLEAR_LINE}[{bar}] {case}/{self._cases} {name} {done}/{total}")
            sys.stderr.flush()


def find_cases(inputs: Path, only: str) -> list[Path]:
    """Files of `inputs` to segment, by name; the others are left alone and named once.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [inputs] if inputs.is_file() else inputs.iterdir()
    files = sorted(path for path in found if not path.name.startswith("."))
    others = [printable(path.name) for path in files if not is_case_name(path.name)]
    if others:
        log.warning("left alone (not [23]DBox_*.npz): %s", ", ".join(others))
    return [path for path in files if is_case_name(path.name) and path.match(only)]


def segment_file(
    path: Path, options: argparse.Namespace, output: Path,
    network: Network, clock: Clock, progress: Progress,
) -> Case:  # fmt: skip
    """Segment one npz as `options` say; what `Job.run` says. If that fails, no older output stays.

    Raises:
        CaseError: the input is not a case.
        OSError: the output cannot be written.
        WeightsError: the network cannot be loaded.
    """
    limit = options.memory_limit or available_memory()
    try:
        with clock.measure("read"):
            case = read_case(path, options.window, memory_limit=limit)
        with clock.measure(LOADING):
            network.wait()
        progress(0, 1)
        labels = segment(
            case, network, mode=options.mode, max_crops=options.crops, step=options.step,
            memory_limit=limit, clock=clock, progress=progress,
        )  # fmt: skip
        with clock.measure("write"):
            write_labels(output, labels)
    except WeightsError:
        raise  # of no case
    except Exception:  # it would look as if it were of this run
        with contextlib.suppress(OSError):
            output.unlink()
        raise
    return case


def run_job(job: Job, network: Network, progress: Progress) -> str:
    """Do one job; return the line to log about it.

    Whatever the job or `progress` raises passes through.
    """
    clock = Clock()
    began = time.perf_counter()
    case = job.run(network, clock, progress)
    seconds = time.perf_counter() - began - clock.seconds[LOADING]  # the start's, not the case's
    split = ", ".join(f"{step} {clock.seconds[step]:.2f}" for step in STEPS)
    shape = "x".join(map(str, case.image.shape))
    return f"{case.name}  {shape}  {len(case.boxes)} boxes  {seconds:.2f} s ({split})"


def write_failures(path: Path, failures: dict[str, str]) -> None:
    """Write a JSON list of {"file", "message"}, one of each failed case, the whole file or none.

    `failures` are messages by file name. ASCII only: any name survives, even one that is no text.

    Raises:
        OSError: the file cannot be written.
    """
    entries = [{"file": name, "message": message} for name, message in failures.items()]
    with whole_file(path) as stream:
        stream.write(json.dumps(entries, indent=1).encode() + b"\n")


def _with_window_joined(argv: Sequence[str]) -> list[str]:
    """`--window -600,1500` as one word: argparse would take the level for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--window":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def npz_jobs(options: argparse.Namespace) -> list[Job]:
    """A job for each npz of the inputs; the folder of the outputs is made.

    Raises:
        FolderError: there is no case, or outputs are the inputs.
        OSError: a folder cannot be read or made.
    """
    paths = find_cases(options.inputs, options.only)
    if not paths:
        raise FolderError(f"{options.inputs}: no file named 2DBox_*.npz or 3DBox_*.npz")
    outputs = OUTPUTS if options.outputs is None else options.outputs
    outputs.mkdir(parents=True, exist_ok=True)
    if outputs.samefile(paths[0].parent):
        raise FolderError(f"{outputs}: outputs would replace the inputs of the same name")
    return [
        Job(path.name, output, functools.partial(segment_file, path, options, output))
        for path, output in ((path, outputs / path.name) for path in paths)
    ]


def begin(options: argparse.Namespace) -> tuple[list[Job], Network]:
    """What is there to do, and what it is done with; outputs are made and tidied up.

    Raises:
        CaseError: scans are asked for in a way that cannot be done.
        FolderError: there is no case, or outputs are the inputs.
        OSError: a folder cannot be read or made.
        WeightsError: the network cannot be loaded; some reasons `Network.wait` finds later.
    """
    if about_scans(options):
        from app.scans.command import scan_jobs  # not loaded for the challenge's files

        jobs = scan_jobs(options)
    else:
        jobs = npz_jobs(options)
    if removed := remove_all_partials(jobs):
        log.info("removed %d partial files of a run that was killed", removed)
    network = load(
        options.weights, precision=options.precision, threads=options.threads,
        wait=options.timeout is not None,  # which is for cases, not for the network
    )  # fmt: skip
    return jobs, network


def remove_all_partials(jobs: list[Job]) -> int:
    """Remove what dead runs left in the folders that `jobs` write to; return how many files."""
    return sum(remove_partials(folder) for folder in {job.output.parent for job in jobs})


def watched(show: Progress, stopper: Stopper, timeout: float | None, name: str) -> Progress:
    """`show`, which ends the case when a signal has come or `timeout` seconds are over from now on.

    A case whose last slice is done is never given up: what is left is to write it.

    Raises, when it is called:
        Stopped: a signal has come.
        OutOfTime: the time is over.
    """
    deadline = math.inf if timeout is None else time.perf_counter() + timeout

    def progress(done: int, total: int) -> None:
        stopper.check()
        show(done, total)
        if done < total and time.perf_counter() > deadline:
            where = f"after {done} of {total} slices" if done else "before its first slice was done"
            raise OutOfTime(f"{name}: given up {where}, --timeout is {timeout:g} s")

    return progress


def run_cases(
    jobs: list[Job], network: Network, options: argparse.Namespace, report: Report,
    stopper: Stopper, bar: ProgressBar,
) -> None:  # fmt: skip
    """Segment the cases one by one; `report` says at any time how far that has come.

    Raises:
        Stopped: a signal has come; the running case is dropped.
    """
    for number, job in enumerate(jobs, start=1):
        if options.skip_existing and job.output.exists():
            report.skipped += 1
            continue
        name = printable(job.file)
        bar.show(number, name, 0, 1)
        show = functools.partial(bar.show, number, name)
        message = ""
        try:
            progress = watched(show, stopper, options.timeout, name)
            line = run_job(job, network, progress)
            log.info("%s", line)
            report.written += 1
        except (CaseError, OutOfTime) as error:
            message = str(error)
        except OSError as error:
            message = f"{name}: the labels could not be written ({error})"
        except MemoryError as error:
            message = f"{name}: not enough memory ({error})"
        stopper.check()  # before an error is believed that the signal may have caused
        if message:
            report.failures[job.file] = message
            log.error("%s", message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(_with_window_joined(words))
    level = logging.WARNING if options.quiet else logging.INFO
    on_terminal = sys.stderr.isatty()
    line_format = f"{CLEAR_LINE if on_terminal else ''}%(message)s"  # a line replaces the bar
    logging.basicConfig(level=level, format=line_format, stream=sys.stderr)
    logging.getLogger("app.intensity").setLevel(level if options.verbose else logging.WARNING)
    with Stopper() as stopper:
        return _run(options, stopper, show_bar=on_terminal and not options.quiet)


def _run(options: argparse.Namespace, stopper: Stopper, *, show_bar: bool) -> int:
    """Everything after the options; the exit status."""
    began = time.perf_counter()
    report = Report()
    jobs: list[Job] = []
    try:
        with stopper.raising():
            if options.dry_run:
                from app.scans.command import dry_run  # not loaded for the challenge's files

                dry_run(options, report.failures)
                return _ended(options, report.failures)
            jobs, network = begin(options)
            bar = ProgressBar(len(jobs), enabled=show_bar)
            run_cases(jobs, network, options, report, stopper, bar)
            network.wait()  # what is wrong with it is told, also where no case needed it
    except (CaseError, FolderError, OSError, WeightsError) as error:
        if stopper.received is None:
            log.error("%s", error)
            return _ended(options, report.failures) if report.failures else 1
    except Stopped:
        pass
    summary = (
        f"{report.written} written, {report.skipped} skipped, {len(report.failures)} failed, "
        f"{time.perf_counter() - began:.1f} s"
    )
    if stopper.received is None:
        log.info("%s", summary)
    else:
        # Only here, where what was raised no longer holds the file open and with it the lock. It is
        # not there at all, unless the signal came in the instant between its creation and its `try`
        remove_all_partials(jobs)
        left = len(jobs) - report.written - report.skipped - len(report.failures)
        not_done = f", {left} not done" if jobs else ""  # none was begun: nobody has counted yet
        log.warning("stopped by %s: %s%s", stopper.received.name, summary, not_done)
    status = _ended(options, report.failures)
    return stopper.status or status


def _ended(options: argparse.Namespace, failures: dict[str, str]) -> int:
    """Write the failures where it is asked for; the exit status of a run that was not stopped."""
    if options.failures is not None:
        try:
            write_failures(options.failures, failures)
        except OSError as error:
            log.error("%s: the failures could not be written (%s)", options.failures, error)
            return 1
    return 1 if failures else 0


if __name__ == "__main__":
    leave(main())
