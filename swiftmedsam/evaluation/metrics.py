"""DSC and NSD of two masks, and of two label maps by the challenge's rules.

NSD (normalised surface distance, "surface dice") is that of the surface-distance package. The
rules are those of the organisers' `evaluation/compute_metrics.py` (bowang-lab/MedSAM, branch
LiteMedSAM) but for truth that the challenge does not have: that script counts labels 1 to the
largest one, so that one which occurs nowhere makes the case NaN, and here only labels of the truth
count; a truth without labels makes it NaN, too, and here see `score_labels`.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from swiftmedsam.evaluation.dice import Mask, dsc

TOLERANCE_MM = 2.0  # pixels for an image
MIN_DSC_FOR_NSD = 0.2  # a case whose DSC is not above this has NSD 0
# The organisers score an image (H, W) as a volume (H, W, 1). Every voxel of such a plate lies on
# its surface, so that its NSD is about areas, not contours, and far higher than that of contours.
IMAGE_SPACING = (1.0, 1.0, 1.0)
INPUT_SIZE = 256  # pixels per side of the network's input; `frame` has it, too, but loads OpenCV
CROP_MARGIN = 1  # voxels around an object; none is needed, the package itself looks no farther

Labels = npt.NDArray[np.integer]
Region = tuple[slice, ...]


@dataclass(frozen=True)
class ObjectScore:
    """What one label of the truth is worth, 0..1, and how large it is."""

    area_256: float  # in the truth's slice where it is largest, in pixels of the network's input
    dsc: float
    nsd: float  # 0 where the case's DSC is too low


@dataclass(frozen=True)
class Scores:
    """What a case's labels are worth; DSC and NSD are means over its objects, 0..1."""

    by_object: tuple[ObjectScore, ...]  # in the order of the labels
    dsc: float
    nsd: float


def nsd(a: Mask, b: Mask, spacing_mm: Sequence[float], tolerance_mm: float = TOLERANCE_MM) -> float:
    """Part, 0..1, of the surfaces of two masks that lies within the tolerance of the other one.

    1 when both are empty, 0 when one is. `spacing_mm` is in the order of the axes of the masks;
    masks (H, W) are compared by their contours, masks (D, H, W) by their surfaces.
    """
    if not a.any() or not b.any():  # the package would divide by 0, or need the np.Inf of NumPy 1
        return float(a.any() == b.any())
    with warnings.catch_warnings():
        # scipy.ndimage.filters and .morphology, which SciPy 2 will not have
        warnings.filterwarnings("ignore", "Please import `", DeprecationWarning)
        distances = compute_surface_distances(a, b, spacing_mm)
    return float(compute_surface_dice_at_tolerance(distances, tolerance_mm))


def array_spacing_mm(
    spacing_xyz_mm: Sequence[float], *, official: bool
) -> tuple[float, float, float]:
    """Spacing of a volume as it is used for its axes (z, y, x).

    The files have it in the order (x, y, z). The organisers' script hands that to arrays
    (z, y, x) as it is; `official` does so, too. The default turns it round.
    """
    x, y, z = (float(length) for length in spacing_xyz_mm)
    return (x, y, z) if official else (z, y, x)


def _region(boxes: Sequence[Region | None], shape: tuple[int, ...]) -> Region:
    """Smallest part of an array that holds all `boxes` and a margin; None is no box."""
    sides = zip(*(box for box in boxes if box is not None), strict=True)
    return tuple(
        slice(
            max(min(side.start for side in axis) - CROP_MARGIN, 0),
            min(max(side.stop for side in axis) + CROP_MARGIN, size),
        )
        for axis, size in zip(sides, shape, strict=True)
    )


def _objects(truth: Labels, found: Labels) -> Iterator[tuple[Region, Mask, Mask]]:
    """By label of the truth: a region that holds all of it in both maps, and its masks there."""
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
    """Scores of the labels `found` in one case: means over the labels that `truth` has.

    Where the truth has no label, both scores are 1 if nothing was found, else 0.

    Args:
        truth: (H, W) or (D, H, W), 0 is background.
        found: of the same shape.
        spacing_mm: of the axes of a volume; an image is always measured in pixels.
    """
    height, width = truth.shape[-2:]
    pixels_256 = (INPUT_SIZE / max(height, width)) ** 2  # of the input, per pixel of a slice
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
    """DSC (D,) of each slice of volumes (D, H, W): means over the labels of the truth.

    A label counts in a slice where it is true or was found; NaN where none does.
    """
    sums, counts = np.zeros((2, len(truth)))
    for (zs, *_), a, b in _objects(truth, found):
        both, in_a, in_b = (np.count_nonzero(mask, axis=(1, 2)) for mask in (a & b, a, b))
        sums[zs] += 2 * both / np.maximum(in_a + in_b, 1)
        counts[zs] += in_a + in_b > 0
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)
