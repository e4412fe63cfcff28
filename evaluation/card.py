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
    try:
        content = json.loads(path.read_text())
        groups = [*content["modalities"], *content["datasets"]]
        return {group["name"]: (float(group["dsc"]), float(group["nsd"])) for group in groups}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: no scores of python -m evaluation --json") from error


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _fill(rows: Sequence[list[str]], column: int, scores: Scores) -> None:
    """Replace the cells of `column` in the `rows` that have scores, and in those of averages."""
    listed = []
    for row in rows:
        bold = "**" if row[0].startswith("**") else ""
        label = row[0].strip("*")
        if label in scores:
            listed.append(scores[label])
            found = listed[-1]
        elif label.startswith("Average") and listed:
            found = tuple(sum(values) / len(listed) for values in zip(*listed, strict=True))
        else:
            continue
        row[column] = f"{bold}{100 * found[0]:.1f} / {100 * found[1]:.1f}{bold}"


def filled(text: str, columns: Mapping[str, Scores]) -> str:
    """A Markdown text with the cells of `columns` replaced in each table.

    Raises:
        ValueError: no table has one of the columns.
    """
    lines = text.split("\n")
    absent = set(columns)
    for start, line in enumerate(lines):
        heading = _cells(line)
        first = line.startswith("|") and not lines[start - 1].startswith("|")
        if not first or not columns.keys() & set(heading):
            continue
        bodies = range(start + 2, len(lines))  # below the heading and its rule
        end = next((i for i in bodies if not lines[i].startswith("|")), len(lines))
        rows = [_cells(line) for line in lines[start + 2 : end]]
        if any(len(row) != len(heading) for row in rows):
            raise ValueError(f"a row of the table '{line}' has not as many cells")
        for column, name in enumerate(heading):
            if name in columns:
                _fill(rows, column, columns[name])
                absent.discard(name)
        lines[start + 2 : end] = [f"| {' | '.join(row)} |" for row in rows]
    if absent:
        raise ValueError(f"no table has a column '{min(absent)}'")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the document; return the exit status."""
    parser = argparse.ArgumentParser("python -m evaluation.card", description=__doc__)
    parser.add_argument("document", type=Path, metavar="FILE.md")
    parser.add_argument("columns", nargs="+", metavar="COLUMN=SCORES.json")
    arguments = parser.parse_args(argv)
    pairs = [column.rpartition("=") for column in arguments.columns]
    if not all(name for name, _, _ in pairs):
        parser.error("expected COLUMN=SCORES.json")
    document: Path = arguments.document
    try:
        columns = {name: read_scores(Path(path)) for name, _, path in pairs}
        text = document.read_text()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        document.write_text(filled(text, columns))
    except ValueError as error:
        print(f"{document.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
