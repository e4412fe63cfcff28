"""The voxels of an object, kept in the box around them; and boxes of a volume.

A box here is ((k0, k1), (j0, j1), (i0, i1)), half open, in the order of the volume's axes.
"""

from dataclasses import dataclass

import numpy as np

from swiftmedsam.frame import BoolArray

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Shape = tuple[int, int, int]


def size_of(box: Box) -> Shape:
    """The voxels of a box along each axis."""
    k, j, i = (end - start for start, end in box)
    return k, j, i


def parts_of(box: Box, whole: Box | None = None) -> tuple[slice, slice, slice]:
    """The index of `box` in an array of the volume, or of the part `whole` of it."""
    firsts = (0, 0, 0) if whole is None else tuple(first for first, _ in whole)
    k, j, i = (
        slice(start - first, end - first) for (start, end), first in zip(box, firsts, strict=True)
    )
    return k, j, i


def slice_box(shape: Shape, axis: int, index: int) -> Box:
    """The box of slice `index` along `axis` of a volume."""
    k, j, i = ((index, index + 1) if one == axis else (0, shape[one]) for one in range(3))
    return k, j, i


def hull_of(*boxes: Box | None) -> Box | None:
    """The smallest box that holds all of `boxes`; None counts as empty."""
    given = [box for box in boxes if box is not None]
    if not given:
        return None
    k, j, i = (
        (min(box[axis][0] for box in given), max(box[axis][1] for box in given))
        for axis in range(3)
    )
    return k, j, i


def meet_of(one: Box, other: Box) -> Box | None:
    """The box of what two boxes have in common; None: nothing."""
    k, j, i = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return None if any(start >= end for start, end in (k, j, i)) else (k, j, i)


def around(mask: BoolArray, start: tuple[int, ...] = (0, 0, 0)) -> Box | None:
    """The box around what is true in `mask` (K, J, I), whose first voxel is `start`; else None."""
    ends = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        if not inside.size:
            return None
        ends.append((start[axis] + int(inside[0]), start[axis] + int(inside[-1]) + 1))
        # what lies outside need not be looked at along the next axes
        mask = mask[
            tuple(
                slice(int(inside[0]), int(inside[-1]) + 1) if one == axis else slice(None)
                for one in range(3)
            )
        ]
    return ends[0], ends[1], ends[2]


@dataclass(frozen=True, eq=False)
class Packed:
    """A mask in a box of a volume, a bit for each voxel."""

    box: Box
    bits: bytes

    @classmethod
    def of(cls, box: Box, mask: BoolArray) -> "Packed":
        """Pack `mask`, which has the size of `box`."""
        return cls(box, np.packbits(mask, axis=None).tobytes())

    def mask(self) -> BoolArray:
        """The mask (K, J, I) of the box."""
        size = size_of(self.box)
        count = int(np.prod(size))
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count)
        return bits.reshape(size).view(np.bool_)


class Region:
    """A mask of a whole volume (K, J, I); memory is taken for the box around it only."""

    def __init__(self) -> None:
        self._start: Shape = (0, 0, 0)
        self._mask: BoolArray = np.zeros((0, 0, 0), np.bool_)
        self._box: Box | None = None
        self._is_known = True  # whether `_box` is right

    @property
    def box(self) -> Box | None:
        """The smallest box around the mask; None if it is empty."""
        if not self._is_known:
            self._box = around(self._mask, self._start)
            self._is_known = True
        return self._box

    @property
    def nbytes(self) -> int:
        """The bytes that the mask takes."""
        return self._mask.nbytes

    def at(self, box: Box) -> BoolArray:
        """A copy of the mask in `box`."""
        found = np.zeros(size_of(box), np.bool_)
        there, here = [], []
        for (start, end), first, length in zip(box, self._start, self._mask.shape, strict=True):
            low, high = max(start, first), min(end, first + length)
            if low >= high:
                return found
            there.append(slice(low - start, high - start))
            here.append(slice(low - first, high - first))
        found[tuple(there)] = self._mask[tuple(here)]
        return found

    def put(self, box: Box, mask: BoolArray) -> None:
        """Set the mask in `box`."""
        if 0 in size_of(box):
            return
        kept = self._kept
        grown = hull_of(kept, box)
        if grown is not None and grown != kept:
            larger = np.zeros(size_of(grown), np.bool_)
            if kept is not None:
                larger[parts_of(kept, grown)] = self._mask
            self._mask, self._start = larger, (grown[0][0], grown[1][0], grown[2][0])
        whole = self._kept
        if whole is not None:
            self._mask[parts_of(box, whole)] = mask
        self._is_known = False

    @property
    def _kept(self) -> Box | None:
        """The box that memory was taken for."""
        if not self._mask.size:
            return None
        k, j, i = (
            (first, first + length)
            for first, length in zip(self._start, self._mask.shape, strict=True)
        )
        return k, j, i
