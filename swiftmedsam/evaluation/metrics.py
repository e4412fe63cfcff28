"""DSC and NSD of two masks, and of two label maps by the challenge's rules.

NSD (normalised surface distance, "surface dice") is computed by the package surface-distance. The
rules are those of the organisers' script `evaluation/compute_metrics.py` (bowang-lab/MedSAM, branch
LiteMedSAM). There are two differences, for truth that does not occur in the challenge:

- Their script scores labels 1 to the largest one; a label that occurs nowhere makes the case NaN.
  Here only labels of the truth count.
- In their script a truth without labels makes the case NaN. `score_labels` says what it gives here.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from swiftmedsam.evaluation.dice import Mask, dsc

TOLERANCE_MM = 2.0  # for an image in pixels
MIN_DSC_FOR_NSD = 0.2  # if the DSC of a case is not higher, its NSD is 0
# The organisers score an image (H, W) as a volume (H, W, 1). All voxels of such a thin volume are
# on its surface, so its NSD compares areas, and is much higher than the NSD of contours.
IMAGE_SPACING = (1.0, 1.0, 1.0)
INPUT_SIZE = 256  # pixels per side of the input; as in `swiftmedsam.frame`, which loads OpenCV
CROP_MARGIN = 1  # voxels around an object, to be safe; the result is the same without

Labels = npt.NDArray[np.integer]
Region = tuple[slice, ...]


@dataclass(frozen=True)
class ObjectScore:
    """The scores, 0..1, and the size of one label of the truth."""

    area_256: float  # in input pixels, in the slice of the truth where it is largest
    dsc: float
    nsd: float  # 0 if the DSC of the case is too low


@dataclass(frozen=True)
class Scores:
    """The scores of a case; DSC and NSD are means over its objects, 0..1."""

    by_object: tuple[ObjectScore, ...]  # in the order of the labels
    dsc: float
    nsd: float


def nsd(a: Mask, b: Mask, spacing_mm: Sequence[float], tolerance_mm: float = TOLERANCE_MM) -> float:
    """Return the part, 0..1, of the surfaces of two masks that is within the tolerance.

    A point is within the tolerance if the surface of the other mask is at most that far away. The
    result is 1 if both masks are empty, and 0 if one is. `spacing_mm` has the order of the axes of
    the masks. Masks (H, W) are compared by contours, masks (D, H, W) by surfaces.
    """
    if (
        not a.any() or not b.any()
    ):  # the package would divide by 0, or use np.Inf, which NumPy 2 does not have
        return float(a.any() == b.any())
    with warnings.catch_warnings():
        # the package uses scipy.ndimage.filters and .morphology, which SciPy 2 will not have
        warnings.filterwarnings("ignore", "Please import `", DeprecationWarning)
        distances = compute_surface_distances(a, b, spacing_mm)
    return float(compute_surface_dice_at_tolerance(distances, tolerance_mm))


def array_spacing_mm(
    spacing_xyz_mm: Sequence[float], *, official: bool
) -> tuple[float, float, float]:
    """Return the spacing for the axes (z, y, x) of a volume.

    Files store the spacing as (x, y, z). By default its order is reversed. The organisers' script
    uses it for arrays (z, y, x) as it is; so does `official`.
    """
    x, y, z = (float(length) for length in spacing_xyz_mm)
    return (x, y, z) if official else (z, y, x)


def _region(boxes: Sequence[Region | None], shape: tuple[int, ...]) -> Region:
    """Return the smallest region of an array with all `boxes` and a margin; None is no box."""
    sides = zip(*(box for box in boxes if box is not None), strict=True)
    return tuple(
        slice(
            max(min(side.start for side in axis) - CROP_MARGIN, 0),
            min(max(side.stop for side in axis) + CROP_MARGIN, size),
        )
        for axis, size in zip(sides, shape, strict=True)
    )


def _objects(truth: Labels, found: Labels) -> Iterator[tuple[Region, Mask, Mask]]:
    """Yield for each label of the truth a region that holds it in both maps, and its two masks."""
    largest = int(truth.max())
    if largest == 0:
        return
    found_boxes = ndimage.find_objects(found, largest)
    for label, box in enumerate(ndimage.find_objects(truth, largest), start=1):
        if box is not None:
            region = _region((box, found_boxes[label - 1]), truth.shape)
            yield region, truth[region] == label, found[region] == label


def score_labels(
    truth: Labels, found: Labels, spacing_mm: Sequence[float] = IMAGE_SPACING
) -> Scores:
    """Score the labels `found` in one case; DSC and NSD are means over the labels of `truth`.

    If the truth has no label, both scores are 1 if `found` has none, else 0.

    Args:
        truth: (H, W) or (D, H, W), 0 is background.
        found: of the same shape.
        spacing_mm: of the axes of a volume; for an image it is not used.
    """
    height, width = truth.shape[-2:]
    pixels_256 = (INPUT_SIZE / max(height, width)) ** 2  # input pixels per pixel of a slice
    in_slice = (1, 2)  # axes
    if truth.ndim == 2:
        truth, found = truth[:, :, np.newaxis], found[:, :, np.newaxis]  # (H, W, 1)
        spacing_mm = IMAGE_SPACING
        in_slice = (0, 1)
    pairs = [(a, b) for _, a, b in _objects(truth, found)]
    if not pairs:
        score = float(not found.any())
        return Scores((), score, score)
    areas_256 = [float(a.sum(axis=in_slice).max()) * pixels_256 for a, _ in pairs]
    dscs = [dsc(a, b) for a, b in pairs]
    nsds = [0.0] * len(pairs)
    if np.mean(dscs) > MIN_DSC_FOR_NSD:
        nsds = [nsd(a, b, spacing_mm) for a, b in pairs]
    by_object = tuple(map(ObjectScore, areas_256, dscs, nsds))
    return Scores(by_object, float(np.mean(dscs)), float(np.mean(nsds)))


def slice_dscs(truth: Labels, found: Labels) -> npt.NDArray[np.float64]:
    """Return the DSC (D,) of each slice of volumes (D, H, W): means over the labels of the truth.

    A label counts in a slice if it is in `truth` or in `found` there. Without any label: NaN.
    """
    sums, counts = np.zeros((2, len(truth)))
    for (zs, *_), a, b in _objects(truth, found):
        both, in_a, in_b = (np.count_nonzero(mask, axis=(1, 2)) for mask in (a & b, a, b))
        sums[zs] += 2 * both / np.maximum(in_a + in_b, 1)
        counts[zs] += in_a + in_b > 0
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)
