"""Put scores into the tables of a document: `python -m evaluation.card FILE.md COLUMN=SCORES.json`.

SCORES.json is what `python -m evaluation --json` wrote. In every Markdown table that has a column
of the name COLUMN, the cells of rows that name a modality, a data set or "Average" become its DSC /
NSD in percent; the average is that of the modalities the table lists.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

Scores = Mapping[str, tuple[float, float]]  # DSC and NSD, 0..1, of modalities and data sets


def read_scores(path: Path) -> Scores:
    """Scores by the name of a modality or data set, of a file of `python -m evaluation --json`.

    Raises:
        ValueError: the file holds something else.
    """
    content = json.loads(path.read_text())
    try:
        groups = [*content["modalities"], *content["datasets"]]
        return {group["name"]: (group["dsc"], group["nsd"]) for group in groups}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: no scores of python -m evaluation --json") from error


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _filled(table: Sequence[str], columns: Mapping[str, Scores]) -> list[str]:
    """The lines of one table, its cells of `columns` replaced."""
    heading = _cells(table[0])
    rows = [_cells(line) for line in table]
    for i, name in enumerate(heading):
        if name not in columns:
            continue
        scores, listed = columns[name], []
        for row in rows[2:]:
            bold = "**" if row[0].startswith("**") else ""
            label = row[0].strip("*")
            if label in scores:
                listed.append(scores[label])
                found = listed[-1]
            elif label.startswith("Average") and listed:
                found = tuple(sum(values) / len(listed) for values in zip(*listed, strict=True))
            else:
                continue
            row[i] = f"{bold}{100 * found[0]:.1f} / {100 * found[1]:.1f}{bold}"
    return [table[0], table[1], *(f"| {' | '.join(row)} |" for row in rows[2:])]


def filled(text: str, columns: Mapping[str, Scores]) -> str:
    """A Markdown text with the cells of `columns` replaced in each table."""
    lines: list[str] = []
    table: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            table.append(line)
            continue
        known = table and set(_cells(table[0])) & columns.keys()
        lines += _filled(table, columns) if known else table
        lines.append(line)
        table = []
    return "\n".join(lines[:-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the document; return the exit status."""
    parser = argparse.ArgumentParser("python -m evaluation.card", description=__doc__)
    parser.add_argument("document", type=Path, metavar="FILE.md")
    parser.add_argument("columns", nargs="+", metavar="COLUMN=SCORES.json")
    arguments = parser.parse_args(argv)
    pairs = [column.rpartition("=") for column in arguments.columns]
    try:
        columns = {name: read_scores(Path(path)) for name, _, path in pairs}
        before = arguments.document.read_text()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    known = {cell for line in before.split("\n") if line.startswith("|") for cell in _cells(line)}
    for name in columns.keys() - known:
        print(f"{arguments.document.name}: no table has a column '{name}'", file=sys.stderr)
        return 1
    arguments.document.write_text(filled(before, columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
