"""How a fleet scales: the driver of `swiftmedsam fleet` in a simulation with measured times.

    python -m benchmarks.fleet_simulation --csv docs/fleet.csv --plot docs/fleet.png

Cases are drawn from the volumes of a table of `evaluation.timing` (seconds without the start of a
process, which a worker needs only once). Nothing is segmented: time passes only in the simulation.

A worker is ready after --start-up seconds. Each case is fetched before and its labels are stored
after the work: --latency seconds for each of the two, and --megabytes through the storage, which
gives --bandwidth MB/s to all workers together, one after the other.

What keeps W workers from being W times as fast as one: their start, the storage, and the end, when
some have no case any more while others still work.
"""

import argparse
import csv
import heapq
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import NoReturn

import numpy as np

from swiftmedsam.fleet.driver import Driver, Event, Finished, Started
from swiftmedsam.fleet.progress import FleetProgress
from swiftmedsam.fleet.worker import Outcome, Ready
from swiftmedsam.program.jobs import Job, LocalOutput, Report
from swiftmedsam.program.signals import Stopper

TABLE = Path(__file__).parent / "table5.csv"
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SEED = 1
NLST_CASES, NLST_HOURS, NLST_DOLLARS = 126_000, 9, 1_011  # CTs by TotalSegmentator, PMC11092813


def measured(table: Path, program: str) -> list[float]:
    """Seconds of each volume of a table by one program, without the start: the mean of repeats."""
    found: dict[str, list[float]] = {}
    with table.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["program"] == program and row["file"].startswith("3D"):
                seconds = float(row["seconds"]) - float(row["start"])
                found.setdefault(row["file"], []).append(seconds)
    if not found:
        raise SystemExit(f"{table}: no volumes of {program}")
    return [float(np.mean(times)) for _, times in sorted(found.items())]


@dataclass(frozen=True)
class Model:
    """What is assumed of machines and storage; seconds, megabytes, and megabytes per second."""

    start_up: float
    latency: float
    megabytes: float
    bandwidth: float


class Pool:
    """Workers that are none; `now` is the simulation's time."""

    def __init__(self, workers: int, seconds: dict[str, float], model: Model) -> None:
        self.now = 0.0
        self.storage = 0.0  # seconds that workers spent with it
        self._workers, self._seconds, self._model = workers, seconds, model
        self._free_from = 0.0  # when the storage has sent what it was asked for
        self._numbers, self._order = itertools.count(1), itertools.count()
        self._plan: list[tuple[float, int, Callable[[], Event | None]]] = []

    def _at(self, when: float, act: Callable[[], Event | None]) -> None:
        heapq.heappush(self._plan, (when, next(self._order), act))

    def _through_storage(self, megabytes: float) -> float:
        """When a transfer that is asked for now has ended."""
        self._free_from = max(self._free_from, self.now) + megabytes / self._model.bandwidth
        end = self._free_from + self._model.latency
        self.storage += end - self.now
        return end

    def capacity(self) -> int:
        """How many workers there is room for."""
        return self._workers

    def nodes(self) -> set[str]:
        """One node, as where each worker is does not matter."""
        return {"node"}

    def start(self) -> int:
        """Start a worker; it is ready later."""
        number = next(self._numbers)
        ready = Started(number, Ready("host", "node", frozenset()))
        self._at(self.now + self._model.start_up, lambda: ready)
        return number

    def send(self, worker: int, job: Job) -> None:
        """Give a case to a worker: it fetches, works and stores."""

        def store() -> None:
            # labels are small beside the image
            self._at(self._through_storage(0), lambda: Finished(worker, Outcome(None)))

        def work() -> None:
            self._at(self.now + self._seconds[job.file], store)

        self._at(self._through_storage(self._model.megabytes), work)

    def kill(self, worker: int) -> None:
        """Nobody is killed here."""

    def slices(self, worker: int) -> tuple[int, int]:
        """Not known."""
        return 0, 0

    def events(self, seconds: float) -> list[Event]:
        """What happens until the first event, or in `seconds`."""
        end = self.now + seconds
        while self._plan and self._plan[0][0] <= end:
            self.now, _, act = heapq.heappop(self._plan)
            if event := act():
                return [event]
        self.now = end
        return []


@dataclass(frozen=True)
class Row:
    """A run with a number of workers; shares are of all its worker-seconds, in percent."""

    workers: int
    minutes: float
    times_faster: float  # than one worker
    working: float
    starting: float
    storage: float
    idle: float  # at the end


def _no_work(*_: object) -> NoReturn:
    raise NotImplementedError("nothing is segmented in a simulation")


def simulate(workers: int, times: Sequence[float], model: Model, folder: Path) -> Row:
    """Run cases of these seconds; `times_faster` is 1 until all rows are known."""
    jobs = [Job(f"{i}", LocalOutput(folder / f"{i}"), _no_work) for i in range(len(times))]
    pool = Pool(
        workers, {job.file: seconds for job, seconds in zip(jobs, times, strict=True)}, model
    )
    report = Report()
    Driver(
        jobs, report, Stopper(), FleetProgress(len(jobs), bar=False, clock=lambda: 0.0),
        workers=workers, timeout=None, skip_existing=False, clock=lambda: pool.now,
    ).run(pool)  # fmt: skip
    assert report.written == len(jobs)
    everything = workers * pool.now
    working, starting = sum(times), workers * model.start_up
    shares = np.array([working, starting, pool.storage]) / everything * 100
    return Row(workers, pool.now / 60, 1.0, *shares.tolist(), abs(100 - float(shares.sum())))


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the times faster, and what the workers' time goes to."""
    from matplotlib.figure import Figure  # here, since only --plot needs it

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    speed, share = figure.subplots(1, 2)
    workers = [row.workers for row in rows]
    speed.loglog(workers, workers, color="0.7", label="as many as workers", base=2)
    speed.loglog(workers, [row.times_faster for row in rows], "o-", label="simulated", base=2)
    speed.set(xlabel="workers", ylabel="times faster than one", xticks=workers, yticks=workers)
    for axis in (speed.xaxis, speed.yaxis):
        axis.set_major_formatter("{x:.0f}")
    speed.legend()
    bottom = np.zeros(len(rows))
    for name in ("working", "starting", "storage", "idle"):
        values = np.array([getattr(row, name) for row in rows])
        share.bar([str(one) for one in workers], values, bottom=bottom, label=name)
        bottom += values
    share.set(xlabel="workers", ylabel="% of the workers' time")
    share.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fleet_simulation", description="How a fleet scales, simulated."
    )
    parser.add_argument("--times", type=Path, default=TABLE, help=f"default {TABLE.name}")
    parser.add_argument("--program", default="best", help="whose times (default best)")
    parser.add_argument("--threads", type=int, default=2, help="of the times (default 2)")
    parser.add_argument("--cases", type=int, default=1000, help="volumes (default 1000)")
    for name, value, words in (
        ("start-up", 15.0, "seconds until a worker is ready"),
        ("latency", 0.1, "seconds of each transfer"),
        ("megabytes", 50.0, "of a volume"),
        ("bandwidth", 500.0, "MB/s of the storage, for all workers together"),
        ("price", 0.04, "dollars for a core and hour"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=value, help=f"{words} (default {value:g})"
        )
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    known = measured(options.times, options.program)
    times = np.random.default_rng(SEED).choice(known, options.cases).tolist()
    model = Model(options.start_up, options.latency, options.megabytes, options.bandwidth)
    with tempfile.TemporaryDirectory() as name:
        rows = [simulate(count, times, model, Path(name)) for count in WORKERS]
    first = rows[0].minutes
    rows = [Row(one.workers, one.minutes, first / one.minutes, *astuple(one)[3:]) for one in rows]
    print(f"{len(known)} measured volumes, {np.mean(known):.1f} s on average, {model}")
    names = [field.name for field in fields(Row)]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for one in rows:
        print("| " + " | ".join(f"{value:.3g}" for value in astuple(one)) + " |")
    mean = float(np.mean(known)) + 2 * model.latency + model.megabytes / model.bandwidth
    core_hours = NLST_CASES * mean * options.threads / 3600
    print(
        f"{NLST_CASES} CTs: {core_hours:.0f} core-hours, {core_hours * options.price:.0f} dollars "
        f"at {options.price:g}; in {NLST_HOURS} hours by "
        f"{core_hours / NLST_HOURS / options.threads:.0f} workers of {options.threads} threads "
        f"(TotalSegmentator: {NLST_HOURS} hours, {NLST_DOLLARS} dollars)"
    )
    if options.csv is not None:
        with options.csv.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([f"{value:.6g}" for value in astuple(one)] for one in rows)
    if options.plot is not None:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
