"""`python -m swiftmedsam.evaluation SEGS GTS`: DSC and NSD by modality."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from swiftmedsam.evaluation.bootstrap import CONFIDENCE
from swiftmedsam.evaluation.compare import Change, Difference, compare, compare_sizes
from swiftmedsam.evaluation.console import (
    add_shared_options,
    clear_line,
    print_missing,
    progress,
    table,
)
from swiftmedsam.evaluation.metrics import INPUT_SIZE, MIN_DSC_FOR_NSD, TOLERANCE_MM
from swiftmedsam.evaluation.score import SIZES, CaseScore, Group, ScoreError, score, summarise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "swiftmedsam evaluate",
        description="Score outputs (npz, key 'segs') against truth (npz, keys 'gts', 'spacing'). "
        "A missing output counts as 0.",
        epilog="Exit status: 0, or 1 when the folders cannot be scored, 2 on wrong usage.",
    )
    parser.add_argument("segs", type=Path, metavar="SEGS", help="folder of outputs")
    parser.add_argument("gts", type=Path, metavar="GTS", help="folder of truth")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each case")
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write cases, data sets, modalities, sizes, average",
    )  # fmt: skip
    parser.add_argument(
        "--official", action="store_true",
        help="use the spacing (x, y, z) for arrays (z, y, x), as the organisers' script does; "
        "default: spacing in the order of the array's axes",
    )  # fmt: skip
    parser.add_argument(
        "--compare", type=Path, metavar="OTHER_SEGS",
        help="also print the paired difference OTHER_SEGS minus SEGS",
    )  # fmt: skip
    add_shared_options(parser, "score")
    return parser


def _percent(mean: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def score_table(groups: Sequence[Group], heading: str = "Modality") -> str:
    """Return a table: name, cases, objects, DSC and NSD in percent with intervals."""
    rows = [(heading, "Cases", "Objects", "DSC %", "NSD %")]
    for group in groups:
        rows.append(
            (
                group.name, str(group.cases), str(group.objects),
                _percent(group.dsc, group.dsc_interval), _percent(group.nsd, group.nsd_interval),
            )
        )  # fmt: skip
    return table(rows)


def _change(change: Change) -> tuple[str, str]:
    mean, low, high = (f"{100 * value:+.2f}" for value in (change.mean, change.low, change.high))
    return f"{mean} [{low}, {high}]", f"{change.wins}/{change.losses}"


def difference_table(differences: Sequence[Difference], heading: str = "Modality") -> str:
    """Return a table: name, cases, objects, differences with intervals, wins/losses."""
    rows = [(heading, "Cases", "Objects", "DSC % points", "w/l", "NSD % points", "w/l")]
    for line in differences:
        counts = str(line.cases), str(line.objects)
        rows.append((line.name, *counts, *_change(line.dsc), *_change(line.nsd)))
    return table(rows)


def write_csv(path: Path, rows: Sequence[CaseScore]) -> None:
    """Write one line for each case, with scores 0..1; scores of objects are in the JSON only."""
    columns = [field.name for field in fields(CaseScore) if field.name != "by_object"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([getattr(row, column) for column in columns] for row in rows)


def _as_document(rows: Sequence[CaseScore]) -> dict[str, object]:
    return {**asdict(summarise(rows)), "cases": [asdict(row) for row in rows]}


def _report(options: argparse.Namespace, scored: Sequence[Sequence[CaseScore]]) -> None:
    """Print the tables and write the files that were asked for.

    `scored` are the rows of SEGS and, if given, of OTHER_SEGS.
    """
    rows = scored[0]
    document = {
        "rules": {
            "spacing": "official" if options.official else "array order",
            "tolerance_mm": TOLERANCE_MM,
            "min_dsc_for_nsd": MIN_DSC_FOR_NSD,
            "size_limits_256": {size.name: size.below_256 for size in SIZES[:-1]},
        },
        **_as_document(rows),
    }
    summary = summarise(rows)
    print(score_table([*summary.modalities, summary.average]))
    if summary.sizes:
        print("\n" + score_table(summary.sizes, "Size"))
        limits = ", ".join(f"{size.name} below {size.below_256:.0f}" for size in SIZES[:-1])
        print(f"Means over objects; by area in pixels of the {INPUT_SIZE} input: {limits}")
    print(f"In brackets: {CONFIDENCE:.0%} intervals, bootstrap over cases")
    if options.compare:
        differences, by_size = compare(*scored), compare_sizes(*scored)
        names = f"{options.compare} minus {options.segs}"
        print(f"\n{names}, {CONFIDENCE:.0%} intervals, wins/losses in cases")
        print(difference_table(differences))
        if by_size:
            print("\n" + difference_table(by_size, "Size"))
        document["other"] = _as_document(scored[1])
        document["differences"] = [asdict(difference) for difference in differences]
        document["size_differences"] = [asdict(difference) for difference in by_size]
    for folder, of_folder in zip((options.segs, options.compare), scored, strict=False):
        print_missing(folder, [row.name for row in of_folder if row.missing], len(of_folder))
    if options.csv:
        write_csv(options.csv, rows)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    folders = [options.segs] + ([options.compare] if options.compare else [])
    try:
        scored = [
            score(
                folder, options.gts, official=options.official, only=options.only,
                processes=options.processes, progress=progress(),
            )
            for folder in folders
        ]  # fmt: skip
        _report(options, scored)
    except (ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
