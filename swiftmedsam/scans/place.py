"""Makes a case of a scan with its boxes, and puts the labels of a case on the scan's grid."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import IN_PLANE, Case, make_case
from swiftmedsam.display import Window
from swiftmedsam.modality import Modality
from swiftmedsam.result import Labels
from swiftmedsam.scans.orientation import Orientation, anatomical_axes
from swiftmedsam.scans.scan import Scan, Segment, Voxels, grey

log = logging.getLogger(__name__)

DIRECTIONS = ("LR", "PA", "IS")  # for each world axis, the letters of minus and plus


def without_nan(voxels: Voxels, name: str) -> Voxels:
    """Voxels with the lowest value in place of NaN, e.g. outside the field of view."""
    missing = np.isnan(voxels)
    count = int(missing.sum())
    if count == 0 or count == missing.size:  # if all are NaN, `make_case` refuses them
        return voxels
    log.warning("%s: %d voxels are NaN, and count as the lowest value", name, count)
    return np.asarray(np.where(missing, np.nanmin(voxels), voxels))


def boxes_in_slices(segments: Sequence[Segment], orientation: Orientation) -> npt.NDArray[np.int64]:
    """The boxes (N, 6) of segments in slices; (N, 4) if there is only one slice."""
    boxes = np.array([orientation.box(one.first, one.last) for one in segments], np.int64).reshape(
        -1, 6
    )
    return boxes if orientation.shape[0] > 1 else boxes[:, IN_PLANE]


def case_of(
    scan: Scan,
    segments: Sequence[Segment],
    orientation: Orientation,
    modality: Modality,
    window: Window,
) -> Case:
    """The case of a scan, with slices as `orientation` has them; segment i gets label i + 1.

    A scan of one slice becomes an image. A volume in colour becomes grey, since slices of a volume
    are grey for the network.

    Raises:
        CaseError: the values cannot be used.
    """
    voxels = scan.voxels
    if voxels.dtype.kind == "f":
        voxels = without_nan(voxels, scan.name)
    slices = orientation.to_slices(voxels)
    is_volume = len(slices) > 1
    if is_volume and slices.ndim == 4:
        slices = grey(slices)
    fractions = slices.dtype.kind == "f" and bool((slices != np.rint(slices)).any())
    case = make_case(
        slices if is_volume else slices[0],
        boxes_in_slices(segments, orientation),
        is_volume=is_volume,
        modality=modality,
        window=window,
        raw=fractions,
        name=scan.name,
    )
    if case.image.size > 1 and case.image.min() == case.image.max():
        log.warning("%s: nothing is visible, all its values are equal or nearly equal", scan.name)
    return case


def to_grid(labels: Labels, orientation: Orientation) -> Labels:
    """Labels (D, H, W), or (H, W) of an image, on the grid (I, J, K)."""
    return orientation.to_grid(labels.reshape(orientation.shape))


def describe(scan: Scan, orientation: Orientation) -> str:
    """Size, spacing and axes of a scan, and the orientation of its slices, for the log."""
    size = "x".join(map(str, scan.grid))
    if not scan.has_mm:
        return f"{scan.name}: {size} pixels"
    spacing = " x ".join(f"{mm:.4g}" for mm in scan.spacing_mm)
    axes = "".join(
        DIRECTIONS[world][sign > 0]
        for world, sign in zip(*anatomical_axes(scan.affine), strict=True)
    )
    along = "ijk"[orientation.axes[0]]
    return (
        f"{scan.name}: {size} voxels of {spacing} mm, axes to {axes}; "
        f"slices along {along}, {orientation.plane}"
    )
