"""Logits to masks, and masks to labels.

A box may have several answers (logits) in one slice. Its mask is where their weighted sum, resized
to the slice, is above 0. Where masks overlap, the box of the higher rank gives the label.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import IN_PLANE, Boxes
from swiftmedsam.frame import FloatArray, Frame, Patch, Span, hull, overlap
from swiftmedsam.result import Labels
from swiftmedsam.settings import Settings

STRIP_PIXELS = 2 << 20  # pixels of one strip of a mask: 8 MB as float32, held three times


@dataclass(frozen=True)
class Answer:
    """The logits (h, w) of one object in one frame; logits[0, 0] is the input pixel `corner`.

    They cover the limits outside which the object's mask does not count. `weight` is the share of
    this answer in the sum over the object's answers.
    """

    frame: Frame
    logits: FloatArray
    corner: tuple[int, int]  # row and column
    weight: float = 1.0

    def reach(self, limits: Span) -> Span | None:
        """The slice pixels within `limits` that a logit above 0 can influence; None if no pixel."""
        above = self.logits > 0
        parts = []
        for axis in (0, 1):
            inner, size = self.frame.inner[axis], self.frame.size[axis]
            values = np.flatnonzero(above.any(axis=1 - axis)) + self.corner[axis]
            values = values[values < inner]  # without the padding
            if values.size == 0:
                return None
            if self.frame.mirrored and axis == 1:
                values = inner - 1 - values[::-1]
            reached = _reached(values, size, inner, self.frame.start[axis])
            parts.append(overlap(reached, limits[axis]))
        rows, columns = parts
        return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None

    def at(self, pixels: Span) -> FloatArray:
        """Logits of these pixels of the slice, by bilinear interpolation; the frame shows all."""
        places = []
        for axis in (0, 1):
            low, high, weight = self.frame.samples(axis, pixels[axis])
            start, end = self.corner[axis], self.logits.shape[axis] - 1
            places.append(((low - start).clip(0, end), (high - start).clip(0, end), weight))
        (top, bottom, down), (left, right, across) = places
        down = down[:, np.newaxis]
        lines = self.logits[top] * (1 - down) + self.logits[bottom] * down
        logits: FloatArray = lines[:, left] * (1 - across) + lines[:, right] * across
        return logits


def mask_of(answers: Sequence[Answer], limits: Span) -> Patch:
    """The mask of one object: where the weighted sum of its logits is above 0, within `limits`.

    Only pixels that a logit above 0 can influence are computed: to resize the whole of a large
    image for each object would take longer than the network.
    """
    reached = [span for answer in answers if (span := answer.reach(limits))]
    if not reached:
        return Patch(slice(0, 0), slice(0, 0), np.zeros((0, 0), np.bool_))
    rows, columns = (functools.reduce(hull, axis) for axis in zip(*reached, strict=True))
    logits = sum(answer.weight * answer.at((rows, columns)) for answer in answers)
    return Patch(rows, columns, np.asarray(logits > 0))


def strips(within: Span) -> list[Span]:
    """Cut a rectangle of a slice into strips of rows whose masks take little memory each."""
    rows, columns = within
    step = max(1, STRIP_PIXELS // (columns.stop - columns.start))
    starts = range(rows.start, rows.stop, step)
    return [(slice(y, min(y + step, rows.stop)), columns) for y in starts]


def _reached(values: npt.NDArray[np.int64], size: int, inner: int, start: int) -> slice:
    """The pixels that get a part of one of `values`, when `inner` values are resized to `size`.

    `values` are positions in ascending order. The pixels are counted from `start` on, and include
    one more at each end, since positions are rounded.
    """
    scale = size / inner
    first = 0 if values[0] == 0 else math.floor((values[0] - 0.5) * scale - 0.5) - 1
    last = size if values[-1] == inner - 1 else math.ceil((values[-1] + 1.5) * scale - 0.5) + 1
    return slice(start + max(first, 0), start + min(last + 1, size))


def box_pixels(box: Boxes) -> Span:
    """Rows and columns of the pixels that a box (4,) touches, first and last inclusive."""
    x_min, y_min, x_max, y_max = box
    return (
        slice(math.floor(y_min), math.ceil(y_max) + 1),
        slice(math.floor(x_min), math.ceil(x_max) + 1),
    )


def limits_of(box: Boxes, height: int, width: int, settings: Settings) -> Span:
    """Rows and columns of a slice outside which the mask of a box (4,) does not count."""
    whole = slice(0, height), slice(0, width)
    if not settings.cut_to_box:
        return whole
    rows, columns = box_pixels(box)
    return overlap(rows, whole[0]), overlap(columns, whole[1])


def ranks_of(boxes: Boxes, settings: Settings) -> npt.NDArray[np.intp]:
    """Ranks 0..N - 1 of boxes (N, 6): where masks overlap, the box of the higher rank wins.

    A smaller box has a higher rank than a larger one; of equal boxes the later one has. Without
    `smaller_box_wins`, the later box always wins.
    """
    if not settings.smaller_box_wins:
        return np.arange(len(boxes))
    sizes = np.prod(boxes[:, 3:] - boxes[:, :3] + 1, axis=1)
    return np.argsort(np.argsort(-sizes, kind="stable"))


def interpolated(
    before: int, answers_before: Sequence[Answer], z: int, answers: Sequence[Answer]
) -> Iterator[tuple[int, list[Answer]]]:
    """For each slice between the decoded slices `before` and `z`: the answers of both, weighted.

    The weights fall linearly with the distance.
    """
    for between in range(min(z, before) + 1, max(z, before)):
        share = (between - before) / (z - before)
        yield (
            between,
            [
                *(replace(answer, weight=answer.weight * (1 - share)) for answer in answers_before),
                *(replace(answer, weight=answer.weight * share) for answer in answers),
            ],
        )


class Painter:
    """Writes masks into labels; where two overlap, it keeps the one of the higher rank."""

    def __init__(self, labels: Labels, boxes: Boxes, settings: Settings) -> None:
        """Paint into `labels` (D, H, W); box i of `boxes` (N, 6) gets the value i + 1."""
        self._labels = labels
        height, width = labels.shape[1:]
        in_plane = boxes[:, IN_PLANE]
        self.limits = [limits_of(box, height, width, settings) for box in in_plane]
        self._ranks = np.zeros(len(boxes) + 1, labels.dtype)  # by label; label 0 is the lowest
        self._ranks[1:] = ranks_of(boxes, settings) + 1

    def paint(self, z: int, i: int, answers: Sequence[Answer]) -> Patch:
        """Paint the mask of box `i` in slice `z`, made from its answers; return the mask."""
        patch = mask_of(answers, self.limits[i])
        self._paint(z, i, patch)
        return patch

    def paint_in_strips(self, z: int, i: int, answers: Sequence[Answer]) -> None:
        """Paint in strips: the logits of a large image, as float32, would take gigabytes."""
        for part in strips(self.limits[i]):
            self._paint(z, i, mask_of(answers, part))

    def _paint(self, z: int, i: int, patch: Patch) -> None:
        target = self._labels[z, patch.rows, patch.columns]
        mask = patch.mask
        painted = mask & (target > 0)
        if painted.any():  # seldom, and few pixels: to compare the ranks of all pixels is slow
            mask = mask.copy()
            mask[painted] = self._ranks[target[painted]] <= self._ranks[i + 1]
        target[mask] = i + 1
