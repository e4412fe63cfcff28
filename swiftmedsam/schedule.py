"""Chooses which slices are decoded for which boxes, and in which order.

LiteMedSAM's script goes object by object, and encodes a slice again for each object. Here all
objects are tracked together: first upwards from their middle slices, then downwards. So a slice is
encoded once, and its boxes are decoded together.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import Boxes
from swiftmedsam.frame import Frame
from swiftmedsam.memory import TRACKED_TOGETHER
from swiftmedsam.settings import Settings
from swiftmedsam.views import View


@dataclass(frozen=True)
class Step:
    """One slice in one view, and the boxes (by index) that are decoded there."""

    z: int
    view: View
    boxes: tuple[int, ...]


def middle_slices(boxes: Boxes) -> npt.NDArray[np.int64]:
    """The slices (N,) at which tracking of boxes (N, 6) starts, rounded down."""
    return ((boxes[:, 5] - boxes[:, 2]) / 2 + boxes[:, 2]).astype(np.int64)


def steps_of(boxes: Boxes, settings: Settings) -> list[int]:
    """The step of each box (N, 6): 1 decodes every slice, 2 every second, and so on."""
    if settings.step is not None:
        return [settings.step] * len(boxes)
    return [slice_step(box[2], box[5], settings) for box in boxes.tolist()]


def slice_step(first: float, last: float, settings: Settings) -> int:
    """The step of a box from slice `first` to `last`, both inclusive."""
    return max(1, min(settings.most_step, int(last - first + 1) // settings.least_decoded))


def decoded_slices(first: int, last: int, middle: int, step: int) -> list[int]:
    """The decoded slices of a box: its ends, its middle, and all multiples of `step` between.

    Multiples are the same slices for all boxes, so that few slices are encoded.
    """
    return sorted({first, middle, last, *range(-(-first // step) * step, last, step)})


def slice_order(boxes: Boxes, steps: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The slices in the order of decoding, each with its boxes (by index).

    `boxes` is (N, 6), z inclusive; `steps` are those of the boxes. First upwards: every box from
    its middle slice to its last. Then downwards: from below its middle to its first. Each box meets
    its slices in order. More than `TRACKED_TOGETHER` boxes of a volume are done in groups of boxes
    with near middles, since each tracked box takes memory.
    """
    middles = middle_slices(boxes)
    several = bool((boxes[:, 2] < boxes[:, 5]).any())
    group = TRACKED_TOGETHER if several else max(1, len(boxes))
    order = np.argsort(middles, kind="stable")
    found: list[tuple[int, list[int]]] = []
    for start in range(0, len(boxes), group):
        upwards: dict[int, list[int]] = defaultdict(list)
        downwards: dict[int, list[int]] = defaultdict(list)
        for i in sorted(order[start : start + group].tolist()):
            first, last = boxes[i, [2, 5]].astype(int).tolist()
            middle = int(middles[i])
            for z in decoded_slices(first, last, middle, steps[i]):
                (upwards if z >= middle else downwards)[z].append(i)
        found += [*sorted(upwards.items()), *sorted(downwards.items(), reverse=True)]
    return found


def schedule(boxes: Boxes, views: Sequence[View], steps: Sequence[int]) -> list[Step]:
    """The steps that decode boxes (N, 6), each in its view."""
    found = []
    for z, which in slice_order(boxes, steps):
        by_view: dict[View, list[int]] = {}
        for i in which:
            by_view.setdefault(views[i], []).append(i)
        found += [Step(z, view, tuple(own)) for view, own in by_view.items()]
    return found


def visits(steps: Sequence[Step]) -> Counter[tuple[Frame, int]]:
    """The number of steps that need an embedding, by frame and slice."""
    return Counter((frame, step.z) for step in steps for frame, _ in step.view)
