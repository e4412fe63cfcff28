"""Chooses the prompts of each slice, and tracks each object from slice to slice.

The given box of a volume is the extent of the object over all its slices. So in most slices it is
too large, and the network tends to fill it. LiteMedSAM's only prompt is the box around the previous
slice's mask. By default a slice has three prompts, and their mean logits count:

    given      the given box
    tapered    a box of the size that objects usually have at this depth of their box
    tracked    the box around the mask that optical flow moved here from the previous slice

`Settings.prompts` chooses; docs/decisions has the measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import IN_PLANE, Boxes
from swiftmedsam.flow import Flow, SoftMask
from swiftmedsam.frame import INPUT_SIZE, FloatArray, Frame, Patch, Span
from swiftmedsam.masks import Answer
from swiftmedsam.settings import GIVEN, PREVIOUS, TAPERED, Settings

HALF = 127  # of a tracked mask's 0..255; pixels with more belong to the mask


@dataclass(frozen=True)
class Track:
    """The state of one box after a decoded slice, for the next decoded slice."""

    z: int
    around: dict[Frame, FloatArray | None]  # prompt (4,) around the mask; None: the mask is empty
    masks: dict[Frame, SoftMask] = field(default_factory=dict)  # tracked masks (h, w), 0..255
    answers: Sequence[Answer] = ()  # kept if the slices between are interpolated


@dataclass(frozen=True)
class BoxPrompts:
    """The prompts of one box in one frame of a slice."""

    prompts: FloatArray  # (P, 4) x_min, y_min, x_max, y_max in input pixels
    mask: SoftMask | None = None  # the mask tracked into this slice


class Prompter(Protocol):
    """Chooses the prompts of each slice, and tracks boxes. `Prompts` does this by settings."""

    def choose(
        self, frame: Frame, z: int, boxes: Boxes, tracks: Sequence[Track | None]
    ) -> list[BoxPrompts]:
        """The prompts of each of `boxes` (N, 6) in slice `z`, for `frame`.

        `tracks` are those of the boxes in the previous decoded slice; None: this is the first one.
        """

    def track(
        self,
        z: int,
        box: Boxes,
        answers: Sequence[Answer],
        patch: Patch,
        chosen: Sequence[BoxPrompts],
    ) -> Track:
        """The track of a box (6,) after slice `z`.

        `answers` and `chosen` have one entry per frame of the box; `patch` is its mask.
        """


class Prompts:
    """Chooses prompts by `Settings.prompts`."""

    def __init__(self, image: npt.NDArray[np.uint8], settings: Settings) -> None:
        """Choose prompts for a volume (D, H, W), or an image (1, H, W) or (1, H, W, 3)."""
        self._settings, self._depth = settings, len(image)
        self._flow = Flow(image)

    def choose(
        self, frame: Frame, z: int, boxes: Boxes, tracks: Sequence[Track | None]
    ) -> list[BoxPrompts]:
        """The given box if there is no track yet, otherwise a prompt of each kind."""
        given = self._given(frame, boxes)
        return [
            BoxPrompts(one[np.newaxis])
            if track is None
            else self._choose_one(frame, z, box, one, track)
            for box, one, track in zip(boxes, given, tracks, strict=True)
        ]

    def _given(self, frame: Frame, boxes: Boxes) -> FloatArray:
        margin = self._settings.prompt_margin
        in_plane = boxes[:, IN_PLANE]
        return frame.prompts(in_plane) if margin is None else frame.wide_prompts(in_plane, margin)

    def _choose_one(
        self, frame: Frame, z: int, box: Boxes, given: FloatArray, track: Track
    ) -> BoxPrompts:
        """The prompts (P, 4) of a box (6,), and its mask, which flow moved to slice `z`."""
        settings = self._settings
        around_mask = track.around[frame]
        previous = given if around_mask is None else around_mask
        mask, tracked = None, given
        if settings.uses_tracking:
            inside = input_pixels(given, frame)
            mask = self._flow.moved(track.masks[frame], inside, frame, track.z, z)
            start = np.array([inside[1].start, inside[0].start], np.float32)  # x and y
            tracked = box_of(mask, start, given, settings.tracked_margin)
        prompts = []
        for kind in settings.prompts:
            if kind == GIVEN:
                prompts.append(given)
            elif kind == PREVIOUS:
                prompts.append(previous)
            elif kind == TAPERED:
                share = expected_share(z, box[2], box[5], self._depth, settings.taper)
                prompts.append(tapered_box(given, previous, share, settings.tapered_margin))
            else:
                prompts.append(tracked)
        return BoxPrompts(np.stack(prompts), mask)

    def track(
        self,
        z: int,
        box: Boxes,
        answers: Sequence[Answer],
        patch: Patch,
        chosen: Sequence[BoxPrompts],
    ) -> Track:
        """The box around the mask; with tracking also the tracked mask.

        The tracked mask is `renewal` x this slice's mask + (1 - `renewal`) x the mask that was
        tracked into this slice.
        """
        margin = self._settings.previous_margin
        around = {one.frame: one.frame.prompt_around(patch, margin) for one in answers}
        if not self._settings.uses_tracking:
            return Track(z, around)
        masks = {}
        for answer, own in zip(answers, chosen, strict=True):
            frame = answer.frame
            inside = input_pixels(self._given(frame, box[np.newaxis])[0], frame)
            row, column = answer.corner
            height, width = answer.logits.shape
            shown = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint8)
            shown[row : row + height, column : column + width][answer.logits > 0] = 255
            if own.mask is None:
                masks[frame] = shown[inside].copy()  # a view would keep the whole of `shown`
            else:
                renewal = self._settings.renewal
                mixed = renewal * shown[inside] + (1 - renewal) * own.mask
                masks[frame] = np.rint(mixed).astype(np.uint8)
        return Track(z, around, masks)


def input_pixels(box: FloatArray, frame: Frame) -> Span:
    """Rows and columns of the input pixels in a prompt (4,), without the padding."""
    left, top, right, bottom = box.astype(int)
    height, width = frame.inner
    return slice(top, min(bottom + 1, height)), slice(left, min(right + 1, width))


def expected_share(z: int, first: float, last: float, depth: int, taper: Sequence[float]) -> float:
    """The usual size of an object in slice `z`, relative to its box of slices `first` to `last`.

    `taper` has these sizes at equal distances from the middle of the box to its end. If the box
    ends where the volume of `depth` slices ends, the volume probably cuts the object: it does not
    taper there, and the size of the middle is returned.
    """
    offset = (z - (first + last) / 2) / ((last - first + 1) / 2)
    cut = first <= 0 if offset < 0 else last >= depth - 1
    return float(np.interp(0 if cut else abs(offset), np.linspace(0, 1, len(taper)), taper))


def tapered_box(given: FloatArray, previous: FloatArray, share: float, margin: int) -> FloatArray:
    """A prompt (4,) with `share` of the sides of `given`, inside it, as near `previous` as fits.

    All are in input pixels; each side is wider by `margin`.
    """
    low, high = given[:2], given[2:]
    half = np.minimum(share * (high - low) / 2 + margin, (high - low) / 2)
    centre = ((previous[:2] + previous[2:]) / 2).clip(low + half, high - half)
    return np.concatenate([centre - half, centre + half])


def box_of(mask: SoftMask, start: FloatArray, given: FloatArray, margin: int) -> FloatArray:
    """The prompt (4,) around a mask (h, w) whose first pixel is `start` (x, y), wider by `margin`.

    It stays inside the given box, and is the given box if the mask is empty.
    """
    sides = []
    for axis in (0, 1):  # x, then y
        line = np.flatnonzero((mask > HALF).any(axis=axis))
        if line.size == 0:
            return given
        sides.append(start[axis] + line[[0, -1]] + np.array([-1, 1]) * margin)
    low, high = np.transpose(sides)
    box = np.concatenate([np.maximum(low, given[:2]), np.minimum(high, given[2:])])
    prompt: FloatArray = box.astype(np.float32)
    return prompt
