"""Scans in memory and in the files of nibabel and SimpleITK."""

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from swiftmedsam import make_case
from swiftmedsam.scans.scan import RAS_OF_LPS, made_scan
from tests.helpers import CASE_AFFINE, BrightInBox, labels_of, volume_case

ALIGNED = CASE_AFFINE


OBLIQUE_ANGLES = 0.35, 0.2  # radians, about the first axis and then the third


ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def rotation(about_x, about_z):
    c, s = np.cos(about_x), np.sin(about_x)
    first = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    c, s = np.cos(about_z), np.sin(about_z)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ first


AFFINES = {"aligned": ALIGNED, "oblique": rotation(*OBLIQUE_ANGLES) @ ALIGNED}


def grid_of(slices):
    """(I, J, K) of (D, H, W)."""
    return np.ascontiguousarray(slices.T)


def scan_of(voxels, affine, **more):
    return made_scan(Path("scan.nii"), voxels, affine, **more)


def labels_by_npz():
    case = volume_case()
    checked = make_case(case["imgs"], case["boxes"], modality="MR", name="npz")
    return labels_of(checked, BrightInBox())


def mm_of(box, affine):
    """Opposite corners in mm of the voxel centres of an aligned box."""
    return [*(affine @ [*box[:3], 1])[:3], *(affine @ [*box[3:], 1])[:3]]


GRID = (5, 4, 3)


VOXELS = np.arange(60, dtype=np.int16).reshape(GRID)


LPS_OF_RAS = RAS_OF_LPS


def save(path, voxels=VOXELS, affine=ALIGNED, **fields):
    image = nibabel.Nifti1Image(voxels, affine)
    for name, value in fields.items():
        getattr(image.header, f"set_{name}")(*value)
    nibabel.save(image, path)
    return path


def itk_image(voxels=VOXELS, affine=ALIGNED, is_vector=False):
    """SimpleITK's image of voxels (I, J, K[, C])."""
    axes = (2, 1, 0, 3)[: voxels.ndim]
    image = sitk.GetImageFromArray(voxels.transpose(axes), isVector=is_vector)
    lps = LPS_OF_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    return image


def itk_affine(image):
    """(4, 4) in RAS, from what SimpleITK itself says of four voxels."""
    corners = [image.TransformIndexToPhysicalPoint(index) for index in
               ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]  # fmt: skip
    origin, *steps = (np.array(corner) for corner in corners)
    lps = np.eye(4)
    lps[:3] = np.column_stack([*(step - origin for step in steps), origin])
    return RAS_OF_LPS @ lps
