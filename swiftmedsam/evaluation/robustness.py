"""Score the program on worse boxes.

    python -m swiftmedsam.evaluation.robustness INPUTS GTS --out DIR

For each move, the sides of all boxes are moved outward or inward, `python -m app` segments the
moved cases, and its outputs are scored. Moves are in input pixels.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from swiftmedsam.case import CaseError
from swiftmedsam.evaluation.console import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    add_shared_options,
    clear_line,
    parse_before_dashes,
    picture,
    progress,
    table,
)
from swiftmedsam.evaluation.prompts import write_moved
from swiftmedsam.evaluation.score import (
    CaseScore,
    ScoreError,
    Summary,
    find_pairs,
    score,
    summarise,
)

MOVES = (-5, 0, 5, 10, 20)
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE)  # of modalities; the average is black
STYLES = ("-", "--")  # the second one for modalities after the sixth


class AppError(RuntimeError):
    """The program failed on a case."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.robustness",
        usage="%(prog)s INPUTS GTS --out DIR [options] [-- options of python -m app]",
        description="Move the sides of all boxes, segment, score: DSC by modality and move.",
        epilog="Options after '--' are for python -m app, for example: -- --mode litemedsam. "
        "With --skip-existing among them, existing outputs in DIR are used. "
        "Exit status: 0, or 1 when a case cannot be segmented or scored, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("gts", type=Path, metavar="GTS", help="folder of truth")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the outputs, with a folder for each move",
    )
    parser.add_argument(
        "--moves", type=int, nargs="+", default=MOVES, metavar="N",
        help="input pixels outward; below 0: inward (default "
        f"{' '.join(map(str, MOVES))})",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=picture, metavar="FILE", help="draw the curves (png, svg, pdf)"
    )
    add_shared_options(parser, "take")
    return parser


def move_name(move: int) -> str:
    """Return "-5", "0" or "+5": heading of a column, and name of the folder of its outputs."""
    return f"{move:+d}" if move else "0"


def run_app(inputs: Path, outputs: Path, options: Sequence[str]) -> None:
    """Segment `inputs` into `outputs`, in a process of its own, as a user would.

    Raises:
        AppError: the exit status of the process is not 0.
    """
    command = [sys.executable, "-m", "app", str(inputs), str(outputs), *options]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise AppError(f"python -m app ended with status {status}")


def score_move(options: argparse.Namespace, move: int, app: Sequence[str]) -> list[CaseScore]:
    """Score the cases of `options.inputs` with boxes moved by `move`.

    Raises:
        CaseError, AppError: a case cannot be read or segmented.
        ScoreError: the outputs cannot be scored, or there is no truth for a case.
        OSError: `options.out` cannot be written to.
    """
    pairs = find_pairs(options.inputs, options.gts, official=False, only=options.only)
    segs = options.out / move_name(move)
    segs.mkdir(parents=True, exist_ok=True)
    # moved cases are deleted after each move: they are large, as they are not compressed
    with tempfile.TemporaryDirectory(prefix="inputs-", dir=options.out) as folder:
        for pair in pairs:
            if pair.found is not None:
                write_moved(pair.found, Path(folder), move)
        run_app(Path(folder), segs, app)
    return score(
        segs, options.gts, only=options.only, processes=options.processes, progress=progress()
    )


def robustness_table(summaries: Mapping[int, Summary]) -> str:
    """Return a table: modality, cases, DSC in percent for each move; the average is last."""
    lines = [[*summary.modalities, summary.average] for summary in summaries.values()]
    rows = [["Modality", "Cases", *map(move_name, summaries)]]
    for groups in zip(*lines, strict=True):  # one modality, by move
        dscs = [f"{100 * group.dsc:.2f}" for group in groups]
        rows.append([groups[0].name, str(groups[0].cases), *dscs])
    return table(rows)


def draw_curves(summaries: Mapping[int, Summary], out: Path) -> None:
    """Draw DSC over moves, a line for each modality, the average with its interval; write `out`.

    Raises:
        OSError: `out` cannot be written.
    """
    from matplotlib.figure import Figure  # here, since only --plot needs it

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    moves = list(summaries)
    lines = zip(*(summary.modalities for summary in summaries.values()), strict=True)
    for i, groups in enumerate(lines):
        axes.plot(
            moves, [100 * group.dsc for group in groups], label=groups[0].name, lw=1, marker=".",
            color=COLOURS[i % len(COLOURS)], ls=STYLES[i // len(COLOURS) % len(STYLES)],
        )  # fmt: skip
    averages = [summary.average for summary in summaries.values()]
    lows, highs = ([100 * group.dsc_interval[end] for group in averages] for end in range(2))
    axes.fill_between(moves, lows, highs, color="black", alpha=0.15, lw=0)
    axes.plot(
        moves, [100 * group.dsc for group in averages], label="Average (95%)", lw=2.5, marker="o",
        color="black",
    )  # fmt: skip
    axes.set_xticks(moves, [move_name(move) for move in moves])
    axes.set_xlabel("sides of the boxes moved outward, input pixels")
    axes.set_ylabel("DSC, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(out, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options, app = parse_before_dashes(_parser(), argv)
    try:
        summaries = {}
        for move in sorted(set(options.moves)):
            print(f"boxes moved by {move_name(move)}", file=sys.stderr)
            summaries[move] = summarise(score_move(options, move, app))
        print(robustness_table(summaries))
        print("DSC in %, by how far the sides of the boxes were moved outward, in input pixels")
        missing = next(iter(summaries.values())).average.missing
        if missing:
            print(f"{missing} cases have a truth and no input, counted as 0")
        if options.plot:
            draw_curves(summaries, options.plot)
    except (AppError, CaseError, ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
