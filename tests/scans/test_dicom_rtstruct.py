"""DICOM structure sets: what other ways of filling outlines make of them, references, the program.

The readers are in `tests.helpers.structures`.
"""

import shutil
import subprocess

import cv2
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from swiftmedsam.scans.dicom import rtstruct
from swiftmedsam.scans.dicom.outlines import INSET, outlines
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.outputs import outputs_of
from swiftmedsam.scans.scan import ScanError, Segment
from swiftmedsam.scans.write import check_encoding
from tests.helpers import volume_case
from tests.helpers.boxes import box_words, wanted_volume
from tests.helpers.dicom import (
    FRAME_OF_REFERENCE,
    SEGMENTS,
    SERIES,
    STUDY,
    TILTED,
    enhanced,
    series,
    some_labels,
)
from tests.helpers.scans import AFFINES, ALIGNED, grid_of, scan_of
from tests.helpers.structures import READERS, headers_of, read_back

AFFINES = {
    **AFFINES,
    "flipped": ALIGNED @ np.diag([-1, 1, -1, 1]),
    "anisotropic": ALIGNED @ np.diag([0.31, 1.7, 4, 1]),
    "tilted gantry": TILTED,
    "microscopic": ALIGNED @ np.diag([1e-4, 2e-4, 1e-3, 1]),
}


def objects(grid=(40, 33, 5)):
    """Labels (I, J, K) with islands in holes, parts that meet in a corner, single pixels."""
    i, j, k = np.indices(grid)
    radius = np.hypot(i - 18.3, (j - 15.8) * 1.2) + k
    labels = np.zeros(grid, np.uint8)
    labels[(radius < 16) & ~((radius > 5) & (radius < 9))] = 1  # a ring, and an island in it
    labels[(radius > 5.5) & (radius < 8.5)] = 2  # fills the hole
    noise = np.random.default_rng(1).random(grid)
    labels[30:, :12, 2:][(ndimage.gaussian_filter(noise, 0.7) > 0.5)[30:, :12, 2:]] = 3
    labels[0, 0, 0] = labels[-1, -1, -1] = labels[1, 1, 0] = 3
    return labels


THREE = [Segment(value, f"object {value}", (0, 0, 0), (1, 1, 1)) for value in (1, 2, 3)]


# --- outlines


@pytest.mark.parametrize("filling", [0.2, 0.5, 0.7, 0.95])
def test_every_way_to_fill_outlines_gives_the_mask_back(filling):
    """Also where parts meet in corners, with holes in a row, and at the border."""
    random = np.random.default_rng(round(100 * filling))
    for _ in range(40):
        mask = random.random(random.integers(1, 20, 2)) < filling
        centres = np.argwhere(np.ones(mask.shape))[:, ::-1]
        united, exclusive = np.zeros_like(mask), np.zeros_like(mask)
        rounded = np.zeros(mask.shape, np.uint8)
        for polygon in outlines(mask):
            inside = Polygon(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(
                centres
            )
            united |= inside.reshape(mask.shape)
            exclusive ^= inside.reshape(mask.shape)
            cv2.fillPoly(rounded, [np.rint(polygon).astype(np.int32)], 1)
        for found in (united, exclusive, rounded > 0):
            np.testing.assert_array_equal(found, mask)


def test_an_outline_encloses_the_area_of_its_pixels():
    """No half pixel is lost at the edges; a hole takes its area away."""
    mask = np.zeros((9, 12), bool)
    mask[1:8, 2:11] = True
    mask[3:5, 5:7] = False
    (polygon,) = outlines(mask)
    x, y = polygon.T
    area = (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area == pytest.approx(mask.sum(), abs=2 * INSET * (2 * (7 + 9) + 2 * (2 + 2)))
    assert polygon.min(axis=0) == pytest.approx([1.5, 0.5], abs=2 * INSET)
    assert polygon.max(axis=0) == pytest.approx([10.5, 7.5], abs=2 * INSET)


# --- files


@pytest.mark.parametrize("name", AFFINES)
def test_readers_find_the_same_voxels(name, tmp_path):
    labels = objects()
    folder = series(tmp_path / "ct", np.zeros(labels.shape, np.int16), AFFINES[name])
    scan, out = read_scan(folder), tmp_path / "out.rtstruct.dcm"
    out.write_bytes(rtstruct.encoded(labels, scan, THREE, out))
    found = read_back(out, headers_of(folder))
    for one in THREE:
        for reader in READERS:
            np.testing.assert_array_equal(
                found[one.name][reader], (labels == one.value).T, err_msg=reader
            )


def test_a_structure_set_refers_to_its_images(tmp_path):
    folder = series(tmp_path / "ct", PatientName="Müller^José", SpecificCharacterSet="ISO_IR 100")
    scan, out = read_scan(folder), tmp_path / "out.rtstruct.dcm"
    out.write_bytes(rtstruct.encoded(some_labels(scan.grid), scan, SEGMENTS, out))
    one = pydicom.dcmread(out)
    assert (one.SOPClassUID.name, one.Modality) == ("RT Structure Set Storage", "RTSTRUCT")
    assert (one.StudyInstanceUID, one.PatientID, one.SeriesNumber) == (STUDY, "7", 1003)
    assert str(one.PatientName) == "Müller^José"
    assert one.SeriesInstanceUID != SERIES
    (frame,) = one.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == FRAME_OF_REFERENCE
    (study,) = frame.RTReferencedStudySequence
    (named,) = study.RTReferencedSeriesSequence
    assert (study.ReferencedSOPInstanceUID, named.SeriesInstanceUID) == (STUDY, SERIES)
    images = {image.ReferencedSOPInstanceUID for image in named.ContourImageSequence}
    assert images == {header.SOPInstanceUID for header in headers_of(folder)}
    rois = one.StructureSetROISequence
    assert [roi.ROIName for roi in rois] == [segment.name for segment in SEGMENTS]
    assert {roi.ReferencedFrameOfReferenceUID for roi in rois} == {FRAME_OF_REFERENCE}
    colours = [tuple(roi.ROIDisplayColor) for roi in one.ROIContourSequence]
    assert colours == [segment.colour for segment in SEGMENTS]
    assert "ContourSequence" not in one.ROIContourSequence[2]  # nothing of it was found


def test_outlines_on_an_enhanced_file_name_its_frames(tmp_path):
    path, out = tmp_path / "a.dcm", tmp_path / "out.rtstruct.dcm"
    enhanced().save_as(path, enforce_file_format=True)
    scan = read_scan(path)
    labels = some_labels(scan.grid)
    out.write_bytes(rtstruct.encoded(labels, scan, SEGMENTS, out))
    uid = pydicom.dcmread(path).SOPInstanceUID
    found = set()
    for roi in pydicom.dcmread(out).ROIContourSequence[:2]:
        for contour in roi.ContourSequence:
            (image,) = contour.ContourImageSequence
            assert image.ReferencedSOPInstanceUID == uid
            k = [frame + 1 for _, frame in scan.sources].index(image.ReferencedFrameNumber)
            z = (scan.affine @ [0, 0, k, 1])[2]
            assert contour.ContourData[2::3] == pytest.approx([z] * contour.NumberOfContourPoints)
            found.add((int(roi.ReferencedROINumber), k))
    assert found == {(int(v), k) for k in range(4) for v in np.unique(labels[:, :, k]) if v}


def test_an_outline_of_many_points_is_written_whole(tmp_path):
    """More than 64 kB of text, which an explicit transfer syntax could not hold."""
    noisy = (np.random.default_rng(1).random((128, 128, 1)) < 0.75).astype(np.uint8)
    folder = series(tmp_path / "ct", np.zeros(noisy.shape, np.int16), AFFINES["oblique"])
    out = tmp_path / "out.rtstruct.dcm"
    out.write_bytes(rtstruct.encoded(noisy, read_scan(folder), THREE[:1], out))
    contours = pydicom.dcmread(out).ROIContourSequence[0].ContourSequence
    assert max(len("\\".join(map(str, one.ContourData))) for one in contours) > 1 << 16
    found = read_back(out, headers_of(folder))["object 1"]
    for reader in READERS:
        np.testing.assert_array_equal(found[reader], noisy.T, err_msg=reader)


CHECKER = shutil.which("dciodvfy")  # Debian's dicom3tools


@pytest.mark.skipif(CHECKER is None, reason="dciodvfy is not installed")
def test_a_structure_set_is_valid_dicom(tmp_path):
    scan, out = read_scan(series(tmp_path / "ct")), tmp_path / "out.rtstruct.dcm"
    out.write_bytes(rtstruct.encoded(some_labels(scan.grid), scan, SEGMENTS, out))
    found = subprocess.run([CHECKER, out], capture_output=True, text=True)
    assert "Error" not in found.stdout + found.stderr


# --- what cannot be written


def test_what_has_no_place_in_a_patient_gets_no_structure_set(tmp_path):
    out = outputs_of(tmp_path / "scan.nii", tmp_path / "out.rtstruct.dcm")
    scan = scan_of(np.zeros((7, 5, 4)), ALIGNED)
    with pytest.raises(ScanError) as raised:
        check_encoding(out, scan, SEGMENTS)
    assert str(raised.value) == (
        "out.rtstruct.dcm: a DICOM structure set needs DICOM images, found scan.nii"
    )
    path = next(series(tmp_path / "ct").iterdir())
    header = pydicom.dcmread(path)
    del header.ImagePositionPatient
    header.save_as(path)
    with pytest.raises(ScanError) as raised:
        check_encoding(out, read_scan(path), SEGMENTS)
    assert str(raised.value) == (
        "out.rtstruct.dcm: a DICOM structure set is in mm, and the images of "
        f"{path.name} have no position (ImagePositionPatient)"
    )


@pytest.mark.parametrize(
    "keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"]
)
def test_a_tag_that_a_structure_set_needs_is_named_before_the_work(keyword, tmp_path):
    folder = series(tmp_path / "ct")
    for path in folder.iterdir():
        lacking = pydicom.dcmread(path)
        delattr(lacking, keyword)
        lacking.save_as(path)
    out = outputs_of(folder, tmp_path / "out.rtstruct.dcm")
    with pytest.raises(ScanError) as raised:
        check_encoding(out, read_scan(folder), SEGMENTS)
    assert str(raised.value) == (
        "ct: lacks what a DICOM structure set must say, an output as .nii.gz can be made "
        f"({keyword} is missing)"
    )


# --- the program


def test_the_program_writes_a_structure_set_by_its_name(program, tiny_network, tmp_path):
    folder = series(tmp_path / "study", grid_of(volume_case()["imgs"].astype(np.int16)),
                    Modality="MR")  # fmt: skip
    out = tmp_path / "plan.rtstruct.dcm"
    words = [*box_words(), "--units", "voxel"]
    status, lines = program(*words, inputs=folder, outputs=out)
    assert status == 0, lines
    assert [path.name for path in tmp_path.glob("plan*")] == [out.name]  # it holds the names
    wanted = wanted_volume(tiny_network)
    found = list(read_back(out, headers_of(folder)).values())
    assert len(found) == 3
    for value, masks in enumerate(found, start=1):
        np.testing.assert_array_equal(masks[READERS[0]], (wanted == value).T)
    assert program(*words, inputs=folder, outputs=out)[0] == 0  # and over its own file
