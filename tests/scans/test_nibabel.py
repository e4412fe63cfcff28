"""Every image nibabel ships for its own tests is read or refused in one clear line."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.testing import data_path

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError

NO_IMAGES = (".py", ".pyc", ".rst", ".m", ".gitignore")
SHIPPED = [path for path in sorted(Path(data_path).rglob("*"))
           if path.is_file() and not path.name.endswith(NO_IMAGES)]  # fmt: skip
READ = ("anatomical.nii", "reoriented_anat_moved.nii",
        "resampled_anat_moved.nii", "standard.nii.gz")  # fmt: skip
REFUSED = {  # of those whose names end as they should
    "0.dcm": "expected one slice, found a mosaic of many slices in one picture (ImageType MOSAIC)",
    "1.dcm": "expected one slice, found a mosaic of many slices in one picture (ImageType MOSAIC)",
    "example4d.nii.gz": "has 2 volumes, --volume should name one of 0..1",
    "example_nifti2.nii.gz": "has 2 volumes, --volume should name one of 0..1",
    "functional.nii": "has 20 volumes, --volume should name one of 0..19",
    "row_major.dconn.nii": "expected voxels on a grid, found CIFTI-2 (intent_code 3001)",
}


def refusal(path):
    """The line that `path` is refused with, or None where it is read."""
    try:
        assert read_scan(path).voxels.size
    except ScanError as error:
        assert "\n" not in str(error)
        name, _, reason = str(error).partition(": ")
        assert name == path.name
        assert reason
        return reason
    return None


def test_there_is_something_to_look_at():
    assert {*READ, *REFUSED, "minc1_4d.mnc", "test.mgz", "T1.PAR", "analyze.hdr"} <= {
        path.name for path in SHIPPED
    }


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_a_file_is_read_or_refused_in_one_line(path):
    """PAR, MINC, MGH, AFNI, ECAT, Analyze and tracts are none of the formats of docs/formats.md."""
    if path.name in READ:
        assert refusal(path) is None
    else:
        elsewise = "expected DICOM or a name ending in .nii, "
        assert refusal(path).startswith(REFUSED.get(path.name, elsewise))


@pytest.mark.parametrize("name", [name for name in READ if ".nii" in name])
def test_what_is_read_is_what_nibabel_reads(name):
    scan, theirs = read_scan(Path(data_path) / name), nibabel.load(Path(data_path) / name)
    np.testing.assert_array_equal(scan.voxels, theirs.dataobj)
    np.testing.assert_array_equal(scan.affine, theirs.affine)


@pytest.mark.parametrize("name", [name for name, why in REFUSED.items() if "volumes" in why])
def test_the_last_volume_of_several_is_that_of_nibabel(name):
    theirs = nibabel.load(Path(data_path) / name)
    scan = read_scan(Path(data_path) / name, theirs.shape[3] - 1)
    np.testing.assert_allclose(scan.voxels, theirs.dataobj[..., -1], rtol=1e-6)
    np.testing.assert_array_equal(scan.affine, theirs.affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".dcm", ""])
def test_under_a_wrong_name_a_file_is_refused_in_one_line_too(suffix, tmp_path):
    for count, source in enumerate(SHIPPED):
        path = tmp_path / f"{count}{suffix}"
        path.symlink_to(source)
        # ITK reads what is DICOM, whatever it is called
        assert refusal(path) or source.name in (*READ, "0.dcm", "1.dcm"), source.name
