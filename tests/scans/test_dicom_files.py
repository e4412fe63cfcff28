"""Which files of a DICOM folder are used, of which series; what is no slice; what is not used."""

import re
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError
from tests.helpers.dicom import ENHANCED_MR, VOXELS, image, place_tags, series
from tests.helpers.scans import ALIGNED

RAW_DATA, SIEMENS_OTHER = "1.2.840.10008.5.1.4.1.1.66", "1.3.12.2.1107.5.9.1"


def said(path, volume=None, series=None):
    with pytest.raises(ScanError) as raised:
        read_scan(path, volume, series)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- files that are damaged

DAMAGES = {
    "empty": (lambda content: b"", "expected DICOM, found an empty file"),
    "cut in its first lines": (
        lambda content: content[:700],
        "expected an image, found a DICOM file that ends before its Rows: it is cut",
    ),
    "cut behind its preamble": (
        lambda content: content[:136],
        "expected an image, found a DICOM file that ends before its Rows: it is cut",
    ),
    "with a SOPInstanceUID of no VR": (
        lambda content: content.replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x18\x00U\x80"),
        "SOPInstanceUID cannot be read: it is damaged",
    ),
    "cut in its pixels": (lambda content: content[:-40], ""),
    "without preamble": (
        lambda content: content[132:], "expected DICOM, found a file without its prefix"
    ),
    "without preamble and meta information": (
        lambda content: content[content.index(b"\x08\x00\x16\x00UI") :],
        "expected DICOM, found a file without its prefix",
    ),
    "of another kind": (lambda content: b"<html>404", "expected DICOM, found another kind of file"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["IM0002.dcm", "IM0002.IMA", "IM0002"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_among_slices_is_no_slice_less(damage, name, tmp_path, caplog):
    folder = series(tmp_path / "ct")
    change, message = DAMAGES[damage]
    content = change((folder / "IM0002").read_bytes())
    (folder / "IM0002").unlink()
    (folder / name).write_bytes(content)
    if name == "IM0002" and damage == "empty":
        # it might be anything, and the last slice: a warning names it
        with pytest.raises(ScanError):
            read_scan(folder)
        assert caplog.messages == ["ct: left alone (no images): IM0002"]
    elif name == "IM0002" and damage == "of another kind":
        with pytest.raises(ScanError, match="some are missing"):
            read_scan(folder)
    else:
        assert said(folder).startswith(f"{name}: {message}")


def test_a_link_to_nothing_is_no_slice_less(tmp_path, caplog):
    """As data sets have them whose files were not downloaded."""
    folder = series(tmp_path / "ct")
    (folder / "last").symlink_to(tmp_path / "away")
    read_scan(folder)
    assert caplog.messages == ["ct: left alone (no images): last"]
    (folder / "last.dcm").symlink_to(tmp_path / "away")
    assert said(folder) == "last.dcm: expected DICOM, found a link to a file that is not there"


def test_slices_that_are_packed_or_behind_a_link_are_named(tmp_path, caplog):
    folder, behind = series(tmp_path / "ct"), tmp_path / "behind"
    behind.mkdir()
    (folder / "a.dcm.gz").write_bytes(b"\x1f\x8b packed")
    (folder / "b").symlink_to(behind)
    read_scan(folder)
    assert caplog.messages == ["ct: left alone (no images): a.dcm.gz, b"]


def test_several_damaged_files_are_counted(tmp_path):
    folder = series(tmp_path / "ct")
    for k in (4, 5, 6):
        (folder / f"IM000{k}.dcm").touch()
    assert said(folder) == (
        "IM0004.dcm: expected DICOM, found an empty file (and 2 more such files)"
    )


@pytest.mark.parametrize(
    ("name", "content", "warned"),
    [
        ("notes.txt", b"no DICOM", False),
        ("preview.jpg", b"\xff\xd8\xff\xe0", False),
        ("._IM0001.dcm", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", True),
        ("IM0009", b"", True),
    ],
)
def test_files_that_are_no_dicom_are_left_alone(name, content, warned, tmp_path, caplog):
    folder = series(tmp_path / "ct")
    (folder / name).write_bytes(content)
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)
    assert caplog.messages == ([f"ct: left alone (no images): {name}"] if warned else [])


@pytest.mark.parametrize(
    ("sop_class", "modality", "warned"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.33", "SR", False),
        ("1.2.840.10008.1.3.10", "", False),  # DICOMDIR
        (RAW_DATA, "MR", False),
        (SIEMENS_OTHER, "MR", True),
    ],
)
def test_objects_that_are_no_images_are_left_alone(sop_class, modality, warned, tmp_path, caplog):
    folder = series(tmp_path / "ct")
    other = image(VOXELS[:, :, 0], sop_class, Modality=modality)
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(other, keyword)
    other.save_as(folder / "other.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)
    assert caplog.messages == (["ct: left alone (no images): other.dcm"] if warned else [])


# --- copies


def test_a_copy_of_an_image_is_left_out_with_a_warning(tmp_path, caplog):
    folder = series(tmp_path / "ct")
    shutil.copytree(folder, folder / "backup")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert caplog.messages == [
        "ct: 4 files are copies of others and left out: IM0000, IM0001, IM0002, IM0003"
    ]
    assert len(scan.files) == 8  # none of which is written over


@pytest.mark.parametrize("tag", ["PixelData", "ImagePositionPatient"])
def test_two_images_of_one_uid_that_differ_are_refused(tag, tmp_path):
    folder = series(tmp_path / "ct")
    other = pydicom.dcmread(folder / "IM0001")
    other[tag].value = bytes(len(other.PixelData)) if tag == "PixelData" else [1, 2, 3]
    other.save_as(folder / "other")
    assert said(folder) == (
        "ct: IM0001 and other have one SOPInstanceUID and should be the same, and are not"
    )


# --- series


def offered(message):
    """What chooses a series, of a message that lists them."""
    match = re.fullmatch(r"study: --series should name one of (\d) series: (.*)", message)
    choices = [choice.partition(" (")[0] for choice in match[2].split("; ")]
    assert len(choices) == int(match[1])
    return choices


STUDIES = {  # (folder, SeriesInstanceUID, SeriesNumber) of each series
    "numbers": [("a", "1.2.1", 3), ("b", "1.2.2", 4)],
    "one number": [("a", "1.2.1", 3), ("b", "1.2.2", 3)],
    "one number, and another": [("a", "1.2.1", 3), ("b", "1.2.2", 3), ("c", "1.2.3", 4)],
    "one folder": [("", "1.2.1", 3), ("", "1.2.2", 3)],
    "no numbers": [("a", "1.2.1", None), ("b", "1.2.2", None)],
    "one UID": [("a", "1.2.1", 3), ("b", "1.2.1", 4)],
    "one UID, no number": [("a", "1.2.1", 3), ("b", "1.2.1", None), ("c", "1.2.2", 3)],
}


@pytest.mark.parametrize("kind", STUDIES)
def test_every_choice_of_series_that_is_offered_works(kind, tmp_path):
    study = tmp_path / "study"
    for count, (inside, uid, number) in enumerate(STUDIES[kind]):
        (study / inside).mkdir(parents=True, exist_ok=True)
        for k in range(4):
            pixels = np.ascontiguousarray(VOXELS[:, :, k].T + 1000 * count)
            image(pixels, SeriesInstanceUID=uid, SeriesNumber=number, StudyDate=f"2024010{count}",
                  **place_tags(ALIGNED, k)).save_as(
                study / inside / f"{count}_{k}", enforce_file_format=True)  # fmt: skip
    message = said(study)
    choices = offered(message)
    assert len(set(choices)) == len(choices)
    if kind == "one UID, no number":
        assert choices == ["1.2.1", "1.2.2"]
        for volume, count in ((0, 1), (1, 0)):  # the one without a number first
            scan = read_scan(study, volume, "1.2.1")
            np.testing.assert_array_equal(scan.voxels, VOXELS + 1000 * count)
        return
    for count, (inside, _, number) in enumerate(STUDIES[kind]):
        scan = read_scan(study, None, choices[count])
        np.testing.assert_array_equal(scan.voxels, VOXELS + 1000 * count)
        if choices[count] != str(number):
            assert f"2024010{count}" in message
            assert not inside or f"in {inside})" in message


def test_series_of_one_uid_and_two_numbers_are_two_volumes_of_the_uid(tmp_path):
    folder = series(tmp_path / "study", SeriesInstanceUID="1.2.3", SeriesNumber=3)
    series(folder, VOXELS + 500, SeriesInstanceUID="1.2.3", SeriesNumber=4)
    assert said(folder, series="1.2.3") == (
        "study: has 2 volumes, --volume should name one of 0..1: 0 (SeriesNumber 3, 4 slices); "
        "1 (SeriesNumber 4, 4 slices)"
    )
    np.testing.assert_array_equal(read_scan(folder, 1, "1.2.3").voxels, VOXELS + 500)
    np.testing.assert_array_equal(read_scan(folder, None, "3").voxels, VOXELS)


def test_a_number_of_a_series_that_is_none_is_no_warning(tmp_path, recwarn):
    folder = series(tmp_path / "ct", SeriesNumber=3)
    for path in folder.iterdir():
        content = path.read_bytes()
        at = content.index(b"\x20\x00\x11\x00IS")
        assert content[at + 6 : at + 8] == b"\x02\x00"
        path.write_bytes(content[: at + 6] + b"\x04\x003.5 " + content[at + 10 :])
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)
    assert not recwarn


# --- places


def with_tags(folder, count, **tags):
    """A series of which the first `count` files have other tags; None takes one away."""
    series(folder)
    for path in sorted(folder.iterdir())[:count]:
        dataset = pydicom.dcmread(path)
        for keyword, value in tags.items():
            delattr(dataset, keyword)
            if isinstance(value, pydicom.DataElement):
                dataset.add(value)
            elif value is not None:
                setattr(dataset, keyword, value)
        dataset.save_as(path)
    return folder


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PixelSpacing": pydicom.DataElement(0x00280030, "DS", "0.5")},
         "IM0000: PixelSpacing should be 2 numbers, found '0.5'"),
        ({"PixelSpacing": ["0", "1"]}, "IM0000: PixelSpacing should be above 0, found [0.0, 1.0]"),
        ({"PixelSpacing": None}, "expected PixelSpacing, found none"),
        ({"ImagePositionPatient": ["1", "2"]},
         "IM0000: ImagePositionPatient should be 3 numbers, found '[1, 2]'"),
        ({"ImageOrientationPatient": ["1"] * 5},
         "IM0000: ImageOrientationPatient should be 6 numbers, found"),
        ({"ImageOrientationPatient": None}, "expected ImageOrientationPatient, found none"),
    ],
)  # fmt: skip
def test_a_tag_of_a_place_that_is_none_is_named(tags, message, tmp_path):
    assert message in said(with_tags(tmp_path / "ct", 4, **tags))


def test_slices_without_a_place_among_others_are_refused(tmp_path):
    folder = with_tags(tmp_path / "ct", 1, ImagePositionPatient=None)
    assert said(folder) == "ct: IM0000: expected ImagePositionPatient, found none"
    folder = with_tags(tmp_path / "none", 4, ImagePositionPatient=None)
    assert said(folder) == "none: 4 slices should have a position each, found none"


@pytest.mark.parametrize(
    "directions", [[2, 0, 0, 0, 0.5, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
)
def test_an_orientation_is_two_directions_at_right_angles(directions, tmp_path):
    folder = with_tags(tmp_path / "ct", 4, ImageOrientationPatient=directions)
    assert said(folder).startswith("ct: ImageOrientationPatient should be two directions at right")


def test_grey_and_colour_are_never_one_volume(tmp_path):
    folder = series(tmp_path / "ct")
    pixels = np.zeros((5, 7, 3), np.uint8)
    colour = image(pixels[..., 0], **place_tags(ALIGNED, 4))
    colour.SamplesPerPixel, colour.PhotometricInterpretation = 3, "RGB"
    colour.PlanarConfiguration, colour.PixelData = 0, pixels.tobytes()
    colour.save_as(folder / "colour", enforce_file_format=True)
    said(folder)
    np.testing.assert_array_equal(read_scan(folder, 0).voxels, VOXELS)


# --- pictures that are no slices


@pytest.mark.parametrize("form", ["MOSAIC", "VFRAME", "private"])
def test_a_mosaic_of_slices_is_refused(form, tmp_path):
    dataset = image(VOXELS[:, :, 0].T.copy(), Modality="MR", **place_tags(ALIGNED, 0))
    if form == "private":
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", 36)
    else:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", form]
    dataset.save_as(tmp_path / "a.IMA", enforce_file_format=True)
    assert said(tmp_path / "a.IMA").startswith(
        "a.IMA: expected one slice, found a mosaic of many slices in one picture ("
    )


SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


@pytest.mark.parametrize("form", ["full", "sparse", "class", "one tile", "places"])
def test_tiles_of_a_slide_are_refused(form, tmp_path):
    tiles = VOXELS.T.astype(np.uint8).copy()
    slide = image(tiles, ENHANCED_MR if form == "places" else SLIDE, Modality="SM")
    if form in ("full", "sparse", "one tile"):
        slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows = 14, 10
    if form == "one tile":
        slide.NumberOfFrames, slide.PixelData = 1, tiles[0].tobytes()
    if form in ("sparse", "places"):
        slide.PerFrameFunctionalGroupsSequence = [Dataset() for _ in tiles]
        for group in slide.PerFrameFunctionalGroupsSequence:
            group.PlanePositionSlideSequence = [Dataset()]
    slide.save_as(tmp_path / "slide.dcm", enforce_file_format=True)
    assert "tiles of a slide" in said(tmp_path / "slide.dcm")
    assert "tiles of a slide" in said(tmp_path / "slide.dcm", 0)


def test_a_slide_in_one_piece_is_a_picture(tmp_path):
    slide = image(VOXELS[:, :, 0].T.astype(np.uint8), SLIDE, Modality="SM")
    slide.NumberOfFrames = 1
    slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows = 7, 5
    slide.save_as(tmp_path / "thumbnail.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_scan(tmp_path / "thumbnail.dcm").voxels, VOXELS[:, :, :1])


@pytest.mark.parametrize("tags", [{}, {"FrameTime": "33", "FrameIncrementPointer": "FrameTime"},
                                  {"FrameTimeVector": ["0", "40", "41", "39"],
                                   "FrameIncrementPointer": "FrameTimeVector"},
                                  {"AngularViewVector": [1, 2, 3, 4],
                                   "FrameIncrementPointer": "AngularViewVector"},
                                  place_tags(ALIGNED, 0)])  # fmt: skip
def test_frames_in_time_and_projections_are_images(tags, tmp_path):
    image(VOXELS.T.copy(), **{"Modality": "US", **tags}).save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    assert "0..3" in said(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.dcm", 2).voxels, VOXELS[:, :, 2:3])
    assert said(tmp_path / "a.dcm", 4).endswith("should be one of 0..3, got 4")


def test_slices_of_nuclear_medicine_are_in_the_order_of_their_numbers(tmp_path, caplog):
    """Two time slots; frames in no order."""
    numbers, slots = [2, 1, 1, 2], [1, 1, 2, 2]
    nm = image(VOXELS.T.copy(), Modality="NM", SliceVector=numbers, TimeSlotVector=slots,
               FrameIncrementPointer=["TimeSlotVector", "SliceVector"])  # fmt: skip
    nm.save_as(tmp_path / "nm.dcm", enforce_file_format=True)
    assert said(tmp_path / "nm.dcm").startswith("nm.dcm: has 2 volumes, --volume should name")
    for volume, frames in ((0, [1, 0]), (1, [2, 3])):
        scan = read_scan(tmp_path / "nm.dcm", volume)
        np.testing.assert_array_equal(scan.voxels, VOXELS[:, :, frames])
        assert not scan.has_mm
    nm.SliceVector = [3, 1, 1, 3]
    nm.save_as(tmp_path / "gap.dcm", enforce_file_format=True)
    assert said(tmp_path / "gap.dcm", 0) == (
        "gap.dcm: SliceVector should be 1 to 2 in a volume, is not"
    )


@pytest.mark.parametrize("missing", [(), (1,), (2,)])
def test_an_image_in_several_files_is_whole(missing, tmp_path):
    """A concatenation: each of its files has some of the frames."""
    folder = tmp_path / "mr"
    folder.mkdir()
    uid = generate_uid()
    for part in range(3):
        if part in missing:
            continue
        frames = VOXELS[:, :, [part]].T.copy()
        dataset = image(frames, ENHANCED_MR, Modality="MR", ConcatenationUID=uid,
                        InConcatenationNumber=part + 1, InConcatenationTotalNumber=3)  # fmt: skip
        item, group = Dataset(), Dataset()
        for keyword, value in place_tags(ALIGNED, part).items():
            setattr(item, keyword, value)
        for sequence in ("PixelMeasures", "PlanePosition", "PlaneOrientation"):
            setattr(group, f"{sequence}Sequence", [item])
        dataset.PerFrameFunctionalGroupsSequence = [group]
        dataset.save_as(folder / f"{part}.dcm", enforce_file_format=True)
    if missing:
        assert said(folder) == (
            "mr: an image should be in 3 files (InConcatenationTotalNumber), found 2 of them"
        )
    else:
        np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS[:, :, :3])
