"""Jobs: a file in, its labels out. The loop over jobs, and the messages of failed ones."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2

from swiftmedsam.atomic import why_not_writable
from swiftmedsam.case import Case, CaseError
from swiftmedsam.manifest import WeightsError
from swiftmedsam.messages import one_line, printable
from swiftmedsam.network import Network
from swiftmedsam.program.ahead import Ahead, Files
from swiftmedsam.program.progress import OutOfTime, ProgressBar, watched
from swiftmedsam.program.run_log import BEGUN, FAILED, SKIPPED, WRITTEN, RunLog
from swiftmedsam.program.signals import Stopper
from swiftmedsam.program.stats_table import Rows, StatsTable
from swiftmedsam.result import Clock, Progress

STEPS = ("read", "encode", "decode", "write")  # whose seconds the log line of a case has
LOADING = "loading"  # step of the clock: time that a case waits until the network is loaded

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Done:
    """What comes of a job that succeeded, besides its files."""

    case: Case
    rows: Rows = field(default_factory=list)  # of the table of --stats
    written: str = ""  # what the log says when its files are where they belong


class Output(Protocol):
    """Where the labels of a case go; its text is their path or URL."""

    @property
    def parent(self) -> Path:
        """The folder of this machine where they are made."""

    def exists(self) -> bool:
        """Whether there are any; in a store: when the run began."""

    def found(self) -> object | None:
        """What tells those that are there from any that replace them; None if there are none."""

    def remove(self, found: object) -> None:
        """Remove those that `found` is of, unless others have replaced them since."""


@dataclass(frozen=True)
class LocalOutput:
    """A file of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def parent(self) -> Path:
        """Its folder."""
        return self.path.parent

    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    def found(self) -> object | None:
        """What tells the file that is there from one that replaces it; None if there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def remove(self, found: object) -> None:
        """Remove the file that `found` is of, unless it was replaced or is protected."""
        if found == self.found() and not why_not_writable(self.path):
            with contextlib.suppress(OSError):
                self.path.unlink()


@dataclass(frozen=True)
class Job:
    """One case of a run."""

    file: str  # the name of the input
    output: Output
    # Reads, segments and writes the case. It calls Progress before the first slice, too, and passes
    # on the exceptions of Progress.
    run: Callable[[Network, Clock, Progress], Done]
    removes_older: bool = False  # whether a failed job removes an output of an earlier run
    table: StatsTable | None = None  # of the whole run
    inputs: tuple[Path, ...] = ()  # files and folders that it reads
    outputs: tuple[Path, ...] = ()  # all that it writes; the labels first
    files: Files | None = None  # those of them that lie elsewhere


def attempt(
    step: Callable[[], object], file: str, failures: dict[str, str], what: str = "the labels"
) -> bool:
    """Do one step of a run; return whether it succeeded. If not, log and record the reason.

    One bad file must not end the run. So this is the one place that catches every exception. The
    traceback of an unforeseen one is logged at level DEBUG.

    Args:
        step: the function to call.
        file: the name of the file that the step is for.
        failures: messages by file; the message of this file is added before it is logged.
        what: the thing that the step writes, for the message.

    Raises:
        WeightsError: the network cannot be loaded; this is not the fault of a file.
    """
    name = printable(file)
    traceback = None
    try:
        step()
    except WeightsError:
        raise
    except (CaseError, OutOfTime) as error:
        message = str(error)
    except OSError as error:
        message = f"{name}: {what} could not be written ({one_line(error)})"
    except Exception as error:
        traceback = error
        if _is_lack_of_memory(error):
            message = f"{name}: not enough memory"
        else:
            message = (
                f"{name}: an error that was not foreseen ({type(error).__name__}), "
                "--verbose shows where"
            )
    else:
        return True
    message = printable(message)  # one line, also if it quotes a line break
    failures[file] = message
    log.error("%s", message)
    if traceback is not None:
        log.debug("%s", name, exc_info=traceback)
    return False


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether memory was short; OpenCV has its own exception for this."""
    no_memory = getattr(cv2.Error, "StsNoMem", None)
    return isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and getattr(error, "code", None) == no_memory
    )


@dataclass
class Report:
    """The counts and failures of a run so far."""

    written: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # messages by file name
    log: RunLog | None = None  # the file of --log

    def note(self, job: Job, state: str) -> None:
        """Say in the file of --log what has become of a job."""
        if self.log is not None:
            self.log.case(job.file, state, self.failures.get(job.file))


class Older:
    """The output of an earlier run that a job finds when it begins.

    Another run on the same folder may have replaced it since; that one is not removed.
    """

    def __init__(self, job: Job) -> None:
        self._output = job.output
        self._found = job.output.found() if job.removes_older else None

    def remove(self) -> None:
        """Remove it: it would look like an output of the job, which has failed."""
        if self._found is not None:
            self._output.remove(self._found)


def run_jobs(
    jobs: list[Job], network: Network, report: Report, stopper: Stopper, bar: ProgressBar, *,
    timeout: float | None, skip_existing: bool,
) -> None:  # fmt: skip
    """Run the jobs one by one; `report` is up to date at any time.

    Raises:
        Stopped: a signal came; the running case is dropped.
    """
    ahead = Ahead()

    def is_there(job: Job) -> bool:
        return skip_existing and job.output.exists()

    try:
        for number, job in enumerate(jobs, start=1):
            if is_there(job):
                report.skipped += 1
                report.note(job, SKIPPED)
                continue
            name = printable(job.file)
            bar.show(number, name, 0, 1)
            report.note(job, BEGUN)
            progress = watched(functools.partial(bar.show, number, name), stopper, timeout, name)
            following = None
            if job.files is not None:  # else nothing is fetched
                later = (jobs[at] for at in range(number, len(jobs)))
                following = next((one for one in later if not is_there(one)), None)
            step = functools.partial(
                run_and_count, job, network, progress, report, stopper, ahead, following
            )
            older = Older(job)
            done = attempt(step, job.file, report.failures)
            report.note(job, WRITTEN if done else FAILED)
            if not done:
                older.remove()
    finally:
        ahead.close()


def run_and_count(
    job: Job, network: Network, progress: Progress, report: Report, stopper: Stopper,
    ahead: Ahead, following: Job | None,
) -> None:  # fmt: skip
    """Run one job, then log and count it; `following` is the next one.

    Raises:
        Stopped: a signal came; it replaces any exception of the job, which it may have caused.
    """
    try:
        line, rows = run_job(job, network, progress, ahead, following)
        log.info("%s", line)
        if job.table is not None:
            job.table.add(rows)
            job.table.write(printable(job.file))
        report.written += 1
    finally:
        stopper.check()


def run_job(
    job: Job, network: Network, progress: Progress,
    ahead: Ahead | None = None, following: Job | None = None,
) -> tuple[str, Rows]:  # fmt: skip
    """Run one job; return its line for the log, and its rows of the table.

    With `ahead`, the inputs of the job `following` are fetched meanwhile.

    Exceptions of the job and of `progress` pass.
    """
    clock = Clock()
    began = time.perf_counter()
    if job.files is None:
        done = job.run(network, clock, progress)
    else:
        with clock.measure("read"):
            fetched = ahead is not None and ahead.take(job.files)
        with job.files.here(clock, fetched=fetched):
            if ahead is not None and following is not None:
                ahead.begin(following.files, job.files)
            done = job.run(network, clock, progress)
    if done.written:
        log.info("%s", done.written)
    case = done.case
    seconds = time.perf_counter() - began - clock.seconds[LOADING]  # loading is not the case's time
    split = ", ".join(f"{step} {clock.seconds[step]:.2f}" for step in STEPS)
    shape = "x".join(map(str, case.image.shape))
    return f"{case.name}  {shape}  {len(case.boxes)} boxes  {seconds:.2f} s ({split})", done.rows
