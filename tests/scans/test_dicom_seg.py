"""DICOM out: what segmentations refer to, what independent readers make of them, the program."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.color import CIELabColor

from swiftmedsam.scans.dicom import seg as dicom_seg
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.outputs import Outputs
from swiftmedsam.scans.scan import ScanError, Segment
from swiftmedsam.scans.write import check_encoding
from tests.helpers import volume_case
from tests.helpers.boxes import BOXES, box_words, wanted_volume
from tests.helpers.dicom import (
    FRAME_OF_REFERENCE,
    ORDER,
    ROUNDED,
    SEGMENTS,
    SERIES,
    STUDY,
    TILT,
    TILTED,
    VOXELS,
    enhanced,
    series,
    some_labels,
)
from tests.helpers.scans import ALIGNED, grid_of, itk_affine, scan_of


def labels_of_segmentation(path, source, grid):
    """Labels (I, J, K) by the bits, the segment and the source image that each frame names.

    On the grid of the images of `source`, a folder, in order of their height.
    """
    images = [pydicom.dcmread(file) for file in source.iterdir()]
    images.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    order = [one.SOPInstanceUID for one in images]
    seg = pydicom.dcmread(path)
    size = seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    labels = np.zeros(grid, np.uint8)
    for count, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        plane = bits[count * size : (count + 1) * size].reshape(seg.Rows, seg.Columns).T
        source_image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        k = order.index(source_image.ReferencedSOPInstanceUID)
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(position) == list(images[k].ImagePositionPatient)
        value = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[:, :, k][plane > 0] = value
    return labels


def segmentation(kind, folder):
    """The file of a segmentation, and its labels."""
    if kind == "enhanced":
        source = folder / "a.dcm"
        enhanced().save_as(source, enforce_file_format=True)
    else:
        source = series(folder / "ct")
    scan, out = read_scan(source), folder / "out.dcm"
    labels = some_labels(scan.grid)
    out.write_bytes(dicom_seg.encoded(labels, scan, SEGMENTS, out))
    return out, labels


def test_a_segmentation_refers_to_the_images_it_lies_on(tmp_path):
    out, labels = segmentation("classic", tmp_path)
    folder = tmp_path / "ct"
    np.testing.assert_array_equal(labels_of_segmentation(out, folder, labels.shape), labels)
    seg = pydicom.dcmread(out)
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (STUDY, FRAME_OF_REFERENCE)
    assert (seg.Modality, seg.PatientID, seg.SeriesNumber) == ("SEG", "7", 1003)
    assert seg.SeriesInstanceUID != SERIES
    assert [one.SegmentLabel for one in seg.SegmentSequence] == [one.name for one in SEGMENTS]
    colours = [[*one.RecommendedDisplayCIELabValue] for one in seg.SegmentSequence]
    assert colours == [[*CIELabColor.from_rgb(*one.colour).value] for one in SEGMENTS]
    assert colours[1] == [*CIELabColor.from_rgb(51, 102, 255).value]
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(mm) for mm in measures.PixelSpacing] == [2, 1]


def test_a_segmentation_of_an_enhanced_file_refers_to_its_frames(tmp_path):
    out, labels = segmentation("enhanced", tmp_path)
    seg = pydicom.dcmread(out)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    found = np.zeros_like(labels)
    for plane, frame in zip(
        bits[: len(seg.PerFrameFunctionalGroupsSequence) * 35].reshape(-1, 5, 7),
        seg.PerFrameFunctionalGroupsSequence,
        strict=True,
    ):
        source_image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        k = ORDER[source_image.ReferencedFrameNumber - 1]
        value = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[:, :, k][plane.T > 0] = value
    np.testing.assert_array_equal(found, labels)


def test_segments_are_numbered_from_1_whatever_the_values_of_the_labels(tmp_path):
    """As DICOM wants it; names and colours are those of the values."""
    scan, out = read_scan(series(tmp_path / "ct")), tmp_path / "out.dcm"
    labels = np.array([0, 3, 700], np.uint16)[some_labels(scan.grid)]
    segments = [Segment(value, f"label {value}", (0, 0, 0), (1, 1, 1)) for value in (3, 700)]
    out.write_bytes(dicom_seg.encoded(labels, scan, segments, out))
    seg = pydicom.dcmread(out)
    assert [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence] == [
        (1, "label 3"), (2, "label 700")
    ]  # fmt: skip
    colours = [[*one.RecommendedDisplayCIELabValue] for one in seg.SegmentSequence]
    assert colours == [[*CIELabColor.from_rgb(*one.colour).value] for one in segments]
    found = labels_of_segmentation(out, tmp_path / "ct", labels.shape)
    np.testing.assert_array_equal(found, some_labels(scan.grid))
    labels[0, 0, 0] = 4
    with pytest.raises(ScanError, match=r"^ct: lacks what a DICOM segmentation must say"):
        dicom_seg.encoded(labels, scan, segments, out)


def test_what_is_no_dicom_gets_no_segmentation(tmp_path):
    scan = scan_of(VOXELS, ALIGNED)
    with pytest.raises(ScanError) as raised:
        dicom_seg.encoded(some_labels(scan.grid), scan, SEGMENTS, tmp_path / "out.dcm")
    assert str(raised.value) == ("out.dcm: a DICOM segmentation needs DICOM images, found scan.nii")
    folder = series(tmp_path / "ct")
    for path in folder.iterdir():
        lacking = pydicom.dcmread(path)
        del lacking.StudyInstanceUID
        lacking.save_as(path)
    scan = read_scan(folder)
    with pytest.raises(ScanError, match=r"^ct: lacks what a DICOM segmentation must say, .*Study"):
        dicom_seg.encoded(some_labels(scan.grid), scan, SEGMENTS, tmp_path / "out.dcm")


def tool(name):
    """Where a program is, in this Python's environment or on the PATH; None if it is not there."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(folders))


CHECKER, READER = tool("dciodvfy"), tool("segimage2itkimage")  # Debian's dicom3tools, dcmqi


@pytest.mark.skipif(CHECKER is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_segmentation_is_valid_dicom(kind, tmp_path):
    command = [CHECKER, segmentation(kind, tmp_path)[0]]
    found = subprocess.run(command, capture_output=True, text=True)
    assert "Error" not in found.stdout + found.stderr


@pytest.mark.skipif(READER is None, reason="dcmqi is not installed")
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_dcmqi_reads_the_same_labels_in_the_same_places(kind, tmp_path):
    out, labels = segmentation(kind, tmp_path)
    command = [READER, "--inputDICOM", out, "--outputDirectory", tmp_path, "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    for segment in SEGMENTS:
        image = sitk.ReadImage(str(tmp_path / f"{segment.value}.nrrd"))
        voxels = np.argwhere(sitk.GetArrayFromImage(image).T)
        found = np.insert(voxels, 3, 1, axis=1) @ itk_affine(image).T
        wanted = np.insert(np.argwhere(labels == segment.value), 3, 1, axis=1) @ ALIGNED.T
        np.testing.assert_allclose(found, wanted, atol=ROUNDED)


# --- the program


def test_a_dicom_folder_is_done_in_one_command(program, tiny_network, tmp_path):
    folder = series(tmp_path / "study", grid_of(volume_case()["imgs"].astype(np.int16)),
                    Modality="MR")  # fmt: skip
    status, lines = program(*box_words(), inputs=folder, outputs=None)
    assert status == 0
    # nothing of a library's own log
    assert [line.partition(" ")[0] for line in lines] == [
        "tiny,", "study:", "study:", "study:", "study", "1"
    ]  # fmt: skip
    assert lines[2] == "study: modality MR, as the file says"
    found = labels_of_segmentation(tmp_path / "study_labels.dcm", folder, (64, 40, 6))
    np.testing.assert_array_equal(found, wanted_volume(tiny_network))
    assert program(*box_words(), inputs=folder, outputs=tmp_path / "out.nii")[0] == 0
    out = nibabel.load(tmp_path / "out.nii")
    np.testing.assert_array_equal(out.dataobj, wanted_volume(tiny_network))
    np.testing.assert_allclose(out.affine, ALIGNED, atol=ROUNDED)


def test_an_image_of_the_folder_is_never_overwritten(program, tmp_path):
    """Nor one of a series that was not chosen; a segmentation that was written there is."""
    voxels = grid_of(volume_case()["imgs"].astype(np.int16))
    folder = series(tmp_path / "study", voxels, Modality="MR", SeriesNumber=3)
    series(folder, voxels[:, :, :3], SeriesNumber=7, SeriesInstanceUID="1.2.7")
    own = (folder / "3IM0002").rename(folder / "IM.dcm")
    other = (folder / "7IM0000").rename(folder / "other.dcm")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for out, options, refused in (
        (own, [], "IM.dcm"),
        (other, [], "other.dcm"),
        (folder / "out.dcm", ["--stats", str(own)], "IM.dcm"),
        (folder / "out.dcm", ["--failures", str(own)], "IM.dcm"),
    ):
        words = [*box_words(), "--series", "3", *options]
        for more in ([], ["--dry-run"]):
            status, lines = program(*words, *more, inputs=folder, outputs=out)
            assert status == 1
            assert f"{refused}: is an input, and is not overwritten" in lines
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    for _ in range(2):
        words = [*box_words(), "--series", "3"]
        assert program(*words, inputs=folder, outputs=folder / "out.dcm")[0] == 0


def test_a_dry_run_overwrites_no_image_either(program, tmp_path):
    voxels = grid_of(volume_case()["imgs"].astype(np.int16))
    folder = series(tmp_path / "study", voxels, Modality="MR")
    shown = (folder / "IM0001").rename(folder / "out_box1.png")
    before = shown.read_bytes()
    words = ["--dry-run", *box_words()]
    status, lines = program(*words, inputs=folder, outputs=folder / "out.dcm")
    assert (status, lines[-1]) == (1, "out_box1.png: is an input, and is not overwritten")
    assert shown.read_bytes() == before


def test_a_tilted_gantry_is_segmented_slice_by_slice(program, tiny_network, tmp_path):
    """As the same slices of a gantry that was upright; labels lie where each slice does."""
    voxels = grid_of(volume_case()["imgs"].astype(np.int16))
    folder = series(tmp_path / "study", voxels, TILTED, Modality="MR")
    outs = [tmp_path / f"out{suffix}" for suffix in (".dcm", ".nii.gz", ".seg.nrrd", ".mha")]
    table = tmp_path / "stats.csv"
    for out in outs:
        options = [*box_words(), "--stats", str(table)]
        status, lines = program(*options, inputs=folder, outputs=out)
        assert status == 0
        assert "study: the stack is tilted by 20.0 degrees" in lines[1]
    wanted = wanted_volume(tiny_network)
    np.testing.assert_array_equal(labels_of_segmentation(outs[0], folder, (64, 40, 6)), wanted)
    nifti = nibabel.load(outs[1])
    np.testing.assert_array_equal(nifti.dataobj, wanted)
    np.testing.assert_allclose(nifti.affine, TILTED, atol=ROUNDED)
    with pytest.raises(RuntimeError, match="only supports orthonormal direction cosines"):
        sitk.ReadImage(str(outs[1]))  # where it would else believe in a qform without the tilt
    for out in outs[2:]:
        found = sitk.ReadImage(str(out))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found).T, wanted)
        np.testing.assert_allclose(itk_affine(found), TILTED, atol=ROUNDED)
    (first, *_) = csv.DictReader(table.read_text().splitlines())
    millilitres = int(first["voxels"]) * 6 * np.cos(TILT) / 1000
    assert float(first["volume_ml"]) == pytest.approx(millilitres, rel=1e-4)


def test_a_study_of_a_batch_is_a_folder_in_the_folder(program, tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    for name in ("one", "two"):
        series(studies / name, grid_of(volume_case()["imgs"].astype(np.int16)))
    table = tmp_path / "boxes.csv"
    corners = ",".join(map(str, BOXES[0]))
    table.write_text(f"file,x_min,y_min,z_min,x_max,y_max,z_max\none,{corners}\ntwo,{corners}\n")
    status, _ = program("--boxes", str(table), inputs=studies, outputs=tmp_path / "out")
    assert status == 0
    assert {path.name for path in (tmp_path / "out").glob("*.dcm")} == {
        "one_labels.dcm", "two_labels.dcm"
    }  # fmt: skip


# --- names and texts


@pytest.mark.parametrize(
    ("charset", "patient"),
    [(None, "Mueller^Jan"), ("ISO_IR 100", "Müller^José"), ("ISO_IR 192", "Петров^Иван"),
     (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)  # fmt: skip
def test_names_come_back_as_they_went_in_and_so_do_the_texts_of_the_images(
    charset, patient, tmp_path, caplog
):
    """In UTF-8, whatever the images are in."""
    folder = series(tmp_path / "ct", SpecificCharacterSet=charset, PatientName=patient)
    scan, out = read_scan(folder), tmp_path / "out.dcm"
    names = ["肝臓", "Hüfte links", "x" * 64]
    segments = [Segment(i, name, (0, 0, 0), (1, 1, 1)) for i, name in enumerate(names, start=1)]
    dicom_seg.warn_of_names(segments, out)
    out.write_bytes(dicom_seg.encoded(some_labels(scan.grid), scan, segments, out))
    seg = pydicom.dcmread(out)
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert [one.SegmentLabel for one in seg.SegmentSequence] == names
    assert str(seg.PatientName) == patient
    assert "Hüfte".encode() in out.read_bytes()
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "written"),
    [("two\nlines", "two lines"), ("left\\right", "left right"), ("y" * 70, "y" * 64),
     (" spaced ", "spaced"), ("\n", "label 1"), ("half\ud800", "half?")],
)  # fmt: skip
def test_a_name_that_dicom_cannot_say_is_told(name, written, tmp_path, caplog):
    scan, out = read_scan(series(tmp_path / "ct")), tmp_path / "out.dcm"
    segments = [Segment(1, name, (0, 0, 0), (1, 1, 1))]
    check_encoding(Outputs(out), scan, segments)
    labels = some_labels(scan.grid) == 1
    out.write_bytes(dicom_seg.encoded(labels.astype(np.uint8), scan, segments, out))
    assert pydicom.dcmread(out).SegmentSequence[0].SegmentLabel == written
    (message,) = caplog.messages
    assert message.startswith("out.dcm: the name '")
    assert message.isprintable()
    assert f"' is written as '{written}': DICOM allows 64 characters, no line break" in message
