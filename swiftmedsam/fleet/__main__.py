"""`swiftmedsam fleet [INPUTS] [OUTPUTS]`: segment every case of a folder on many machines."""

import argparse
import contextlib
import importlib.util
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

if importlib.util.find_spec("ray") is None:  # said before the work; it is imported after the plan
    raise ModuleNotFoundError("No module named 'ray'", name="ray")

from swiftmedsam.atomic import remove_partials_of
from swiftmedsam.fleet.driver import Driver, FleetError
from swiftmedsam.fleet.progress import FleetProgress
from swiftmedsam.fleet.worker import Setup, agree
from swiftmedsam.messages import printable
from swiftmedsam.program.jobs import Job, Report
from swiftmedsam.program.main import start_logging
from swiftmedsam.program.options import OUTPUTS, parse
from swiftmedsam.program.run import make_jobs, mirror_of, open_log, remove_all_partials, run
from swiftmedsam.program.scan_options import about_scans, positive
from swiftmedsam.program.signals import Stopper
from swiftmedsam.program.stored import Mirror

LONGEST = 20  # characters of a folder for Unix sockets: with Ray's names they have 107 at most
PATHS = ("inputs", "outputs", "weights", "boxes_from", "stats", "failures", "log", "cache")

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a run on one machine does not have."""
    parser.description = (
        "Segment every 2DBox_*.npz and 3DBox_*.npz of a folder, or scans with boxes, with several "
        "workers, on this machine or on the nodes of a Ray cluster. All nodes need the same "
        "program and weights, and must see the files under the same names."
    )
    group = parser.add_argument_group(
        "the fleet",
        "--threads, --memory-limit and --timeout are of each worker (default: 4 threads, fewer "
        "where a node or --workers leaves less, and its share of a node's memory); a case that "
        "gives no answer in twice the time of --timeout is ended with its worker",
    )
    group.add_argument(
        "--workers", type=positive, metavar="K",
        help="how many workers (default: as many as there is room for, also as nodes come and go)",
    )  # fmt: skip
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of the cluster that this machine belongs to, or auto (default: this machine alone)",
    )


def with_whole_paths(options: argparse.Namespace) -> None:
    """Make all paths absolute: workers have other working directories."""
    if isinstance(options.inputs, Path) and options.outputs is None and not about_scans(options):
        options.outputs = OUTPUTS
    for name in PATHS:
        if isinstance(path := getattr(options, name), Path):  # a URL is whole
            setattr(options, name, path.absolute())
    if options.boxes:
        options.boxes = [one.absolute() if isinstance(one, Path) else one for one in options.boxes]


@contextlib.contextmanager
def ray_environment(address: str | None) -> Iterator[Path]:
    """Set Ray's environment, before it is imported; a folder for its files while it runs.

    A Ray that is started here listens on the machine's own address, not on loopback alone. It only
    obeys clients that know a secret, which is in that folder. A cluster has a secret of its own.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report each run to its makers
    temporary = tempfile.gettempdir()
    where = "/tmp" if len(temporary) > LONGEST and Path("/tmp").is_dir() else temporary
    with tempfile.TemporaryDirectory(prefix="ray-", dir=where, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if address is None:
            secret = folder / "secret"
            secret.write_text(secrets.token_hex(32))
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(secret)}
            os.environ.pop("RAY_AUTH_TOKEN", None)
        yield folder


def work(
    options: argparse.Namespace, stopper: Stopper, report: Report, jobs: list[Job], *,
    mirror: Mirror | None, show_bar: bool,
) -> None:  # fmt: skip
    """Run all jobs, which are added to `jobs`.

    Raises:
        FleetError: Ray could not be reached, or there is no worker.
        Stopped: a signal came.
        CaseError, FolderError, OSError, WeightsError: as a run on one machine.
    """
    with stopper.raising():
        found, names = make_jobs(options, mirror)
        jobs.extend(found)
        if removed := remove_all_partials(jobs, options):
            log.info("removed %d partial files of a run that was killed", removed)
        agreement = agree(options.weights, options.precision)
        used = f"{agreement.variant}, {agreement.precision}"
        if options.log is not None:
            report.log = open_log(options, used, jobs, names)
    progress = FleetProgress(len(jobs), bar=show_bar)
    driver = Driver(
        jobs, report, stopper, progress, workers=options.workers, timeout=options.timeout,
        skip_existing=options.skip_existing,
    )  # fmt: skip
    if not driver.skip_existing():
        return
    run_name = secrets.token_hex(4)
    with ray_environment(options.address) as folder:
        from swiftmedsam.fleet.ray_pool import RayPool  # seconds

        pool = RayPool(options.address, folder, options.workers, options.threads)
        try:
            with stopper.raising():
                pool.connect()
                threads, share = pool.share()
            if options.memory_limit is None:
                options.memory_limit = share  # the jobs read it when they run
            memory = options.memory_limit
            log.info("%s, workers of %d threads and %.1f GB", used, threads, memory / 1e9)
            setup = Setup(run_name, options.weights, threads, options.timeout, agreement)
            pool.prepare(setup, memory)
            driver.run(pool)
        finally:
            pool.close()
            for output_folder in {job.output.parent for job in jobs}:
                remove_partials_of(run_name, output_folder)
            failures = {job.file: report.failures.get(job.file) for job in jobs}
            report.failures = {file: message for file, message in failures.items() if message}
            if driver.deaths:
                log.info("%d workers died", driver.deaths)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    options = parse(words, "swiftmedsam fleet", add_options)
    show_bar = start_logging(options)
    with_whole_paths(options)
    with Stopper() as stopper:
        report = Report()
        jobs: list[Job] = []

        def fleet() -> None:
            try:
                with mirror_of(options) as mirror:
                    work(options, stopper, report, jobs, mirror=mirror, show_bar=show_bar)
            except FleetError as error:
                log.error("%s", printable(str(error)))

        return run(options, stopper, report, jobs, fleet)


if __name__ == "__main__":
    sys.exit(main())
