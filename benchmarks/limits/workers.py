"""Two workers of one thread against one process of two: `python -m benchmarks.limits.workers`.

The same cases are segmented in three ways, in turns and in both orders:

    one     one process of N threads
    parts   N processes of one thread at the same time, each with its part (--part I/N)
    fleet   `swiftmedsam fleet --workers N --threads 1`; it needs Ray

Of each way the median is printed: seconds until all are done; seconds of the work alone, from the
first case that is begun to the last that is written; cases a minute, by the work; and the largest
memory of all its processes together, those of Ray, too (PSS, so shared pages count once). A ratio
above 1 says how many times as many cases a minute as by the first way. In the end it says how many
outputs differ from those of the first way.

--copies N segments each case N times, so that no worker waits for the other at the end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftmedsam.program.parts import Part
from swiftmedsam.system import available_threads

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples" / "inputs"
WAYS = ("one", "parts", "fleet")
EVERY = 0.5  # seconds between two looks at the memory: each takes some milliseconds
LOG = "run.jsonl"


@dataclass(frozen=True)
class Run:
    """What was measured of one run."""

    seconds: float
    work: float
    cases: int
    megabytes: float

    @property
    def a_minute(self) -> float:
        """Cases a minute, by the work alone."""
        return 60 * self.cases / self.work


def commands(way: str, count: int, words: Sequence[str]) -> list[list[str]]:
    """The commands of a way, to be started at the same time; `count` is of workers or threads."""
    program = [sys.executable, "-m", "swiftmedsam"]
    if way == "one":
        return [[*program, *words, "--threads", str(count)]]
    if way == "parts":
        return [[*program, *words, "--threads", "1", "--part", f"{i}/{count}"]
                for i in range(count)]  # fmt: skip
    return [[*program, "fleet", *words, "--threads", "1", "--workers", str(count)]]


def descendants(roots: Sequence[int]) -> set[int]:
    """Processes of this machine that descend from `roots`, with these."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # the name before it, in brackets, may hold spaces and brackets
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:  # it has ended
            continue
    found, more = set(roots), True
    while more:
        new = {pid for pid, parent in parents.items() if parent in found} - found
        found |= new
        more = bool(new)
    return found


def memory_of(processes: set[int]) -> int:
    """Bytes of memory of processes, shared pages in shares."""
    total = 0
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def work_of(folder: Path, parts: int) -> tuple[float, int]:
    """Seconds from the first case begun to the last one written, and how many were written.

    Parts begin at the same time, so the seconds in their files of --log count from one instant.
    """
    names = [Part(i, parts).file(folder / LOG) for i in range(parts)] if parts else [folder / LOG]
    entries = [json.loads(line) for name in names for line in name.read_text().splitlines()]
    begun = [one["seconds"] for one in entries if one.get("state") == "begun"]
    written = [one["seconds"] for one in entries if one.get("state") == "written"]
    return max(written) - min(begun), len(written)


def measure(way: str, count: int, inputs: Path, outputs: Path, more: Sequence[str]) -> Run:
    """Run one way, with outputs in a new folder.

    Raises:
        RuntimeError: it failed.
    """
    outputs.mkdir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [str(inputs), str(outputs), "--quiet", "--log", str(folder / LOG), *more]
        began, peak = time.perf_counter(), 0
        running = [subprocess.Popen(one, cwd=ROOT) for one in commands(way, count, words)]
        while any(one.poll() is None for one in running):
            peak = max(peak, memory_of(descendants([one.pid for one in running])))
            time.sleep(EVERY)
        seconds = time.perf_counter() - began
        if any(one.returncode for one in running):
            raise RuntimeError(f"{way}: exit status {[one.returncode for one in running]}")
        work, cases = work_of(folder, count if way == "parts" else 0)
    return Run(seconds, work, cases, peak / 1e6)


def copied(inputs: Path, only: str, copies: int, folder: Path) -> int:
    """Make links to the cases of `inputs` in `folder`, each by several names; return how many."""
    files = [path for path in sorted(inputs.iterdir()) if path.match(only)]
    for path in files:
        for i in range(copies):
            (folder / f"{path.stem}_{i}{path.suffix}").symlink_to(path.resolve())
    return copies * len(files)


def differences(one: Path, other: Path) -> int:
    """How many files of `one` are others in `other`, or missing there."""
    return sum(
        not (other / path.name).is_file() or (other / path.name).read_bytes() != path.read_bytes()
        for path in one.iterdir()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.limits.workers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("inputs", type=Path, nargs="?", default=EXAMPLES, help="a folder of cases")
    parser.add_argument("--only", default="3D*", metavar="GLOB", help="cases (default 3D*)")
    parser.add_argument("--copies", type=int, default=4, metavar="N", help="default 4")
    parser.add_argument("--rounds", type=int, default=3, help="of both orders (default 3)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--weights", metavar="DIR", help="default: those of the program")
    options = parser.parse_args(argv)
    more = [] if options.weights is None else ["--weights", options.weights]
    runs: dict[str, list[Run]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = folder / "inputs"
        inputs.mkdir()
        if not copied(options.inputs, options.only, options.copies, inputs):
            parser.error(f"{options.inputs}: no file like {options.only}")
        for i in range(2 * options.rounds):
            for way in options.ways if i % 2 == 0 else reversed(options.ways):
                run = measure(way, options.workers, inputs, folder / f"{way}_{i}", more)
                runs[way].append(run)
                print(f"{way}: {run}", file=sys.stderr, flush=True)
        first, *others = options.ways
        odd = {way: differences(folder / f"{first}_0", folder / f"{way}_0") for way in others}
    print(
        f"{runs[first][0].cases} cases, {available_threads()} threads (load "
        f"{os.getloadavg()[0]:.1f}), medians of {2 * options.rounds}"
    )
    print("| way | seconds | work | cases a minute | ratio | MB |\n|---|---|---|---|---|---|")
    base = statistics.median(run.a_minute for run in runs[first])
    for way, all_runs in runs.items():
        seconds, work, rate, megabytes = (
            statistics.median(getattr(run, field) for run in all_runs)
            for field in ("seconds", "work", "a_minute", "megabytes")
        )
        print(
            f"| {way} | {seconds:.1f} | {work:.1f} | {rate:.2f} | {rate / base:.2f} | "
            f"{megabytes:.0f} |"
        )
    for way, count in odd.items():
        print(f"{way}: {count} outputs differ from those of {first}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
