"""The letterbox between a slice and the square the network sees, in both directions.

A slice (H, W) is shrunk or enlarged so that its longer side is 256, and padded with zeros at the
bottom and the right. Everything that crosses this border goes through `Frame`: pixels and boxes on
the way in, logits and masks on the way out. The rules are LiteMedSAM's (docs/data.md).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

INPUT_SIZE = 256  # pixels per side of the network's input
PROPAGATION_MARGIN = 3  # input pixels added around the neighbour's mask; LiteMedSAM's bbox_shift
STRIP_PIXELS = 4 << 20  # of a mask that is made at a time: 16 MB as float32
MIN_RANGE = 1e-8  # a constant slice becomes zeros instead of a division by zero

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """Geometry of slices of one size (height, width), in pixels of the stored image."""

    height: int
    width: int

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

    def mask(
        self, logits: FloatArray, rows: slice = slice(None), columns: slice = slice(None)
    ) -> BoolArray:
        """Mask of one object's `logits` (256, 256): bilinear, then above 0.

        (H, W), or the part in `rows` and `columns` of it: the axes are interpolated one after the
        other, as OpenCV does, and of the second only what is wanted.
        """
        height, width = self.inner
        wide = cv2.resize(
            np.ascontiguousarray(logits[:height, :width]), (self.width, height),
            interpolation=cv2.INTER_LINEAR,
        )  # fmt: skip
        wanted = np.ascontiguousarray(wide[:, columns])
        size = (wanted.shape[1], self.height)
        return cv2.resize(wanted, size, interpolation=cv2.INTER_LINEAR)[rows] > 0

    def strips(self, rows: slice, columns: slice) -> list[tuple[slice, slice]]:
        """`rows` and `columns` of a slice cut into parts whose masks take little memory each."""
        start, stop, _ = columns.indices(self.width)
        step = max(1, STRIP_PIXELS // self.height)
        return [(rows, slice(x, min(x + step, stop))) for x in range(start, stop, step)]

    def prompt_around(self, mask: BoolArray) -> FloatArray | None:
        """Prompt (4,) in input pixels around a neighbour's `mask` (H, W), or None if it is empty.

        The input pixels that are not 0 in the resized mask, widened by `PROPAGATION_MARGIN`. Area
        resizing treats the axes one after the other, so that the shadows of the mask on them do.
        """
        if not mask.any():
            return None
        height, width = self.inner
        sides = []
        for axis, size in ((0, width), (1, height)):
            line = mask.any(axis=axis, keepdims=True).reshape(1, -1).astype(np.float32)
            touched = cv2.resize(line, (size, 1), interpolation=cv2.INTER_AREA)[0] > 0
            sides.append(np.flatnonzero(touched)[[0, -1]])
        (x_min, x_max), (y_min, y_max) = sides
        box = np.array([x_min, y_min, x_max, y_max], np.float32)
        box += np.array([-1, -1, 1, 1], np.float32) * PROPAGATION_MARGIN
        return box.clip(0, INPUT_SIZE)
