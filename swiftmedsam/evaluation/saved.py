"""Reads the scores that `python -m swiftmedsam.evaluation --json` wrote; scoring takes minutes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swiftmedsam.evaluation.metrics import ObjectScore
from swiftmedsam.evaluation.score import CaseScore, ScoreError, parse_name


def _row(case: dict[str, Any]) -> CaseScore:
    """One case of the file; modality and data set are told by its name, as in `score`."""
    return CaseScore(
        case["name"], *parse_name(case["name"]), int(case["objects"]), float(case["dsc"]),
        float(case["nsd"]), bool(case["missing"]),
        tuple(ObjectScore(**each) for each in case["by_object"]),
    )  # fmt: skip


def read_rows(path: Path, names: Iterable[str], *, official: bool) -> list[CaseScore]:
    """Rows of the cases `names`, in that order, as `score` returned them.

    `official` is the order of the spacing that they should be scored with.

    Raises:
        OSError: the file cannot be read.
        ScoreError: it holds something else, scores by the other order, or not all of the cases.
    """
    wanted = "official" if official else "array order"
    try:
        content = json.loads(path.read_text())
        order = content["rules"]["spacing"]
        rows = {case["name"]: _row(case) for case in content["cases"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"{path}: no scores of python -m swiftmedsam.evaluation --json") from error
    if order != wanted:
        raise ScoreError(f"{path}: scored with spacing in '{order}', expected '{wanted}'")
    names = list(names)
    absent = [name for name in names if name not in rows]
    if absent:
        raise ScoreError(f"{path}: lacks {len(absent)} of {len(names)} cases, first {absent[0]}")
    return [rows[name] for name in names]
