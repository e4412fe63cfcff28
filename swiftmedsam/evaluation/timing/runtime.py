"""Measure seconds and memory of programs: a fresh process for each case.

    python -m swiftmedsam.evaluation.timing.runtime INPUTS --out FILE

The challenge times a fresh container for each case, from its start to its end. `--engine docker`
does the same; without it, a process is used in place of the container. Programs run in turns, case
by case (A B, A B, A B), so that other load of the machine affects all of them.
"""

import argparse
import csv
import itertools
import os
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftmedsam.case import CaseError
from swiftmedsam.evaluation.console import (
    clear_line,
    parse_before_dashes,
    picture,
    positive,
    progress,
    table,
)
from swiftmedsam.evaluation.published import (
    COLUMNS,
    OTHER_MACHINES,
    TABLE_5,
    Published,
    published_name,
)
from swiftmedsam.evaluation.score import ScoreError, npz_files
from swiftmedsam.evaluation.timing.measure import (
    PARTS,
    Program,
    ProgramRun,
    RunError,
    app_program,
    nothing_program,
    python_program,
    run,
)
from swiftmedsam.npz import read_case
from swiftmedsam.system import available_threads, cpu_flags, cpu_model, physical_memory

OURS = "swiftmedsam"
MARKS = ("o", "s", "^", "D", "v")
NOTHING_RUNS = 5
ISA_FLAGS = {  # flags in /proc/cpuinfo, and their names
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "bf16", "amx_int8": "AMX int8", "amx_bf16": "AMX bf16",
}  # fmt: skip
MB = 1e6
CSV_COLUMNS = ("program", "file", "repeat", "seconds", *PARTS, "peak_bytes", "exit", "ran_as")


@dataclass(frozen=True)
class CaseSize:
    """The size of a case."""

    shape: tuple[int, ...]  # (H, W) or (D, H, W)
    boxes: int

    @property
    def words(self) -> tuple[str, str]:
        """Return shape and number of boxes, for a table."""
        return "x".join(map(str, self.shape)), str(self.boxes)


@dataclass(frozen=True)
class Timed:
    """A run, with its program, case and repeat."""

    program: str
    file: str
    repeat: int
    run: ProgramRun

    def row(self) -> list[object]:
        """Return the row of the CSV; unknown values are empty."""
        split = self.run.split
        parts = [f"{split[part]:.3f}" if part in split else "" for part in PARTS]
        status = self.run.status or (0 if self.run.written else "no output")
        return [
            self.program, self.file, self.repeat, f"{self.run.seconds:.4f}", *parts,
            "" if self.run.peak_bytes is None else self.run.peak_bytes, status,
            self.run.said.ran_as,
        ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.timing.runtime",
        usage="%(prog)s INPUTS --out FILE [options] [-- options of python -m app]",
        description="Time this program, and others beside it, on every case of a folder.",
        epilog="Options after '--' are for python -m app: -- --precision bf16 --mode litemedsam. "
        "Exit status: 0, or 1 when a run failed, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="CSV with a row for each run, written when it ends; for --timings of the report",
    )  # fmt: skip
    parser.add_argument(
        "--program", action="append", default=[], metavar="NAME=COMMAND",
        help="another program, run in turns with this one. {inputs} and {outputs} are the folders; "
        "without them, both are added at the end: 'lite=python -m benchmarks.reference.baseline'",
    )  # fmt: skip
    parser.add_argument(
        "--engine", metavar="COMMAND",
        help="docker or podman: use a fresh container of 8 GB for each case, not a process",
    )  # fmt: skip
    parser.add_argument(
        "--image", default=OURS, help="image that the engine runs (default %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, help="runs of each case (default %(default)s)"
    )
    parser.add_argument(
        "--once-above", type=float, default=float("inf"), metavar="SECONDS",
        help="if the first run of a program on a case took longer, do not repeat it",
    )  # fmt: skip
    parser.add_argument("--only", metavar="GLOB", default="*", help="time these files alone")
    parser.add_argument(
        "--plot", type=picture, metavar="FILE",
        help="draw seconds by case and program, published ones beside them (png, svg, pdf)",
    )  # fmt: skip
    return parser


def programs(options: argparse.Namespace, app: Sequence[str]) -> list[Program]:
    """Return our program, then the others.

    Raises:
        RunError: a program is not NAME=COMMAND, or two have the same name.
    """
    found = [app_program(OURS, options.engine, options.image, app)]
    for text in options.program:
        name, equals, command = text.partition("=")
        try:
            found.append(python_program(name, command))
        except ValueError as error:
            raise RunError(f"--program {text}: {error}") from error
        if not name or not equals:
            raise RunError(f"--program {text}: should be NAME=COMMAND")
    if len({program.name for program in found}) < len(found):
        raise RunError(f"--program: names should differ from each other and from {OURS}")
    return found


def timed_runs(
    options: argparse.Namespace, cases: dict[str, Path], compared: Sequence[Program]
) -> Iterator[Timed]:
    """Yield each run when it ends; last come runs of the program that does nothing.

    In each repeat of a case, every program runs once.

    Raises:
        RunError: a program cannot be started.
        OSError: a case cannot be copied.
    """
    for file, path in cases.items():
        slow = set()
        for repeat in range(1, options.repeats + 1):
            for program in compared:
                if program.name not in slow:
                    timed = Timed(program.name, file, repeat, run(program, path))
                    yield timed
                    if timed.run.seconds > options.once_above:
                        slow.add(program.name)
    nothing = nothing_program(options.engine, options.image)
    for repeat in range(1, NOTHING_RUNS + 1):
        yield Timed(nothing.name, "-", repeat, run(nothing, None))


def record(
    options: argparse.Namespace, cases: dict[str, Path], compared: Sequence[Program]
) -> list[Timed]:
    """Return all runs, and write each to the CSV when it ends; errors are as in `timed_runs`."""
    runs, show = [], progress()
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for timed in timed_runs(options, cases, compared):
            runs.append(timed)
            writer.writerow(timed.row())
            file.flush()
            if show is not None:
                show(len({each.file for each in runs}) - 1, len(cases))
    return runs


def machine() -> str:
    """Describe the machine: model, instruction sets and cores of the CPU, and memory."""
    flags = cpu_flags()
    isa = [name for flag, name in ISA_FLAGS.items() if flag in flags]
    if bound := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        isa.append(f"of them used what {bound} has")
    return (
        f"{cpu_model()}; {', '.join(isa) or 'instruction sets not known'}; "
        f"{available_threads()} cores for this process; {physical_memory() / 1e9:.0f} GB"
    )


def _medians(runs: Sequence[ProgramRun]) -> list[str]:
    """Return cells: seconds with their range, parts, peak memory; a dash for unknown values."""
    seconds = [run.seconds for run in runs]
    cells = [f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}"]
    for part in PARTS:
        known = [run.split[part] for run in runs if part in run.split]
        cells.append(f"{statistics.median(known):.2f}" if known else "-")
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    cells.append(f"{statistics.median(peaks) / MB:.0f}" if peaks else "-")
    return cells


def by_case(runs: Sequence[Timed]) -> dict[str, dict[str, list[ProgramRun]]]:
    """Return the successful runs by file and program, in their order."""
    found: dict[str, dict[str, list[ProgramRun]]] = defaultdict(lambda: defaultdict(list))
    for timed in runs:
        if timed.run.ok:
            found[timed.file][timed.program].append(timed.run)
    return found


def _seconds(runs: Sequence[ProgramRun]) -> float:
    return statistics.median(run.seconds for run in runs)


def runs_table(runs: dict[str, dict[str, list[ProgramRun]]], sizes: dict[str, CaseSize]) -> str:
    """Return a table: a line for each case and program; the last column is its time / our time."""
    rows = [[
        "Case", "Size", "Boxes", "Program", "Runs", "Seconds", "Range", *map(str.title, PARTS),
        "Peak MB", "Times ours",
    ]]  # fmt: skip
    for file, size in sizes.items():
        for name, of_program in runs.get(file, {}).items():
            ours = runs[file].get(OURS)
            ratio = f"{_seconds(of_program) / _seconds(ours):.2f}" if ours else "-"
            rows.append([
                file.removesuffix(".npz"), *size.words, name, str(len(of_program)),
                *_medians(of_program), ratio,
            ])  # fmt: skip
    return table(rows)


def published_of(file: str, size: CaseSize) -> Published | None:
    """Return the row of the paper's Table 5 that a file is or replaces; None for others.

    Shape and number of boxes must be the same, too.
    """
    case = published_name(file)
    if case is None or size != CaseSize(TABLE_5[case].shape, TABLE_5[case].objects):
        return None
    return TABLE_5[case]


def published_table(
    runs: dict[str, dict[str, list[ProgramRun]]], sizes: dict[str, CaseSize], names: Sequence[str]
) -> str:
    """Return the paper's Table 5 with our columns; "" if none of its cases was run."""
    rows = [["Case", "Size", "Objects", *COLUMNS, *(f"{name} here" for name in names)]]
    for file, size in sizes.items():
        row = published_of(file, size)
        if row is None:
            continue
        published = ["-" if seconds is None else f"{seconds:.1f}" for seconds in row.seconds]
        of_case = runs.get(file, {})
        ours = [f"{_seconds(of_case[name]):.2f}" if name in of_case else "-" for name in names]
        rows.append([file.removesuffix(".npz"), *size.words, *published, *ours])
    return f"{table(rows)}\n{OTHER_MACHINES}" if len(rows) > 1 else ""


def draw_seconds(
    runs: dict[str, dict[str, list[ProgramRun]]], sizes: dict[str, CaseSize], names: Sequence[str],
    out: Path,
) -> None:  # fmt: skip
    """Draw medians by case (full marks) and published seconds (hollow marks); write `out`.

    Raises:
        OSError: `out` cannot be written.
    """
    from matplotlib.figure import Figure  # here, since only --plot needs it

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    places = range(len(sizes))
    for name, mark in zip(names, itertools.cycle(MARKS)):
        medians = [
            _seconds(runs[file][name]) if name in runs.get(file, {}) else None for file in sizes
        ]
        axes.plot(places, medians, mark, ms=6, label=name)
    published = [published_of(file, size) for file, size in sizes.items()]
    for i, (name, mark) in enumerate(zip(COLUMNS, MARKS, strict=True) if any(published) else ()):
        seconds = [None if row is None else row.seconds[i] for row in published]
        label = f"{name}, published"
        axes.plot(places, seconds, mark, ms=7, mfc="none", alpha=0.5, label=label)
    labels = [f"{file.removesuffix('.npz')}\n{', '.join(sizes[file].words)}" for file in sizes]
    axes.set_xticks(places, labels, rotation=60, ha="right", fontsize=7)
    axes.set(yscale="log", ylabel="seconds, whole process or container")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(out, dpi=120)


def _sizes(cases: dict[str, Path]) -> dict[str, CaseSize]:
    """Return the sizes by file; errors are as in `read_case`."""
    read = ((file, read_case(path)) for file, path in cases.items())
    return {file: CaseSize(case.label_shape, len(case.boxes)) for file, case in read}


def _print_all(
    runs: Sequence[Timed], sizes: dict[str, CaseSize], compared: Sequence[Program]
) -> None:
    """Print the machine, how each program ran, the tables, and the time of doing nothing."""
    print(machine())
    for program in compared:
        ran_as = {t.run.said.ran_as for t in runs if t.program == program.name} - {""}
        words = "; ".join([*sorted(ran_as), shlex.join(program.words)])
        print(f"{program.name}: {words}")
    grouped = by_case(runs)
    print("\n" + runs_table(grouped, sizes))
    print(
        "Medians in seconds. Start: before and after the case (process or container, imports, "
        "weights). Rest: resizing masks, painting labels"
    )
    nothing = [run for of_file in grouped["-"].values() for run in of_file]
    if nothing:
        low, high = min(run.seconds for run in nothing), max(run.seconds for run in nothing)
        print(
            f"A program that does nothing takes {_seconds(nothing):.3f} s ({low:.3f}-{high:.3f}, "
            f"{len(nothing)} runs); all seconds above include this"
        )
    if beside := published_table(grouped, sizes, [each.name for each in compared]):
        print(f"\nTable 5 of the paper, seconds\n{beside}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options, app = parse_before_dashes(_parser(), argv)
    try:
        cases = npz_files(options.inputs, options.only)
        if not cases:
            raise ScoreError(f"{options.inputs}: has no npz file")
        sizes, compared = _sizes(cases), programs(options, app)
        runs = record(options, cases, compared)
    except (CaseError, RunError, ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    _print_all(runs, sizes, compared)
    if options.plot:
        try:
            draw_seconds(by_case(runs), sizes, [program.name for program in compared], options.plot)
        except OSError as error:
            print(error, file=sys.stderr)
            return 1
    failed = [timed for timed in runs if not timed.run.ok]
    for timed in failed:
        print(
            f"{timed.program} failed on {timed.file}: exit status {timed.run.status}"
            f"{'' if timed.run.written else ', no output'}: {timed.run.said.last_words}",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
