"""Compare two folders of outputs: is the difference larger than chance?

Cases are paired: the difference of the two scores of each case is averaged. Intervals come from
`bootstrap`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swiftmedsam.evaluation.bootstrap import Float64Array, interval, means, resampled_means
from swiftmedsam.evaluation.score import (
    CaseScore,
    Size,
    by_modality,
    by_size,
    count_objects,
    totals,
)


@dataclass(frozen=True)
class Change:
    """The mean of other minus base in one score, its interval, and the cases won and lost."""

    mean: float
    low: float
    high: float
    wins: int  # cases in which other is better
    losses: int


@dataclass(frozen=True)
class Difference:
    """The changes of a modality, of the mean of modalities, or of objects of one size."""

    name: str
    cases: int
    objects: int
    dsc: Change
    nsd: Change


def _difference(
    name: str, objects: int, mean: Float64Array, resampled: Float64Array, deltas: Float64Array
) -> Difference:
    """Combine `mean` (2,), `resampled` (RESAMPLES, 2) and `deltas` (cases, 3)."""
    lows, highs = interval(resampled)
    changes = [
        Change(
            float(mean[i]), float(lows[i]), float(highs[i]),
            wins=int((deltas[:, i] > 0).sum()), losses=int((deltas[:, i] < 0).sum()),
        )
        for i in range(2)
    ]  # fmt: skip
    return Difference(name, len(deltas), objects, *changes)


def _deltas(
    rows: Sequence[CaseScore], others: Mapping[str, CaseScore], size: Size | None = None
) -> Float64Array:
    """Return totals (cases, 3) of other minus base; both sum the same number of values."""
    base, other = totals(rows, size), totals([others[row.name] for row in rows], size)
    return np.column_stack([other[:, :2] - base[:, :2], base[:, 2]])


def _by_name(base: Sequence[CaseScore], other: Sequence[CaseScore]) -> dict[str, CaseScore]:
    others = {row.name: row for row in other}
    assert others.keys() == {row.name for row in base}, "both are scored on the same truth"
    return others


def compare(base: Sequence[CaseScore], other: Sequence[CaseScore]) -> list[Difference]:
    """Return other minus base for each modality, and last for the average of the modalities.

    `base` and `other` are rows that `score` returned for the same truth.
    """
    others, groups = _by_name(base, other), by_modality(base)
    deltas = [_deltas(rows, others) for rows in groups.values()]
    resampled = resampled_means(deltas)
    differences = [
        _difference(name, count_objects(rows), means(of_group), drawn, of_group)
        for (name, rows), of_group, drawn in zip(groups.items(), deltas, resampled, strict=True)
    ]
    average = _difference(
        "Average", count_objects(base), np.mean([means(of_group) for of_group in deltas], axis=0),
        np.mean(resampled, axis=0), np.concatenate(deltas),
    )  # fmt: skip
    return [*differences, average]


def compare_sizes(base: Sequence[CaseScore], other: Sequence[CaseScore]) -> list[Difference]:
    """Return other minus base for the objects of each size.

    `base` and `other` are rows that `score` returned for the same truth. A win is a case in which
    `other` has the better mean over its objects of that size.
    """
    others, differences = _by_name(base, other), []
    for size, rows in by_size(base).items():
        deltas = _deltas(rows, others, size)
        (resampled,) = resampled_means([deltas])
        differences.append(
            _difference(size.name, count_objects(rows, size), means(deltas), resampled, deltas)
        )
    return differences
