"""Means over data sets, of several folders of outputs at once, with intervals of `bootstrap`.

All folders are scored on the same cases, and each draw takes the same cases of all of them. So the
difference of two folders has an interval of its own: of the differences in each draw.

A data set counts once in an average, however many cases it has. Cases are drawn within each data
set; the data sets themselves stay the same. The intervals therefore tell how sure a mean over these
data sets is, and nothing about other data sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swiftmedsam.evaluation.bootstrap import Float64Array, interval, means, resampled_means


@dataclass(frozen=True)
class Mean:
    """A mean and the two ends of its interval; scores are 0..1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A line of a table: the means of each folder, and of the first one minus each other one."""

    name: str
    parts: int  # means over cases that it averages; 1: it is one itself
    cases: int
    dsc: tuple[Mean, ...]  # of the first folder, then of the others
    nsd: tuple[Mean, ...]
    dsc_difference: tuple[Mean, ...]  # of the first folder minus each other one
    nsd_difference: tuple[Mean, ...]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Means of all folders over the same cases, and the same means for each draw of cases."""

    parts: int  # means over cases that it averages; 1: it is one itself
    cases: int
    mean: Float64Array  # (folders, 2): DSC and NSD
    drawn: Float64Array  # (folders, RESAMPLES, 2)


def estimates(totals: Sequence[Sequence[Float64Array]]) -> list[Estimate]:
    """One estimate for each group of cases.

    `totals` holds, for each folder and each group, what `bootstrap.means` wants, (cases, 3). The
    cases of a group are the same, in the same order, in all folders.
    """
    of_folders = [
        (list(map(means, groups)), resampled_means(groups))  # the seed gives all the same draws
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
    """The mean of at least one estimate, each counted once."""
    return Estimate(
        parts=sum(part.parts for part in parts),
        cases=sum(part.cases for part in parts),
        mean=np.mean([part.mean for part in parts], axis=0),
        drawn=np.mean([part.drawn for part in parts], axis=0),
    )


def _means(mean: Float64Array, drawn: Float64Array) -> list[Mean]:
    """DSC and NSD of `mean` (2,), with intervals of `drawn` (RESAMPLES, 2)."""
    low, high = interval(drawn)
    return [Mean(float(mean[i]), float(low[i]), float(high[i])) for i in range(2)]


def line(name: str, estimate: Estimate) -> Line:
    """The estimate as a line of a table."""
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
