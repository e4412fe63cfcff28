"""The geometry between (a part of) a slice and the network's input of 256 x 256 pixels.

The shown part (H, W) is resized so that its longer side is 256, and padded with zeros at the bottom
and the right (a letterbox). Pixels and boxes reach the network through `Frame`, and logits come
back through it (`masks`). The rules are LiteMedSAM's (docs/architecture.md).
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
    """A mask, as a rectangle of a slice; outside the rectangle nothing belongs to the mask."""

    rows: slice
    columns: slice
    mask: BoolArray


def overlap(a: slice, b: slice) -> slice:
    """The range that both have in common; it may be empty."""
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))


def every_cell(prompts: int) -> npt.NDArray[np.int32]:
    """Numbers (prompts, 64, 64) of all cells of the embedding, for each prompt."""
    cells = np.arange(EMBEDDING_SIZE**2, dtype=np.int32).reshape(1, EMBEDDING_SIZE, EMBEDDING_SIZE)
    return cells.repeat(prompts, axis=0)


def hull(a: slice, b: slice) -> slice:
    """The smallest range that holds both."""
    return slice(min(a.start, b.start), max(a.stop, b.stop))


@dataclass(frozen=True)
class Frame:
    """Shows the network `height` x `width` pixels of a slice, from row `top` and column `left` on.

    Pixels, rows, columns and boxes are always those of the whole slice; input pixels are those of
    the network's input. `mirrored` exchanges left and right.
    """

    height: int
    width: int
    top: int = 0
    left: int = 0
    mirrored: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the shown part, in slice pixels."""
        return self.height, self.width

    @property
    def start(self) -> tuple[int, int]:
        """Row and column of the first shown pixel."""
        return self.top, self.left

    @property
    def span(self) -> Span:
        """The shown rows and columns."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)

    @property
    def scale(self) -> float:
        """Input pixels per slice pixel."""
        return INPUT_SIZE / max(self.height, self.width)

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the shown part in input pixels; the rest of the input is padding."""
        return (
            max(1, int(self.height * self.scale + 0.5)),
            max(1, int(self.width * self.scale + 0.5)),
        )

    def pixels(self, image: npt.NDArray[np.uint8]) -> FloatArray:
        """Network input (1, 3, 256, 256), 0..1, of a slice (H, W) or (H, W, 3).

        The minimum and maximum of the shown part become 0 and 1.
        """
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
        pixels[0, :, :height, :width] = small.transpose(2, 0, 1)  # grey fills all three channels
        return pixels

    def prompts(self, boxes: npt.NDArray[np.float64]) -> FloatArray:
        """Prompts (N, 4) in input pixels, truncated to integers, of `boxes` (N, 4) in slice pixels.

        Both are x_min, y_min, x_max, y_max.
        """
        start = np.array([self.left, self.top] * 2)
        return self._mirrored(np.trunc((boxes - start) * self.scale).astype(np.float32))

    def wide_prompts(self, boxes: npt.NDArray[np.float64], margin: int) -> FloatArray:
        """Prompts (N, 4) around all pixels in `boxes` (N, 4), wider by `margin` input pixels.

        They include the whole last pixel of a box. `prompts` ends where the last pixel begins; this
        matters where pixels are enlarged.
        """
        start, limits = np.array([self.left, self.top]), np.array(self.inner[::-1])
        low = np.trunc((np.floor(boxes[:, :2]) - start) * self.scale) - margin
        high = (np.ceil(boxes[:, 2:]) - start) * self.scale + max(0.0, self.scale - 1)
        corners = [low.clip(0), np.minimum(np.trunc(high) + margin, limits)]
        return self._mirrored(np.concatenate(corners, axis=1).astype(np.float32))

    def cells(self, within: Span) -> Span:
        """Rows and columns of the cells whose logits cover the slice pixels `within`."""
        spans = []
        for axis in (0, 1):
            low, high, _ = self.samples(axis, within[axis])
            ends = sorted((int(low[0]), int(high[-1])))
            spans.append(slice(ends[0] // CELL, ends[1] // CELL + 1))
        return spans[0], spans[1]

    def prompt_around(self, patch: Patch, margin: int) -> FloatArray | None:
        """Prompt (4,) in input pixels around a mask, or None if the mask is empty.

        It is the box around the non-zero input pixels of the resized mask, wider by `margin`. Area
        resizing treats each axis by itself, so it is enough to resize which rows and which columns
        the mask has.
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
        return self._mirrored(box.clip(0, INPUT_SIZE))

    def _mirrored(self, prompts: FloatArray) -> FloatArray:
        """Prompts (..., 4) of the unmirrored input, mirrored if this frame is."""
        if not self.mirrored:
            return prompts
        mirrored = prompts.copy()
        mirrored[..., [2, 0]] = (self.inner[1] - 1 - prompts[..., [0, 2]]).clip(0)
        return mirrored

    def samples(
        self, axis: int, wanted: slice
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
        """For each of the slice's pixels `wanted`, the input pixels that it is interpolated from.

        Bilinear, along one axis (0: rows, 1: columns), as `cv2.resize` does. Returns the lower and
        the upper input pixel, and the weight of the upper one.
        """
        inner = self.inner[axis]
        pixels = np.arange(wanted.start, wanted.stop) - self.start[axis]
        positions = ((pixels + 0.5) * (inner / self.size[axis]) - 0.5).clip(0, inner - 1)
        low = positions.astype(np.int64)
        high, weight = np.minimum(low + 1, inner - 1), (positions - low).astype(np.float32)
        if self.mirrored and axis == 1:
            low, high = inner - 1 - low, inner - 1 - high
        return low, high, weight
