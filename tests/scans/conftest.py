"""Fixtures of the tests of scans: files of a user."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.helpers import CASE_AFFINE, image_case, volume_case


@pytest.fixture
def volume(mine):
    path = mine / "scan.nii.gz"
    voxels = np.ascontiguousarray(volume_case()["imgs"].T)
    nibabel.save(nibabel.Nifti1Image(voxels, CASE_AFFINE), path)
    return path


@pytest.fixture
def photo(mine):
    path = mine / "photo.png"
    Image.fromarray(image_case()["imgs"]).save(path)
    return path
