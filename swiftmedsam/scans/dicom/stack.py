"""Puts the slices of a DICOM volume on one regular grid, by their own positions.

Slices that are no regular grid are refused, and the message names the reason: missing slices, or
several orientations or sizes. Order and spacing never come from instance numbers, file names or the
slice thickness.

The slices of a tilted gantry are a grid, too; its axes are not at right angles. Each slice is
segmented as it was acquired; nothing is resampled.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from swiftmedsam.messages import printable
from swiftmedsam.scans.dicom.slices import Slice
from swiftmedsam.scans.scan import RAS_OF_LPS, RIGHT_ANGLE, Float64Array, ScanError

log = logging.getLogger(__name__)

SAME_POSITION_MM = 1e-3
EVEN = 0.02  # tolerance of gaps, as a part of the spacing: files have rounded positions
SAME_DIRECTION = 1e-4  # tolerance of cosines, between slices
NO_DIRECTION = 0.01  # tolerance of the length of a direction, and of the cosine of a right angle
MOST_TILT = np.deg2rad(45)  # of the stack against the normal of its slices; gantries reach 30


def require_one_kind(slices: Sequence[Slice], name: str) -> None:
    """Raise ScanError unless slices have one size, spacing and orientation and a position each."""
    for what, values in (
        ("sizes", Counter(one.size for one in slices)),
        ("pixel spacings", Counter(_rounded(one.spacing_mm) for one in slices)),
    ):
        if len(values) > 1:
            found = " and ".join(f"{value} of {count} slices"
                                 for value, count in values.most_common(3))  # fmt: skip
            raise ScanError(f"{name}: slices should be of one kind, found {what} {found}")
    for one in slices:
        for tag, value in (
            ("ImagePositionPatient", one.position),
            ("ImageOrientationPatient", one.orientation),
            ("PixelSpacing", one.spacing_mm),
        ):
            if value is None:
                file = printable(one.path.name)
                where = name if len(slices) == 1 or file == name else f"{name}: {file}"
                raise ScanError(f"{where}: expected {tag}, found none")
    orientations = np.array([one.orientation for one in slices])
    away = np.abs(orientations - orientations[0]).max(axis=1)
    if away.max() > SAME_DIRECTION:
        other = orientations[away.argmax()]
        raise ScanError(
            f"{name}: slices should be of one kind, found orientations {orientations[0].tolist()} "
            f"and {other.tolist()} (ImageOrientationPatient), as of localizers"
        )
    row, column = orientations[0].reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > NO_DIRECTION or abs(row @ column) > NO_DIRECTION:
        raise ScanError(
            f"{name}: ImageOrientationPatient should be two directions at right angles, found "
            f"{orientations[0].tolist()}"
        )


def _rounded(spacing_mm: tuple[float, float] | None) -> tuple[float, ...]:
    return () if spacing_mm is None else tuple(np.round(spacing_mm, 4).tolist())


def _normal(one: Slice) -> Float64Array:
    """The unit vector (3,) at right angles to a slice."""
    assert one.orientation is not None
    normal = np.cross(one.orientation[:3], one.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def levels(slices: Sequence[Slice], name: str) -> list[list[tuple[Slice, float]]]:
    """Group slices by height along their normal, from the lowest up; each slice has its height.

    `slices` have passed `require_one_kind`.
    """
    normal = _normal(slices[0])
    heights = np.array([one.position for one in slices]) @ normal
    order = np.argsort(heights, kind="stable")
    new_level = np.diff(heights[order], prepend=-np.inf) > SAME_POSITION_MM
    found: list[list[tuple[Slice, float]]] = []
    for index, starts in zip(order.tolist(), new_level.tolist(), strict=True):
        if starts:
            found.append([])
        found[-1].append((slices[index], float(heights[index])))
    return found


def stack(slices: Sequence[Slice], name: str) -> tuple[list[Slice], Float64Array]:
    """The slices of a volume in order, and their affine (4, 4): (i, j, k) to mm in RAS.

    i runs along a row, j along a column, k from the lowest slice up. `slices` have passed
    `require_one_kind`, and no two have the same position.

    Raises:
        ScanError: the slices are no regular grid.
    """
    placed = [level[0] for level in levels(slices, name)]
    chosen = [one for one, _ in placed]
    first = chosen[0]
    assert first.orientation is not None
    assert first.spacing_mm is not None
    heights = np.array([height for _, height in placed])
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing_mm[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing_mm[0]
    affine[:3, 2] = _step(chosen, heights, _normal(first), name)
    affine[:3, 3] = first.position
    return chosen, RAS_OF_LPS @ affine


def _step(
    slices: Sequence[Slice], heights: Float64Array, normal: Float64Array, name: str
) -> Float64Array:
    """The vector (3,) from one slice to the next, in mm."""
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
            f"expected at most {np.rad2deg(MOST_TILT):.0f}"
        )
    if tilt > RIGHT_ANGLE:
        log.warning(
            "%s: the stack is tilted by %.1f degrees against its slices (gantry tilt); each "
            "stays where it was acquired", name, np.rad2deg(tilt),
        )  # fmt: skip
    straight = positions[0] + np.arange(len(slices))[:, np.newaxis] * step
    if np.abs(positions - straight).max() > max(EVEN * usual, 10 * SAME_POSITION_MM):
        raise ScanError(f"{name}: slices should lie on a line, and do not")
    return step
