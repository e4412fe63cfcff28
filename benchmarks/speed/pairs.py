"""Time whole programs in pairs, ours and another one, each run in a process of its own.

    python -m benchmarks.speed.pairs CASES --ours NAME=COMMAND ... --other NAME=COMMAND ...
        [--pairs N] [--only GLOB]

CASES is a folder of challenge files, such as `python -m swiftmedsam.evaluation.timing.table5
VAL/inputs CASES --set figures` makes. A COMMAND has {inputs} and {outputs}, or gets both at its
end. `python` is this interpreter. Another program in a folder of its own is, for example,

    --other "DAFT=env -C FOLDER venv/bin/python PerfectMetaOpenVINO.py -i {inputs} -o {outputs}"

For each case, each of ours and each other: one run of both that does not count, so that caches are
filled; then N pairs in which ours is first, and N in which the other is first. The ratio of a pair
is other / ours: above 1 ours is faster. A slow phase of the machine slows both runs of a pair, so
read ratios, not seconds. The table has medians, the smallest and the largest ratio, and the larger
peak of memory in MB (10^6 bytes).
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swiftmedsam.evaluation.score import ScoreError, npz_files
from swiftmedsam.evaluation.timing.measure import (
    Program,
    ProgramRun,
    RunError,
    python_program,
    run,
)
from swiftmedsam.evaluation.timing.runtime import machine

HEADING = (
    "| case | ours | s | MB | other | s | MB | other / ours, ours first | n | other first | n |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass
class Pairs:
    """All pairs of a case and two programs."""

    ours: list[ProgramRun] = field(default_factory=list)
    other: list[ProgramRun] = field(default_factory=list)
    ratios: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})

    def add(self, ours: ProgramRun, other: ProgramRun, *, ours_first: bool) -> None:
        """Add a pair."""
        self.ours.append(ours)
        self.other.append(other)
        self.ratios[ours_first].append(other.seconds / ours.seconds)

    def cells(self, ours_first: bool) -> str:
        """Return the median ratio, its range and the number of pairs of one order."""
        found = self.ratios[ours_first]
        middle = statistics.median(found)
        return f"**{middle:.2f}** ({min(found):.2f} to {max(found):.2f}) | {len(found)}"


def seconds_and_memory(runs: Sequence[ProgramRun]) -> str:
    """Return the median of the seconds, and the largest peak in MB."""
    peaks = [one.peak_bytes for one in runs if one.peak_bytes is not None]
    seconds = statistics.median(one.seconds for one in runs)
    return f"{seconds:.2f} | {max(peaks) / 1e6:.0f}" if peaks else f"{seconds:.2f} | "


def fine(program: Program, case: Path) -> ProgramRun:
    """Run a program on a case.

    Raises:
        RunError: it failed, or wrote no output.
    """
    done = run(program, case)
    if not done.ok:
        raise RunError(
            f"{program.name} failed on {case.name}: exit status {done.status}"
            f"{'' if done.written else ', no output'}: {done.said.last_words}"
        )
    return done


def pairs_of(ours: Program, other: Program, case: Path, count: int) -> Pairs:
    """Run `count` pairs in each order.

    Raises:
        RunError: a run failed.
    """
    fine(ours, case)
    fine(other, case)
    found = Pairs()
    for _ in range(count):
        first, second = fine(ours, case), fine(other, case)
        found.add(first, second, ours_first=True)
        first, second = fine(other, case), fine(ours, case)
        found.add(second, first, ours_first=False)
    return found


def programs(texts: Sequence[str]) -> list[Program]:
    """Return the programs of NAME=COMMAND.

    Raises:
        RunError: a text is something else.
    """
    found = []
    for text in texts:
        name, equals, command = text.partition("=")
        if not name or not equals:
            raise RunError(f"{text}: expected NAME=COMMAND")
        try:
            found.append(python_program(name, command))
        except ValueError as error:
            raise RunError(f"{text}: {error}") from error
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.pairs", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("cases", type=Path)
    parser.add_argument("--ours", nargs="+", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--other", nargs="+", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--pairs", type=int, default=5, help="in each order (default 5)")
    parser.add_argument("--only", default="*", metavar="GLOB")
    options = parser.parse_args(argv)
    try:
        cases = npz_files(options.cases, options.only)
        if not cases:
            raise RunError(f"{options.cases}: has no npz file that matches {options.only}")
        compared = [
            (ours, other) for other in programs(options.other) for ours in programs(options.ours)
        ]
        print(f"{machine()}\n\n{HEADING}", flush=True)
        for name, path in cases.items():
            for ours, other in compared:
                found = pairs_of(ours, other, path, options.pairs)
                print(
                    f"| {name.removesuffix('.npz')} "
                    f"| {ours.name} | {seconds_and_memory(found.ours)} "
                    f"| {other.name} | {seconds_and_memory(found.other)} "
                    f"| {found.cells(True)} | {found.cells(False)} |",
                    flush=True,
                )
    except (OSError, RunError, ScoreError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
