"""Chooses the view of each box: the frames in which the network sees it.

The network's input is 256 x 256 pixels, so a small box in a large slice is only a dot. Small boxes
are therefore also shown in crops, which enlarge a part of the slice. Neighbours share a crop, and
the number of crops is limited (`settings`). The mask of a box depends a little on the place and
size of its crop, and so on the neighbours that share it.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import IN_PLANE, Boxes
from swiftmedsam.frame import INPUT_SIZE, Frame
from swiftmedsam.settings import Settings

MOST_TRIED = 16  # at the widest zoom, up to this many times the allowed crops are compared

Indices = npt.NDArray[np.int64]
View = tuple[tuple[Frame, float], ...]  # frames of a box, each with the weight of its logits


def choose_views(
    boxes: Boxes, height: int, width: int, settings: Settings, *, is_volume: bool
) -> list[View]:
    """The view of each of `boxes` (N, 6) in slices of (height, width).

    Small boxes get crops. These are enlarged as far as the limit on their number allows. If there
    are too many crops even at the widest zoom, the crops with the most boxes are used; the other
    boxes are shown like large boxes, in the whole slice only, in an image also mirrored
    (`settings.mirror_images`).

    A box that shares no slice with the other boxes of its crop gets the crop that it would have as
    the only box. This adds crops, but not to any one slice.
    """
    most = settings.volume_crops if is_volume else settings.image_crops
    mirror = settings.mirror_images and not is_volume
    slices, boxes = boxes[:, [2, 5]], boxes[:, IN_PLANE]
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).max(axis=1)
    longer = max(height, width)
    small = np.flatnonzero(sides * INPUT_SIZE / longer < settings.small_box)
    crops: list[tuple[Frame, Indices]] = []
    for zoom in settings.zooms if most else ():
        tried = MOST_TRIED * most if zoom == settings.zooms[-1] else most + 1
        found = _cover(boxes, sides, small, zoom, height, width, settings)
        crops = list(itertools.islice(found, tried))
        if len(crops) <= most:
            break
    whole = Frame(height, width)
    looks = [whole, replace(whole, mirrored=True)] if mirror else [whole]
    views: list[View] = [tuple((look, 1 / len(looks)) for look in looks)] * len(boxes)
    for crop, held in sorted(crops, key=lambda item: -len(item[1]))[:most]:
        for i, is_alone in zip(held, _alone(slices[held]), strict=True):
            own = _cover(boxes, sides, np.array([i]), settings.zooms[0], height, width, settings)
            frame, _ = next(own, (crop, held)) if is_alone else (crop, held)
            both = (frame, settings.crop_weight), (whole, 1 - settings.crop_weight)
            views[i] = tuple(look for look in both if look[1] > 0)  # the rest is not asked
    return views


def _alone(slices: Boxes) -> npt.NDArray[np.bool_]:
    """Whether each box, given by its first and last slice (N, 2), shares no slice with another."""
    order = np.argsort(slices[:, 0], kind="stable")
    first, last = slices[order].T
    alone = np.ones(len(order), np.bool_)
    alone[order[1:]] &= first[1:] > np.maximum.accumulate(last)[:-1]
    alone[order[:-1]] &= last[:-1] < first[1:]
    return alone


def _cover(
    boxes: Boxes, sides: npt.NDArray[np.float64], small: Indices, zoom: int, height: int,
    width: int, settings: Settings,
) -> Iterator[tuple[Frame, Indices]]:  # fmt: skip
    """Crops for the boxes with indices `small`, each with the indices of its boxes.

    The smallest remaining box decides the size of the next crop, which takes all boxes that fit. A
    box gets no crop if the crop would hardly be smaller than the slice.
    """
    left = small[np.argsort(sides[small], kind="stable")]
    while left.size:
        side = int(np.ceil(max(zoom * sides[left[0]], settings.least_crop)))
        if side * settings.least_gain > max(height, width):
            return  # the remaining boxes are larger
        margins = (settings.crop_margin * sides[left])[:, np.newaxis]
        limits = np.array([width, height])
        low = np.maximum(np.floor(boxes[left][:, :2]) - margins, 0)  # (L, 2), x and y
        high = np.minimum(np.ceil(boxes[left][:, 2:]) + 1 + margins, limits)
        best, held = np.zeros(2, int), np.zeros(left.size, bool)
        for share in np.ndindex(3, 3):  # places of the first box: corners, sides, the middle
            free = side - (high[0] - low[0])
            start = np.clip(np.floor(low[0] - free * np.array(share) / 2), 0, limits - side)
            start = np.maximum(start, 0)  # a crop may be longer than the slice's shorter side
            fits = ((low >= start) & (high <= start + side)).all(axis=1)
            fits[0] = True  # even if rounding says otherwise: the first box must get a crop
            if fits.sum() > held.sum():
                best, held = start.astype(int), fits
        x, y = best
        crop = Frame(min(side, height - int(y)), min(side, width - int(x)), int(y), int(x))
        yield crop, left[held]
        left = left[~held]
