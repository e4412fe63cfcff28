"""The result of a segmentation, and the clock that measures its steps."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.unsignedinteger]
PredictedIou = dict[int, list[float]]
Progress = Callable[[int, int], None]  # called with the number of steps done, and of all steps


@dataclass(frozen=True, eq=False)
class Result:
    """The labels of a case, with predicted IoU, seconds and warnings.

    `labels` are (H, W) for an image and (D, H, W) for a volume; `OpenImage.segment` returns them on
    the grid of its image. Box i has the value i + 1, the background is 0. The dtype is the smallest
    unsigned one that holds the number of boxes.
    """

    labels: Labels
    predicted_iou: PredictedIou = field(default_factory=dict)  # 0..1, by box index, one per slice
    seconds: dict[str, float] = field(default_factory=dict)  # by step: "encode", "decode"
    warnings: tuple[str, ...] = ()  # faults of the case that were corrected, one line each


def label_dtype(count: int) -> npt.DTypeLike:
    """Smallest unsigned type for labels 0..count: uint8, uint16 from 256, uint32 from 65,536."""
    return np.min_scalar_type(count)


class Clock:
    """Adds up the seconds of each step, by its name."""

    def __init__(self) -> None:
        """Begin with 0 seconds for every step."""
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add the time inside the `with` to `step`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - began

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of another clock, by step."""
        for step, spent in seconds.items():
            self.seconds[step] += spent
