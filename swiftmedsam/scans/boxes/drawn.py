"""Converts boxes that a user drew, in voxels or millimetres, to whole voxels of a scan's grid."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.scan import RAS_OF_LPS, Colour, Float64Array, Scan, ScanError, Segment

log = logging.getLogger(__name__)

UNITS = ("voxel", "mm")
SPACES = ("RAS", "LPS")
CENTRE_TOLERANCE = 1e-3  # voxels; a box includes voxels whose centres lie on its side
STRAIGHT = 0.5  # voxels; a box whose corners deviate less is not rotated against the grid
AXES = "ijk"


@dataclass(frozen=True)
class Meaning:
    """Units and space of numbers, for files that do not state them."""

    units: str = "voxel"
    space: str | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """A box as the user drew it, before it is placed on the grid of a scan."""

    name: str  # "": it gets its number as name later
    # (P, 3) points that span it: (i, j, k) of the file's grid, or mm in RAS. (P, 2) on a picture.
    points: Float64Array
    in_mm: bool = False
    colour: Colour | None = None  # of its label, if the file has one
    # (columns, rows) of the picture that it was drawn on, if the file has them
    drawn_on: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Entry:
    """A box of a file of boxes, with the path of its scan, if the file has one."""

    box: Drawn
    file: str | None = None  # path of the scan, as the file of boxes has it
    table: Path | None = None  # the file of boxes

    @property
    def reference(self) -> tuple[Path, str] | None:
        """The file of boxes, and the path of the scan in it; None if it has no path."""
        return None if self.table is None or self.file is None else (self.table, self.file)


def are_fractions(numbers: Sequence[float]) -> bool:
    """Whether coordinates seem to be fractions of a picture's size, as many programs write them.

    They do if some are not whole and all are below 2, or if they are 0 0 1 1.
    """
    return [*numbers] == [0, 0, 1, 1] or (
        any(number % 1 for number in numbers) and all(abs(number) < 2 for number in numbers)
    )


def drawn_box(
    name: str,
    corners: Sequence[float],
    units: str = "voxel",
    space: str | None = None,
    where: str = "--box",
) -> Drawn:
    """Make a box from its corners.

    Args:
        name: of the object; may be "".
        corners: (4,) i_min, j_min, i_max, j_max, or (6,) i_min, j_min, k_min, i_max, j_max, k_max.
            In mm (6,) x, y, z, x, y, z of two opposite corners, in any order.
        units: one of `UNITS`.
        space: one of `SPACES`, for mm.
        where: the source of the box, for messages.

    Raises:
        ScanError: the count is wrong, a minimum is above its maximum, the numbers are fractions of
            the picture's size, or millimetres have no space.
    """
    ends = np.array(corners, np.float64)
    where = f"{where}: box '{name}'" if name else f"{where}: a box"
    if ends.shape not in ((4,), (6,)) or not np.isfinite(ends).all():
        raise ScanError(f"{where} should be 4 or 6 numbers, got {_words(ends)}")
    low, high = np.split(ends, 2)
    if units == "voxel":
        if (ends % 1).any() and are_fractions(corners):
            raise ScanError(f"{where} should be voxels, got fractions of a size: {_words(ends)}")
        if (low > high).any():
            raise ScanError(f"{where} has a minimum above its maximum: {_words(ends)}")
        return Drawn(name, np.stack([low, high]))
    if ends.size == 4:
        raise ScanError(f"{where} in mm should be 6 numbers, got {_words(ends)}")
    if space not in SPACES:
        raise ScanError(f"{where} in mm should have a space, RAS or LPS (--space), got none")
    points = np.array(list(product(*zip(low, high, strict=True))))  # (8, 3)
    return Drawn(name, to_ras(points, space), in_mm=True)


def to_ras(points: Float64Array, space: str) -> Float64Array:
    """Convert points (P, 3) in mm from `space`, one of `SPACES`, to RAS."""
    return points if space == "RAS" else points @ RAS_OF_LPS[:3, :3]


def on_grid(drawn: Drawn, scan: Scan, value: int) -> Segment:
    """Place a box on the grid of `scan`: it gets the voxels whose centres it holds.

    The box is cut to the grid. A box between two centres is one voxel thick. The label of the box
    is `value`.

    Raises:
        ScanError: the box lies outside, was drawn on a picture of another size, has no third axis
            in a volume, or is in mm while the scan has no mm.
    """
    points, grid = drawn.points, np.array(scan.grid)
    where = f"{scan.name}: box '{drawn.name}'"
    if drawn.drawn_on not in (None, scan.grid[:2]):
        columns, rows = drawn.drawn_on
        turned = ", as if it were turned" if (rows, columns) == scan.grid[:2] else ""
        raise ScanError(
            f"{where} was drawn on {columns} x {rows} pixels, expected the {grid[0]} x {grid[1]} "
            f"of this file{turned}"
        )
    if points.shape[1] == 2:
        if scan.grid[2] != 1:
            raise ScanError(f"{where} should have 6 numbers in a volume of {_words(grid)}, got 4")
        points = np.insert(points, 2, 0, axis=1)
    if drawn.in_mm:
        if not scan.has_mm:
            raise ScanError(f"{where} is in mm, and a picture has none; expected --units voxel")
        from_world = np.linalg.inv(scan.affine)
        points = points @ from_world[:3, :3].T + from_world[:3, 3]
    low, high = points.min(axis=0), points.max(axis=0)
    if np.minimum(points - low, high - points).max() > STRAIGHT:
        log.warning("%s is rotated against the grid, its extent is taken", where)
    first, last = np.ceil(low - CENTRE_TOLERANCE), np.floor(high + CENTRE_TOLERANCE)
    thin = first > last
    first[thin] = last[thin] = np.rint((low + high) / 2)[thin]
    if (last < 0).any() or (first >= grid).any():
        raise ScanError(
            f"{where} lies outside the grid of {_words(grid)} voxels: {_extent(low, high)}"
        )
    cut_first, cut_last = first.clip(0, None), last.clip(None, grid - 1)
    if (cut_first != first).any() or (cut_last != last).any():
        log.warning("%s reached outside the grid and was cut to it: %s", where, _extent(low, high))
    for axis in np.flatnonzero((cut_first == cut_last) & (grid > 1)):
        log.warning(
            "%s is one voxel thin along %s, of %d", where, AXES[axis], grid[axis]
        )  # fmt: skip
    return Segment(value, drawn.name, _voxel(cut_first), _voxel(cut_last), drawn.colour)


def _voxel(position: Float64Array) -> tuple[int, int, int]:
    i, j, k = (int(index) for index in position)
    return i, j, k


def _words(numbers: npt.NDArray[np.generic]) -> str:
    return " ".join(f"{number:g}" for number in numbers.tolist())


def _extent(low: Float64Array, high: Float64Array) -> str:
    ends = zip(AXES, low, high, strict=True)
    return ", ".join(f"{axis} {a:.4g} to {b:.4g}" for axis, a, b in ends)
