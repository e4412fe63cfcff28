"""DICOM segmentations as labels: of highdicom and of this program, on the grid of a scan."""

import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless, generate_uid

from swiftmedsam.scans.dicom import seg as dicom_seg
from swiftmedsam.scans.dicom.labels import label_map_of
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.label_maps import boxes_around_labels, read_labels
from swiftmedsam.scans.scan import ScanError, Segment
from tests.helpers.dicom import SEGMENTS, VOXELS, enhanced, image, series, some_labels
from tests.helpers.scans import ALIGNED, save

US = "1.2.840.10008.5.1.4.1.1.6.1"


def own(scan, path, labels=None):
    """A SEG that this program writes."""
    labels = some_labels(scan.grid) if labels is None else labels
    path.write_bytes(dicom_seg.encoded(labels, scan, SEGMENTS, path))
    return path


def others(folder, path, planes, kind="BINARY", **options):
    """A SEG of highdicom: planes (K, rows, columns[, segments]) on the images of a folder."""
    images = [pydicom.dcmread(file) for file in folder.iterdir()]
    images.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    count = planes.shape[3] if planes.ndim == 4 else int(planes.max())
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number, segment_label=f"part {number}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue, algorithm_type="MANUAL",
        )
        for number in range(1, count + 1)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        highdicom.seg.Segmentation(
            source_images=images, pixel_array=planes, segmentation_type=kind,
            segment_descriptions=descriptions, series_instance_uid=generate_uid(),
            series_number=9, sop_instance_uid=generate_uid(), instance_number=1,
            manufacturer="Nobody", manufacturer_model_name="None", software_versions="1",
            device_serial_number="0", **options,
        ).save_as(path)  # fmt: skip
    return path


def refusal(path, scan, margin=0):
    with pytest.raises(ScanError) as raised:
        boxes_around_labels(path, scan, margin)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def ends(drawn):
    return [one.points.astype(int).tolist() for one in drawn]


def picture():
    """An ultrasound image without a position."""
    return image(np.ascontiguousarray(VOXELS[:, :, 0].T), US, Modality="US")


WANTED = [[[0, 0, 0], [2, 2, 1]], [[3, 1, 0], [4, 3, 2]]]


@pytest.mark.parametrize("kind", ["classic", "enhanced", "picture"])
def test_what_this_program_writes_it_reads_as_boxes(kind, tmp_path, caplog):
    """In order, with names and colours; by the image where it has no position."""
    if kind == "classic":
        source = series(tmp_path / "ct")
    else:
        source = tmp_path / "a.dcm"
        dataset = enhanced() if kind == "enhanced" else picture()
        dataset.save_as(source, enforce_file_format=True)
    scan = read_scan(source)
    assert scan.has_mm == (kind != "picture")
    path = own(scan, tmp_path / "seg.dcm")
    drawn = boxes_around_labels(path, scan, 0)
    assert ends(drawn) == [
        [first, [*last[:2], min(last[2], scan.grid[2] - 1)]] for first, last in WANTED
    ]
    assert [one.name for one in drawn] == ["left lung", "heart"]
    colours = [SEGMENTS[0].colour, SEGMENTS[1].own_colour]
    np.testing.assert_allclose([one.colour for one in drawn], colours, atol=1)
    assert caplog.messages == ["seg.dcm: 'not found' has no voxel, and is left out"]
    np.testing.assert_array_equal(read_labels(path, scan).voxels, some_labels(scan.grid))


def test_a_margin_stays_in_the_grid(tmp_path):
    scan = read_scan(series(tmp_path / "ct"))
    drawn = boxes_around_labels(own(scan, tmp_path / "seg.dcm"), scan, 2)
    assert ends(drawn) == [[[0, 0, 0], [4, 4, 3]], [[1, 0, 0], [6, 4, 3]]]


def planes_of(scan):
    return np.ascontiguousarray(some_labels(scan.grid).T)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_each_type_of_segmentation_is_read(kind, tmp_path, caplog):
    folder = series(tmp_path / "ct")
    scan = read_scan(folder)
    planes = planes_of(scan)
    if kind == "FRACTIONAL":
        planes = np.stack([(planes == one) * 0.5 + 0.3 for one in (1, 2)], axis=-1)
    path = others(folder, tmp_path / "seg.dcm", planes, kind)
    drawn = boxes_around_labels(path, scan, 0)
    assert (ends(drawn), [one.name for one in drawn]) == (WANTED, ["part 1", "part 2"])
    assert caplog.messages == (
        ["seg.dcm: fractions; a voxel is a segment's from one half on"]
        if kind == "FRACTIONAL" else []
    )  # fmt: skip
    np.testing.assert_array_equal(label_map_of(path, scan).voxels, some_labels(scan.grid))


def test_segments_may_overlap_where_boxes_come_from_them(tmp_path):
    folder = series(tmp_path / "ct")
    scan = read_scan(folder)
    planes = np.zeros((4, 5, 7, 2), np.uint8)
    planes[0:2, 0:3, 0:3, 0] = 1
    planes[1:3, 1:4, 2:5, 1] = 1
    path = others(folder, tmp_path / "seg.dcm", planes)
    assert ends(boxes_around_labels(path, scan, 0)) == [
        [[0, 0, 0], [2, 2, 1]], [[2, 1, 1], [4, 3, 2]]
    ]  # fmt: skip
    with pytest.raises(ScanError) as raised:
        read_labels(path, scan)
    assert str(raised.value) == (
        "seg.dcm: expected one label per voxel, found 'part 1' and 'part 2', which overlap"
    )


def test_it_lies_on_the_same_places_of_a_scan_whose_axes_run_elsewhere(tmp_path):
    """A NIfTI of the same images, its axes flipped and permuted."""
    scan = read_scan(series(tmp_path / "ct"))
    path = own(scan, tmp_path / "seg.dcm")
    flipped = scan.affine @ [[0, 0, -1, 6], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    voxels = VOXELS.transpose(1, 2, 0)[:, :, ::-1]
    other = read_scan(save(tmp_path / "ct.nii", voxels, flipped))
    wanted = some_labels(scan.grid).transpose(1, 2, 0)[:, :, ::-1]
    np.testing.assert_array_equal(label_map_of(path, other).voxels, wanted)


def test_compressed_frames_are_read(tmp_path):
    folder = series(tmp_path / "ct")
    scan = read_scan(folder)
    path = others(folder, tmp_path / "seg.dcm", planes_of(scan), "LABELMAP")
    seg = pydicom.dcmread(path)
    seg.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    seg.save_as(path)
    assert ends(boxes_around_labels(path, scan, 0)) == WANTED


def test_geometry_that_does_not_fit_is_refused(tmp_path):
    folder = series(tmp_path / "ct")
    scan = read_scan(folder)
    path = own(scan, tmp_path / "seg.dcm")
    moved = ALIGNED.copy()
    moved[2, 3] += 1.4
    finer = ALIGNED @ np.diag([0.5, 1, 1, 1])
    for affine, message in (
        (moved, "frame 1 of 5 does not lie on the voxels of other"),
        (finer, "frame 1 of 5 does not lie on the voxels of other"),
        (ALIGNED @ np.array([[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
         "frame 1 of 5 reaches out of the grid of other, (7, 5, 4)"),
    ):  # fmt: skip
        other = read_scan(series(tmp_path / "other", affine=affine))
        assert refusal(path, other) == f"seg.dcm: {message}"
    other = series(tmp_path / "other", FrameOfReferenceUID="1.2.3")
    assert refusal(path, read_scan(other)).startswith(
        "seg.dcm: FrameOfReferenceUID should be that of other, 1.2.3, found "
    )


def test_frames_of_other_images_are_refused_where_there_are_no_positions(tmp_path):
    for name in ("a", "b"):
        picture().save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    path = own(read_scan(tmp_path / "a.dcm"), tmp_path / "seg.dcm")
    assert refusal(path, read_scan(tmp_path / "b.dcm")) == (
        "seg.dcm: frame 1 of 2 refers to no image of b.dcm"
    )


@pytest.mark.parametrize("volume", (1, 2, 3))
def test_frames_without_a_position_are_never_lost_in_a_segmentation(volume, tmp_path):
    """Of a film one frame was written, and the labels of the others were not."""
    film = np.stack([VOXELS[:, :, k].T for k in range(4)])
    path = tmp_path / "film.dcm"
    image(film, Modality="XA").save_as(path, enforce_file_format=True)
    with pytest.raises(ScanError, match=r"^film.dcm: lacks what a DICOM segmentation must say"):
        own(read_scan(path, volume), tmp_path / "seg.dcm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seg: setattr(seg, "SegmentationType", "SURFACE"), "SegmentationType should be one "
         "of BINARY, FRACTIONAL, LABELMAP, found 'SURFACE'"),
        (lambda seg: delattr(seg, "SegmentSequence"), "SegmentSequence is missing"),
        (lambda seg: seg.SegmentSequence.pop(1), "segment 2 of a frame is none of "
         "SegmentSequence"),
        (lambda seg: setattr(seg.SegmentSequence[1], "SegmentNumber", 1), "SegmentNumber should "
         "be one of 1..65535, each once, found 1"),
        (lambda seg: setattr(seg, "PixelData", seg.PixelData[:-2]), "PixelData should have 22 "
         "bytes, found 20: it is cut off"),
        (lambda seg: setattr(seg, "PixelData", bytes(22)), "expected segments with voxels, found "
         "none"),
        (lambda seg: seg.PerFrameFunctionalGroupsSequence[0].pop("PlanePositionSequence"),
         "ImagePositionPatient of a frame is missing"),
    ],
)  # fmt: skip
def test_a_segmentation_that_is_damaged_is_refused_in_one_line(change, message, tmp_path):
    scan = read_scan(series(tmp_path / "ct"))
    path = own(scan, tmp_path / "seg.dcm")
    seg = pydicom.dcmread(path)
    change(seg)
    seg.save_as(path)
    assert refusal(path, scan) == f"seg.dcm: {message}"


def test_a_segmentation_that_does_not_fit_into_memory_is_refused(tmp_path):
    scan = read_scan(series(tmp_path / "ct"))
    path = own(scan, tmp_path / "seg.dcm")
    seg = pydicom.dcmread(path)
    seg.Rows = seg.Columns = 40000
    seg.save_as(path)
    with pytest.raises(ScanError, match=r"^seg.dcm: 5 frames need about .* GB, the memory limit"):
        boxes_around_labels(path, scan, 0, memory_limit=1 << 30)


def test_names_of_any_script_come_back(tmp_path):
    scan = read_scan(series(tmp_path / "ct"))
    segments = [Segment(1, "肝臓", (0, 0, 0), (1, 1, 1)), Segment(2, "Hüfte", (0, 0, 0), (1, 1, 1))]
    path = tmp_path / "seg.dcm"
    path.write_bytes(dicom_seg.encoded(some_labels(scan.grid), scan, segments, path))
    assert [one.name for one in boxes_around_labels(path, scan, 0)] == ["肝臓", "Hüfte"]
