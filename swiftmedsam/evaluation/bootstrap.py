"""Means over cases, and how far chance could have moved them: a percentile bootstrap over cases.

What is drawn is whole cases, as the objects of one case are no independent samples. Cases are
drawn within each group (a modality, or those that have objects of one size). The seed is fixed, so
that the same scores give the same intervals.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 2024

Float64Array = npt.NDArray[np.float64]


def means(totals: Float64Array) -> Float64Array:
    """Means (..., 2) of DSC and NSD over the cases of `totals` (..., cases, 3).

    A row of `totals` is a case's sum of DSC, its sum of NSD, and how many values were summed: 1
    where a case counts as a whole, the number of its objects where each object counts.
    """
    sums: Float64Array = totals.sum(axis=-2)
    ratio: Float64Array = sums[..., :2] / sums[..., 2:]
    return ratio


def resampled_means(groups: Sequence[Float64Array]) -> list[Float64Array]:
    """The `means` (RESAMPLES, 2) of each group of `totals` (cases, 3), cases drawn anew each time.

    One generator serves all groups: started anew for each, groups of one size would draw the same
    cases, and the mean of the groups would seem less certain than it is.
    """
    generator = np.random.default_rng(SEED)
    resampled = []
    for totals in groups:
        picks = generator.integers(len(totals), size=(RESAMPLES, len(totals)))
        resampled.append(means(totals[picks]))  # (RESAMPLES, cases, 3) -> (RESAMPLES, 2)
    return resampled


def interval(resampled: Float64Array) -> Float64Array:
    """Low and high ends, (2, 2), of the middle `CONFIDENCE` of `resampled` (RESAMPLES, 2).

    The first axis is low and high, the second DSC and NSD.
    """
    tail = (1 - CONFIDENCE) / 2
    ends: Float64Array = np.quantile(resampled, (tail, 1 - tail), axis=0)
    return ends
