"""Read scores that `python -m swiftmedsam.evaluation --json` has written; scoring takes minutes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swiftmedsam.evaluation.metrics import ObjectScore
from swiftmedsam.evaluation.score import CaseScore, ScoreError, parse_name


def _row(case: dict[str, Any]) -> CaseScore:
    """Parse a case of the file; its modality and data set come from its name, as in `score`."""
    return CaseScore(
        case["name"], *parse_name(case["name"]), int(case["objects"]), float(case["dsc"]),
        float(case["nsd"]), bool(case["missing"]),
        tuple(ObjectScore(**each) for each in case["by_object"]),
    )  # fmt: skip


def _content(path: Path) -> tuple[str, dict[str, CaseScore]]:
    """Return the order of the spacing, and all rows by name.

    Raises:
        OSError: the file cannot be read.
        ScoreError: the file holds no scores.
    """
    try:
        content = json.loads(path.read_text())
        return content["rules"]["spacing"], {case["name"]: _row(case) for case in content["cases"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ScoreError(
            f"{path}: is not a JSON of python -m swiftmedsam.evaluation --json"
        ) from error


def outputs_in(path: Path) -> set[str]:
    """Return the names of the cases that had an output when they were scored.

    Raises:
        OSError, ScoreError: as in `read_rows`.
    """
    return {name for name, row in _content(path)[1].items() if not row.missing}


def read_rows(path: Path, names: Iterable[str], *, official: bool) -> list[CaseScore]:
    """Read the rows of the cases `names`, in this order, as `score` returned them.

    `official` is the wanted order of the spacing, as in `score`.

    Raises:
        OSError: the file cannot be read.
        ScoreError: the file holds no scores, lacks a case, or has the other order of the spacing.
    """
    wanted = "official" if official else "array order"
    order, rows = _content(path)
    if order != wanted:
        raise ScoreError(f"{path}: scored with spacing in '{order}', expected '{wanted}'")
    names = list(names)
    absent = [name for name in names if name not in rows]
    if absent:
        raise ScoreError(f"{path}: lacks {len(absent)} of {len(names)} cases, such as {absent[0]}")
    return [rows[name] for name in names]
