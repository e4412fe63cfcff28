"""Do two folders of outputs differ, and by more than chance would have it?

Cases are paired: what is averaged is the difference of a case's two scores. The interval is a
percentile bootstrap over cases, within each modality, with a fixed seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.score import CaseScore, by_modality

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 2024


@dataclass(frozen=True)
class Change:
    """Mean of other minus base in one score, its interval, and how many cases went which way."""

    mean: float
    low: float
    high: float
    wins: int  # cases in which other is better
    losses: int


@dataclass(frozen=True)
class Difference:
    """The change of a modality, or of the mean of the modalities."""

    name: str
    cases: int
    dsc: Change
    nsd: Change


def _difference(
    name: str,
    means: npt.NDArray[np.float64],
    resampled: npt.NDArray[np.float64],
    deltas: npt.NDArray[np.float64],
) -> Difference:
    """Put together `means` (2,), `resampled` (RESAMPLES, 2) and `deltas` (cases, 2): DSC, NSD."""
    tail = (1 - CONFIDENCE) / 2
    lows, highs = np.quantile(resampled, (tail, 1 - tail), axis=0)  # (2,) each
    changes = [
        Change(
            float(means[i]), float(lows[i]), float(highs[i]),
            wins=int((deltas[:, i] > 0).sum()), losses=int((deltas[:, i] < 0).sum()),
        )
        for i in range(2)
    ]  # fmt: skip
    return Difference(name, len(deltas), *changes)


def compare(base: Sequence[CaseScore], other: Sequence[CaseScore]) -> list[Difference]:
    """Other minus base, for each modality and last for the average of the modalities.

    Both are rows that `score` returned for the same truth.
    """
    others = {row.name: row for row in other}
    assert others.keys() == {row.name for row in base}, "both are scored on the same truth"
    generator = np.random.default_rng(SEED)
    differences, all_means, all_resampled, all_deltas = [], [], [], []
    for modality, rows in by_modality(base).items():
        pairs = [(row, others[row.name]) for row in rows]
        deltas = np.array([(b.dsc - a.dsc, b.nsd - a.nsd) for a, b in pairs])  # (cases, 2)
        picks = generator.integers(len(deltas), size=(RESAMPLES, len(deltas)))
        resampled = deltas[picks].mean(axis=1)  # (RESAMPLES, cases, 2) -> (RESAMPLES, 2)
        differences.append(_difference(modality, deltas.mean(axis=0), resampled, deltas))
        all_means.append(deltas.mean(axis=0))
        all_resampled.append(resampled)
        all_deltas.append(deltas)
    means, resampled = np.mean(all_means, axis=0), np.mean(all_resampled, axis=0)
    differences.append(_difference("Average", means, resampled, np.concatenate(all_deltas)))
    return differences
