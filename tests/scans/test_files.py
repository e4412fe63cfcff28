"""Files of other programs, read and written: what nibabel, SimpleITK and Pillow say counts."""

import sys

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageOps

from swiftmedsam.case import CaseError
from swiftmedsam.scans.dicom import reader as dicom
from swiftmedsam.scans.formats import itk, nifti, pictures
from swiftmedsam.scans.formats.by_suffix import READERS, default_suffix, read_scan, stem_of
from swiftmedsam.scans.place import without_nan
from swiftmedsam.scans.scan import ScanError, Segment
from tests.helpers.scans import AFFINES, ALIGNED, GRID, VOXELS, itk_affine, itk_image, save, scan_of

STORED = 1e-5  # mm: a NIfTI header has float32


# --- NIfTI


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti_voxels_and_affine_are_those_of_nibabel(name, tmp_path):
    scan = read_scan(save(tmp_path / name))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.voxels.dtype == np.int16
    np.testing.assert_array_equal(scan.affine, ALIGNED)
    np.testing.assert_allclose(scan.spacing_mm, [1, 2, 3])
    assert scan.slice_axis is None


def test_nifti_values_are_scaled_by_slope_and_intercept(tmp_path):
    scan = read_scan(save(tmp_path / "a.nii", slope_inter=(2, -1024)))
    raw = nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled()
    np.testing.assert_allclose(scan.voxels, raw * 2.0 - 1024, rtol=1e-6)


def test_the_slice_axis_of_the_header_is_kept(tmp_path):
    assert read_scan(save(tmp_path / "a.nii", dim_info=(0, 2, 1))).slice_axis == 1


@pytest.mark.parametrize(("unit", "factor"), [("micron", 0.001), ("meter", 1000), ("mm", 1)])
def test_nifti_units_become_millimetres(unit, factor, tmp_path):
    scan = read_scan(save(tmp_path / "a.nii", xyzt_units=(unit,)))
    np.testing.assert_allclose(scan.affine[:3], ALIGNED[:3] * factor)


def test_one_volume_of_several_must_be_chosen(tmp_path):
    four = np.stack([VOXELS, VOXELS + 100], axis=-1)
    path = save(tmp_path / "a.nii", four)
    np.testing.assert_array_equal(read_scan(path, 1).voxels, VOXELS + 100)
    with pytest.raises(ScanError, match=r"^a.nii: has 2 volumes, --volume should name one of 0..1"):
        read_scan(path)
    with pytest.raises(ScanError, match=r"^a.nii: --volume should be one of 0..1, got 2"):
        read_scan(path, 2)
    np.testing.assert_array_equal(read_scan(save(path, four[..., :1])).voxels, VOXELS)
    five = four[:, :, :, np.newaxis, :]  # how ITK stores vectors
    np.testing.assert_array_equal(read_scan(save(path, five), 1).voxels, VOXELS + 100)
    with pytest.raises(ScanError, match=r"^b.nii: --volume should be one of 0..0, got 1"):
        read_scan(save(tmp_path / "b.nii"), 1)


def test_colour_in_nifti_is_colour(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (*GRID, 3), np.uint8)
    record = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "a.nii", colour.view(record)[..., 0])
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").voxels, colour)


def test_a_file_whose_affines_differ_or_are_missing_is_told(tmp_path, caplog):
    image = nibabel.Nifti1Image(VOXELS, ALIGNED)
    image.set_sform(ALIGNED, 1)
    image.set_qform(np.diag([1, 2, 3, 1]), 1)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").affine, ALIGNED)
    assert caplog.messages == ["a.nii: sform and qform are 50 mm apart, the sform counts"]
    caplog.clear()
    image = nibabel.Nifti1Image(VOXELS, None)
    nibabel.save(image, tmp_path / "a.nii")
    read_scan(tmp_path / "a.nii")
    assert caplog.messages == [
        "a.nii: neither sform nor qform is set, left and right are not certain"
    ]


def test_voxels_that_are_no_number_count_as_the_lowest(caplog):
    voxels = np.array([3, np.nan, -2, np.nan], np.float32)
    np.testing.assert_array_equal(without_nan(voxels, "a.nii"), [3, -2, -2, -2])
    assert caplog.messages == ["a.nii: 2 voxels are NaN, and count as the lowest value"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"",
            "a.nii: not a readable NIfTI file (expected a header of 348 or 540 bytes at its "
            "start, found 0 bytes that begin with none)",
        ),
        (
            b"no nifti" * 100,
            "a.nii: not a readable NIfTI file (expected a header of 348 or 540 bytes at its "
            "start, found 544 bytes that begin with 6e 6f 20 6e)",
        ),
    ],
)
def test_what_is_no_nifti_is_one_line(content, reason, tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    with pytest.raises(ScanError) as raised:
        read_scan(path)
    assert str(raised.value).startswith(reason)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_nifti_is_one_line(name, kept, tmp_path):
    noise = np.random.default_rng(1).integers(0, 999, (20, 20, 20), np.int16)
    content = save(tmp_path / name, noise).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ScanError, match=f"^{name}: not a readable NIfTI file"):
        read_scan(tmp_path / name)


@pytest.mark.parametrize(
    ("affine", "voxels", "reason"),
    [
        (np.diag([1, 1, 0, 1]), VOXELS, "the affine should have an inverse"),
        (np.diag([1, np.nan, 1, 1]), VOXELS, "the affine should have an inverse"),
        (ALIGNED, VOXELS.astype(np.complex64), "voxels should be real numbers, found complex64"),
        (ALIGNED, np.zeros((4, 0, 2), np.int16), r"expected voxels, found a grid of \(4, 0, 2\)"),
    ],
)  # fmt: skip
def test_a_grid_nothing_can_be_done_with_is_refused(affine, voxels, reason):
    with pytest.raises(ScanError, match=f"^scan.nii: {reason}"):
        scan_of(voxels, affine)


def test_a_grid_beyond_memory_is_refused_before_it_is_read(tmp_path):
    path = save(tmp_path / "a.nii")
    header = nibabel.load(path).header.copy()
    header.set_data_shape((30000, 30000, 30000))
    path.write_bytes(header.binaryblock + bytes(1000))
    with pytest.raises(ScanError, match=r"^a.nii: declares 54000000000000 bytes, the limit is"):
        read_scan(path)


# --- NRRD and MetaImage


@pytest.mark.parametrize("placed", AFFINES)
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_itk_voxels_lie_where_simpleitk_says(suffix, placed, tmp_path):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(affine=AFFINES[placed]), str(path))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(scan.affine, itk_affine(image), atol=1e-9)
    np.testing.assert_allclose(scan.affine, AFFINES[placed], atol=1e-6)  # the text of a header


def test_several_components_are_colour_or_volumes(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (*GRID, 3), np.uint8)
    sitk.WriteImage(itk_image(colour, is_vector=True), str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.mha").voxels, colour)
    vectors = colour.astype(np.int16)
    sitk.WriteImage(itk_image(vectors, is_vector=True), str(tmp_path / "b.nrrd"))
    np.testing.assert_array_equal(read_scan(tmp_path / "b.nrrd", 2).voxels, vectors[..., 2])
    with pytest.raises(ScanError, match=r"^b.nrrd: has 3 volumes"):
        read_scan(tmp_path / "b.nrrd")
    four = sitk.JoinSeries([itk_image(), itk_image(VOXELS + 100)])
    sitk.WriteImage(four, str(tmp_path / "c.nrrd"))
    np.testing.assert_array_equal(read_scan(tmp_path / "c.nrrd", 1).voxels, VOXELS + 100)
    np.testing.assert_allclose(read_scan(tmp_path / "c.nrrd", 1).affine, ALIGNED)


@pytest.mark.parametrize("colour", [False, True])
def test_a_plane_of_itk_is_a_scan_of_one_slice(colour, tmp_path):
    plane = np.arange(20, dtype=np.uint8).reshape(4, 5)  # (J, I)
    stored = np.stack([plane, plane + 1, plane + 2], axis=-1) if colour else plane
    image = sitk.GetImageFromArray(stored, isVector=colour)
    image.SetSpacing((0.5, 0.25))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    scan = read_scan(tmp_path / "a.mha")
    assert scan.grid == (5, 4, 1)
    np.testing.assert_array_equal(scan.voxels[:, :, 0], np.swapaxes(stored, 0, 1))
    np.testing.assert_allclose(scan.spacing_mm, [0.5, 0.25, 1])


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("content", [b"", b"NRRD0005\n", b"NRRD0005\ntype: short\ndimension: 3\n"
                                     b"sizes: 4 4 4\nencoding: raw\n\nab", b"x" * 500])  # fmt: skip
def test_what_simpleitk_cannot_read_is_one_line(content, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ScanError, match=rf"^a{suffix}: not a readable file of its kind \(.+\)$"):
        read_scan(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("axes", [1, 6])
def test_dimensions_that_simpleitk_has_no_image_of_are_one_line(axes, suffix, tmp_path):
    ones = " ".join(["1"] * axes)
    (tmp_path / f"a{suffix}").write_text({
        ".nrrd": f"NRRD0004\ntype: short\ndimension: {axes}\nsizes: {ones}\nencoding: raw\n"
                 "endian: little\n\n..",
        ".mha": f"ObjectType = Image\nNDims = {axes}\nDimSize = {ones}\nElementType = MET_SHORT\n"
                "ElementDataFile = LOCAL\n..",
    }[suffix])  # fmt: skip
    with pytest.raises(ScanError) as raised:
        read_scan(tmp_path / f"a{suffix}")
    assert str(raised.value) == f"a{suffix}: expected a grid of 2..5 dimensions, found {axes}"


# --- pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("colour", [False, True])
def test_pictures_have_columns_first_and_red_first(suffix, colour, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    pixels = pixels if colour else pixels[..., 0]
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    scan = read_scan(tmp_path / f"a{suffix}")
    assert scan.grid == (6, 4, 1)
    np.testing.assert_array_equal(scan.voxels[:, :, 0], np.swapaxes(pixels, 0, 1))
    assert not scan.has_mm


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((40, 64), np.uint8)
    pixels[:8, :16] = 250
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        path = tmp_path / "a.jpg"
        Image.fromarray(pixels).save(path, exif=exif, quality=95)
        with Image.open(path) as stored:
            shown = np.asarray(ImageOps.exif_transpose(stored))
        found = read_scan(path).voxels[:, :, 0].T
        np.testing.assert_allclose(found.astype(int), shown, atol=12)


def test_alpha_is_dropped_and_a_palette_is_colour(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_scan(tmp_path / "a.png").voxels[:, :, 0], pixels[..., :3].swapaxes(0, 1)
    )
    palette = Image.fromarray(pixels[..., :3]).quantize(8)
    palette.save(tmp_path / "b.png")
    np.testing.assert_array_equal(
        read_scan(tmp_path / "b.png").voxels[:, :, 0],
        np.asarray(palette.convert("RGB")).swapaxes(0, 1),
    )


def test_sixteen_bits_are_kept(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 65536, (4, 6), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.png").voxels[:, :, 0], pixels.T)


def test_pages_of_a_tiff_are_a_volume(tmp_path):
    pages = np.arange(3 * 4 * 6, dtype=np.uint8).reshape(3, 4, 6)
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:])
    scan = read_scan(tmp_path / "a.tif")
    assert scan.grid == (6, 4, 3)
    np.testing.assert_array_equal(scan.voxels.T, pages)
    images[0].save(tmp_path / "b.tif", save_all=True, append_images=[images[0].resize((3, 3))])
    with pytest.raises(ScanError, match=r"^b.tif: pages should be of one size, found"):
        read_scan(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", pictures.SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"no picture at all" * 9])
def test_what_is_no_picture_is_one_line(content, suffix, tmp_path):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(ScanError, match=f"^a{suffix}: not a readable picture"):
        read_scan(tmp_path / f"a{suffix}")


# --- out

SEGMENTS = [
    Segment(1, "left lung", (0, 0, 0), (2, 2, 1)),
    Segment(2, "heart", (3, 1, 0), (4, 3, 2)),
]


def labels_for(scan):
    labels = np.zeros(scan.grid, np.uint8)
    for segment in SEGMENTS:
        box = zip(segment.first, segment.last, strict=True)
        labels[tuple(slice(a, b + 1) for a, b in box)] = segment.value
    return labels


@pytest.mark.parametrize("placed", AFFINES)
@pytest.mark.parametrize("codes", [(1, 1), (4, 0), (0, 1), (0, 0)])
def test_labels_of_a_nifti_have_its_affines_bit_by_bit(codes, placed, tmp_path):
    image = nibabel.Nifti1Image(VOXELS, AFFINES[placed])
    image.header.set_sform(AFFINES[placed], codes[0])
    image.header.set_qform(AFFINES[placed], codes[1])
    image.header.set_xyzt_units("micron")
    image.header["cal_max"] = 400
    nibabel.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    labels = labels_for(scan)
    (tmp_path / "out.nii.gz").write_bytes(nifti.encoded(labels, scan, tmp_path / "out.nii.gz"))
    source, out = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(out.dataobj, labels)
    assert out.get_data_dtype() == np.uint8
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b",
                  "quatern_c", "quatern_d", "qoffset_x", "pixdim", "xyzt_units"):  # fmt: skip
        np.testing.assert_array_equal(out.header[field], source.header[field])
    assert out.header["cal_max"] == 0


@pytest.mark.parametrize("placed", AFFINES)
@pytest.mark.parametrize("source", [".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd", ".nrrd", ".mha"])
def test_simpleitk_and_nibabel_see_the_labels_where_the_scan_is(source, suffix, placed, tmp_path):
    affine = AFFINES[placed]
    path, out = tmp_path / f"a{source}", tmp_path / f"out{suffix}"
    if source == ".nii":
        save(path, affine=affine)
    else:
        sitk.WriteImage(itk_image(affine=affine), str(path))
    scan = read_scan(path)
    labels = labels_for(scan)
    if suffix == ".nii.gz":
        out.write_bytes(nifti.encoded(labels, scan, out))
        np.testing.assert_allclose(nibabel.load(out).affine, affine, atol=STORED)
        np.testing.assert_array_equal(nibabel.load(out).dataobj, labels)
    else:
        out.write_bytes(itk.encoded(labels, scan, out, SEGMENTS))
    image = sitk.ReadImage(str(out))
    np.testing.assert_allclose(itk_affine(image), affine, atol=STORED)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, labels)


def test_a_segmentation_has_the_names_and_colours_3d_slicer_reads(tmp_path):
    scan, out = scan_of(VOXELS, ALIGNED), tmp_path / "out.seg.nrrd"
    out.write_bytes(itk.encoded(labels_for(scan), scan, out, SEGMENTS))
    image = sitk.ReadImage(str(out))
    for number, segment in enumerate(SEGMENTS):
        field = {key: image.GetMetaData(f"Segment{number}_{key}") for key in
                 ("ID", "Name", "LabelValue", "Layer", "Color", "Extent")}  # fmt: skip
        assert field["Name"] == segment.name
        assert field["LabelValue"] == str(segment.value)
        assert field["Layer"] == "0"
        assert field["Extent"] == "0 4 0 3 0 2"
        shown = np.array(field["Color"].split(), float) * 255
        np.testing.assert_allclose(shown, segment.colour, atol=1e-3)
    assert image.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"


def test_labels_of_pictures_are_pictures_of_the_same_size(tmp_path):
    scan = scan_of(VOXELS, ALIGNED)
    labels = labels_for(scan)
    (tmp_path / "out.tif").write_bytes(pictures.encoded(labels, tmp_path / "out.tif"))
    np.testing.assert_array_equal(read_scan(tmp_path / "out.tif").voxels, labels)
    with pytest.raises(ScanError, match=r"^out.png: 3 slices do not fit into one picture"):
        pictures.encoded(labels, tmp_path / "out.png")
    many = np.full((5, 4, 1), 300, np.uint16)
    (tmp_path / "out.png").write_bytes(pictures.encoded(many, tmp_path / "out.png"))
    np.testing.assert_array_equal(read_scan(tmp_path / "out.png").voxels, many)


def test_colours_differ():
    colours = np.array([Segment(value, "", (0,) * 3, (0,) * 3).colour for value in range(1, 13)])
    apart = np.abs(colours[:, np.newaxis] - colours).max(axis=-1)
    assert (apart + 999 * np.eye(12) > 30).all()


# --- kinds


def test_kinds_are_told_by_the_end_of_the_name(tmp_path):
    for name, stem, suffix in (("a.b.nii.gz", "a.b", ".nii.gz"), ("a.seg.nrrd", "a", ".seg.nrrd"),
                               ("x.NRRD", "x", ".seg.nrrd"), ("x.mhd", "x", ".mha"),
                               ("x.jpeg", "x", ".png"), ("x.tiff", "x", ".tiff")):  # fmt: skip
        path = tmp_path / name
        assert (stem_of(path), default_suffix(path)) == (stem, suffix)
    with pytest.raises(ScanError, match=r"^a.doc: expected DICOM or a name ending in .nii, "):
        read_scan(tmp_path / "a.doc")


@pytest.mark.parametrize("suffix", READERS)
def test_a_missing_file_and_a_missing_library_are_one_line(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(CaseError, match=f"^a{suffix}: expected a file, found none"):
        read_scan(path)
    path.touch()
    for library in ("nibabel", "SimpleITK", "pydicom"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(CaseError) as raised:
        read_scan(path)
    needed = {nifti.SUFFIXES: "nibabel", itk.SUFFIXES: "SimpleITK", dicom.SUFFIXES: "pydicom"}
    library = next((name for ends, name in needed.items() if suffix in ends), None)
    if library is not None:
        assert str(raised.value) == (
            f"a{suffix}: this kind of file needs {library}, which is not installed: "
            "pip install -r requirements-scans.txt"
        )
