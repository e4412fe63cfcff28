"""The planes that a volume is looked at in: slices as they are shown, and the way back.

A shown slice has the radiological orientation that is nearest to the file's axes, as the network
sees it (`scans.orientation`). The volume has the order (K, J, I) of `Session`. Nothing is
resampled.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import BoolArray
from swiftmedsam.scans.orientation import PLANES, Orientation, choose_orientation
from swiftmedsam.scans.scan import Scan
from swiftmedsam.server.region import Box

Number = TypeVar("Number", bound=np.generic)
Part = tuple[tuple[int, int], tuple[int, int]]  # rows and columns of a shown slice, half open


@dataclass(frozen=True)
class Plane:
    """One plane of a volume. Axes of the volume are 0 k, 1 j, 2 i."""

    name: str  # "axial", "coronal" or "sagittal"
    axes: tuple[int, int, int]  # the volume's axis of slices, rows and columns
    flipped: tuple[bool, bool, bool]  # whether slices, rows, columns run against the axis
    size: tuple[int, int, int]  # how many slices, rows and columns there are
    mm: tuple[float, float, float] | None  # from a slice, row, column to the next; None: unknown

    @property
    def axis(self) -> int:
        """The volume's axis across the plane."""
        return self.axes[0]

    def index(self, shown: int) -> int:
        """The volume's index along `axis` of the shown slice; and the other way round."""
        return self.size[0] - 1 - shown if self.flipped[0] else shown

    def shown(self, volume: npt.NDArray[Number], index: int) -> npt.NDArray[Number]:
        """Slice `index` of a volume (K, J, I[, 3]), as it is shown: a view (rows, columns[, 3])."""
        turned = volume.transpose(*self.axes, *range(3, volume.ndim))
        return np.asarray(turned[self.index(index)][self._flips()])

    def turned(self, thin: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """What `box` holds, (K, J, I) with one slice along `axis`, as it is shown: a view."""
        return np.asarray(thin.transpose(self.axes)[0][self._flips()])

    def mask(self, shown: BoolArray) -> BoolArray:
        """A mask (rows, columns) of a shown slice, in the order of the volume without `axis`."""
        own = shown[self._flips()]
        return own if self.axes[1] < self.axes[2] else own.T

    def box(self, index: int, rows: tuple[int, int], columns: tuple[int, int]) -> Box:
        """The box in the volume of a part of a shown slice; `rows`, `columns` are half open."""
        ends: list[tuple[int, int]] = [(0, 0)] * 3
        for place, span in enumerate(((index, index + 1), rows, columns)):
            ends[self.axes[place]] = self._turned(place, span)
        return ends[0], ends[1], ends[2]

    def part(self, box: Box, index: int) -> Part | None:
        """Rows and columns, half open, of a volume's box in a shown slice; None: not in it."""
        slices, rows, columns = (self._turned(place, box[self.axes[place]]) for place in range(3))
        return (rows, columns) if slices[0] <= index < slices[1] else None

    def _turned(self, place: int, span: tuple[int, int]) -> tuple[int, int]:
        """Start and end along slices (0), rows (1), columns (2), counted from the other side."""
        if not self.flipped[place]:
            return span
        return self.size[place] - span[1], self.size[place] - span[0]

    def _flips(self) -> tuple[slice, slice]:
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flipped[1:])
        return rows, columns


def planes_of(scan: Scan) -> list[Plane]:
    """The planes of a scan, the one that it was acquired in first; a picture has one.

    Planes whose slices would be lines are left out.
    """
    acquired = choose_orientation(scan)
    others = [name for name in PLANES if name != acquired.plane]
    turned = [acquired, *(choose_orientation(scan, name) for name in others)]
    if acquired.shape[0] == 1:
        return [_plane(acquired, scan)]
    return [_plane(one, scan) for one in turned if one is acquired or min(one.shape[1:]) > 1]


def _plane(one: Orientation, scan: Scan) -> Plane:
    slices, rows, columns = one.axes
    mm = scan.spacing_mm
    return Plane(
        one.plane,
        (2 - slices, 2 - rows, 2 - columns),
        one.flipped,
        (scan.grid[slices], scan.grid[rows], scan.grid[columns]),
        (float(mm[slices]), float(mm[rows]), float(mm[columns])) if scan.has_mm else None,
    )
