"""`python -m evaluation.paper INPUTS GTS --out DIR`: Tables 4 and 5 of the paper anew.

For who has the challenge's validation set: segments all of INPUTS, scores it by the organisers'
rules beside the published Table 4, then times those of its cases that are in Table 5.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evaluation import runtime
from evaluation.console import (
    add_shared_options,
    clear_line,
    parse_before_dashes,
    progress,
    table,
)
from evaluation.published import TABLE_4, TABLE_4_COLUMNS, published_name
from evaluation.robustness import AppError, run_app
from evaluation.score import ScoreError, Summary, find_jobs, npz_files, score, summarise

OTHER_CASES = "Published figures are of the challenge's validation set: compare with that alone."
NO_CASE = (
    "No case of Table 5 is in {}, so none was timed; stand-ins can be made of what is there:\n"
    "python -m evaluation.table5, then python -m evaluation.runtime"
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m evaluation.paper",
        usage="%(prog)s INPUTS GTS --out DIR [options] [-- options of python -m app]",
        description="Print Tables 4 and 5 of the paper with this program's column.",
        epilog="What follows '--' goes to python -m app: -- --mode exact. With --skip-existing "
        "there, outputs that DIR has are used as they are. "
        "Exit status: 0, or 1 when a case cannot be segmented, scored or timed, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("gts", type=Path, metavar="GTS", help="folder of truth")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for outputs and timings.csv"
    )
    parser.add_argument(
        "--program", action="append", default=[], metavar="NAME=COMMAND",
        help="another program to time, as in python -m evaluation.runtime",
    )  # fmt: skip
    add_shared_options(parser, "take")
    return parser


def table_4(summary: Summary) -> str:
    """Modality, cases, and DSC and NSD in percent: published, and in `summary`."""
    rows = [["Modality", "Cases", *TABLE_4_COLUMNS, "here"]]
    for group in (*summary.modalities, summary.average):
        published = TABLE_4.get(group.name)
        cells = [f"{dsc:.2f} / {nsd:.2f}" for dsc, nsd in published or ()]
        cells = cells or ["-"] * len(TABLE_4_COLUMNS)
        here = f"{100 * group.dsc:.2f} / {100 * group.nsd:.2f}"
        rows.append([group.name, str(group.cases), *cells, here])
    return table(rows)


def time_table_5(options: argparse.Namespace, app: Sequence[str]) -> int:
    """Time the cases of Table 5 that there are, and print the table; the exit status."""
    cases = {n: p for n, p in npz_files(options.inputs, options.only).items() if published_name(n)}
    if not cases:
        print(NO_CASE.format(options.inputs))
        return 0
    others = [word for program in options.program for word in ("--program", program)]
    with tempfile.TemporaryDirectory(prefix="table5-") as folder:
        for name, path in cases.items():
            (Path(folder) / name).symlink_to(path.resolve())
        words = [folder, "--out", str(options.out / "timings.csv"), *others, "--", *app]
        return runtime.main(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options, app = parse_before_dashes(_parser(), argv)
    segs = options.out / "segs"
    try:
        find_jobs(options.inputs, options.gts, official=True, only=options.only)
        segs.mkdir(parents=True, exist_ok=True)
        run_app(options.inputs, segs, ["--only", options.only, *app])
        rows = score(
            segs, options.gts, official=True, only=options.only, processes=options.processes,
            progress=progress(),
        )  # fmt: skip
        print("Table 4 of the paper, DSC / NSD in %, by the organisers' script's rules")
        print(f"{table_4(summarise(rows))}\n{OTHER_CASES}\n", flush=True)
        return time_table_5(options, app)
    except (AppError, ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
