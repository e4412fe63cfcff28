"""Optical flow between slices: where a mask of one slice lies in the next (DIS, OpenCV).

Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. Masks and pixels here
are input pixels (h, w), without the padding.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import FloatArray, Frame, Span

LEAST_SIDE = 16  # input pixels; for less, DIS returns NaN or crashes
FLOWS_KEPT = 16  # of 0.6 MB each: the flows of one slice, in all its views

SoftMask = npt.NDArray[np.uint8]  # (h, w), 0..255, of the input pixels in a box


class Flow:
    """Optical flow between slices of a volume (D, H, W), by frame; flows are kept for reuse."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        """Compute flows of `image` (D, H, W)."""
        # Cached functions instead of methods: a method's cache would refer back to this object,
        # and this cycle would keep the volume in memory until the garbage collector runs.
        picture = lru_cache(FLOWS_KEPT)(partial(_picture, image))
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._places = lru_cache(FLOWS_KEPT)(partial(_places, flow, picture))

    def moved(self, mask: SoftMask, inside: Span, frame: Frame, before: int, z: int) -> SoftMask:
        """Move a mask from slice `before` to slice `z`; both cover the input pixels `inside`."""
        start = np.array([inside[1].start, inside[0].start], np.float32)  # x and y
        x, y = np.moveaxis(self._places(frame, z, before)[inside] - start, -1, 0)
        return np.asarray(cv2.remap(mask, x, y, cv2.INTER_LINEAR), np.uint8)


def _picture(image: npt.NDArray[np.uint8], frame: Frame, z: int) -> SoftMask:
    """Slice `z` of a volume as `frame` shows it, (h, w), extended to `LEAST_SIDE` for DIS."""
    height, width = frame.inner
    shown = frame.pixels(image[z])[0, 0, :height, :width] * 255
    below, right = max(0, LEAST_SIDE - height), max(0, LEAST_SIDE - width)
    picture = cv2.copyMakeBorder(shown.astype(np.uint8), 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(picture, np.uint8)


def _places(
    flow: cv2.DISOpticalFlow, picture: Callable[[Frame, int], SoftMask], frame: Frame, z: int,
    before: int,
) -> FloatArray:  # fmt: skip
    """For each input pixel of slice `z`, its place (x, y) in slice `before`: (h, w, 2)."""
    height, width = frame.inner
    here, there = (picture(frame, i) for i in (z, before))
    moved = flow.calc(here, there, np.zeros((*here.shape, 2), np.float32))
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    places: FloatArray = (moved[:height, :width] + grid).astype(np.float32)
    return places
