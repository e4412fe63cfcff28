"""Brings a scan's axes into the order of slices, and back: axes move and flip, without resampling.

Files store axes in any order; the network's input must not depend on it. So slices get the
radiological orientation that is nearest to the file's axes:

    axial     D to the head,  H to the back,  W to the left
    coronal   D to the back,  H to the feet,  W to the left
    sagittal  D to the left,  H to the feet,  W to the back

The way back is exact. An oblique grid keeps its own axes.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.scan import Float64Array, Scan

# World axis (0 right, 1 anterior, 2 superior) and sign of D, H, W.
PLANES = {
    "axial": ((2, 1), (1, -1), (0, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}
ACQUIRED = "acquired"
# Slices are usually thicker than their pixels are wide. Below this ratio, a grid is isotropic.
THICK = 1.05

LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Orientation:
    """The axes of a grid (I, J, K) that are D, H and W, and their directions."""

    plane: str
    axes: tuple[int, int, int]  # the grid's axis for D, H, W
    flipped: tuple[bool, bool, bool]  # whether D, H, W run against the grid's axis
    grid: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes D, H, W."""
        return tuple(self.grid[axis] for axis in self.axes)

    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)

    def to_slices(self, voxels: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Voxels (I, J, K[, 3]) as slices (D, H, W[, 3])."""
        return voxels.transpose(*self.axes, *range(3, voxels.ndim))[self._flips()]

    def to_grid(self, slices: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Slices (D, H, W[, 3]) as voxels (I, J, K[, 3]): the way back."""
        return slices[self._flips()].transpose(*np.argsort(self.axes), *range(3, slices.ndim))

    def box(self, low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The box (6,) x_min, y_min, z_min, x_max, ... in slices, of two corners (3,) i, j, k."""
        ends = np.array([low, high], np.int64)[:, list(self.axes)]  # (2, 3), in the order D, H, W
        corners = np.where(self.flipped, np.array(self.shape) - 1 - ends, ends)
        corners.sort(axis=0)
        return corners[:, ::-1].ravel()


def anatomical_axes(affine: Float64Array) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For i, j and k: the nearest world axis (0 right, 1 anterior, 2 superior), and its sign.

    Each world axis is used once, such that the sum of the cosines is largest.
    """
    matrix = affine[:3, :3]
    cosines = matrix / np.linalg.norm(matrix, axis=0)
    a, b, c = max(
        permutations(range(3)), key=lambda world: sum(abs(cosines[world, (0, 1, 2)])).item()
    )
    signs = [1 if cosines[world, axis] >= 0 else -1 for axis, world in enumerate((a, b, c))]
    return (a, b, c), (signs[0], signs[1], signs[2])


def affine_of(directions: str) -> Float64Array:
    """The affine (4, 4) of voxels of 1 mm whose axes i, j and k run to these directions.

    Raises:
        ValueError: they are not one of L and R, one of A and P, and one of I and S, in any order.
    """
    found = [LETTERS.get(letter) for letter in directions.upper()]
    known = [one for one in found if one is not None]
    if len(found) != 3 or {axis for axis, _ in known} != {0, 1, 2}:
        raise ValueError(f"expected three directions like LPS or RAS, got '{directions}'")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (axis, sign) in enumerate(known):
        affine[axis, column] = sign
    return affine


def acquired_axis(scan: Scan) -> int:
    """The grid's axis along which slices were acquired.

    It is the one that the file names; else the only axis with one voxel; else the axis along which
    voxels are longest; else, in an isotropic grid, the axis nearest to head-feet.
    """
    if scan.slice_axis is not None:
        return scan.slice_axis
    flat = [axis for axis in range(3) if scan.grid[axis] == 1]
    if len(flat) == 1:
        return flat[0]
    spacing = scan.spacing_mm
    longest = int(spacing.argmax())
    if (spacing[longest] > THICK * np.delete(spacing, longest)).all():
        return longest
    world, _ = anatomical_axes(scan.affine)
    return world.index(2)


def plane_along(scan: Scan, grid_axis: int) -> str:
    """The plane, one of `PLANES`, of slices along an axis of the grid."""
    normal = anatomical_axes(scan.affine)[0][grid_axis]
    return next(name for name, ((axis, _), *_) in PLANES.items() if axis == normal)


def choose_orientation(scan: Scan, plane: str = ACQUIRED) -> Orientation:
    """The orientation of a scan's slices for a plane: one of `PLANES`, or `ACQUIRED`."""
    world, signs = anatomical_axes(scan.affine)
    if plane == ACQUIRED:
        plane = plane_along(scan, acquired_axis(scan))
    d, h, w = (world.index(axis) for axis, _ in PLANES[plane])
    flips = [
        signs[grid_axis] != sign
        for grid_axis, (_, sign) in zip((d, h, w), PLANES[plane], strict=True)
    ]
    return Orientation(plane, (d, h, w), (flips[0], flips[1], flips[2]), scan.grid)
