"""Slices of a DICOM series, by the positions they say themselves, to one regular grid.

What is no regular grid is refused with what is wrong: slices missing or doubled, several
orientations or sizes. Order and spacing are never taken from instance numbers, file names or the
slice thickness.

The slices of a gantry that was tilted are a grid, too, one whose axes are not at right angles. Each
is segmented as it was acquired, and lies where it says; nothing is resampled.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.scans.scan import RAS_OF_LPS, RIGHT_ANGLE, FloatArray, ScanError, choose_volume

log = logging.getLogger(__name__)

SAME_POSITION_MM = 1e-3
EVEN = 0.02  # part of the spacing by which a gap may differ: decimal places are rounded
SAME_DIRECTION = 1e-4  # of cosines
MOST_TILT = np.deg2rad(45)  # of the stack against the normal of its slices; gantries reach 30


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane of a series: a file, or a frame of one."""

    path: Path
    frame: int  # of the file
    size: tuple[int, int]  # rows, columns
    spacing_mm: tuple[float, float]  # between rows, between columns
    order: tuple[Any, ...]  # among slices of the same position
    position: FloatArray | None  # (3,) of the first pixel, LPS
    orientation: FloatArray | None  # (6,) cosines along a row and along a column
    thickness_mm: float = 1.0


def _same(slices: Sequence[Slice], name: str) -> None:
    """All slices have one size, spacing and orientation, or it is said which."""
    for what, values in (
        ("sizes", {one.size for one in slices}),
        ("pixel spacings", {tuple(np.round(one.spacing_mm, 4).tolist()) for one in slices}),
    ):
        if len(values) > 1:
            found = " and ".join(map(str, sorted(values)[:3]))
            raise ScanError(f"{name}: slices should be of one kind, found {what} {found}")
    first = slices[0].orientation
    if any(
        one.position is None or one.orientation is None or first is None
        or np.abs(one.orientation - first).max() > SAME_DIRECTION
        for one in slices
    ):  # fmt: skip
        raise ScanError(f"{name}: slices should all have one orientation and a position each")


def stack(slices: Sequence[Slice], volume: int | None, name: str) -> tuple[list[Slice], FloatArray]:
    """The slices of a volume in order, and their affine (4, 4): (i, j, k) to mm in RAS.

    i runs along a row, j along a column. Several slices at every position are several volumes, of
    which `volume` chooses one.

    Raises:
        ScanError: they are no regular grid, or several volumes and none is chosen.
    """
    if len(slices) > 1:
        _same(slices, name)
    first = slices[0]
    if first.position is None or first.orientation is None:
        raise ScanError(f"{name}: expected a position and an orientation, found none")
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    normal = np.asarray(np.cross(along_row, along_column), np.float64)
    if not np.isclose(np.linalg.norm(normal), 1, atol=1e-2):
        raise ScanError(f"{name}: orientation should be two directions, got {first.orientation}")
    heights = np.array([one.position @ normal for one in slices])  # type: ignore[operator]
    levels = _levels(slices, heights, volume, name)
    chosen = [one for one, _ in levels]
    affine = np.eye(4)
    affine[:3, 0] = along_row * first.spacing_mm[1]
    affine[:3, 1] = along_column * first.spacing_mm[0]
    affine[:3, 2] = _step(chosen, np.array([height for _, height in levels]), normal, name)
    affine[:3, 3] = chosen[0].position
    return chosen, RAS_OF_LPS @ affine


def _levels(
    slices: Sequence[Slice], heights: FloatArray, volume: int | None, name: str
) -> list[tuple[Slice, float]]:
    """One slice of each height, from the lowest up."""
    order = np.argsort(heights, kind="stable")
    new_level = np.diff(heights[order], prepend=-np.inf) > SAME_POSITION_MM
    groups: list[list[int]] = []
    for index, starts in zip(order.tolist(), new_level.tolist(), strict=True):
        if starts:
            groups.append([])
        groups[-1].append(index)
    counts = {len(group) for group in groups}
    if len(counts) > 1:
        doubled = sum(len(group) > min(counts) for group in groups)
        raise ScanError(
            f"{name}: slices are doubled at {doubled} of {len(groups)} positions, expected one each"
        )
    which = choose_volume(counts.pop(), volume, name)
    picked = [sorted(group, key=lambda index: slices[index].order)[which] for group in groups]
    return [(slices[index], float(heights[index])) for index in picked]


def _step(
    slices: Sequence[Slice], heights: FloatArray, normal: FloatArray, name: str
) -> FloatArray:
    """From one slice (3,) to the next."""
    if len(slices) == 1:
        return normal * slices[0].thickness_mm
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    wrong = np.flatnonzero(np.abs(gaps - usual) > EVEN * usual)
    if wrong.size:
        raise ScanError(
            f"{name}: slices should be evenly spaced, found {usual:.4g} mm and, after slice "
            f"{wrong[0] + 1} of {len(slices)}, {gaps[wrong[0]]:.4g} mm: some are missing"
        )
    positions = np.array([one.position for one in slices])
    step = np.asarray((positions[-1] - positions[0]) / (len(slices) - 1), np.float64)
    tilt = float(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > MOST_TILT:
        raise ScanError(
            f"{name}: the stack is tilted by {np.rad2deg(tilt):.1f} degrees against its slices, "
            f"no gantry by more than {np.rad2deg(MOST_TILT):.0f}"
        )
    if tilt > RIGHT_ANGLE:
        log.warning(
            "%s: the stack is tilted by %.1f degrees against its slices (gantry tilt); they are "
            "taken as they are, each where it lies", name, np.rad2deg(tilt),
        )  # fmt: skip
    straight = positions[0] + np.arange(len(slices))[:, np.newaxis] * step
    if np.abs(positions - straight).max() > max(EVEN * usual, 10 * SAME_POSITION_MM):
        raise ScanError(f"{name}: slices should lie on a line, and do not")
    return step
