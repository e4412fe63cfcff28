"""Write a page with all cases: `python -m swiftmedsam.evaluation.report INPUTS SEGS --out FILE`.

The page is one HTML file with pictures and contours, scores if there is truth, and times if they
are given.
"""

import argparse
import csv
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from swiftmedsam.atomic import atomic_file
from swiftmedsam.case import CaseError
from swiftmedsam.evaluation.console import add_shared_options, clear_line, progress
from swiftmedsam.evaluation.report.page import Entry, page
from swiftmedsam.evaluation.report.pictures import show
from swiftmedsam.evaluation.score import Pair, ScoreError, npz_files, parse_name, score_pairs

NAME_COLUMNS = ("file", "case")  # "case" is in timings.csv of the container
TIMED_MODE = "organisers"  # the mode of timings.csv that is exactly the command of the challenge


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.report",
        description="Write one HTML file that shows every case of INPUTS with its boxes and masks.",
        epilog="Exit status: 0, or 1 when a file cannot be used, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument(
        "segs", type=Path, metavar="SEGS", help="folder of outputs; cases without output come first"
    )
    parser.add_argument(
        "--gts", type=Path, metavar="GTS", help="folder of truth, for all or some cases"
    )
    parser.add_argument(
        "--timings", type=Path, metavar="FILE",
        help="CSV with columns file (or case) and seconds; the median of the rows of a case counts",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page")
    add_shared_options(parser, "show")
    return parser


def read_timings(path: Path) -> dict[str, float]:
    """Read seconds by file name; if a file has several rows, their median.

    In timings.csv of the container, only successful runs of the challenge's command count. In the
    CSV of `timing.runtime`, only runs of the first program count.

    Raises:
        ScoreError: the file is not such a table; the message names the file and the line.
        OSError: the file cannot be read.
    """
    seconds = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            column = next((c for c in NAME_COLUMNS if c in (rows.fieldnames or ())), None)
            if column is None or "seconds" not in (rows.fieldnames or ()):
                raise ScoreError(
                    f"{path}: should have the columns file (or case) and seconds, "
                    f"got {rows.fieldnames}"
                )
            first = None
            for row in rows:
                first = first or row.get("program")
                if row.get("program") != first:
                    continue
                if row.get("mode", TIMED_MODE) != TIMED_MODE or row.get("exit", "0") != "0":
                    continue
                try:
                    value = float(row["seconds"])
                except (TypeError, ValueError):  # None: the row is too short
                    value = math.nan
                if not 0 <= value < math.inf:
                    raise ScoreError(
                        f"{path}: line {rows.line_num}: seconds should be 0 or more, "
                        f"got {row['seconds']}"
                    )
                seconds[row[column]].append(value)
    except csv.Error as error:
        raise ScoreError(f"{path}: is not a CSV file ({error})") from error
    return {name: statistics.median(values) for name, values in seconds.items()}


def entries(options: argparse.Namespace) -> list[Entry]:
    """Return an entry for each case of `options.inputs`, by name.

    Raises:
        CaseError: a case cannot be read.
        ScoreError: there is no case, a name is not the name of a case, an output has no case, or an
            output or truth cannot be used.
        OSError: the table of times cannot be read.
    """
    inputs, outputs = (npz_files(d, options.only) for d in (options.inputs, options.segs))
    truths = npz_files(options.gts, options.only) if options.gts else {}
    if not inputs:
        raise ScoreError(f"{options.inputs}: has no npz file")
    surplus = [name for name in outputs if name not in inputs]
    if surplus:
        raise ScoreError(f"{options.segs}: no case in {options.inputs} for {', '.join(surplus)}")
    modalities = {name: parse_name(name)[0] for name in inputs}
    timings = read_timings(options.timings) if options.timings else {}
    pairs = [Pair(truths[name], outputs.get(name), False) for name in inputs if name in truths]
    scored = score_pairs(pairs, processes=options.processes, progress=progress())
    scores = {row.name: row for row in scored}
    told, shown = progress(), []
    for name, source in inputs.items():
        pictures = show(source, outputs.get(name), truths.get(name))
        shown.append(
            Entry(
                name, modalities[name], pictures, missing=name not in outputs,
                score=scores.get(name), seconds=timings.get(name),
            )
        )  # fmt: skip
        if told is not None:
            told(len(shown), len(inputs))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        text = page(entries(options)).encode()
        with atomic_file(options.out) as stream:
            stream.write(text)
    except (CaseError, ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {len(text) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
