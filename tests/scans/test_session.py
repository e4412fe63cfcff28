"""An image that is opened once: its answers are those of `segment`, and it is encoded once."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

import swiftmedsam
from swiftmedsam.embeddings import Embeddings
from swiftmedsam.frame import Frame
from swiftmedsam.memory import EMBEDDING_BYTES, SCAN_PROGRAM_BYTES, estimate_scan_peak
from swiftmedsam.result import Clock
from swiftmedsam.scans import session as opened
from swiftmedsam.scans.orientation import choose_orientation
from swiftmedsam.scans.scan import ScanError
from swiftmedsam.scans.session import scan_of_array
from swiftmedsam.settings import BEST
from tests.helpers import (
    BrightInBox,
    Watched,
    ellipse,
    image_case,
    make_case_file,
    picture,
    read_labels,
    volume_case,
)
from tests.helpers.dicom import series
from tests.helpers.scans import ALIGNED, grid_of, labels_by_npz, mm_of

SPACING = (3, 2, 1)  # of the volume case, D first
FIRST, SECOND, _ = volume_case()["boxes"]


def open_volume(network, **more):
    options = {"spacing_mm": SPACING, "modality": "MR"} | more
    return swiftmedsam.open_image(volume_case()["imgs"], network, **options)


def answers(network):
    return sum(network.encoded.values()), len(network.prompts)


def test_an_array_gives_the_labels_of_a_case():
    labels = open_volume(BrightInBox()).segment(volume_case()["boxes"]).labels
    np.testing.assert_array_equal(labels, labels_by_npz())
    case = image_case()
    image = swiftmedsam.open_image(case["imgs"], BrightInBox(), modality="Endoscopy")
    checked = swiftmedsam.make_case(case["imgs"], case["boxes"], modality="Endoscopy")
    wanted = swiftmedsam.segment_case(checked, BrightInBox()).labels
    assert wanted.any()
    np.testing.assert_array_equal(image.segment(case["boxes"]).labels, wanted)


def test_a_second_box_encodes_nothing():
    network = BrightInBox()
    image = open_volume(network)
    assert answers(network) == (0, 0)  # opening alone asks nothing
    first = image.segment(SECOND).labels
    encoded, decoded = answers(network)
    assert (encoded, decoded) == (4, 4)  # slices 1 to 4
    again = image.segment(SECOND).labels
    assert answers(network) == (4, 8)
    np.testing.assert_array_equal(first, again)
    image.segment([[12, 9, 1, 40, 28, 4], [3, 3, 2, 30, 30, 3]])
    assert answers(network)[0] == 4
    image.segment(FIRST)  # reaches down to slice 0, the only new one
    assert answers(network)[0] == 5
    assert max(network.encoded.values()) == 1


def test_a_second_box_of_a_picture_encodes_nothing_but_a_new_crop():
    network = BrightInBox()
    grey = picture(300, 400)
    image = swiftmedsam.open_image(grey, network, modality="US")
    image.segment([50, 40, 200, 180])
    image.segment([90, 30, 300, 200])
    assert answers(network) == (2, 4)  # as it is, and mirrored
    image.segment([88, 48, 101, 59])  # small: a crop of its own, and the whole one
    image.segment([88, 48, 101, 59])
    assert answers(network) == (3, 8)
    whole = swiftmedsam.open_image(
        grey, network, settings=replace(BEST, image_crops=0), modality="US"
    )
    whole.segment([50, 40, 200, 180])
    whole.segment([88, 48, 101, 59])
    assert answers(network)[0] == 5


def test_the_embeddings_that_were_used_last_are_kept():
    network, clock = BrightInBox(), Clock()
    image = np.stack([picture(64, 64, ellipse(64, 64, (30, 20 + z), (9, 9))) for z in range(3)])
    embeddings, frame = Embeddings(image, network, 2), Frame(64, 64)
    for z in (0, 1, 0, 2, 0):  # slice 1 was used longest ago
        embeddings.get(frame, z, clock)
    assert list(network.encoded.values()) == [1, 1, 1]
    embeddings.get(frame, 1, clock)
    assert sorted(network.encoded.values()) == [1, 1, 2]


def test_a_file_gives_labels_in_the_order_of_its_array(volume, mine):
    image = swiftmedsam.open_image(volume, BrightInBox(), modality="MR")
    labels = image.segment(volume_case()["boxes"]).labels
    assert labels.shape == image.shape == (6, 40, 64)
    np.testing.assert_array_equal(labels, labels_by_npz())
    image.write(mine / "out.nii.gz", labels, volume_case()["boxes"], ["liver"])
    written = nibabel.load(mine / "out.nii.gz")
    np.testing.assert_array_equal(written.dataobj, labels.T)
    np.testing.assert_array_equal(written.affine, nibabel.load(volume).affine)
    assert '"liver"' in (mine / "out.labels.json").read_text()
    with pytest.raises(ScanError, match=r"^scan.nii.gz: is an input, and is not overwritten"):
        image.write(volume, labels, volume_case()["boxes"])


def test_a_flipped_file_is_asked_and_answers_on_its_own_grid(mine):
    source = nibabel.Nifti1Image(grid_of(volume_case()["imgs"]), ALIGNED)
    stored = source.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(stored, mine / "a.nii")
    wanted = nibabel.Nifti1Image(grid_of(labels_by_npz()), ALIGNED)
    wanted = wanted.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    image = swiftmedsam.open_image(
        mine / "a.nii", BrightInBox(), modality="MR", units="mm", space="RAS"
    )
    labels = image.segment([mm_of(box, ALIGNED) for box in volume_case()["boxes"]]).labels
    np.testing.assert_array_equal(labels.T, wanted.dataobj)


def test_a_single_sagittal_slice_of_a_file_keeps_its_shape(mine):
    plane = picture(40, 64, ellipse(40, 64, (16, 24), (9, 14)))
    stored = nibabel.Nifti1Image(plane[np.newaxis], np.eye(4))
    nibabel.save(stored, mine / "a.nii")
    labels = swiftmedsam.open_image(mine / "a.nii", BrightInBox(), modality="MR").segment(
        [0, 6, 8, 0, 30, 46]
    )
    labels = labels.labels
    assert labels.any()
    assert labels.T.shape == stored.shape


def test_a_dicom_folder_is_opened_as_a_file_is(mine):
    folder = series(mine / "study", grid_of(volume_case()["imgs"].astype(np.int16)), Modality="MR")
    image = swiftmedsam.open_image(folder, BrightInBox())
    labels = image.segment(volume_case()["boxes"]).labels
    np.testing.assert_array_equal(labels, labels_by_npz())
    image.write(mine / "out.nii", labels, volume_case()["boxes"])
    np.testing.assert_array_equal(nibabel.load(mine / "out.nii").dataobj, labels.T)
    read = (folder / "IM0002").rename(folder / "IM0002.dcm")
    image = swiftmedsam.open_image(folder, BrightInBox())
    with pytest.raises(ScanError, match=r"^IM0002.dcm: is an input, and is not overwritten"):
        image.write(read, labels, volume_case()["boxes"])


def test_a_folder_of_cases_is_done_in_two_lines(inputs, tmp_path):
    """Those of docs/formats.md."""
    make_case_file(inputs, "3DBox_MR_1.npz")
    make_case_file(inputs, "2DBox_US_2.npz")
    network = BrightInBox()
    for path in sorted(inputs.glob("*.npz")):
        result = swiftmedsam.segment_case(swiftmedsam.read_case(path), network)
        swiftmedsam.write_labels(tmp_path / path.name, result.labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "3DBox_MR_1.npz"), labels_by_npz())
    assert read_labels(tmp_path / "2DBox_US_2.npz").any()


def test_a_picture_answers_as_it_lies(photo, mine):
    case = image_case()
    image = swiftmedsam.open_image(str(photo), BrightInBox(), modality="Endoscopy")
    labels = image.segment(case["boxes"]).labels
    assert labels.shape == image.shape == (48, 80)
    image.write(mine / "out.png", labels, case["boxes"])
    with Image.open(mine / "out.png") as written:
        np.testing.assert_array_equal(written, labels)
    assert (mine / "out_overlay.png").is_file()


@pytest.mark.parametrize(
    ("spacing", "along"), [(None, 0), ((1, 1, 1), 0), ((3, 1, 1), 0), ((1, 1, 3), 2)]
)
def test_slices_are_those_furthest_apart(spacing, along):
    array = np.zeros((4, 5, 6), np.uint8)
    orientation = choose_orientation(scan_of_array(array, spacing))
    assert orientation.axes[0] == 2 - along
    if along == 0:
        np.testing.assert_array_equal(orientation.to_slices(array.T), array)
        assert orientation.flipped == (False, False, False)


def test_no_box_is_no_work():
    network = BrightInBox()
    assert not open_volume(network).segment(np.zeros((0, 6))).labels.any()
    assert answers(network) == (0, 0)


@pytest.mark.parametrize(
    ("shape", "more", "message"),
    [
        ((4, 5, 6, 7), {}, r"array: expected \(H, W\), \(H, W, 3\) or \(H, W, 4\), got \(4, 5, 6"),
        ((4, 5), {"is_volume": True}, r"array: expected \(D, H, W\), got \(4, 5\)"),
        ((4, 5, 6), {"spacing_mm": (1, 2)}, r"array: spacing_mm should be 3 lengths above 0, got"),
        ((4, 5, 6), {"spacing_mm": (1, 0, 2)}, "array: spacing_mm should be 3 lengths above 0"),
        ((4, 5, 6), {"modality": "Polaroid"}, "expected one of CT, MR, PET"),
    ],
)  # fmt: skip
def test_an_array_that_cannot_be_used_is_one_line(shape, more, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        swiftmedsam.open_image(np.zeros(shape, np.uint8), BrightInBox(), **more)


VOXELS = 64 * 40 * 6  # of the volume case, a byte each
PEAK = estimate_scan_peak((64, 40, 6), np.dtype(np.uint8), 0)


def test_what_does_not_fit_is_refused_before_it_is_read(volume, monkeypatch):
    """A file by its header, an array by its shape; without a limit what there is counts."""
    refused = "need about 0.8 GB, the memory limit is 0.6 GB"
    with pytest.raises(ScanError, match=f"^scan.nii.gz: 64x40x6 voxels of uint8 {refused}"):
        swiftmedsam.open_image(volume, BrightInBox(), modality="MR", memory_limit=600_000_000)
    large = np.broadcast_to(np.float32(1), (1000, 1000, 1000))
    with pytest.raises(ScanError, match="^array: 1000x1000x1000 voxels of float32 need about 13."):
        swiftmedsam.open_image(large, BrightInBox(), memory_limit=8 << 30)
    monkeypatch.setattr(opened, "available_memory", lambda: 600_000_000)
    with pytest.raises(ScanError, match=f"^scan.nii.gz: 64x40x6 voxels of uint8 {refused}"):
        swiftmedsam.open_image(volume, BrightInBox(), modality="MR")
    with pytest.raises(ScanError, match=f"^array: 64x40x6 voxels of uint8 {refused}"):
        open_volume(BrightInBox())


@pytest.mark.parametrize(("spare", "kept"), [(0, 1), (3 * EMBEDDING_BYTES, 3), (2 << 30, 256)])
def test_embeddings_are_kept_within_what_is_left(spare, kept):
    network = Watched()
    image = open_volume(network, memory_limit=PEAK + spare)
    first, again = (image.segment(SECOND).labels for _ in range(2))
    assert max(network.alive) <= kept + 1  # and the one in use
    np.testing.assert_array_equal(first, open_volume(BrightInBox()).segment(SECOND).labels)
    np.testing.assert_array_equal(first, again)
    assert (answers(network)[0] == 4) == (kept >= 4)  # slices 1 to 4


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3]], "array: box 'box 1' should be 4 or 6 numbers, got 1 2 3"),
        ([["a", 2, 3, 4]], "array: boxes should be numbers"),
        ([[1, 2, 3, 4], [1]], "array: boxes should be numbers"),
        ([[0, 0, 6, 9, 9, 9]], "array: box 'box 1' lies outside the grid of 64 40 6 voxels"),
    ],
)  # fmt: skip
def test_a_box_that_is_none_is_one_line(boxes, message):
    with pytest.raises(ScanError, match=f"^{message}"):
        open_volume(BrightInBox()).segment(boxes)


# Along another axis, and as a server asks it


PLANES = {0: "axial", 1: "coronal", 2: "sagittal"}  # of the volume case: axis of the labels


@pytest.mark.parametrize("axis", PLANES)
def test_an_image_along_another_axis_is_the_one_that_was_opened_in_that_plane(volume, axis):
    boxes = [[10, 8, 1, 48, 30, 4], [14, 10, 2, 50, 32, 5]]
    wanted = swiftmedsam.open_image(volume, BrightInBox(), modality="MR", plane=PLANES[axis])
    image = swiftmedsam.open_image(volume, BrightInBox(), modality="MR").along(axis)
    assert image.slice_axis == wanted.slice_axis == axis
    np.testing.assert_array_equal(image.segment(boxes).labels, wanted.segment(boxes).labels)
    np.testing.assert_array_equal(image.display, wanted.display)
    assert image.segment(boxes).labels.any()


def test_what_is_displayed_lies_as_the_labels_do(volume):
    shown = swiftmedsam.open_image(volume, BrightInBox(), modality="MR").display
    np.testing.assert_array_equal(shown, volume_case()["imgs"])  # 0..255 already
    picture_shown = swiftmedsam.open_image(image_case()["imgs"], BrightInBox()).display
    np.testing.assert_array_equal(picture_shown, image_case()["imgs"])


def test_one_slice_has_no_other_plane():
    with pytest.raises(ScanError, match="^array: expected a volume, found one slice$"):
        swiftmedsam.open_image(image_case()["imgs"], BrightInBox()).along(1)


def test_a_prepared_slice_is_not_encoded_again(volume):
    network = BrightInBox()
    image = swiftmedsam.open_image(volume, network, modality="MR").along(1)
    for index in (20, 21, 20):
        image.prepare(index)
    assert answers(network) == (2, 0)
    image.segment([[14, 20, 1, 50, 21, 5]], crops=False)
    assert answers(network)[0] == 2


def test_without_crops_and_mirrored_views_a_slice_is_encoded_once():
    for picture_box in ([50, 40, 200, 180], [88, 48, 101, 59]):
        network = BrightInBox()
        image = swiftmedsam.open_image(picture(300, 400), network, modality="US")
        image.segment(picture_box, crops=False)
        assert answers(network) == (1, 1)


def test_embeddings_of_all_planes_stay_within_what_is_left():
    limit = PEAK + 300 * EMBEDDING_BYTES
    image = open_volume(BrightInBox(), memory_limit=limit)
    kept = [image.embeddings_kept, *(image.along(axis).embeddings_kept for axis in (1, 2))]
    assert kept == [256, 44, opened.LEAST_KEPT]
    assert image.reserved_bytes == limit - SCAN_PROGRAM_BYTES


@pytest.mark.parametrize(
    ("directions", "turn"),
    [
        ("LPS", lambda slices: slices),
        ("las", lambda slices: slices[:, ::-1]),
        ("RAS", lambda slices: slices[:, ::-1, ::-1]),
        ("RPI", lambda slices: slices[::-1, :, ::-1]),
        ("PLS", lambda slices: slices.swapaxes(1, 2)),
    ],
)
def test_an_array_that_says_how_it_lies_is_shown_as_the_network_knows_it(directions, turn):
    network, stored = BrightInBox(), turn(volume_case()["imgs"])
    image = swiftmedsam.open_image(stored, network, modality="MR", directions=directions)
    image.prepare(2)
    wanted = Frame(40, 64).pixels(volume_case()["imgs"][3 if directions == "RPI" else 2])
    assert list(network.encoded) == [wanted.tobytes()]
    np.testing.assert_array_equal(image.display, stored)
