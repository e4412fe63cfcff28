"""The boxes that a slice is asked with, and what it hands on to the next slice: tracking.

The given box of a volume is the extent of the object over all of its slices, so in most slices it
is too large, and the network tends to fill it. LiteMedSAM asks with the box around the previous
slice's mask alone. The default asks three times and averages the logits: with the given box, with a
box of the size that objects usually have at this depth (tapered), and with the box around the mask
that optical flow carried here from the previous slice (tracked). `Settings.prompts` chooses;
docs/decisions has the measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.flow import Flow, SoftMask
from swiftmedsam.frame import INPUT_SIZE, FloatArray, Frame, Patch, Span
from swiftmedsam.masks import Answer
from swiftmedsam.settings import GIVEN, PREVIOUS, TAPERED, Settings

HALF = 127  # of a tracked mask's 0..255: more is part of it
IN_PLANE = [0, 1, 3, 4]  # columns of a volume's boxes

Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """What a decoded slice hands on to the next one, of one box."""

    z: int
    around: dict[Frame, FloatArray | None]  # prompt (4,) around its mask; None: the mask is empty
    masks: dict[Frame, SoftMask] = field(default_factory=dict)  # tracked masks (h, w), 0..255
    answers: Sequence[Answer] = ()  # kept where slices between are to be interpolated


@dataclass(frozen=True)
class Asked:
    """What a slice is asked about one box."""

    prompts: FloatArray  # (P, 4), boxes in input pixels
    mask: SoftMask | None = None  # as it was tracked to this slice


class Prompter(Protocol):
    """Chooses the prompts of each slice. `Prompts` does it by settings."""

    def ask(
        self, frame: Frame, z: int, boxes: Boxes, tracks: Sequence[Track | None]
    ) -> list[Asked]:
        """What slice `z`, as `frame` shows it, is asked about each of `boxes` (N, 6).

        A track is what the previous decoded slice handed on; None: it is the first one.
        """

    def track(
        self, z: int, box: Boxes, answers: Sequence[Answer], patch: Patch, asked: Sequence[Asked]
    ) -> Track:
        """What slice `z` hands on of a box (6,).

        `answers` and `asked` have one of each frame; `patch` is the box's mask.
        """


class Prompts:
    """Prompts by `Settings.prompts`."""

    def __init__(self, image: npt.NDArray[np.uint8], settings: Settings) -> None:
        """For a volume (D, H, W), or an image (1, H, W) or (1, H, W, 3)."""
        self._settings, self._depth = settings, len(image)
        self._flow = Flow(image)

    def ask(
        self, frame: Frame, z: int, boxes: Boxes, tracks: Sequence[Track | None]
    ) -> list[Asked]:
        """The given box where there is no track yet, else a prompt of each kind."""
        given = self._given(frame, boxes)
        return [
            Asked(one[np.newaxis]) if track is None else self._asked(frame, z, box, one, track)
            for box, one, track in zip(boxes, given, tracks, strict=True)
        ]

    def _given(self, frame: Frame, boxes: Boxes) -> FloatArray:
        margin = self._settings.prompt_margin
        in_plane = boxes[:, IN_PLANE]
        return frame.prompts(in_plane) if margin is None else frame.wide_prompts(in_plane, margin)

    def _asked(self, frame: Frame, z: int, box: Boxes, given: FloatArray, track: Track) -> Asked:
        """The prompts (P, 4) of a box (6,), and its mask as flow carried it to slice `z`."""
        settings = self._settings
        around = track.around[frame]
        previous = given if around is None else around
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
        return Asked(np.stack(prompts), mask)

    def track(
        self, z: int, box: Boxes, answers: Sequence[Answer], patch: Patch, asked: Sequence[Asked]
    ) -> Track:
        """The box around the mask; with tracking also a mask, renewed in part by this slice's."""
        margin = self._settings.previous_margin
        around = {one.frame: one.frame.prompt_around(patch, margin) for one in answers}
        if not self._settings.uses_tracking:
            return Track(z, around)
        masks = {}
        for answer, its in zip(answers, asked, strict=True):
            frame = answer.frame
            inside = input_pixels(self._given(frame, box[np.newaxis])[0], frame)
            row, column = answer.corner
            height, width = answer.logits.shape
            shown = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint8)
            shown[row : row + height, column : column + width][answer.logits > 0] = 255
            if its.mask is None:
                masks[frame] = shown[inside].copy()  # a view would keep the whole of `shown`
            else:
                renewal = self._settings.renewal
                mixed = renewal * shown[inside] + (1 - renewal) * its.mask
                masks[frame] = np.rint(mixed).astype(np.uint8)
        return Track(z, around, masks)


def input_pixels(box: FloatArray, frame: Frame) -> Span:
    """Rows and columns of the input pixels of a box (4,), without the padding."""
    left, top, right, bottom = box.astype(int)
    height, width = frame.inner
    return slice(top, min(bottom + 1, height)), slice(left, min(right + 1, width))


def expected_share(z: int, first: float, last: float, depth: int, taper: Sequence[float]) -> float:
    """Sides of an object in slice `z`, in sides of its box, which goes from `first` to `last`.

    `taper` has them from the middle of the box to its end. Where the box ends with the volume of
    `depth` slices, the volume probably cuts the object, which does not taper there.
    """
    offset = (z - (first + last) / 2) / ((last - first + 1) / 2)
    cut = first <= 0 if offset < 0 else last >= depth - 1
    return float(np.interp(0 if cut else abs(offset), np.linspace(0, 1, len(taper)), taper))


def tapered_box(given: FloatArray, previous: FloatArray, share: float, margin: int) -> FloatArray:
    """A box (4,) of `share` of the given one's sides, inside it, as near to `previous` as fits."""
    low, high = given[:2], given[2:]
    half = np.minimum(share * (high - low) / 2 + margin, (high - low) / 2)
    centre = ((previous[:2] + previous[2:]) / 2).clip(low + half, high - half)
    return np.concatenate([centre - half, centre + half])


def box_of(mask: SoftMask, start: FloatArray, given: FloatArray, margin: int) -> FloatArray:
    """The box (4,) around a mask (h, w) that begins at `start` (x, y), wider by `margin`.

    It stays inside the given box, and is the given box where the mask is empty.
    """
    sides = []
    for axis in (0, 1):  # of x, then of y
        line = np.flatnonzero((mask > HALF).any(axis=axis))
        if line.size == 0:
            return given
        sides.append(start[axis] + line[[0, -1]] + np.array([-1, 1]) * margin)
    low, high = np.transpose(sides)
    box = np.concatenate([np.maximum(low, given[:2]), np.minimum(high, given[2:])])
    found: FloatArray = box.astype(np.float32)
    return found
