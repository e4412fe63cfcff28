"""Outlines of a mask as polygons, such that every program that fills them gets the same mask.

An outline runs along the outer edges of pixels; one through their centres would lose half a pixel
all around. It lies `INSET` inside the edge: programs that round its points to whole pixels then
find the mask's own pixels, and outlines that meet in a corner do not touch.

Each part of the mask is one polygon. A hole is joined to the outline of its part by a narrow
channel, the keyhole of DICOM (PS3.3 C.8.8.6.3). Some programs unite the polygons of a slice, others
let them exclude each other; a keyhole means the same to both. The channel runs between two columns
of pixels, and so holds no pixel's centre.
"""

from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

INSET = 1 / 512  # pixels

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Corner = tuple[int, int]  # of pixels, column and row: the pixel (c, r) has (c, r) to (c + 1, r + 1)
# The directions of an outline: east, south, west, north. The next one is a turn to the right.
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outlines(mask: Mask) -> list[Points]:
    """The polygons of a mask (rows, columns), each (P, 2): column and row of its points.

    Whole numbers are the centres of pixels. There is one polygon for each part of the mask whose
    pixels are joined by their sides. Its last point is joined to its first. It does not cross
    itself.
    """
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    loops: dict[int, list[list[Corner]]] = defaultdict(list)
    for part, loop in _loops(mask, np.asarray(parts, np.int32)):
        loops[part].append(loop)
    return [_inset(_joined(loops[part])) for part in range(1, count)]


def _loops(mask: Mask, parts: npt.NDArray[np.int32]) -> list[tuple[int, list[Corner]]]:
    """All loops along edges of pixels, with the mask on their right: its part, and the turns.

    `parts` (rows, columns) has the number of each pixel's part.
    """
    around = np.pad(mask, 1)
    edges: dict[tuple[Corner, int], int] = {}  # by first corner and direction: the part
    for direction, (beyond, start) in enumerate((
        (around[:-2, 1:-1], (0, 0)), (around[1:-1, 2:], (1, 0)),
        (around[2:, 1:-1], (1, 1)), (around[1:-1, :-2], (0, 1)),
    )):  # fmt: skip
        rows, columns = np.nonzero(mask & ~beyond)
        corners = zip((columns + start[0]).tolist(), (rows + start[1]).tolist(), strict=True)
        for corner, part in zip(corners, parts[rows, columns].tolist(), strict=True):
            edges[corner, direction] = part
    left = dict.fromkeys(edges)
    found = []
    while left:
        first = edge = next(iter(left))
        turns: list[Corner] = []
        while edge in left:
            del left[edge]
            (column, row), direction = edge
            end = column + STEPS[direction][0], row + STEPS[direction][1]
            # right first: where two parts meet in a corner, the outline stays at its own
            ways = ((end, (direction + turn) % 4) for turn in (1, 0, 3))
            edge = next(way for way in ways if way in edges)
            if edge[1] != direction:
                turns.append(end)
        found.append((edges[first], turns))
    return found


def _joined(loops: list[list[Corner]]) -> list[Corner]:
    """One polygon of the loops of one part: each hole is joined to what lies above it."""
    outer, *holes = sorted(loops, key=_area, reverse=True)  # holes run the other way: below 0
    polygon = list(outer)
    # from the top: what a channel meets is then in the polygon already
    for hole in sorted(holes, key=lambda loop: min(row for _, row in loop)):
        top = min(range(len(hole)), key=lambda number: (hole[number][1], hole[number][0]))
        column, row = hole[top]
        # The edges that run east have the mask below them. The nearest one above is met first.
        _, number = max(
            (start[1], number)
            for number, (start, end) in enumerate(_sides(polygon))
            if start[1] == end[1] < row and start[0] <= column <= end[0]
        )
        above = column, polygon[number][1]
        polygon[number + 1 : number + 1] = [above, *hole[top:], *hole[: top + 1], above]
    return polygon


def _area(loop: list[Corner]) -> int:
    """Twice the area of a loop in pixels; below 0 if it runs anticlockwise."""
    return sum(x * v - u * y for (x, y), (u, v) in _sides(loop))


def _sides(loop: list[Corner]) -> Iterator[tuple[Corner, Corner]]:
    return zip(loop, [*loop[1:], loop[0]], strict=True)


def _inset(polygon: list[Corner]) -> Points:
    """The points (P, 2) of a polygon whose sides are moved to their right by `INSET`."""
    corners = np.array(polygon)
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    steps = np.sign(np.roll(corners, -1, axis=0) - corners)
    turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)  # others lie on a line
    corners, steps = corners[turns], steps[turns]
    to_the_right = np.stack([-steps[:, 1], steps[:, 0]], axis=1)
    moved = INSET * (to_the_right + np.roll(to_the_right, 1, axis=0))
    return np.asarray(corners - 0.5 + moved, np.float64)
