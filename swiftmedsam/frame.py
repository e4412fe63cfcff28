"""The letterbox between a slice, or a part of it, and the square the network sees.

What is shown (H, W) is shrunk or enlarged so that its longer side is 256, and padded with zeros at
the bottom and the right. Everything that crosses this border goes through `Frame`: pixels and boxes
on the way in, logits and masks on the way out. The rules are LiteMedSAM's (docs/data.md).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

INPUT_SIZE = 256  # pixels per side of the network's input
EMBEDDING_SIZE = 64  # cells per side of the embedding
CELL = INPUT_SIZE // EMBEDDING_SIZE  # input pixels per side of a cell
PROPAGATION_MARGIN = 3  # input pixels added around the neighbour's mask; LiteMedSAM's bbox_shift
PROMPT_MARGIN = 1  # input pixels around the boxes of mode "best": training has them wider, too
STRIP_PIXELS = 2 << 20  # of a mask that is made at a time: 8 MB as float32, three times
MIN_RANGE = 1e-8  # a constant slice becomes zeros instead of a division by zero

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Span = tuple[slice, slice]  # rows and columns, of pixels or of cells


@dataclass(frozen=True)
class Patch:
    """A rectangle of a slice and the mask in it; outside there is none."""

    rows: slice
    columns: slice
    mask: BoolArray


def _reached(values: npt.NDArray[np.int64], size: int, inner: int, start: int) -> slice:
    """Pixels that interpolation of `inner` values to `size` makes of the first to last of `values`.

    Counted from `start` on; one more at both ends, since positions are rounded.
    """
    scale = size / inner
    first = 0 if values[0] == 0 else math.floor((values[0] - 0.5) * scale - 0.5) - 1
    last = size if values[-1] == inner - 1 else math.ceil((values[-1] + 1.5) * scale - 0.5) + 1
    return slice(start + max(first, 0), start + min(last + 1, size))


def overlap(a: slice, b: slice) -> slice:
    """What both have in common."""
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))


def hull(a: slice, b: slice) -> slice:
    """The least that holds both."""
    return slice(min(a.start, b.start), max(a.stop, b.stop))


@dataclass(frozen=True)
class Frame:
    """Geometry of what is shown: `height` x `width` pixels of a slice from (`top`, `left`) on.

    Pixels, rows, columns and boxes are always those of the slice. It may be shown `mirrored`, left
    to right: another look at the same.
    """

    height: int
    width: int
    top: int = 0
    left: int = 0
    mirrored: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is shown."""
        return self.height, self.width

    @property
    def start(self) -> tuple[int, int]:
        """Row and column of its first pixel."""
        return self.top, self.left

    @property
    def span(self) -> Span:
        """Its rows and columns."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)

    @property
    def scale(self) -> float:
        """Input pixels per slice pixel."""
        return INPUT_SIZE / max(self.height, self.width)

    @property
    def inner(self) -> tuple[int, int]:
        """Its height and width inside the input; the rest is padding."""
        return (
            max(1, int(self.height * self.scale + 0.5)),
            max(1, int(self.width * self.scale + 0.5)),
        )

    def pixels(self, image: npt.NDArray[np.uint8]) -> FloatArray:
        """Network input (1, 3, 256, 256) of a slice (H, W) or (H, W, 3), its range made 0..1."""
        height, width = self.inner
        shown = image[self.span]
        small = cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        low = small.min()
        small = (small - low) / max(float(small.max() - low), MIN_RANGE)
        if small.ndim == 2:
            small = small[:, :, np.newaxis]
        if self.mirrored:
            small = small[:, ::-1]
        pixels = np.zeros((1, 3, INPUT_SIZE, INPUT_SIZE), np.float32)
        pixels[0, :, :height, :width] = small.transpose(2, 0, 1)  # a grey slice fills all three
        return pixels

    def prompts(self, boxes: npt.NDArray[np.float64]) -> FloatArray:
        """Prompts (N, 4) in input pixels of `boxes` (N, 4) in slice pixels; truncated to whole."""
        start = np.array([self.left, self.top] * 2)
        return self._turned(np.trunc((boxes - start) * self.scale).astype(np.float32))

    def wide_prompts(self, boxes: npt.NDArray[np.float64]) -> FloatArray:
        """Prompts (N, 4) around all of the pixels in `boxes` (N, 4), a little wider than them.

        `prompts` ends where the last pixel begins, which matters where pixels are enlarged.
        """
        start, limits = np.array([self.left, self.top]), np.array(self.inner[::-1])
        low = np.trunc((np.floor(boxes[:, :2]) - start) * self.scale) - PROMPT_MARGIN
        high = (np.ceil(boxes[:, 2:]) - start) * self.scale + max(0.0, self.scale - 1)
        around = [low.clip(0), np.minimum(np.trunc(high) + PROMPT_MARGIN, limits)]
        return self._turned(np.concatenate(around, axis=1).astype(np.float32))

    def cells(self, within: Span) -> Span:
        """Rows and columns of the embedding whose logits decide on these pixels of a slice."""
        spans = []
        for axis in (0, 1):
            low, high, _ = self.samples(axis, within[axis])
            ends = sorted((int(low[0]), int(high[-1])))
            spans.append(slice(ends[0] // CELL, ends[1] // CELL + 1))
        return spans[0], spans[1]

    def prompt_around(self, patch: Patch) -> FloatArray | None:
        """Prompt (4,) in input pixels around a neighbour's mask, or None if it is empty.

        The input pixels that are not 0 in the resized mask, widened by `PROPAGATION_MARGIN`. Area
        resizing treats the axes one after the other, so that the shadows of the mask on them do.
        """
        if not patch.mask.any():
            return None
        sides = []
        for axis, part in ((1, patch.columns), (0, patch.rows)):
            line = np.zeros((1, self.size[axis]), np.float32)
            start = self.start[axis]
            line[0, part.start - start : part.stop - start] = patch.mask.any(axis=1 - axis)
            touched = cv2.resize(line, (self.inner[axis], 1), interpolation=cv2.INTER_AREA)[0] > 0
            sides.append(np.flatnonzero(touched)[[0, -1]])
        (x_min, x_max), (y_min, y_max) = sides
        box = np.array([x_min, y_min, x_max, y_max], np.float32)
        box += np.array([-1, -1, 1, 1], np.float32) * PROPAGATION_MARGIN
        return self._turned(box.clip(0, INPUT_SIZE))

    def _turned(self, prompts: FloatArray) -> FloatArray:
        """Prompts (..., 4) of what is not mirrored as they are here."""
        if not self.mirrored:
            return prompts
        turned = prompts.copy()
        turned[..., [2, 0]] = (self.inner[1] - 1 - prompts[..., [0, 2]]).clip(0)
        return turned

    def samples(
        self, axis: int, wanted: slice
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
        """Where bilinear interpolation, as `cv2.resize`'s, reads for the pixels `wanted`.

        Lower and upper input pixel, and the weight of the upper.
        """
        inner = self.inner[axis]
        pixels = np.arange(wanted.start, wanted.stop) - self.start[axis]
        positions = ((pixels + 0.5) * (inner / self.size[axis]) - 0.5).clip(0, inner - 1)
        low = positions.astype(np.int64)
        high, weight = np.minimum(low + 1, inner - 1), (positions - low).astype(np.float32)
        if self.mirrored and axis == 1:
            low, high = inner - 1 - low, inner - 1 - high
        return low, high, weight


@dataclass(frozen=True)
class Answer:
    """Logits (h, w) of one object as a frame shows it, from an input pixel (row, column) on.

    They cover the limits that were asked for. The weight is that among the object's answers.
    """

    frame: Frame
    logits: FloatArray
    corner: tuple[int, int]
    weight: float = 1.0

    def reach(self, limits: Span) -> Span | None:
        """The pixels within `limits` that logits above 0 can reach; None if there is none."""
        above = self.logits > 0
        parts = []
        for axis in (0, 1):
            inner, size = self.frame.inner[axis], self.frame.size[axis]
            values = np.flatnonzero(above.any(axis=1 - axis)) + self.corner[axis]
            values = values[values < inner]  # not from the padding
            if values.size == 0:
                return None
            if self.frame.mirrored and axis == 1:
                values = inner - 1 - values[::-1]
            reached = _reached(values, size, inner, self.frame.start[axis])
            parts.append(overlap(reached, limits[axis]))
        rows, columns = parts
        return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None

    def at(self, pixels: Span) -> FloatArray:
        """Logits of these pixels of the slice, all of them shown: bilinear."""
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
    """Where the weighted sum of the logits of one object is above 0, within `limits`.

    Only the pixels that a logit above 0 can reach are looked at: resizing the whole of a large
    image for each of its objects takes longer than the network.
    """
    reached = [span for answer in answers if (span := answer.reach(limits))]
    if not reached:
        return Patch(slice(0, 0), slice(0, 0), np.zeros((0, 0), np.bool_))
    rows, columns = (functools.reduce(hull, axis) for axis in zip(*reached, strict=True))
    logits = sum(answer.weight * answer.at((rows, columns)) for answer in answers)
    return Patch(rows, columns, np.asarray(logits > 0))


def strips(within: Span) -> list[Span]:
    """Rows and columns of a slice cut into parts whose masks take little memory each."""
    rows, columns = within
    step = max(1, STRIP_PIXELS // (columns.stop - columns.start))
    starts = range(rows.start, rows.stop, step)
    return [(slice(y, min(y + step, rows.stop)), columns) for y in starts]
