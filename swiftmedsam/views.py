"""Which part of a slice the network is shown for each box.

Whatever it is shown becomes 256 pixels wide, so that a small box in a large picture is a dot. Small
boxes are therefore shown in crops around them, enlarged; neighbours share one, and there is a
bound on their number (docs/decisions.md has the figures behind the constants). The mask of a box
that shares a crop depends on where and how large that crop is, and so on its neighbours.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import INPUT_SIZE, Frame

SMALL_BOX = 43  # input pixels: a box whose longer side is shorter than this gets a crop
ZOOMS = (4, 6, 8, 12, 16, 24, 32)  # sides of a crop in sides of its smallest box, best first
MARGIN = 0.5  # of a box's longer side, between it and its crop's border
MIN_CROP = 32  # slice pixels; a smaller crop shows nothing but interpolation
MOST_TRIED = 16  # times as many of the widest crops are looked at as may be used
MIN_GAIN = 1.5  # times a crop must be smaller than the slice
CROP_WEIGHT = 2 / 3  # of a crop's logits; the rest is the whole slice's

Boxes = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
View = tuple[tuple[Frame, float], ...]  # what a box is shown in, with the weight of its logits


def choose_views(
    boxes: Boxes, height: int, width: int, max_crops: int, *, mirror: bool = False,
    slices: Boxes | None = None,
) -> list[View]:  # fmt: skip
    """What each of `boxes` (N, 4) of a slice (height, width) is shown in.

    Small boxes get crops, `max_crops` of them at most, as far enlarged as this allows; where
    even the widest crops are too many, the boxes of the surplus ones are only shown in the whole
    slice, as the large ones are: if `mirror`, as it is and mirrored.

    `slices` (N, 2) are the first and the last of each box; None: all are in the same slice. A box
    that shares no slice with another one of its crop gets the crop that it would have if it were
    asked alone. This adds crops, but none to any slice.
    """
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).max(axis=1)
    longer = max(height, width)
    small = np.flatnonzero(sides * INPUT_SIZE / longer < SMALL_BOX)
    crops: list[tuple[Frame, Indices]] = []
    for zoom in ZOOMS if max_crops else ():
        tried = MOST_TRIED * max_crops if zoom == ZOOMS[-1] else max_crops + 1
        crops = list(itertools.islice(_cover(boxes, sides, small, zoom, height, width), tried))
        if len(crops) <= max_crops:
            break
    whole = Frame(height, width)
    looks = [whole, replace(whole, mirrored=True)] if mirror else [whole]
    views: list[View] = [tuple((look, 1 / len(looks)) for look in looks)] * len(boxes)
    for crop, held in sorted(crops, key=lambda item: -len(item[1]))[:max_crops]:
        alone = _alone(np.zeros((len(held), 2)) if slices is None else slices[held])
        for i, is_alone in zip(held, alone, strict=True):
            own = _cover(boxes, sides, np.array([i]), ZOOMS[0], height, width)
            frame, _ = next(own, (crop, held)) if is_alone else (crop, held)
            views[i] = (frame, CROP_WEIGHT), (whole, 1 - CROP_WEIGHT)
    return views


def _alone(slices: Boxes) -> npt.NDArray[np.bool_]:
    """Which of the boxes with these first and last slices (N, 2) share no slice with another."""
    order = np.argsort(slices[:, 0], kind="stable")
    first, last = slices[order].T
    alone = np.ones(len(order), np.bool_)
    alone[order[1:]] &= first[1:] > np.maximum.accumulate(last)[:-1]
    alone[order[:-1]] &= last[:-1] < first[1:]
    return alone


def _cover(
    boxes: Boxes, sides: npt.NDArray[np.float64], small: Indices, zoom: int, height: int, width: int
) -> Iterator[tuple[Frame, Indices]]:
    """Crops for the boxes `small`, with those they hold: the smallest one left, and all that fit.

    Boxes for which a crop would hardly be smaller than the slice are in none.
    """
    left = small[np.argsort(sides[small], kind="stable")]
    while left.size:
        side = int(np.ceil(max(zoom * sides[left[0]], MIN_CROP)))
        if side * MIN_GAIN > max(height, width):
            return  # those still left are larger
        margins = (MARGIN * sides[left])[:, np.newaxis]
        limits = np.array([width, height])
        low = np.maximum(np.floor(boxes[left][:, :2]) - margins, 0)  # (L, 2), x and y
        high = np.minimum(np.ceil(boxes[left][:, 2:]) + 1 + margins, limits)
        best, held = np.zeros(2, int), np.zeros(left.size, bool)
        for share in np.ndindex(3, 3):  # the first box at a corner, a side, in the middle
            free = side - (high[0] - low[0])
            start = np.clip(np.floor(low[0] - free * np.array(share) / 2), 0, limits - side)
            start = np.maximum(start, 0)  # a crop may be longer than the slice's shorter side
            fits = ((low >= start) & (high <= start + side)).all(axis=1)
            fits[0] = True  # rounding must not leave the box without a crop
            if fits.sum() > held.sum():
                best, held = start.astype(int), fits
        x, y = best
        crop = Frame(min(side, height - int(y)), min(side, width - int(x)), int(y), int(x))
        yield crop, left[held]
        left = left[~held]
