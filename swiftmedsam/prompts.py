"""How an object is followed from slice to slice: what a slice is asked with.

The given box of a volume is the extent of the object over all of its slices, so in most of them it
is too large, and the network tends to fill it. Mode "exact" asks with the box of the neighbour's
mask alone, as LiteMedSAM does. Mode "best" asks three times, with

    the given box;
    a box as large as objects are there, by their usual taper, around where the neighbour's was;
    the box of the neighbour's mask, carried along by the optical flow between the slices;

docs/decisions.md has the figures of these and other rules.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import INPUT_SIZE, Answer, FloatArray, Frame, Patch, Span, overlap

# Sides of an object in a slice, in sides of its box, by its distance from the box's middle slice
# in tenths of half the box's extent: a smooth curve along the means of 33 data sets of the training
# corpus (`python -m swiftmedsam.train.tools.taper`), above them in the middle.
TAPER = (0.90, 0.89, 0.88, 0.86, 0.83, 0.79, 0.74, 0.66, 0.57, 0.45, 0.25)
EXPECTED_MARGIN = 1  # input pixels around a box of that size
CARRIED_MARGIN = 2  # input pixels around the mask that was carried along
LEAST_FLOW = 16  # input pixels per side: of less, DIS makes NaN or crashes
FLOWS_KEPT = 16  # of 0.6 MB with their pictures: a slice's, in all it is shown in
HALF = 127  # of a mask's 0..255: more is part of it
RENEWAL = 0.3  # of what is carried on from a slice is its mask, the rest what was carried into it

IN_PLANE = [0, 1, 3, 4]  # columns of a volume's boxes

Boxes = npt.NDArray[np.float64]
Mask = npt.NDArray[np.uint8]  # (h, w), 0..255, of the input pixels under a given box
# Prompts (P, 4) of a box in a slice, and its mask as flow carried it there
Asked = tuple[FloatArray, Mask | None]


@dataclass(frozen=True)
class Found:
    """What a slice that was asked tells its neighbours of a box."""

    z: int
    around: dict[Frame, FloatArray | None]  # prompts (4,) around its mask; None: it is empty
    carried: dict[Frame, Mask] = field(default_factory=dict)  # (h, w): what goes on from here
    answers: Sequence[Answer] = ()  # kept where slices between are to be interpolated


class Rules(Protocol):
    """How boxes are followed: what a slice is asked with, what it hands on, which mask counts."""

    def ranks(self, boxes: Boxes) -> npt.NDArray[np.intp]:
        """Ranks 0..N - 1 of `boxes` (N, 6): where masks meet, that of the highest counts."""

    def limits(self, box: Boxes, height: int, width: int) -> Span:
        """Rows and columns of a slice outside which the mask of a box (4,) does not count."""

    def prompts(
        self, frame: Frame, z: int, boxes: Boxes, neighbours: Sequence[Found | None]
    ) -> list[Asked]:
        """What is asked about each of `boxes` (N, 6) in slice `z`, as `frame` shows it."""

    def found(
        self, z: int, box: Boxes, answers: Sequence[Answer], patch: Patch,
        carried: Sequence[Mask | None],
    ) -> Found:  # fmt: skip
        """What slice `z` hands on of a box (6,): its answers by frame, `patch` their mask."""


class Exact:
    """LiteMedSAM's rules: the box of the neighbour's mask alone, which nothing limits."""

    def ranks(self, boxes: Boxes) -> npt.NDArray[np.intp]:
        """Later boxes over earlier ones."""
        return np.arange(len(boxes))

    def limits(self, box: Boxes, height: int, width: int) -> Span:
        """The whole slice."""
        return slice(0, height), slice(0, width)

    def prompts(
        self, frame: Frame, z: int, boxes: Boxes, neighbours: Sequence[Found | None]
    ) -> list[Asked]:
        """The box around each neighbour's mask; the given one where there is none."""
        asked: list[Asked] = []
        for box, near in zip(frame.prompts(boxes[:, IN_PLANE]), neighbours, strict=True):
            beside = None if near is None else near.around[frame]
            asked.append(((box if beside is None else beside)[np.newaxis], None))
        return asked

    def found(
        self, z: int, box: Boxes, answers: Sequence[Answer], patch: Patch,
        carried: Sequence[Mask | None],
    ) -> Found:  # fmt: skip
        """The box around the mask."""
        return Found(z, around(answers, patch))


class Follower:
    """Asks with the three boxes of mode "best"; nothing counts outside the given box."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        """For a volume (D, H, W); an image (1, H, W) or (1, H, W, 3) has no neighbours to ask."""
        self._depth = len(image)
        # of functions, not of methods: a cache in a cycle would keep the volume until a collection
        picture = lru_cache(FLOWS_KEPT)(partial(flow_picture, image))
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._places = lru_cache(FLOWS_KEPT)(partial(flow_places, flow, picture))

    def ranks(self, boxes: Boxes) -> npt.NDArray[np.intp]:
        """Smaller boxes over larger ones, which would hide a part of them; then later ones."""
        sizes = np.prod(boxes[:, 3:] - boxes[:, :3] + 1, axis=1)
        return np.argsort(np.argsort(-sizes, kind="stable"))

    def limits(self, box: Boxes, height: int, width: int) -> Span:
        """Rows and columns of the pixels in a box (4,)."""
        rows, columns = box_pixels(box)
        return overlap(rows, slice(0, height)), overlap(columns, slice(0, width))

    def prompts(
        self, frame: Frame, z: int, boxes: Boxes, neighbours: Sequence[Found | None]
    ) -> list[Asked]:
        """The three boxes of each of `boxes` (N, 6) in slice `z`; without a neighbour the given."""
        asked: list[Asked] = []
        for box, given, near in zip(
            boxes, frame.wide_prompts(boxes[:, IN_PLANE]), neighbours, strict=True
        ):
            if near is None:
                asked.append((given[np.newaxis], None))
                continue
            beside = near.around[frame]
            share = expected_share(z, box[2], box[5], self._depth)
            expected = expected_box(given, given if beside is None else beside, share)
            inside = input_pixels(given, frame)
            start = np.array([inside[1].start, inside[0].start], np.float32)  # x and y
            x, y = np.moveaxis(self._places(frame, z, near.z)[inside] - start, -1, 0)
            moved = cv2.remap(near.carried[frame], x, y, cv2.INTER_LINEAR)
            carried = np.asarray(moved, np.uint8)
            asked.append((np.stack([given, expected, box_of(carried, start, given)]), carried))
        return asked

    def found(
        self, z: int, box: Boxes, answers: Sequence[Answer], patch: Patch,
        carried: Sequence[Mask | None],
    ) -> Found:  # fmt: skip
        """The box around the mask, and a mask: what was carried here, partly renewed."""
        on = {}
        for answer, moved in zip(answers, carried, strict=True):
            frame = answer.frame
            inside = input_pixels(frame.wide_prompts(box[np.newaxis, IN_PLANE])[0], frame)
            row, column = answer.corner
            height, width = answer.logits.shape
            shown = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint8)
            shown[row : row + height, column : column + width][answer.logits > 0] = 255
            if moved is None:
                on[frame] = shown[inside].copy()  # the rest is not kept with it
            else:
                mixed = RENEWAL * shown[inside] + (1 - RENEWAL) * moved
                on[frame] = np.rint(mixed).astype(np.uint8)
        return Found(z, around(answers, patch), on)


def flow_picture(image: npt.NDArray[np.uint8], frame: Frame, z: int) -> Mask:
    """Slice `z` of a volume as `frame` shows it, (h, w), continued to what DIS can work on."""
    height, width = frame.inner
    shown = frame.pixels(image[z])[0, 0, :height, :width] * 255
    below, right = max(0, LEAST_FLOW - height), max(0, LEAST_FLOW - width)
    picture = cv2.copyMakeBorder(shown.astype(np.uint8), 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(picture, np.uint8)


def flow_places(
    flow: cv2.DISOpticalFlow, picture: Callable[[Frame, int], Mask], frame: Frame, z: int,
    before: int,
) -> FloatArray:  # fmt: skip
    """Where in slice `before` was what is at an input pixel of slice `z`, (h, w, 2): x, y."""
    height, width = frame.inner
    here, there = (picture(frame, i) for i in (z, before))
    moved = flow.calc(here, there, np.zeros((*here.shape, 2), np.float32))
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    places: FloatArray = (moved[:height, :width] + grid).astype(np.float32)
    return places


def around(answers: Sequence[Answer], patch: Patch) -> dict[Frame, FloatArray | None]:
    """Prompts (4,) around a mask in all that it was shown in; None where it is empty."""
    return {answer.frame: answer.frame.prompt_around(patch) for answer in answers}


def box_pixels(box: Boxes) -> Span:
    """Rows and columns of the pixels that a box (4,) touches, its ends inclusive."""
    x_min, y_min, x_max, y_max = box
    return (
        slice(math.floor(y_min), math.ceil(y_max) + 1),
        slice(math.floor(x_min), math.ceil(x_max) + 1),
    )


def input_pixels(box: FloatArray, frame: Frame) -> Span:
    """Rows and columns of the input pixels of a box (4,), without the padding."""
    left, top, right, bottom = box.astype(int)
    height, width = frame.inner
    return slice(top, min(bottom + 1, height)), slice(left, min(right + 1, width))


def expected_share(z: int, first: float, last: float, depth: int) -> float:
    """Sides of an object in slice `z` in sides of its box, which goes from `first` to `last`.

    Where the volume of `depth` slices ends with the box, it rather cuts the object.
    """
    offset = (z - (first + last) / 2) / ((last - first + 1) / 2)
    cut = first <= 0 if offset < 0 else last >= depth - 1
    return float(np.interp(0 if cut else abs(offset), np.linspace(0, 1, len(TAPER)), TAPER))


def expected_box(given: FloatArray, around: FloatArray, share: float) -> FloatArray:
    """A box (4,) of `share` of the given one's sides inside it, as near to `around` as can be."""
    low, high = given[:2], given[2:]
    half = np.minimum(share * (high - low) / 2 + EXPECTED_MARGIN, (high - low) / 2)
    centre = ((around[:2] + around[2:]) / 2).clip(low + half, high - half)
    return np.concatenate([centre - half, centre + half])


def box_of(carried: Mask, start: FloatArray, given: FloatArray) -> FloatArray:
    """The box (4,) around a mask (h, w) that begins at `start`, x and y; a little wider.

    It stays inside the given one, which it is where the mask is empty.
    """
    sides = []
    for axis in (0, 1):  # of x, then of y
        line = np.flatnonzero((carried > HALF).any(axis=axis))
        if line.size == 0:
            return given
        sides.append(start[axis] + line[[0, -1]] + np.array([-1, 1]) * CARRIED_MARGIN)
    low, high = np.transpose(sides)
    box = np.concatenate([np.maximum(low, given[:2]), np.minimum(high, given[2:])])
    found: FloatArray = box.astype(np.float32)
    return found
