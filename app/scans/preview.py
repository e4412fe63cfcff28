"""How a box was understood, in words and in a picture: what --dry-run shows."""

from dataclasses import replace
from itertools import product

import cv2
import numpy as np

from app.case import Case
from app.scans.pictures import overlay, png
from app.scans.scan import Scan, Segment
from app.scans.walk import Walk

AXES = "ijk"
SMALLEST_SIDE = 512  # pixels of a picture's longer side; a smaller one is enlarged
WORLD = "RAS"


def box_line(one: Segment, scan: Scan, walk: Walk) -> str:
    """Name, voxels, millimetres and slices of a box."""
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
    if walk.shape[0] > 1:
        stack = walk.axes[0]
        line += f"; {last[stack] - first[stack] + 1} slices of {walk.shape[0]}, {walk.plane}"
    return line


def box_picture(one: Segment, walk: Walk, case: Case) -> bytes:
    """A PNG of the box on its middle slice, as the network sees it."""
    x_min, y_min, z_min, x_max, y_max, z_max = walk.box(one.first, one.last).tolist()
    page = case.image[(z_min + z_max) // 2] if case.is_volume else case.image
    zoom = max(1, SMALLEST_SIDE // max(page.shape[:2]))
    page = cv2.resize(page, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST).astype(
        np.uint8, copy=False
    )
    first = (x_min * zoom, y_min * zoom, 0)
    last = ((x_max + 1) * zoom - 1, (y_max + 1) * zoom - 1, 0)
    shown = replace(one, first=first, last=last)
    return png(overlay(page, np.zeros(page.shape[:2], np.uint8), [shown]))
