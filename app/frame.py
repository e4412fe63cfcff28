"""The letterbox between a slice and the square the network sees, in both directions.

A slice (H, W) is shrunk or enlarged so that its longer side is 256, and padded with zeros at the
bottom and the right. Everything that crosses this border goes through `Frame`: pixels and boxes on
the way in, logits and masks on the way out. The rules are LiteMedSAM's (docs/data.md).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

INPUT_SIZE = 256  # pixels per side of the network's input
EMBEDDING_SIZE = 64  # cells per side of the embedding
CELL = INPUT_SIZE // EMBEDDING_SIZE  # input pixels per side of a cell
PROPAGATION_MARGIN = 3  # input pixels added around the neighbour's mask; LiteMedSAM's bbox_shift
STRIP_PIXELS = 2 << 20  # of a mask that is made at a time: 8 MB as float32, three times
MIN_RANGE = 1e-8  # a constant slice becomes zeros instead of a division by zero

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Patch:
    """A rectangle of a slice and the mask in it; outside there is none."""

    rows: slice
    columns: slice
    mask: BoolArray


def _samples(
    wanted: slice, size: int, inner: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """Where bilinear interpolation of `inner` values to `size` reads for each of those `wanted`.

    Lower and upper index, and the weight of the upper; as in `cv2.resize`.
    """
    positions = (np.arange(wanted.start, wanted.stop) + 0.5) * (inner / size) - 0.5
    positions = positions.clip(0, inner - 1)
    low = positions.astype(np.int64)
    return low, np.minimum(low + 1, inner - 1), (positions - low).astype(np.float32)


def _reached(values: npt.NDArray[np.int64], size: int, inner: int) -> slice:
    """Those of `size` that interpolation of `inner` values makes of the first to last of `values`.

    One more at both ends, since positions are rounded.
    """
    scale = size / inner
    first = 0 if values[0] == 0 else math.floor((values[0] - 0.5) * scale - 0.5) - 1
    last = size if values[-1] == inner - 1 else math.ceil((values[-1] + 1.5) * scale - 0.5) + 1
    return slice(max(first, 0), min(last + 1, size))


def overlap(a: slice, b: slice) -> slice:
    """What both have in common."""
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))


@dataclass(frozen=True)
class Frame:
    """Geometry of slices of one size (height, width), in pixels of the stored image."""

    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.height, self.width

    @property
    def scale(self) -> float:
        """Input pixels per slice pixel."""
        return INPUT_SIZE / max(self.height, self.width)

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the slice inside the input; the rest is padding."""
        return (
            max(1, int(self.height * self.scale + 0.5)),
            max(1, int(self.width * self.scale + 0.5)),
        )

    def pixels(self, image: npt.NDArray[np.uint8]) -> FloatArray:
        """Network input (1, 3, 256, 256) of a slice (H, W) or (H, W, 3), its range made 0..1."""
        height, width = self.inner
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        low = small.min()
        small = (small - low) / max(float(small.max() - low), MIN_RANGE)
        if small.ndim == 2:
            small = small[:, :, np.newaxis]
        pixels = np.zeros((1, 3, INPUT_SIZE, INPUT_SIZE), np.float32)
        pixels[0, :, :height, :width] = small.transpose(2, 0, 1)  # a grey slice fills all three
        return pixels

    def prompts(self, boxes: npt.NDArray[np.float64]) -> FloatArray:
        """Prompts (N, 4) in input pixels of `boxes` (N, 4) in slice pixels; truncated to whole."""
        return np.trunc(boxes * self.scale).astype(np.float32)

    def cells(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns of the embedding whose logits decide on these pixels of a slice."""
        spans = []
        for wanted, size, inner in zip((rows, columns), self.size, self.inner, strict=True):
            low, high, _ = _samples(wanted, size, inner)
            spans.append(slice(int(low[0]) // CELL, int(high[-1]) // CELL + 1))
        return spans[0], spans[1]

    def mask(
        self, logits: FloatArray, corner: tuple[int, int], limits: tuple[slice, slice]
    ) -> Patch:
        """Mask of one object inside `limits`, rows and columns of a slice: bilinear, then above 0.

        `logits` (h, w) are those of the input pixels from `corner` (row, column) on; what they do
        not cover is below 0. Only the pixels that those above 0 can reach are looked at: resizing
        the whole of a large image for each of its objects takes longer than the network.
        """
        above = logits > 0
        parts, samples = [], []
        for axis in (0, 1):
            inner, size, start = self.inner[axis], self.size[axis], corner[axis]
            values = np.flatnonzero(above.any(axis=1 - axis)) + start
            values = values[values < inner]  # not from the padding
            if values.size == 0:
                return Patch(slice(0, 0), slice(0, 0), np.zeros((0, 0), np.bool_))
            parts.append(overlap(_reached(values, size, inner), limits[axis]))
            low, high, weight = _samples(parts[axis], size, inner)
            end = logits.shape[axis] - 1
            samples.append(((low - start).clip(0, end), (high - start).clip(0, end), weight))
        (top, bottom, down), (left, right, across) = samples
        lines = logits[top] * (1 - down)[:, np.newaxis] + logits[bottom] * down[:, np.newaxis]
        mask = lines[:, left] * (1 - across) + lines[:, right] * across > 0
        return Patch(parts[0], parts[1], mask)

    def strips(self, rows: slice, columns: slice) -> list[tuple[slice, slice]]:
        """`rows` and `columns` of a slice cut into parts whose masks take little memory each."""
        step = max(1, STRIP_PIXELS // (columns.stop - columns.start))
        starts = range(rows.start, rows.stop, step)
        return [(slice(y, min(y + step, rows.stop)), columns) for y in starts]

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
            line[0, part] = patch.mask.any(axis=1 - axis)
            touched = cv2.resize(line, (self.inner[axis], 1), interpolation=cv2.INTER_AREA)[0] > 0
            sides.append(np.flatnonzero(touched)[[0, -1]])
        (x_min, x_max), (y_min, y_max) = sides
        box = np.array([x_min, y_min, x_max, y_max], np.float32)
        box += np.array([-1, -1, 1, 1], np.float32) * PROPAGATION_MARGIN
        return box.clip(0, INPUT_SIZE)
