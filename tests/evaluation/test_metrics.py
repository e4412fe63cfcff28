"""Scores one can check on paper, and the organisers' loop as oracle for the rest."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.reference.official_metrics import organisers_scores
from swiftmedsam.evaluation.metrics import (
    MIN_DSC_FOR_NSD,
    TOLERANCE_MM,
    array_spacing_mm,
    dsc,
    nsd,
    score_labels,
    slice_dscs,
)

SPACING_ZYX = (3.0, 2.0, 1.0)
SPACING_XYZ = SPACING_ZYX[::-1]


def brief(scores):
    """Number of objects, DSC, NSD."""
    return len(scores.by_object), scores.dsc, scores.nsd


def picture(*lines):
    return np.array([[character == "#" for character in line] for line in lines])


def voxels(*places, shape=(6, 8, 11)):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


def random_labels(shape, labels, seed):
    """Blocks of `labels`, later ones on top; their sizes and places are drawn."""
    generator = np.random.default_rng(seed)
    out = np.zeros(shape, np.uint8)
    for label in labels:
        low = [generator.integers(0, size - 2) for size in shape]
        high = [generator.integers(at + 2, size + 1) for at, size in zip(low, shape, strict=True)]
        out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = label
    return out


def test_the_rules_are_the_organisers():
    assert (TOLERANCE_MM, MIN_DSC_FOR_NSD) == (2.0, 0.2)


def test_dsc_is_twice_the_overlap_over_the_sum():
    a = picture("......", ".###..", ".###..", "......")
    b = picture("......", "..##..", "..##..", "..##..")
    assert dsc(a, b) == 2 * 4 / (6 + 6)


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_two_empty_masks_agree_and_one_empty_mask_does_not(shape):
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    spacing = SPACING_ZYX[: len(shape)]
    assert dsc(empty, empty) == nsd(empty, empty, spacing) == 1
    assert dsc(empty, full) == nsd(empty, full, spacing) == 0
    assert dsc(full, empty) == nsd(full, empty, spacing) == 0


@pytest.mark.parametrize("mask", [picture("......", ".##...", ".###.."), voxels((2, 3, 4))])
def test_a_mask_equals_itself(mask):
    assert dsc(mask, mask) == nsd(mask, mask, SPACING_ZYX[-mask.ndim :]) == 1


# A voxel's surface is its 8 corners, all of one area. Moved by one voxel, 4 corners coincide with
# old ones and 4 are one step away, whatever the direction: only the length of the step differs.
@pytest.mark.parametrize(
    ("moved", "spacing_mm", "expected"),
    [
        ((3, 3, 4), SPACING_ZYX, 0.5),  # a step of 3 mm along z is too far,
        ((2, 4, 4), SPACING_ZYX, 1.0),  # of 2 mm along y is the tolerance,
        ((2, 3, 5), SPACING_ZYX, 1.0),  # of 1 mm along x is within it
        ((3, 3, 4), SPACING_XYZ, 1.0),
        ((2, 4, 4), SPACING_XYZ, 1.0),
        ((2, 3, 5), SPACING_XYZ, 0.5),
    ],
)
def test_nsd_of_a_moved_voxel_depends_on_the_spacing_of_that_axis(moved, spacing_mm, expected):
    a, b = voxels((2, 3, 4)), voxels(moved)
    assert nsd(a, b, spacing_mm) == nsd(b, a, spacing_mm) == expected


def test_nsd_of_images_is_measured_in_rows_and_columns():
    a = picture("........", ".#......", "........", "........", "........")
    below = picture("........", "........", ".#......", "........", "........")
    beside = picture("........", "..#.....", "........", "........", "........")
    assert (nsd(a, below, (3, 1)), nsd(a, beside, (3, 1))) == (0.5, 1)
    assert (nsd(a, below, (1, 3)), nsd(a, beside, (1, 3))) == (1, 0.5)


def test_the_tolerance_is_inclusive():
    a, b = voxels((2, 3, 4)), voxels((2, 4, 4))
    assert nsd(a, b, SPACING_ZYX, tolerance_mm=2.0) == 1
    assert nsd(a, b, SPACING_ZYX, tolerance_mm=1.99) == 0.5


def test_spacing_is_turned_round_unless_the_organisers_order_is_asked_for():
    assert array_spacing_mm((1, 2, 3), official=False) == (3, 2, 1)
    assert array_spacing_mm((1, 2, 3), official=True) == (1, 2, 3)


def test_scores_are_means_over_the_labels_of_the_truth():
    truth = np.zeros((6, 8, 11), np.uint8)
    found = np.zeros_like(truth)
    truth[1:3, 1:3, 1:3] = found[1:3, 1:3, 1:3] = 1
    truth[2, 3, 8] = 4  # labels 2 and 3 do not occur
    found[5, 7, 10] = 9  # in no truth, so it costs nothing
    assert brief(score_labels(truth, found, SPACING_ZYX)) == (2, 0.5, 0.5)


def test_the_means_of_a_case_are_those_of_its_objects():
    truth, found = np.zeros((6, 8, 11), np.uint8), np.zeros((6, 8, 11), np.uint8)
    truth[1, 1, 1] = found[1, 1, 1] = 2
    truth[3, 6, 9] = found[4, 6, 9] = 5  # a slice too high: no overlap, 4 of 8 corners 3 mm away
    scores = score_labels(truth, found, SPACING_ZYX)
    assert [(each.dsc, each.nsd) for each in scores.by_object] == [(1, 1), (0, 0.5)]
    assert (scores.dsc, scores.nsd) == (0.5, 0.75)


def test_the_objects_of_a_case_whose_dsc_is_too_low_have_nsd_0():
    truth, found = np.zeros((6, 12), np.uint8), np.zeros((6, 12), np.uint8)
    for label in range(1, 6):
        truth[1, 2 * label] = label
    found[1, 2] = 1  # perfect, but the case's DSC is a fifth
    assert [(each.dsc, each.nsd) for each in score_labels(truth, found).by_object] == [
        (1, 0), (0, 0), (0, 0), (0, 0), (0, 0),
    ]  # fmt: skip


def test_the_area_of_an_object_is_that_of_its_truth_in_pixels_of_the_input():
    truth = np.zeros((64, 128), np.uint8)  # 2 input pixels per pixel, by the longer side
    truth[3:8, 2:9] = 1  # 5 x 7
    truth[20:50, 100:103] = 3
    found = np.ones_like(truth)
    areas = [each.area_256 for each in score_labels(truth, found).by_object]
    assert areas == [5 * 7 * 4, 30 * 3 * 4]


def test_the_area_of_an_object_of_a_volume_is_that_of_its_largest_slice():
    truth = np.zeros((600, 512, 300), np.uint8)  # half an input pixel per pixel; depth is no side
    truth[2, 5:9, 10:16] = truth[4, 5:15, 10:16] = truth[5:9, 5, 10] = 1
    (only,) = score_labels(truth, truth, SPACING_ZYX).by_object
    assert only.area_256 == 10 * 6 / 4


def test_the_dsc_of_a_slice_is_the_mean_of_the_objects_in_it():
    truth, found = np.zeros((6, 8, 11), np.uint8), np.zeros((6, 8, 11), np.uint8)
    truth[1:4, 1:3, 1:3], found[0:3, 1:3, 1] = 1, 1  # found a slice too low, half of it
    truth[2, 6, 5:9] = found[2, 6, 5:9] = 3
    found[5] = 2  # in no truth
    np.testing.assert_array_equal(
        slice_dscs(truth, found), [0, 4 / 6, (4 / 6 + 1) / 2, 0, np.nan, np.nan]
    )
    assert np.isnan(slice_dscs(np.zeros_like(truth), found)).all()


def test_labels_are_not_mixed_up_where_their_boxes_overlap():
    truth = np.array([[1, 1, 1, 2], [1, 2, 2, 2], [1, 2, 3, 0]], np.uint8)
    assert brief(score_labels(truth, truth.copy())) == (3, 1.0, 1.0)
    swapped = np.array([0, 2, 1, 3], np.uint8)[truth]
    assert score_labels(truth, swapped).dsc == 1 / 3


def test_a_truth_label_above_255_is_scored():
    truth = np.zeros((4, 6), np.uint16)
    truth[1:3, 2:5] = 300
    assert brief(score_labels(truth, truth.copy())) == (1, 1.0, 1.0)
    assert brief(score_labels(truth, truth.astype(np.uint8))) == (1, 0.0, 0.0)


def test_nsd_is_0_when_dsc_is_not_above_a_fifth():
    truth = np.zeros((4, 30), np.uint8)
    truth[1, :10] = 1
    a_fifth, more = np.zeros_like(truth), np.zeros_like(truth)
    a_fifth[1, 8:18] = 1  # 2 * 2 / 20
    more[1, 7:17] = 1
    assert brief(score_labels(truth, a_fifth)) == (1, 0.2, 0.0)
    assert score_labels(truth, more).dsc == 0.3
    assert score_labels(truth, more).nsd > 0


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_an_empty_truth_wants_an_empty_answer(shape):
    empty, full = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    assert brief(score_labels(empty, empty, SPACING_ZYX)) == (0, 1.0, 1.0)
    assert brief(score_labels(empty, full, SPACING_ZYX)) == (0, 0.0, 0.0)


def test_an_image_is_scored_as_a_plate_whose_whole_area_is_surface():
    truth, found = np.zeros((40, 70), np.uint8), np.zeros((40, 70), np.uint8)
    truth[5:35, 5:55] = 1
    found[5:35, 5:65] = 1  # 10 columns more: one of four sides is off
    scores = score_labels(truth, found)
    contours = nsd(truth == 1, found == 1, (1, 1))
    assert scores.dsc == 2 * 1500 / 3300
    assert scores.nsd == organisers_scores(truth, found, SPACING_ZYX)[1]
    assert contours < 0.8 < 0.9 < scores.nsd


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(13, 21), (7, 10, 15)])
def test_scores_equal_the_organisers_loop_over_uncropped_masks(shape, seed):
    truth = random_labels(shape, (1, 2), seed)
    truth[(0,) * len(shape)], truth[(-1,) * len(shape)] = 1, 2  # both occur, and touch the rim
    found = np.roll(truth, 1, axis=seed % len(shape))
    found[random_labels(shape, (1,), seed + 100) > 0] = 1
    scores = score_labels(truth, found, SPACING_ZYX)
    assert (scores.dsc, scores.nsd) == organisers_scores(truth, found, SPACING_ZYX)


@pytest.mark.parametrize("seed", range(4))
def test_cropping_to_the_objects_changes_nothing(seed):
    generator = np.random.default_rng(seed)
    truth, found = np.zeros((20, 30, 44), np.uint8), np.zeros((20, 30, 44), np.uint8)
    inner = (slice(5, 12), slice(8, 18), slice(9, 24))
    truth[inner] = generator.random((7, 10, 15)) < 0.5
    found[inner] = truth[inner] & (generator.random((7, 10, 15)) < 0.5)
    found[14, 20, 30] = 1  # so that both have to be looked at for the box
    a, b = truth == 1, found == 1
    scores = score_labels(truth, found, SPACING_ZYX)
    assert scores.dsc == dsc(a, b) > MIN_DSC_FOR_NSD
    assert scores.nsd == nsd(a, b, SPACING_ZYX) < 1


def test_a_process_that_scores_loads_neither_torch_nor_openvino():
    """Of the program it loads the reader of cases and the names of modalities alone."""
    check = (
        "import sys, swiftmedsam.evaluation.__main__;"
        "unwanted = {'torch', 'openvino', 'cv2', 'pandas', 'swiftmedsam.segment'};"
        "sys.exit(bool(unwanted & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
