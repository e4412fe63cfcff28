"""Objects that are extended from one slice: on the grid of the file, and by the program."""

import csv
import json

import nibabel
import numpy as np
import pytest

import swiftmedsam
from swiftmedsam import make_case
from swiftmedsam.extend import extend_boxes
from swiftmedsam.scans.scan import ScanError
from tests.helpers import BrightInBox, ellipse, image_case, names, picture
from tests.helpers.boxes import box_words
from tests.helpers.scans import ALIGNED, grid_of

DEPTH = 9
SLICES = [2, 3, 4, 5, 6]  # of the object


def imgs():
    """Slices (9, 40, 64), an ellipse in five of them, which moves by a column in each."""
    masks = {z: ellipse(40, 64, (18, 26 + z), (9, 12)) for z in SLICES}
    dark = np.full((40, 64), 30, np.uint8)
    return np.stack(
        [picture(40, 64, masks[z]) if z in masks else dark + np.uint8(z) for z in range(DEPTH)]
    )


BOX = [14, 6, 4, 46, 32, 4]
BOX_ABOVE = [16, 6, 6, 48, 32, 6]


def wanted(network, *boxes, **more):
    case = make_case(imgs(), np.array(boxes), modality="MR")
    return extend_boxes(case, network, **more).labels


def opened(network=None, **more):
    options = {"spacing_mm": (3, 2, 1), "modality": "MR"} | more
    return swiftmedsam.open_image(imgs(), network or BrightInBox(), **options)


@pytest.fixture
def scan(mine):
    path = mine / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(grid_of(imgs()), ALIGNED), path)
    return path


def slices_of(labels, axis=0, value=1):
    return np.flatnonzero((labels == value).any(axis=tuple({0, 1, 2} - {axis}))).tolist()


# An open image


def test_a_box_in_one_slice_gives_that_slice_and_with_extend_the_object():
    image = opened()
    assert slices_of(image.segment([BOX]).labels) == [4]
    labels = image.segment([BOX], extend=True).labels
    assert slices_of(labels) == SLICES
    np.testing.assert_array_equal(labels, wanted(BrightInBox(), BOX))


def test_a_box_more_encodes_nothing():
    network = BrightInBox()
    image = opened(network)
    first = image.extend([BOX]).labels
    encoded = sum(network.encoded.values())
    np.testing.assert_array_equal(image.segment([BOX], extend=True).labels, first)
    both = image.extend([BOX, BOX_ABOVE]).labels
    assert sum(network.encoded.values()) == encoded
    np.testing.assert_array_equal(both, wanted(BrightInBox(), BOX, BOX_ABOVE, objects=[0, 0]))
    assert both.max() == 1


def test_a_corrected_mask_is_kept_and_followed_and_an_empty_one_is_a_bound():
    image = opened()
    labels = image.extend([BOX]).labels
    corrected = labels[5] > 0
    corrected[:18] = False  # the lower half
    again = image.extend([BOX], {5: corrected}).labels
    np.testing.assert_array_equal(again[5], corrected)
    np.testing.assert_array_equal(again[:5], labels[:5])
    assert 0 < (again[6] > 0).sum() < (labels[6] > 0).sum()
    bounded = image.extend([BOX], {3: np.zeros((40, 64), bool)}).labels
    assert slices_of(bounded) == [4, 5, 6]
    without_box = image.extend(np.zeros((0, 6)), {5: corrected}).labels
    np.testing.assert_array_equal(without_box[5], corrected)
    assert len(slices_of(without_box)) > 1
    assert not image.extend(np.zeros((0, 6))).labels.any()


@pytest.mark.parametrize("turns", [[[0, 1], [1, 1], [2, 1]], [[2, -1], [0, 1], [1, -1]],
                                   [[1, -1], [2, 1], [0, -1]]])  # fmt: skip
def test_a_file_that_stores_its_axes_otherwise_answers_on_its_own_grid(turns, mine):
    """Box and mask are on the file's grid, too."""

    def stored(voxels):
        return nibabel.Nifti1Image(voxels, ALIGNED).as_reoriented(np.array(turns))

    nibabel.save(stored(grid_of(imgs())), mine / "a.nii")
    marks = np.zeros((DEPTH, 40, 64), np.uint8)
    x_min, y_min, z, x_max, y_max, _ = BOX
    marks[z, y_min : y_max + 1, x_min : x_max + 1] = 1
    where = np.argwhere(np.asanyarray(stored(grid_of(marks)).dataobj))
    box = [*where.min(axis=0), *where.max(axis=0)]
    image = swiftmedsam.open_image(mine / "a.nii", BrightInBox(), modality="MR")
    labels = image.segment([box], extend=True).labels
    expected = wanted(BrightInBox(), BOX)
    assert len(slices_of(labels, image.slice_axis)) == len(SLICES)
    np.testing.assert_array_equal(labels.T, stored(grid_of(expected)).dataobj)
    half = np.zeros_like(expected)
    half[5] = expected[5]
    half[5, :18] = 0
    on_grid = np.asanyarray(stored(grid_of(half)).dataobj).T
    index = np.flatnonzero(on_grid.any(axis=tuple({0, 1, 2} - {image.slice_axis})))[0]
    again = image.extend([box], {int(index): on_grid.take(index, image.slice_axis)}).labels
    np.testing.assert_array_equal(
        again.take(index, image.slice_axis), on_grid.take(index, image.slice_axis)
    )


def test_what_cannot_be_extended_is_one_line():
    image = opened()
    for boxes, masks, message in (
        ([[1, 1, 2, 9, 9, 3]], None, "array: box 1 should be one slice thick along k"),
        ([BOX], {9: np.zeros((40, 64))}, "array: the mask of slice 9 should be of one of the sl"),
        ([BOX], {3: np.zeros((64, 40))}, r"array: the mask of slice 3 should have the shape \(40"),
    ):
        with pytest.raises(ScanError, match=f"^{message}"):
            image.extend(boxes, masks)
    one = swiftmedsam.open_image(image_case()["imgs"], BrightInBox(), modality="Endoscopy")
    with pytest.raises(ScanError, match="^array: expected a volume to extend in, found one slice"):
        one.extend([[1, 1, 9, 9]])
    assert one.segment([[1, 1, 40, 40]], extend=True).labels.any()  # there is nothing to extend


def test_a_thin_box_is_no_warning_where_it_is_meant(caplog):
    image = opened()
    image.segment([BOX], extend=True)
    image.extend([BOX])
    assert not caplog.messages
    image.segment([BOX])
    assert caplog.messages == ["array: box 'box 1' is one voxel thin along k, of 9"]


# The program


def test_the_program_extends_and_writes_on_the_grid(program, scan, tiny_network, mine):
    words = [*box_words([BOX]), "--modality", "MR", "--extend", "--stats", str(mine / "s.csv")]
    status, lines = program(*words, inputs=scan, outputs=mine / "out.nii")
    assert status == 0
    assert not [line for line in lines if "thin" in line]
    found = np.asanyarray(nibabel.load(mine / "out.nii").dataobj)
    expected = wanted(tiny_network, BOX)
    np.testing.assert_array_equal(found, expected.T)
    with (mine / "s.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert int(row["slices"]) == len(slices_of(expected)) > 0
    assert int(row["voxels"]) == expected.astype(bool).sum()


def test_boxes_of_one_name_are_one_object(program, scan, tiny_network, mine):
    other = [30, 20, 3, 50, 36, 3]
    words = ["--box", "liver", *map(str, BOX), *box_words([other])]
    words += ["--box", "liver", *map(str, BOX_ABOVE)]
    options = [*words, "--modality", "MR", "--extend"]
    assert program(*options, inputs=scan, outputs=mine / "out.nii")[0] == 0
    expected = wanted(tiny_network, BOX, other, BOX_ABOVE, objects=[0, 1, 0])
    found = np.asanyarray(nibabel.load(mine / "out.nii").dataobj)
    np.testing.assert_array_equal(found, expected.T)
    liver, second = json.loads((mine / "out.labels.json").read_text())["labels"]
    assert (liver["value"], liver["name"], liver["box"]) == (1, "liver", [14, 6, 4, 48, 32, 6])
    assert (second["value"], second["name"], second["box"]) == (2, "box 2", other)


def test_an_object_that_is_not_there_is_a_row_of_the_table(program, mine, tiny_network):
    """Of a black volume; its network finds nothing in it, or something: the table has a number."""
    path = mine / "black.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 40, DEPTH), np.uint8), ALIGNED), path)
    words = [*box_words([BOX]), "--modality", "MR", "--extend", "--stats", str(mine / "s.csv")]
    status, _ = program(*words, inputs=path, outputs=mine / "out.nii")
    assert status == 0
    with (mine / "s.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert np.isfinite(float(row["predicted_iou_mean"]))


def test_a_picture_has_nothing_to_extend_into(program, photo, mine):
    boxes = image_case()["boxes"]
    words = ["--box", "a", *map(str, boxes[0]), "--box", "a", *map(str, boxes[1])]
    for name, more in (("plain", []), ("extended", ["--extend"])):
        options = [*words, *more, "--modality", "Endoscopy"]
        assert program(*options, inputs=photo, outputs=mine / f"{name}.npz")[0] == 0
    plain, with_extend = (np.load(mine / f"{name}.npz")["segs"] for name in ("plain", "extended"))
    np.testing.assert_array_equal(plain, with_extend)


def test_a_thick_box_of_an_object_of_several_is_one_line(program, scan, mine):
    words = ["--box", "a", *map(str, BOX), "--box", "a", *"1", "1", "2", "9", "9", "5"]
    status, lines = program("--quiet", "--extend", *words, inputs=scan, outputs=mine / "out.nii")
    assert status == 1
    assert lines == [
        "scan.nii.gz: box 2 is thicker than one slice, and not the only one of its object"
    ]
    assert names(mine) == ["scan.nii.gz"]
