"""Means over cases and their confidence intervals: a percentile bootstrap over cases.

Whole cases are drawn, since the objects of one case are not independent samples. Cases are drawn
within each group (a modality, or the cases with objects of one size). The seed is fixed: the same
scores give the same intervals.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 2024

Float64Array = npt.NDArray[np.float64]


def means(totals: Float64Array) -> Float64Array:
    """Return the means (..., 2) of DSC and NSD over the cases of `totals` (..., cases, 3).

    A row of `totals` holds the sum of DSC of a case, the sum of NSD, and the number of summed
    values: 1 if the case counts as a whole, or the number of its objects if each object counts.
    """
    sums: Float64Array = totals.sum(axis=-2)
    ratio: Float64Array = sums[..., :2] / sums[..., 2:]
    return ratio


def resampled_means(groups: Sequence[Float64Array]) -> list[Float64Array]:
    """Draw the cases of each group `RESAMPLES` times; return the `means` (RESAMPLES, 2).

    Each group is a `totals` (cases, 3). All groups share one random generator. With a new one for
    each group, groups of equal size would draw the same cases, and the interval of the mean of the
    groups would be too wide.
    """
    generator = np.random.default_rng(SEED)
    resampled = []
    for totals in groups:
        picks = generator.integers(len(totals), size=(RESAMPLES, len(totals)))
        resampled.append(means(totals[picks]))  # (RESAMPLES, cases, 3) -> (RESAMPLES, 2)
    return resampled


def interval(resampled: Float64Array) -> Float64Array:
    """Return the ends (2, 2) of the interval that holds the middle `CONFIDENCE` of `resampled`.

    `resampled` is (RESAMPLES, 2). The first axis of the result is low and high, the second DSC and
    NSD.
    """
    tail = (1 - CONFIDENCE) / 2
    ends: Float64Array = np.quantile(resampled, (tail, 1 - tail), axis=0)
    return ends
