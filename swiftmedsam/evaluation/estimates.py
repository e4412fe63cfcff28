"""Means over data sets, for several folders of outputs, with intervals of `bootstrap`.

All folders are scored on the same cases, and each draw of cases is the same for all folders. So the
difference of two folders has an interval, too: that of its values in all draws.

In an average, each data set counts once, no matter how many cases it has. Cases are drawn within
each data set; the data sets are not drawn. The intervals therefore hold for these data sets only,
and say nothing about others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swiftmedsam.evaluation.bootstrap import Float64Array, interval, means, resampled_means


@dataclass(frozen=True)
class Mean:
    """A mean score, 0..1, and the two ends of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A line of a table: the means of all folders, and the first folder minus each other one."""

    name: str
    parts: int  # number of averaged means over cases; 1: it is itself a mean over cases
    cases: int
    dsc: tuple[Mean, ...]  # for each folder
    nsd: tuple[Mean, ...]
    dsc_difference: tuple[Mean, ...]  # the first folder minus each other one
    nsd_difference: tuple[Mean, ...]


@dataclass(frozen=True, eq=False)
class Estimate:
    """The means of all folders over the same cases, as they are and for each draw of cases."""

    parts: int  # number of averaged means over cases; 1: it is itself a mean over cases
    cases: int
    mean: Float64Array  # (folders, 2): DSC and NSD
    drawn: Float64Array  # (folders, RESAMPLES, 2)


def estimates(totals: Sequence[Sequence[Float64Array]]) -> list[Estimate]:
    """Return one estimate for each group of cases.

    `totals` holds, for each folder and each group, the array (cases, 3) that `bootstrap.means`
    takes. The cases of a group are the same, in the same order, in all folders.
    """
    of_folders = [
        (
            list(map(means, groups)),
            resampled_means(groups),
        )  # the seed gives the same draws for all folders
        for groups in totals
    ]
    return [
        Estimate(
            parts=1,
            cases=len(group),
            mean=np.stack([mean[i] for mean, _ in of_folders]),
            drawn=np.stack([drawn[i] for _, drawn in of_folders]),
        )
        for i, group in enumerate(totals[0])
    ]


def average(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of one or more estimates; each counts once."""
    return Estimate(
        parts=sum(part.parts for part in parts),
        cases=sum(part.cases for part in parts),
        mean=np.mean([part.mean for part in parts], axis=0),
        drawn=np.mean([part.drawn for part in parts], axis=0),
    )


def _means(mean: Float64Array, drawn: Float64Array) -> list[Mean]:
    """Return DSC and NSD of `mean` (2,), with intervals from `drawn` (RESAMPLES, 2)."""
    low, high = interval(drawn)
    return [Mean(float(mean[i]), float(low[i]), float(high[i])) for i in range(2)]


def line(name: str, estimate: Estimate) -> Line:
    """Return the estimate as a line of a table."""
    mean, drawn = estimate.mean, estimate.drawn
    scores = [_means(mean[i], drawn[i]) for i in range(len(mean))]
    differences = [_means(mean[0] - mean[i], drawn[0] - drawn[i]) for i in range(1, len(mean))]
    return Line(
        name, estimate.parts, estimate.cases,
        dsc=tuple(dsc for dsc, _ in scores),
        nsd=tuple(nsd for _, nsd in scores),
        dsc_difference=tuple(dsc for dsc, _ in differences),
        nsd_difference=tuple(nsd for _, nsd in differences),
    )  # fmt: skip
