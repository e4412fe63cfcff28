"""The header of NIfTI, field by field: each counts, is refused, or is warned of."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from swiftmedsam.scans.formats import nifti
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError
from tests.helpers.scans import ALIGNED, VOXELS, save

FIELDS = {  # offset and type in NIfTI-1
    "sizeof_hdr": (0, "i"), "dim_info": (39, "B"), "dim": (40, "8h"), "dim0": (40, "h"),
    "dim2": (44, "h"), "intent_code": (68, "h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "qfac": (76, "f"), "pixdim1": (80, "f"), "vox_offset": (108, "f"),
    "scl": (112, "2f"), "xyzt_units": (123, "B"), "cal": (124, "2f"), "slices": (120, "h"),
    "toffset": (136, "f"), "qform_code": (252, "h"), "sform_code": (254, "h"),
    "quaternion": (256, "3f"), "srow": (280, "12f"), "magic": (344, "4s"), "extender": (348, "4s"),
}  # fmt: skip


def changed(path, order="<", **fields):
    """The file at `path` with other values in its header."""
    content = bytearray(path.read_bytes())
    for name, value in fields.items():
        offset, kind = FIELDS[name]
        values = value if isinstance(value, tuple | list) else (value,)
        struct.pack_into(order + kind, content, offset, *values)
    path.write_bytes(content)
    return path


def both_forms(path):
    image = nibabel.Nifti1Image(VOXELS, ALIGNED)
    image.set_sform(ALIGNED, 1)
    image.set_qform(ALIGNED, 1)
    nibabel.save(image, path)
    return path


REFUSED = [
    ({"sizeof_hdr": 349}, "not a readable NIfTI file (expected a header of 348 or 540 bytes"),
    ({"magic": b"ni1\0"}, "its magic says that voxels are in a .img file, which is not read"),
    ({"magic": b"abc\0"}, "not a readable NIfTI file (magic should be b'n+1"),
    ({"dim0": 1}, "dim[0] should be 2..7 axes, found 1"),
    ({"dim0": 8}, "dim[0] should be 2..7 axes, found 8"),
    ({"dim2": -96}, "dim should have sizes of 1 or more, found (5, -96, 3)"),
    ({"dim2": 0}, "dim should have sizes of 1 or more, found (5, 0, 3)"),
    ({"dim2": 40}, "not a readable NIfTI file (expected 1200 bytes of voxels from byte 352, found"),
    ({"datatype": 32}, "voxels should be real numbers, found datatype 32 (complex numbers)"),
    ({"datatype": 1}, "voxels should be real numbers, found datatype 1 (bits)"),
    ({"datatype": 999}, "voxels should be real numbers, found datatype 999 (unknown)"),
    ({"datatype": 1536}, "voxels should be real numbers, found datatype 1536 (floats of 128"),
    ({"bitpix": 8}, "bitpix should be 16 for datatype 4, found 8"),
    ({"vox_offset": 16}, "vox_offset should be 352 or more, found 16"),
    ({"vox_offset": 348}, "vox_offset should be 352 or more, found 348"),
    ({"vox_offset": 352.5}, "vox_offset should be 352 or more, found 352.5"),
    ({"vox_offset": -1}, "vox_offset should be 352 or more, found -1"),
    ({"vox_offset": np.nan}, "vox_offset should be 352 or more, found nan"),
    ({"vox_offset": np.inf}, "vox_offset should be 352 or more, found inf"),
    ({"vox_offset": 1e30}, "vox_offset should be 352 or more, found 1e+30"),
    ({"vox_offset": 368}, "not a readable NIfTI file (expected 120 bytes of voxels from byte 368"),
    ({"vox_offset": 1e9}, "not a readable NIfTI file (expected 120 bytes of voxels"),
    ({"scl": (np.inf, 0)}, "scl_slope and scl_inter should be finite, found inf and 0.0"),
    ({"scl": (2, np.nan)}, "scl_slope and scl_inter should be finite, found 2.0 and nan"),
    ({"scl": (1e-16, 0)}, "scl_slope should be 0 (none) or at least 2.22e-16 in size, found 1e-16"),
    ({"scl": (-2.35e-38, 0)},
     "scl_slope should be 0 (none) or at least 2.22e-16 in size, found -2.35e-38"),
    ({"sform_code": 9}, "sform_code should be 0..5, found 9"),
    ({"qform_code": -1}, "qform_code should be 0..5, found -1"),
    ({"qform_code": 0, "srow": (0,) * 12}, "the affine should have an inverse, but sform is zero"),
    ({"qform_code": 0, "srow": (1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)},
     "the affine should have an inverse, but sform is [[1.0, 0.0, 0.0, 0.0], ["),
    ({"sform_code": 0, "quaternion": (1, 1, 1)},
     "the affine should have an inverse, but qform has a quaternion [1.0, 1.0, 1.0] that is no ro"),
    ({"sform_code": 0, "pixdim1": -1}, "the affine should have an inverse, but qform has pixdim ["),
    ({"sform_code": 0, "pixdim1": 0}, "the affine should have an inverse, but qform has pixdim ["),
    ({"sform_code": 0, "pixdim1": np.nan}, "the affine should have an inverse, but qform has pixd"),
    ({"sform_code": 0, "qfac": -2}, "the affine should have an inverse, but qform has pixdim[0]"),
    ({"sform_code": 0, "qform_code": 0, "pixdim1": 0}, "pixdim should be lengths above 0, found ["),
    ({"intent_code": 3001}, "expected voxels on a grid, found CIFTI-2 (intent_code 3001)"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "reason"), REFUSED, ids=[str(one) for one, _ in REFUSED])
@pytest.mark.parametrize("packed", [False, True])
def test_what_cannot_be_used_is_refused_in_one_line(packed, fields, reason, tmp_path, capfd):
    path = changed(both_forms(tmp_path / "a.nii"), **fields)
    if packed:
        content = path.read_bytes()
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(content))
    with pytest.raises(ScanError) as raised:
        read_scan(path)
    assert str(raised.value).startswith(f"{path.name}: {reason}")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


WARNED = [
    ({"bitpix": 0}, ["bitpix is 0, the 16 bits of datatype 4 count"]),
    ({"vox_offset": 0}, ["vox_offset is 0, voxels are taken from byte 352"]),
    ({"xyzt_units": 5}, ["xyzt_units has no unit of length (5), mm are assumed"]),
    ({"quaternion": (1, 1, 1)},
     ["qform has a quaternion [1.0, 1.0, 1.0] that is no rotation, the sform counts"]),
    ({"srow": (0,) * 12}, ["sform is zero, the qform counts"]),
    ({"srow": (np.nan,) * 12, "cal": (1, 2)},
     ["sform is [[nan, nan, nan, nan], [nan, nan, nan, nan], [nan, nan, nan, nan]], the qform "
      "counts"]),
    ({"qform_code": 0, "pixdim1": 3},
     ["pixdim says voxels of 3 x 2 x 3, the sform 1 x 2 x 3, which counts"]),
    ({"sform_code": 0, "qform_code": 0},
     ["neither sform nor qform is set, left and right are not certain"]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "messages"), WARNED, ids=[str(one) for one, _ in WARNED])
def test_what_is_doubtful_is_said_once(fields, messages, tmp_path, caplog):
    path = changed(both_forms(tmp_path / "a.nii"), **fields)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    if "sform_code" not in fields:
        np.testing.assert_allclose(scan.affine, ALIGNED, atol=1e-5)
    nifti.encoded(VOXELS.astype(np.uint8), scan, path)
    assert caplog.messages == [f"a.nii: {message}" for message in messages]


@pytest.mark.parametrize(
    "fields",
    [{"xyzt_units": 2 | 64 | 128}, {"xyzt_units": 2 | 8}, {"xyzt_units": 0}, {"scl": (0, 5)},
     {"scl": (np.nan, np.nan)}, {"cal": (5, 9)}, {"slices": 7}, {"toffset": np.nan}, {"qfac": 0},
     {"intent_code": 1002}, {"intent_code": 4}, {"extender": b"\1\0\0\0"}],
    ids=str,
)  # fmt: skip
def test_what_has_no_effect_has_none(fields, tmp_path, caplog):
    """The two highest bits of xyzt_units are unused, and three are of time."""
    scan = read_scan(changed(both_forms(tmp_path / "a.nii"), **fields))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine, ALIGNED, atol=1e-5)
    assert caplog.messages == []


def test_labels_do_not_have_a_form_that_nobody_can_use(tmp_path):
    path = changed(both_forms(tmp_path / "a.nii"), srow=(0,) * 12)
    scan = read_scan(path)
    out = tmp_path / "out.nii"
    out.write_bytes(nifti.encoded(VOXELS.astype(np.uint8), scan, out))
    np.testing.assert_allclose(nibabel.load(out).affine, ALIGNED, atol=1e-5)
    np.testing.assert_array_equal(nibabel.load(out).dataobj, VOXELS)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_plane_with_both_forms_is_a_scan_of_one_slice(suffix, tmp_path, caplog):
    """As ITK writes it: dim[0] is 2."""
    image = sitk.GetImageFromArray(VOXELS[:, :, 0])
    image.SetSpacing((0.5, 0.25))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    header = nibabel.load(tmp_path / f"a{suffix}").header
    assert (header["dim"][0], header["qform_code"], header["sform_code"]) == (2, 1, 1)
    scan = read_scan(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(scan.voxels[:, :, 0].T, VOXELS[:, :, 0])
    np.testing.assert_allclose(scan.spacing_mm[:2], [0.5, 0.25])
    assert caplog.messages == []
    out = tmp_path / "out.nii.gz"
    out.write_bytes(nifti.encoded(np.ones(scan.grid, np.uint8), scan, out))
    assert sitk.ReadImage(str(out)).GetSize()[:2] == (4, 5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_type_and_byte_order_has_the_values_of_nibabel(dtype, order, kind, tmp_path):
    header = kind.header_class(endianness=order)
    image = kind(VOXELS.astype(dtype), ALIGNED, header, dtype=np.dtype(dtype))
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = read_scan(tmp_path / "a.nii.gz").voxels
    np.testing.assert_array_equal(found, nibabel.load(tmp_path / "a.nii.gz").dataobj)


def test_every_volume_of_a_file_of_five_axes_is_that_of_nibabel(tmp_path):
    five = np.arange(5 * 4 * 3 * 2 * 3, dtype=np.int16).reshape(5, 4, 3, 2, 3)
    save(tmp_path / "a.nii.gz", five)
    for number, index in enumerate(np.ndindex(2, 3)):
        found = read_scan(tmp_path / "a.nii.gz", number).voxels
        np.testing.assert_array_equal(found, five[(..., *index)])


def test_extensions_are_stepped_over_and_must_end_before_the_voxels(tmp_path):
    image = nibabel.Nifti1Image(VOXELS, ALIGNED)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 40))
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").voxels, VOXELS)
    changed(tmp_path / "a.nii", vox_offset=352)
    with pytest.raises(ScanError, match=r"^a.nii: vox_offset says that voxels begin at byte 352, "
                       "which is inside an extension that ends at"):  # fmt: skip
        read_scan(tmp_path / "a.nii")


def test_bytes_after_the_voxels_are_said(tmp_path, caplog):
    path = save(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes() + bytes(7))
    read_scan(path)
    assert caplog.messages == [
        "a.nii: 7 bytes after its voxels, by dim and vox_offset, are not used"
    ]


def test_damage_in_a_compressed_file_is_refused_even_after_the_voxels(tmp_path):
    """gzip's checksum is at the end, which readers that stop after the voxels never see."""
    path = save(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 255  # of the checksum
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"^a.nii.gz: not a readable NIfTI file \(its compressed"):
        read_scan(path)


@pytest.mark.parametrize(("name", "packed"), [("a.nii", True), ("a.nii.gz", False)])
def test_a_name_that_does_not_fit_the_content_is_refused(name, packed, tmp_path):
    content = save(tmp_path / "b.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ScanError, match=f"^{name}: not a readable NIfTI file \\(its content is"):
        read_scan(tmp_path / name)


def test_a_bad_scan_does_not_end_the_batch(program, mine):
    """Both files raised what no reader caught: a size below 0, and unused bits."""
    for name in ("a.nii", "b.nii", "c.nii"):
        save(mine / name, np.full((64, 40, 6), 100, np.int16) + np.arange(6, dtype=np.int16))
    changed(mine / "a.nii", dim2=-96)
    changed(mine / "b.nii", xyzt_units=130)
    rows = [f"{name},disc,5,5,1,30,30,3" for name in ("a.nii", "b.nii", "c.nii")]
    (mine / "boxes.csv").write_text(
        "file,name,x_min,y_min,z_min,x_max,y_max,z_max\n" + "\n".join(rows) + "\n"
    )
    status, lines = program("--boxes", str(mine / "boxes.csv"), "--quiet", inputs=mine,
                            outputs=mine / "out")  # fmt: skip
    assert status == 1
    assert [line for line in lines if line.startswith("a.nii")] == [
        "a.nii: dim should have sizes of 1 or more, found (64, -96, 6)"
    ]
    assert (mine / "out" / "b_labels.nii").exists()
    assert (mine / "out" / "c_labels.nii").exists()
