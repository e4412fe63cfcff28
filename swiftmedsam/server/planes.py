"""An open image as boxes are drawn in it: in any plane, or in three dimensions."""

import operator
from collections.abc import Mapping, Sequence

import numpy as np

from swiftmedsam.case import CaseError
from swiftmedsam.frame import BoolArray
from swiftmedsam.messages import printable, shortened
from swiftmedsam.result import Labels, Progress
from swiftmedsam.scans.session import OpenImage
from swiftmedsam.server.objects import Mark
from swiftmedsam.server.region import Box, Shape


class SessionError(CaseError):
    """A request that a session cannot fulfil; the message is one line."""


class Planes:
    """What the network says of boxes in an image or volume. Masks are (K, J, I)."""

    def __init__(self, image: OpenImage) -> None:
        """Of an image whose boxes are in voxels."""
        self.image = image
        k, j, i = image.shape if len(image.shape) == 3 else (1, *image.shape)
        self.shape: Shape = (k, j, i)
        self.is_volume = image.is_volume  # or one slice
        # along which its slices were acquired
        self.axis = image.slice_axis if self.is_volume else self.shape.index(1)
        self._along = {self.axis: image}

    def along(self, axis: int) -> OpenImage:
        """The image in slices along `axis`; of a picture there is only one."""
        if axis not in self._along:
            self._along[axis] = self.image.along(axis)
        return self._along[axis]

    def __str__(self) -> str:
        return " x ".join(map(str, self.shape)) + " voxels"

    # Boxes

    def checked(self, box: Sequence[Sequence[int]]) -> Box:
        """A box cut to the volume.

        Raises:
            SessionError: it is not a box, or lies outside.
        """
        try:
            ends = [(operator.index(start), operator.index(end)) for start, end in box]
        except (TypeError, ValueError):
            ends = []
        if len(ends) != 3 or any(start >= end for start, end in ends):
            raise SessionError(
                "a box should be three pairs of whole numbers, first and behind the last, got "
                f"{shortened(printable(str(box)))}"
            )
        k, j, i = (
            (max(0, start), min(end, length))
            for (start, end), length in zip(ends, self.shape, strict=True)
        )
        if any(start >= end for start, end in (k, j, i)):
            raise SessionError(f"the box {ends} lies outside the {self}")
        return k, j, i

    def axis_of(self, box: Sequence[Sequence[int]]) -> int | None:
        """The axis across the plane that a box was drawn in; None: it is thicker than a slice.

        The box is as it was drawn, and may reach outside: a thick one of which a single slice lies
        in the volume is a bound, all the same.
        """
        if not self.is_volume:
            return self.axis
        thin = [a for a, (start, end) in enumerate(box) if end - start == 1 and self.shape[a] > 1]
        if not thin:
            return None
        return self.axis if self.axis in thin else thin[0]

    # What the network finds

    def in_slice(self, axis: int, box: Box, *, crops: bool) -> BoolArray:
        """What a box marks in its slice: (K, J, I) without `axis`."""
        result = self.along(axis).segment([self._corners(box)], crops=crops)
        # of the slice alone: to compare a large volume takes longer than the decoder
        return np.asarray(result.labels.reshape(self.shape).take(box[axis][0], axis) != 0)

    def in_box(self, box: Box, progress: Progress | None) -> BoolArray:
        """What a box bounds in three dimensions, in the whole volume."""
        return self._whole(self.image.segment([self._corners(box)], progress).labels)

    def from_box(self, axis: int, box: Box, progress: Progress | None) -> BoolArray:
        """What a box in a slice marks, followed through the volume."""
        image = self.along(axis)
        return self._whole(image.segment([self._corners(box)], progress, extend=True).labels)

    def from_marks(
        self, axis: int, marks: Mapping[int, Mark], progress: Progress | None
    ) -> tuple[BoolArray, tuple[str, ...]]:
        """The object of marks in slices along `axis`, followed; and warnings without its name."""
        boxes = [
            self._corners(box) for mark in marks.values() if mark.mask is None for box in mark.boxes
        ]
        masks = {index: mark.mask for index, mark in marks.items() if mark.mask is not None}
        corners = np.array(boxes, np.float64).reshape(-1, 6)
        result = self.along(axis).extend(corners, masks, progress)
        start = f"{self.image.scan.name}: object 1 "
        warnings = [line for line in result.warnings if line.startswith(start)]
        return self._whole(result.labels), tuple(line.removeprefix(start) for line in warnings)

    def _corners(self, box: Box) -> list[int]:
        """First and last voxel, as `OpenImage` has them: i, j(, k), both inclusive."""
        own = box[::-1] if len(self.image.shape) == 3 else box[:0:-1]
        return [start for start, _ in own] + [end - 1 for _, end in own]

    def _whole(self, labels: Labels) -> BoolArray:
        """Where labels are, (K, J, I)."""
        return np.asarray(labels.reshape(self.shape) != 0)
