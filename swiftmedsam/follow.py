"""Following one object from slice to slice where no box bounds it: `extend` decides how far.

A slice is asked with one box. It lies around the mask that optical flow carried here as the user's
box lies around its own mask: each side is as far away as there (`Found.margins`). So the network is
asked in every slice as it was asked in the first one. What a mask may reach in the next slice is a
window around the previous mask and the carried one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.decoding import Decoder, decoded
from swiftmedsam.embeddings import Embeddings
from swiftmedsam.flow import Flow, SoftMask
from swiftmedsam.frame import INPUT_SIZE, BoolArray, FloatArray, Frame, Patch, Span, overlap
from swiftmedsam.masks import Answer, limits_of, mask_of
from swiftmedsam.memory import decode_batch
from swiftmedsam.prompts import HALF, Prompts
from swiftmedsam.result import Clock
from swiftmedsam.settings import TRACKED, Settings
from swiftmedsam.views import View, choose_views

REACH_PIXELS = 4  # input pixels that a window is wider than `Settings.extend_reach` makes it
LEVELS = 16  # of brightness, of 0..255, in which values of two masks are compared
LEAST_IOU = 0.01  # that others are divided by
OUTWARDS = np.array([-1, -1, 1, 1])  # of the sides of a box
WHOLLY_SURE = 1.0  # predicted IoU of a mask that the user gave

Box = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Given:
    """What the user says of one object in one slice: its boxes, or its whole mask."""

    z: int
    boxes: Box  # (N, 4), x_min, y_min, x_max, y_max; not looked at where there is a mask
    mask: BoolArray | None = None  # (H, W); empty: the object is not in this slice


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of an object in one slice."""

    z: int
    patch: Patch
    predicted_iou: float
    answers: tuple[Answer, ...] = ()
    limits: Span = (slice(0, 0), slice(0, 0))  # rows and columns that the answers hold for
    asked: Box | None = None  # (4,) the box that the user drew around it; None: there is none

    @property
    def area(self) -> int:
        """Pixels of its mask."""
        return int(self.patch.mask.sum())

    def probability(self, pixels: Span) -> FloatArray:
        """Probability, 0..1, that these pixels of the slice are its; 0 where it was not asked."""
        found = np.zeros([part.stop - part.start for part in pixels], np.float32)
        inside = overlap(pixels[0], self.limits[0]), overlap(pixels[1], self.limits[1])
        rows, columns = (
            slice(part.start - all_.start, part.stop - all_.start)
            for part, all_ in zip(inside, pixels, strict=True)
        )
        if found[rows, columns].size:
            logits = sum(one.weight * one.at(inside) for one in self.answers)
            found[rows, columns] = 1 / (1 + np.exp(-logits))
        return found


@dataclass(frozen=True)
class Signs:
    """By what a slice shows that the object has ended; `Settings` has the bounds."""

    area: float  # of the mask, in areas of the largest one on the way to it
    likeness: float  # the share of its values, by level, that the first slice's mask has, too
    agreement: float  # IoU of the mask and the one that flow carried here
    predicted_iou: float  # of the mask, in that of the first slice


class Follower:
    """Follows objects through one volume."""

    def __init__(
        self, image: Image, decoder: Decoder, embeddings: Embeddings, settings: Settings,
        clock: Clock,
    ) -> None:  # fmt: skip
        """For `image` (D, H, W), whose slices `embeddings` encodes."""
        self._image = image
        self._height, self._width = image.shape[1:]
        self._decoder, self._embeddings = decoder, embeddings
        self._settings, self._clock = settings, clock
        self._batch = decode_batch(image.nbytes)
        self._prompts, self._flow = Prompts(image, settings), Flow(image)

    def given(self, given: Given) -> Found:
        """The object in a slice where the user marked it."""
        whole = slice(0, self._height), slice(0, self._width)
        if given.mask is not None:
            return Found(given.z, patch_of(given.mask), WHOLLY_SURE)
        found = [self._in_box(given.z, box) for box in given.boxes]
        if len(found) == 1:
            return found[0]
        mask = np.zeros((self._height, self._width), np.bool_)
        for one in found:
            mask[one.patch.rows, one.patch.columns] |= one.patch.mask
        iou = float(np.mean([one.predicted_iou for one in found]))
        asked = np.concatenate([given.boxes[:, :2].min(axis=0), given.boxes[:, 2:].max(axis=0)])
        return Found(given.z, patch_of(mask), iou, limits=whole, asked=asked)

    def onward(self, first: Found, last: int) -> Iterator[tuple[Found, Signs]]:
        """The slices beside `first` one after the other up to slice `last`, above or below it.

        It does not ask whether the object is still there. `first` must not be empty.
        """
        direction = 1 if last > first.z else -1
        before, view = first, self._view(box_of(first.patch))
        largest, margins = first.area, self._margins(first)
        whole = Frame(self._height, self._width)
        everything = slice(0, whole.inner[0]), slice(0, whole.inner[1])
        mask = shown(first.patch, whole)
        for z in range(first.z + direction, last + direction, direction):
            box = box_of(before.patch)
            if not self._fits(view, box):
                view = self._view(box)
            carried = self._flow.moved(mask, everything, whole, z - direction, z)
            tracked = around(carried)
            asked = self._asked(whole, before.patch, tracked, margins)
            prompts = {frame: prompt_of(asked, frame)[np.newaxis] for frame, _ in view}
            if tracked is not None:
                box = hull_of(box, in_slice(tracked, whole))
            limits = self._window(view, box)
            found = self._decoded(z, view, prompts, limits)
            largest = max(largest, found.area)
            yield found, self._signs(first, largest, found, whole, carried)
            mask = self._renewed(whole, found.patch, carried)
            if found.area:
                before = found

    def _in_box(self, z: int, box: Box) -> Found:
        """What a given box (4,) marks in slice `z`: as `segment` finds it in the first slice."""
        view = self._view(box)
        prompts = {frame: self._given_prompt(frame, z, box) for frame, _ in view}
        limits = limits_of(box, self._height, self._width, self._settings)
        return replace(self._decoded(z, view, prompts, limits), asked=box)

    def _given_prompt(self, frame: Frame, z: int, box: Box) -> FloatArray:
        """The prompt (1, 4) of a box (4,) that the user drew."""
        in_volume = np.insert(box, [2, 4], z)[np.newaxis]
        return self._prompts.choose(frame, z, in_volume, [None])[0].prompts

    def _margins(self, first: Found) -> Box:
        """How far each side of the user's prompt is from the mask that it gave.

        (4,) x_min, y_min, x_max, y_max, in input pixels of the whole slice; what leads outwards is
        negative for the first two, positive for the last two. A mask that the user drew has no
        prompt: `Settings.previous_margin` is all around it.
        """
        whole = Frame(self._height, self._width)
        inside = around(shown(first.patch, whole))
        if first.asked is None or inside is None:
            return OUTWARDS * self._settings.previous_margin
        prompt = self._given_prompt(whole, first.z, first.asked)[0]
        margins: Box = np.maximum(OUTWARDS * (prompt - inside), 0) * OUTWARDS
        return margins

    def _decoded(self, z: int, view: View, prompts: dict[Frame, FloatArray], limits: Span) -> Found:
        """What slice `z` answers to the prompts (P, 4) of each frame of a view."""
        answers, iou = [], 0.0
        for frame, weight in view:
            embedding = self._embeddings.get(frame, z, self._clock)
            ((answer, sure),) = decoded(
                self._decoder, embedding, frame, [prompts[frame]], [limits], self._batch,
                self._clock,
            )  # fmt: skip
            answers.append(replace(answer, weight=weight))
            iou += weight * sure
        return Found(z, mask_of(answers, limits), iou, tuple(answers), limits)

    def _asked(self, whole: Frame, before: Patch, tracked: Box | None, margins: Box) -> Box:
        """The edges (4,), in pixels of the slice, of the box that a slice is asked with.

        `before` is the mask of the slice beside it, `tracked` the box (4,) around the one that flow
        carried here. Like `margins`, it is in input pixels of the frame `whole`.
        """
        if self._settings.uses_tracking and tracked is not None:
            return in_slice(tracked + margins, whole)
        edges: Box = box_of(before) + np.array([0, 0, 1, 1])
        edges += OUTWARDS * self._settings.previous_margin / whole.scale
        return edges

    def _renewed(self, frame: Frame, patch: Patch, carried: SoftMask) -> SoftMask:
        """The mask that flow will carry on: in part this slice's, in part the one carried here."""
        if not patch.mask.any():  # the object may come back where it was
            return carried
        share = self._settings.renewal if TRACKED in self._settings.prompts else 1.0
        mixed = share * shown(patch, frame) + (1 - share) * carried
        return np.rint(mixed).astype(np.uint8)

    def _signs(
        self, first: Found, largest: int, found: Found, frame: Frame, carried: SoftMask
    ) -> Signs:
        """What a slice shows, beside the `first` one and the mask that flow carried to `frame`."""
        sure = found.predicted_iou / max(first.predicted_iou, LEAST_IOU)
        if not found.area:
            return Signs(0.0, 0.0, 0.0, sure)
        likeness = np.minimum(self._shares(found), self._shares(first)).sum()
        tracked, mask = carried > HALF, shown(found.patch, frame) > HALF
        either = np.count_nonzero(tracked | mask)
        agreement = np.count_nonzero(tracked & mask) / either if either else 0.0
        return Signs(found.area / largest, float(likeness), agreement, sure)

    def _shares(self, found: Found) -> FloatArray:
        """The shares (`LEVELS`,) of a mask's pixels that are of each level of brightness.

        A value between two levels counts for both of them, the more for the nearer one: so values
        that differ by 1 are never of wholly different levels.
        """
        patch = found.patch
        values = self._image[found.z, patch.rows, patch.columns][patch.mask]
        places = values * ((LEVELS - 1) / 255)
        lower = places.astype(np.intp)
        upper = places - lower
        counts = np.bincount(lower, 1 - upper, LEVELS + 1) + np.bincount(
            lower + 1, upper, LEVELS + 1
        )
        shares: FloatArray = (counts[:LEVELS] / values.size).astype(np.float32)
        return shares

    def _view(self, box: Box) -> View:
        """What a box (4,) is shown in: a crop if it is small, and, last, the whole slice."""
        in_volume = np.insert(box, [2, 4], 0)[np.newaxis]
        return choose_views(
            in_volume, self._height, self._width, self._settings, is_volume=True
        )[0]  # fmt: skip

    def _fits(self, view: View, box: Box) -> bool:
        """Whether a view still shows a box (4,) with half the margin that it began with."""
        margin = self._settings.crop_margin / 2 * longer_side(box)
        limits = self._height, self._width
        for frame, _ in view:
            for axis, part in enumerate(frame.span):
                low, high = box[1 - axis] - margin, box[3 - axis] + 1 + margin
                if low < part.start > 0 or high > part.stop < limits[axis]:
                    return False
        return True

    def _window(self, view: View, box: Box) -> Span:
        """Rows and columns that a mask may reach, of a box (4,) around what is known of it."""
        pixel = max(self._height, self._width) / INPUT_SIZE
        reach = self._settings.extend_reach * longer_side(box) + REACH_PIXELS * pixel
        low, high = np.floor(box[:2] - reach).astype(int), np.ceil(box[2:] + reach).astype(int)
        rows, columns = slice(int(low[1]), int(high[1]) + 1), slice(int(low[0]), int(high[0]) + 1)
        for frame, _ in view:
            rows, columns = overlap(rows, frame.span[0]), overlap(columns, frame.span[1])
        return rows, columns


def patch_of(mask: BoolArray) -> Patch:
    """The part of a mask (H, W) that is not empty."""
    sides = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if not sides[0].size:
        return Patch(slice(0, 0), slice(0, 0), np.zeros((0, 0), np.bool_))
    rows, columns = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return Patch(rows, columns, mask[rows, columns].copy())


def box_of(patch: Patch) -> Box:
    """The box (4,) around a mask that is not empty, in pixels of the slice, its ends inclusive."""
    ys, xs = (np.flatnonzero(patch.mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
    left, top = patch.columns.start, patch.rows.start
    return np.array([left + xs[0], top + ys[0], left + xs[1], top + ys[1]], np.float64)


def longer_side(box: Box) -> float:
    """Pixels of the longer side of a box (4,)."""
    return float(max(box[2] - box[0], box[3] - box[1])) + 1


def shown(patch: Patch, frame: Frame) -> SoftMask:
    """A mask as a frame shows it: 0..255 by input pixel, without the padding."""
    plane = np.zeros(frame.size, np.uint8)
    rows, columns = overlap(patch.rows, frame.span[0]), overlap(patch.columns, frame.span[1])
    own = patch.mask[
        rows.start - patch.rows.start : rows.stop - patch.rows.start,
        columns.start - patch.columns.start : columns.stop - patch.columns.start,
    ]
    plane[
        rows.start - frame.top : rows.stop - frame.top,
        columns.start - frame.left : columns.stop - frame.left,
    ] = 255 * own
    how = cv2.INTER_AREA if frame.scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, frame.inner[::-1], interpolation=how), np.uint8)


def hull_of(a: Box, b: Box) -> Box:
    """The smallest box (4,) around two boxes (4,)."""
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def around(mask: SoftMask) -> Box | None:
    """The box (4,) around a mask, in input pixels, its ends inclusive; None if it is empty."""
    ys, xs = (np.flatnonzero((mask > HALF).any(axis=axis)) for axis in (1, 0))
    return np.array([xs[0], ys[0], xs[-1], ys[-1]], np.float64) if ys.size else None


def in_slice(box: Box, frame: Frame) -> Box:
    """The edges (4,), in pixels of the slice, of a box (4,) of input pixels, its ends inclusive."""
    edges: Box = (box + np.array([0, 0, 1, 1])) / frame.scale
    edges += np.array([frame.left, frame.top] * 2)
    return edges


def prompt_of(edges: Box, frame: Frame) -> FloatArray:
    """The prompt (4,) of a frame, in its input pixels, of a box with these edges in the slice."""
    places = (edges - np.array([frame.left, frame.top] * 2)) * frame.scale
    last = np.array([0, 0, 1, 1])  # the pixel before an edge
    prompt: FloatArray = np.clip(places - last, 0, np.array(frame.inner[::-1] * 2))
    return prompt.astype(np.float32)
