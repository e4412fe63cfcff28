"""`python -m app [INPUTS] [OUTPUTS]`: segment every case of a folder."""

import argparse
import contextlib
import functools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from swiftmedsam.atomic import (
    make_folder,
    remove_partials,
    same_files,
    whole_file,
    why_not_writable,
    why_tables_fail,
)
from swiftmedsam.case import (
    Case,
    CaseError,
    is_case_name,
    one_line,
    printable,
    read_case,
    write_labels,
)
from swiftmedsam.memory import available_memory
from swiftmedsam.network import Network, WeightsError, load
from swiftmedsam.program.jobs import LOADING, Job, OutOfTime, attempt, words_of
from swiftmedsam.program.options import OUTPUTS, parse
from swiftmedsam.program.scan_options import about_scans
from swiftmedsam.program.signals import Stopped, Stopper
from swiftmedsam.segment import Clock, Progress, segment

STEPS = ("read", "encode", "decode", "write")
BAR_WIDTH = 24
CLEAR_LINE = "\r\033[K"

log = logging.getLogger(__name__)


class FolderError(ValueError):
    """Inputs or outputs that nothing can be done with; the message names the folder."""


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
    """Segment one npz as `options` say; what `Job.run` says.

    Raises:
        CaseError: the input is not a case, or no output can be written.
        OSError: the output cannot be written after all.
        WeightsError: the network cannot be loaded.
    """
    limit = options.memory_limit or available_memory()
    if why := why_not_writable(output):
        raise CaseError(f"{printable(path.name)}: the labels could not be written ({why})")
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


def npz_jobs(options: argparse.Namespace) -> list[Job]:
    """A job for each npz of the inputs; the folder of the outputs is made.

    Raises:
        FolderError: there is no case, or an output is an input.
        OSError: a folder cannot be read or made.
    """
    paths = find_cases(options.inputs, options.only)
    if not paths:
        raise FolderError(
            f"{options.inputs}: no file named 2DBox_*.npz or 3DBox_*.npz (scans need boxes: --box, "
            "--boxes or --boxes-from)"
        )
    folder = OUTPUTS if options.outputs is None else options.outputs
    make_folder(folder)
    if folder.samefile(paths[0].parent):
        raise FolderError(f"{folder}: outputs would replace the inputs of the same name")
    outputs = [folder / path.name for path in paths]
    tables = [] if options.failures is None else [options.failures]
    if same := same_files([*outputs, *tables], paths):
        raise FolderError(f"{same[0]}: is an input, and is not overwritten")
    if why := why_tables_fail(tables, outputs):
        raise FolderError(why)
    return [
        # an older output of a case that fails would look as if it were of this run
        Job(
            path.name,
            output,
            functools.partial(segment_file, path, options, output),
            removes_older=True,
        )
        for path, output in zip(paths, outputs, strict=True)
    ]


def begin(options: argparse.Namespace) -> tuple[list[Job], Network]:
    """What is there to do, and what it is done with; outputs are made and tidied up.

    Raises:
        CaseError: scans are asked for in a way that cannot be done.
        FolderError: there is no case, or an output is an input.
        OSError: a folder cannot be read or made.
        WeightsError: the network cannot be loaded; some reasons `Network.wait` finds later.
    """
    if about_scans(options):
        from swiftmedsam.program.scan_jobs import scan_jobs  # not loaded for the challenge's files

        jobs = scan_jobs(options)
    else:
        jobs = npz_jobs(options)
    if removed := remove_all_partials(jobs):
        log.info("removed %d partial files of a run that was killed", removed)
    if options.threads is not None:
        cv2.setNumThreads(options.threads)  # which flows and resizes with its own
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
        progress = watched(
            functools.partial(bar.show, number, name), stopper, options.timeout, name
        )
        step = functools.partial(run_and_count, job, network, progress, report, stopper)
        done = attempt(step, job.file, report.failures)
        if not done and job.removes_older and not why_not_writable(job.output):
            with contextlib.suppress(OSError):
                job.output.unlink()


def run_and_count(
    job: Job, network: Network, progress: Progress, report: Report, stopper: Stopper
) -> None:
    """Do one job, and log and count it.

    Raises:
        Stopped: a signal has come, which may have caused whatever else the job raised.
    """
    try:
        log.info("%s", run_job(job, network, progress))
        report.written += 1
    finally:
        stopper.check()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    options = parse(sys.argv[1:] if argv is None else argv)
    level = logging.WARNING if options.quiet else logging.INFO
    if sys.stderr is None:  # closed by whoever started the program, which has nobody to tell then
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    on_terminal = sys.stderr.isatty()
    line_format = f"{CLEAR_LINE if on_terminal else ''}%(message)s"  # a line replaces the bar
    logging.basicConfig(level=level, format=line_format, stream=sys.stderr)
    logging.getLogger("swiftmedsam.display").setLevel(level if options.verbose else logging.WARNING)
    logging.getLogger("swiftmedsam.program.jobs").setLevel(
        logging.DEBUG if options.verbose else level
    )
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
                from swiftmedsam.program.scan_jobs import (
                    dry_run,  # not loaded for the challenge's files
                )

                dry_run(options, report.failures)
                return _ended(options, report.failures)
            jobs, network = begin(options)
            bar = ProgressBar(len(jobs), enabled=show_bar)
            run_cases(jobs, network, options, report, stopper, bar)
            network.wait()  # what is wrong with it is told, also where no case needed it
    except (CaseError, FolderError, OSError, WeightsError) as error:
        if stopper.received is None:
            log.error("%s", printable(words_of(error)))
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
            reason = one_line(error)
            log.error("%s: the failures could not be written (%s)", options.failures, reason)
            return 1
    return 1 if failures else 0
