"""The letterbox between a slice, or a part of it, and the square the network sees.

What is shown (H, W) is shrunk or enlarged so that its longer side is 256, and padded with zeros at
the bottom and the right. Everything that crosses this border goes through `Frame`: pixels and boxes
on the way in, logits on the way out (`masks`). The rules are LiteMedSAM's (docs/formats.md).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

INPUT_SIZE = 256  # pixels per side of the network's input
EMBEDDING_SIZE = 64  # cells per side of the embedding
CELL = INPUT_SIZE // EMBEDDING_SIZE  # input pixels per side of a cell
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

    def wide_prompts(self, boxes: npt.NDArray[np.float64], margin: int) -> FloatArray:
        """Prompts (N, 4) around all pixels in `boxes` (N, 4), wider by `margin` input pixels.

        `prompts` ends where the last pixel begins, which matters where pixels are enlarged.
        """
        start, limits = np.array([self.left, self.top]), np.array(self.inner[::-1])
        low = np.trunc((np.floor(boxes[:, :2]) - start) * self.scale) - margin
        high = (np.ceil(boxes[:, 2:]) - start) * self.scale + max(0.0, self.scale - 1)
        around = [low.clip(0), np.minimum(np.trunc(high) + margin, limits)]
        return self._turned(np.concatenate(around, axis=1).astype(np.float32))

    def cells(self, within: Span) -> Span:
        """Rows and columns of the embedding whose logits decide on these pixels of a slice."""
        spans = []
        for axis in (0, 1):
            low, high, _ = self.samples(axis, within[axis])
            ends = sorted((int(low[0]), int(high[-1])))
            spans.append(slice(ends[0] // CELL, ends[1] // CELL + 1))
        return spans[0], spans[1]

    def prompt_around(self, patch: Patch, margin: int) -> FloatArray | None:
        """Prompt (4,) in input pixels around a mask, or None if it is empty.

        It holds the input pixels that are not 0 in the resized mask, and is wider by `margin`. Area
        resizing treats one axis after the other: so the mask's rows and columns are resized alone.
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
        box += np.array([-1, -1, 1, 1], np.float32) * margin
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
