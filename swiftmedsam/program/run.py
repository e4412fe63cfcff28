"""A run of the program: its jobs one after the other, a summary, and the exit status."""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2

from swiftmedsam.atomic import remove_partials
from swiftmedsam.case import CaseError
from swiftmedsam.manifest import WeightsError
from swiftmedsam.messages import one_line, printable, words_of
from swiftmedsam.network import Network
from swiftmedsam.program.failures import write_failures
from swiftmedsam.program.jobs import Job, Report, run_jobs
from swiftmedsam.program.npz_jobs import FolderError, npz_jobs
from swiftmedsam.program.progress import ProgressBar
from swiftmedsam.program.run_log import RunLog
from swiftmedsam.program.scan_options import about_scans
from swiftmedsam.program.signals import Stopped, Stopper
from swiftmedsam.urls import Url

if TYPE_CHECKING:
    from swiftmedsam.program.stored import Mirror

log = logging.getLogger(__name__)


def mirror_of(
    options: argparse.Namespace,
) -> contextlib.AbstractContextManager[Mirror | None]:
    """The mirror of a run with URLs, while it lasts; None for one without.

    Raises:
        StoreError: it cannot be made.
    """
    named = (options.inputs, options.outputs, options.boxes_from, *(options.boxes or []))
    if not any(isinstance(one, Url) for one in named) and options.dicomweb is None:
        return contextlib.nullcontext()
    # imported here: most runs have no URL, and start sooner without it
    from swiftmedsam.program.stored import new_mirror

    return new_mirror(options)


def make_jobs(
    options: argparse.Namespace, mirror: Mirror | None = None
) -> tuple[list[Job], list[str]]:
    """The jobs of this run or part, and the names of all cases; the output folders are made.

    With a `mirror`, paths take the place of URLs in `options`.

    Raises:
        StoreError: a store cannot be used.
        CaseError: the options for scans are wrong.
        FolderError: there is no case, or an output is an input.
        OSError: a folder cannot be read or made.
    """
    if mirror is not None:
        mirror.look(options)
    if about_scans(options):
        from swiftmedsam.program.scan_jobs import scan_jobs  # npz files do not need it

        jobs = scan_jobs(options)
    else:
        jobs = npz_jobs(options)
    names = [job.file for job in jobs]
    inputs = [path for job in jobs for path in job.inputs]
    if options.part is not None:
        jobs = options.part.take(jobs, lambda job: job.file)
    if mirror is not None:
        mirror.forget(inputs)
        jobs = [mirror.stored(job, options) for job in jobs]
    return jobs, names


def open_log(options: argparse.Namespace, used: str, jobs: list[Job], names: list[str]) -> RunLog:
    """The file of --log; `used` is the network and its precision, `names` are of all cases.

    Raises:
        OSError: it cannot be written.
    """
    outputs = {job.file: job.output for job in jobs}
    return RunLog(options.log, options.part, used, names, outputs)


def begin(
    options: argparse.Namespace, network: Network | WeightsError, report: Report,
    mirror: Mirror | None,
) -> tuple[list[Job], Network]:  # fmt: skip
    """The jobs and the network. The output folders are made; partial files in them are removed.

    `network` is raised if it is an error: after those of the inputs. `report` gets the file of
    --log.

    Raises:
        CaseError: the options for scans are wrong.
        FolderError: there is no case, or an output is an input.
        OSError: a folder cannot be read or made.
        WeightsError: the network cannot be loaded; `Network.wait` may raise it later, too.
    """
    jobs, names = make_jobs(options, mirror)
    if removed := remove_all_partials(jobs, options):
        log.info("removed %d partial files of a run that was killed", removed)
    if options.threads is not None:
        cv2.setNumThreads(options.threads)  # OpenCV has its own threads, for flow and resizing
    if isinstance(network, WeightsError):
        raise network
    log.info("%s", network)
    if options.timeout is not None:
        network.wait()  # the timeout of a case must not include the loading
    if options.log is not None:
        report.log = open_log(options, f"{network.variant}, {network.precision}", jobs, names)
    return jobs, network


def remove_all_partials(jobs: list[Job], options: argparse.Namespace) -> int:
    """Remove partial files of killed runs from the folders of `jobs`; return their number.

    A part and a cluster remove none: others may write to the same folders, and not every file
    system shows their locks to other hosts. `swiftmedsam merge` removes them.
    """
    if options.part is not None or options.address is not None:
        return 0
    return sum(remove_partials(folder) for folder in {job.output.parent for job in jobs})


def run_all(
    options: argparse.Namespace, network: Network | WeightsError | None, *, show_bar: bool
) -> int:
    """Do what `options` ask for; return the exit status. --dry-run needs no `network`."""
    with Stopper() as stopper:
        report = Report()
        jobs: list[Job] = []

        def work() -> None:
            assert network is not None
            with mirror_of(options) as mirror, stopper.raising():
                found, loaded = begin(options, network, report, mirror)
                jobs.extend(found)
                run_jobs(
                    jobs, loaded, report, stopper, ProgressBar(len(jobs), enabled=show_bar),
                    timeout=options.timeout, skip_existing=options.skip_existing,
                )  # fmt: skip
                loaded.wait()  # report a broken network, even if no case needed it

        return run(options, stopper, report, jobs, work)


def run(
    options: argparse.Namespace, stopper: Stopper, report: Report, jobs: list[Job],
    work: Callable[[], None],
) -> int:  # fmt: skip
    """Call `work`, or draw the boxes of --dry-run; then log a summary; return the exit status.

    `work` adds the run's jobs to `jobs`, and runs them. An error that ends the whole run is logged
    as one line.
    """
    status = _run(options, stopper, report, jobs, work)
    return status if report.log is None else report.log.close(status)


def _run(
    options: argparse.Namespace, stopper: Stopper, report: Report, jobs: list[Job],
    work: Callable[[], None],
) -> int:  # fmt: skip
    began = time.perf_counter()
    try:
        if options.dry_run:
            # imported here, since npz files do not need it
            from swiftmedsam.program.scan_jobs import dry_run

            with mirror_of(options) as mirror, stopper.raising():
                dry_run(options, report.failures, mirror)
            return _ended(options, report.failures)
        work()
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
    left = len(jobs) - report.written - report.skipped - len(report.failures)
    if stopper.received is None:
        log.info("%s", f"{summary}, {left} not done" if left else summary)
    else:
        # Only here has the exception released the file and its lock. A partial file is left only if
        # the signal came between the creation of the file and its `try`.
        remove_all_partials(jobs, options)
        not_done = f", {left} not done" if jobs else ""  # without jobs the number is unknown
        log.warning("stopped by %s: %s%s", stopper.received.name, summary, not_done)
    status = _ended(options, report.failures)
    return stopper.status or status or (1 if left else 0)


def _ended(options: argparse.Namespace, failures: dict[str, str]) -> int:
    """Write the file of --failures, if given; return the exit status of a run without signal."""
    if options.failures is not None:
        try:
            write_failures(options.failures, failures)
        except OSError as error:
            reason = one_line(error)
            log.error("%s: the failures could not be written (%s)", options.failures, reason)
            return 1
    return 1 if failures else 0
