"""Draws boxes and labels on a slice, and describes a box in words, for --dry-run and overlays."""

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.case import Case
from swiftmedsam.result import Labels
from swiftmedsam.scans.formats.pictures import png
from swiftmedsam.scans.orientation import Orientation
from swiftmedsam.scans.scan import Scan, Segment

Bytes = npt.NDArray[np.uint8]

AXES = "ijk"
MASK_OPACITY = 0.4
SMALLEST_SIDE = 512  # pixels of a picture's longer side; a smaller picture is enlarged
WORLD = "RAS"


def box_line(one: Segment, scan: Scan, orientation: Orientation) -> str:
    """A line for the log: name, voxels, millimetres and slices of a box."""
    first, last = np.array(one.first), np.array(one.last)
    parts = [
        f"{axis} {low} to {high}" for axis, low, high in zip(AXES, first, last, strict=True)
    ]  # fmt: skip
    line = f"{scan.name}: box {one.value} '{one.name}': voxels {', '.join(parts)}"
    if scan.has_mm:
        sides = zip(first - 0.5, last + 0.5, strict=True)
        corners = np.array(list(product(*sides, [1]))) @ scan.affine.T  # (8, 4)
        ends = zip(WORLD, corners.min(axis=0), corners.max(axis=0), strict=False)
        line += "; mm " + ", ".join(f"{axis} {low:.1f} to {high:.1f}" for axis, low, high in ends)
    if orientation.shape[0] > 1:
        stack = orientation.axes[0]
        count, plane = last[stack] - first[stack] + 1, orientation.plane
        line += f"; {count} slices of {orientation.shape[0]}, {plane}"
    return line


def drawn(
    page: Bytes,
    labels: Labels | None,
    segments: Sequence[Segment],
    orientation: Orientation,
    zoom: int = 1,
) -> Bytes:
    """A picture (zoom H, zoom W, 3), RGB, of a slice with labels tinted and boxes outlined.

    Slice and labels are in the orientation of slices, not of the file.

    Args:
        page: (H, W) or (H, W, 3), the slice as the network sees it.
        labels: (H, W), of the same slice; None: only boxes are drawn.
        segments: their values, colours, and boxes on the file's grid.
        orientation: converts the boxes to slices.
        zoom: the factor by which the picture is enlarged.
    """
    shown = np.stack([page] * 3, axis=-1) if page.ndim == 2 else page.copy()
    if labels is not None:
        colours = np.zeros((max([0, *(one.value for one in segments)]) + 1, 3))  # by value
        for segment in segments:
            colours[segment.value] = segment.colour
        mask = labels > 0
        tint = MASK_OPACITY * colours[labels[mask]]
        shown[mask] = (shown[mask] * (1 - MASK_OPACITY) + tint).astype(np.uint8)
    shown = np.ascontiguousarray(shown.repeat(zoom, axis=0).repeat(zoom, axis=1))
    for segment in segments:
        x_min, y_min, _, x_max, y_max, _ = orientation.box(segment.first, segment.last).tolist()
        corners = (x_min * zoom, y_min * zoom), ((x_max + 1) * zoom - 1, (y_max + 1) * zoom - 1)
        cv2.rectangle(shown, *corners, segment.colour, 1)
    return shown


def box_picture(one: Segment, orientation: Orientation, case: Case) -> bytes:
    """A PNG of the box on its middle slice, as the network sees it."""
    _, _, z_min, _, _, z_max = orientation.box(one.first, one.last).tolist()
    page = case.image[(z_min + z_max) // 2] if case.is_volume else case.image
    zoom = max(1, SMALLEST_SIDE // max(page.shape[:2]))
    return png(drawn(page, None, [one], orientation, zoom))


def picture_of_labels(
    labels: Labels, segments: Sequence[Segment], orientation: Orientation, case: Case
) -> Bytes:
    """Draw the labels (I, J, 1) of a picture on it, see `drawn`; `case` has its `orientation`.

    If the slices do not lie in the picture's plane, the picture is shown as its file has it.
    """
    page = case.image
    if case.is_volume:
        page = orientation.to_grid(page)[:, :, 0].T
        orientation = Orientation("", (2, 1, 0), (False, False, False), orientation.grid)
    return drawn(page, orientation.to_slices(labels)[0], segments, orientation)
