"""Tracking through a volume, with networks one can check on paper."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis.extra import numpy as st_numpy

from swiftmedsam import make_case
from swiftmedsam.decoding import decoded
from swiftmedsam.frame import Frame
from swiftmedsam.result import Clock
from swiftmedsam.schedule import decoded_slices, middle_slices, slice_order, slice_step
from swiftmedsam.segment import segment
from swiftmedsam.settings import BEST, LITEMEDSAM
from tests.helpers import (
    BoxesAsMasks,
    BrightInBox,
    Everywhere,
    SureOfRows,
    Watched,
    dsc,
    ellipse,
    inside,
    labels_of,
    pixels_of,
)
from tests.helpers.generated import given, settings, st

litemedsam = functools.partial(labels_of, settings=LITEMEDSAM)

# At a longer side of 256 the frame changes nothing: slice pixels are input pixels.
HEIGHT, WIDTH = 64, 256


def volume_with(boxes, image):
    return make_case(image, np.array(boxes), is_volume=True, modality="MR")


def moving_volume(depth):
    """A bright ellipse (depth, 64, 256) that moves 5 pixels a slice; no two slices are equal."""
    masks = [ellipse(HEIGHT, WIDTH, (30, 40 + 5 * z), (12, 20)) for z in range(depth)]
    return np.where(np.stack(masks), 255, 0).astype(np.uint8)


def moving_columns():
    """Five slices with ten bright columns of rows 8..12, which move by 7 a slice from 20..29 on."""
    image = np.zeros((5, HEIGHT, WIDTH), np.uint8)
    for z in range(5):  # columns 20..29, 27..36, 34..43, 41..50, 48..57
        image[z, 8:13, 7 * z + 20 : 7 * z + 30] = 255
    return image


# Volumes, followed between the given box and the neighbour's


def test_masks_are_cut_to_the_given_box():
    labels = labels_of(volume_with([[10, 5, 1, 13, 6, 2]], moving_volume(4)), Everywhere())
    wanted = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    wanted[1:3, 5:7, 10:14] = 1
    np.testing.assert_array_equal(labels, wanted)


def test_a_slice_is_asked_with_the_given_an_expected_and_the_carried_box():
    """A bright square that stands still in three slices, so that flow does not move it."""
    image = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    image[:, 20:30, 20:30] = 255
    network = BrightInBox()
    labels = labels_of(volume_with([[10, 10, 0, 49, 49, 2]], image), network, crops=0)
    np.testing.assert_array_equal(labels, image > 0)
    given, others = [9, 9, 50, 50], [[9, 9, 47.9, 47.9], [18, 18, 31, 31]]  # 0.9 of 41, and 2
    np.testing.assert_allclose(
        np.concatenate(network.prompts), [given, given, *others, given, *others], rtol=1e-6
    )


def test_the_answers_to_a_boxs_prompts_are_averaged():
    class Numbered(BoxesAsMasks):
        def decode(self, embedding, prompts, cells):
            logits = np.broadcast_to(prompts[:, :1, np.newaxis], (len(prompts), 256, 256))
            return pixels_of(cells, logits), prompts[:, 1]

    frame = Frame(HEIGHT, WIDTH)
    prompts = [np.array([[x, x / 10, 50, 50] for x in xs], np.float32) for xs in ([1, 2, 6], [8])]
    within = slice(3, 6), slice(5, 21)
    embedding = np.zeros((1, 1), np.float32)
    (first, sure), (second, surer) = decoded(
        Numbered(), embedding, frame, prompts, [within] * 2, 6, Clock()
    )
    assert (first.logits == 3).all()
    assert (second.logits == 8).all()
    assert (sure, surer) == (pytest.approx(0.3), pytest.approx(0.8))
    assert first.corner == second.corner == (0, 4)


def test_small_boxes_of_a_volume_can_be_followed_in_a_crop():
    image = np.zeros((3, 300, 400), np.uint8)
    for z in range(3):
        image[z, 50:58, 90 + z : 100 + z] = 255
    case = volume_with([[86, 46, 0, 105, 61, 2]], image)
    network = BrightInBox()
    labels = labels_of(case, network, crops=1)
    assert dsc(labels > 0, image > 0) > 0.9
    prompts = np.concatenate(network.prompts)
    enlarged = prompts[:, 2] - prompts[:, 0] > 20  # of 20 columns the whole frame makes 13
    assert enlarged.sum() == len(prompts) / 2 == 7
    whole = labels_of(case, BrightInBox(), crops=0)
    assert dsc(whole > 0, image > 0) < dsc(labels > 0, image > 0)


def test_a_box_between_pixels_keeps_every_pixel_it_touches():
    labels = labels_of(volume_with([[10.5, 5.2, 0, 12.5, 5.7, 0]], moving_volume(1)), Everywhere())
    assert np.argwhere(labels[0]).tolist() == [[y, x] for y in (5, 6) for x in range(10, 14)]


def test_an_empty_slice_does_not_stop_the_walk():
    image = moving_volume(5)
    box = [0, 0, 0, 255, 63, 4]
    whole = labels_of(volume_with([box], image), BrightInBox())
    image[2] = 0
    holed = labels_of(volume_with([box], image), BrightInBox())
    assert not holed[2].any()
    np.testing.assert_array_equal(np.delete(holed, 2, axis=0), np.delete(whole, 2, axis=0))


def test_where_boxes_of_a_volume_overlap_the_smaller_counts_and_each_slice_is_encoded_once():
    boxes = [[12, 12, 2, 14, 14, 2], [0, 0, 0, 50, 50, 5], [10, 10, 2, 20, 20, 9]]
    image = np.zeros((12, HEIGHT, WIDTH), np.uint8)
    for z in range(12):  # no two slices are equal, nothing moves in the boxes
        image[z, 60, 150 + 5 * z] = 255
    network = BoxesAsMasks()
    labels = labels_of(volume_with(boxes, image), network, crops=0)
    assert sorted(network.encoded.values()) == [1] * 10
    # upwards from slice 2, then downwards; a box has one prompt in its middle (2, 2, 5), else three
    assert [len(p) for p in network.prompts] == [2, 3, 3, 4, *[3] * 9]
    assert np.bincount(labels[2].ravel())[1:].tolist() == [9, 51 * 51 - 121, 121 - 9]
    assert np.bincount(labels[9].ravel())[1:].tolist() == [0, 0, 121]
    assert not labels[10:].any()


# Volumes on paper, walked


@pytest.mark.parametrize(
    ("z_min", "z_max", "middle"), [(0, 0, 0), (0, 1, 0), (2, 5, 3), (3, 7, 5), (1, 8, 4)]
)
def test_a_walk_starts_at_the_middle_rounded_down(z_min, z_max, middle):
    boxes = np.array([[0, 0, z_min, 9, 9, z_max]], np.float64)
    assert middle_slices(boxes).tolist() == [middle]


@pytest.mark.parametrize(
    ("slices", "step"), [(1, 1), (29, 1), (30, 2), (44, 2), (45, 3), (1000, 3)]
)
def test_of_a_long_object_every_second_or_third_slice_is_asked(slices, step):
    assert slice_step(5, 4 + slices, BEST) == step


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 4), (3, 11), (7, 40)])
def test_the_ends_and_the_middle_are_asked_and_no_gap_is_longer_than_the_step(first, last, step):
    middle = (first + last) // 2
    asked = decoded_slices(first, last, middle, step)
    assert {first, middle, last} <= set(asked) <= set(range(first, last + 1))
    assert asked == sorted(set(asked))
    assert max(np.diff(asked), default=1) <= step
    assert all(z % step == 0 for z in set(asked) - {first, middle, last})  # the same for all boxes


def test_masks_of_slices_that_are_not_asked_lie_between_their_neighbours():
    """A bar that grows by a column at each end from slice to slice, of 40."""
    image = np.zeros((40, HEIGHT, WIDTH), np.uint8)
    for z in range(40):
        image[z, 20:30, 60 - z : 140 + z] = 255
    network = BrightInBox()
    labels = labels_of(volume_with([[15, 15, 0, 185, 35, 39]], image), network, crops=0)
    assert len(network.encoded) == 22  # every second one, the middle and the last
    assert dsc(labels > 0, image > 0) > 0.98
    assert labels.any(axis=(1, 2)).all()
    litemedsam(volume_with([[15, 15, 0, 185, 35, 39]], image), all_slices := BrightInBox())
    assert len(all_slices.encoded) == 40


def test_a_walk_goes_up_and_then_down_and_skips_slices_between_boxes():
    boxes = np.array([[0, 0, 0, 9, 9, 3], [0, 0, 2, 9, 9, 3], [0, 0, 8, 9, 9, 9]], np.float64)
    assert slice_order(boxes, [1] * len(boxes)) == [
        (1, [0]), (2, [0, 1]), (3, [0, 1]), (8, [2]), (9, [2]), (0, [0]),
    ]  # fmt: skip


def test_of_many_boxes_those_with_near_middles_are_walked_together(monkeypatch):
    monkeypatch.setattr("swiftmedsam.schedule.TRACKED_TOGETHER", 2)
    boxes = np.array([[0, 0, z, 9, 9, z + 1] for z in (6, 0, 7, 1, 3)], np.float64)
    assert slice_order(boxes, [1] * len(boxes)) == [
        (0, [1]), (1, [1, 3]), (2, [3]), (3, [4]), (4, [4]), (6, [0]), (7, [0]),
        (7, [2]), (8, [2]),
    ]  # fmt: skip
    boxes[:, 5] = boxes[:, 2]  # of one slice each: nothing is handed on
    assert slice_order(boxes, [1] * len(boxes)) == [
        (0, [1]),
        (1, [3]),
        (3, [4]),
        (6, [0]),
        (7, [2]),
    ]


@pytest.mark.parametrize(("z_min", "z_max"), [(0, 0), (0, 6), (2, 4), (6, 6), (0, 1), (5, 6)])
def test_the_first_and_the_last_slice_of_a_box_are_segmented_and_no_other(z_min, z_max):
    case = volume_with([[0, 0, z_min, 255, 63, z_max]], moving_volume(7))
    labels = litemedsam(case, BrightInBox())
    assert np.flatnonzero(labels.any(axis=(1, 2))).tolist() == list(range(z_min, z_max + 1))


def test_an_object_that_moves_is_followed_and_the_prompt_is_three_pixels_wider():
    """Of the next slice's columns, the margin of 3 reaches a part."""
    network = BrightInBox()
    labels = litemedsam(volume_with([[30, 6, 0, 47, 14, 4]], moving_columns()), network)
    # slice: the columns found there
    found = {z: np.flatnonzero(labels[z].any(axis=0)).tolist() for z in range(5)}
    assert found == {
        2: list(range(34, 44)),  # all of it in the given box
        3: list(range(41, 47)),  # 41..50, of which the prompt ends at 43 + 3
        4: list(range(48, 50)),  # 48..57, of which the prompt ends at 46 + 3
        1: list(range(31, 37)),  # 27..36, of which the prompt begins at 34 - 3
        0: list(range(28, 30)),  # 20..29, of which the prompt begins at 31 - 3
    }
    np.testing.assert_array_equal(
        np.concatenate(network.prompts),
        [[30, 6, 47, 14], [31, 5, 46, 15], [38, 5, 49, 15], [31, 5, 46, 15], [28, 5, 39, 15]],
    )


def test_after_a_slice_without_the_object_the_given_box_is_used_again():
    image = moving_volume(7)
    image[2] = image[4] = 0
    network = BrightInBox()
    box = [30, 10, 0, 90, 50, 6]
    labels = litemedsam(volume_with([box], image), network)
    assert labels.any(axis=(1, 2)).tolist() == [True, True, False, True, False, True, True]
    prompts = np.concatenate(network.prompts)  # of slices 3, 4, 5, 6, 2, 1, 0
    given_at = [(prompt == [30, 10, 90, 50]).all() for prompt in prompts]
    assert given_at == [True, False, True, False, False, True, False]


def test_objects_do_not_see_each_others_masks():
    """The first box's object vanishes after slice 1; the second's goes on under it."""
    image = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    image[:2, 10:20, 10:20] = 255
    image[:, 40:50, 100:110] = 255
    boxes = [[8, 8, 0, 22, 22, 2], [98, 38, 0, 112, 52, 2]]
    labels = litemedsam(volume_with(boxes, image), BrightInBox())
    assert np.unique(labels[:2][image[:2] > 0]).tolist() == [1, 2]
    assert np.unique(labels[2]).tolist() == [0, 2]


def test_the_later_box_wins_although_the_earlier_meets_the_slice_later():
    """Slice 0 belongs to box 1 on the way down, after box 2 was there on the way up."""
    boxes = [[0, 0, 0, 50, 50, 5], [10, 10, 0, 20, 20, 0]]
    labels = litemedsam(volume_with(boxes, moving_volume(6)), BoxesAsMasks())
    assert (labels[0, 10:21, 10:21] == 2).all()
    assert (labels[0, 30:40, 30:40] == 1).all()


def overlapping_boxes(depth):
    return [
        [20, 5, 0, 120, 60, depth - 1],
        [30, 10, 1, 90, 50, 3],
        [25, 8, 4, 110, 55, depth - 1],
        [40, 20, 0, 60, 40, 0],
    ]


def test_every_slice_is_encoded_once_however_many_objects_cross_it():
    network = BrightInBox()
    litemedsam(volume_with(overlapping_boxes(9), moving_volume(9)), network)
    assert len(network.encoded) == 9
    assert set(network.encoded.values()) == {1}


def test_slices_outside_all_boxes_are_not_encoded():
    network = BrightInBox()
    boxes = [[20, 5, 1, 120, 60, 2], [20, 5, 6, 120, 60, 6]]
    litemedsam(volume_with(boxes, moving_volume(9)), network)
    assert sum(network.encoded.values()) == 3


@pytest.mark.parametrize("kept", [1, 2])
def test_no_more_embeddings_are_kept_than_allowed_and_labels_do_not_depend_on_it(kept, monkeypatch):
    case = volume_with(overlapping_boxes(11), moving_volume(11))
    free = Watched()
    wanted = litemedsam(case, free)
    assert max(free.alive) > kept + 1  # else there is nothing to bound here
    monkeypatch.setattr("swiftmedsam.segment.EMBEDDINGS_KEPT", kept)
    bound = Watched()
    np.testing.assert_array_equal(litemedsam(case, bound), wanted)
    assert max(bound.alive) <= kept + 1  # and the one in use
    assert max(bound.encoded.values()) == 2


def test_embeddings_are_dropped_after_their_last_use():
    network = Watched()
    litemedsam(volume_with([[0, 0, 3, 255, 63, 9]], moving_volume(10)), network)
    assert max(network.alive) == 1  # one object meets no slice twice


# Against the baseline


def baseline_volume(image, boxes):
    """LiteMedSAM object by object at scale 1, for a network that finds bright pixels in the box."""

    def find(z, box):
        bright = image[z] > image[z].min()
        return bright & inside(box, HEIGHT, WIDTH)

    def around(mask, otherwise):
        if not mask.any():
            return otherwise
        ys, xs = np.where(mask)
        return [
            max(0, xs.min() - 3), max(0, ys.min() - 3),
            min(256, xs.max() + 3), min(256, ys.max() + 3),
        ]  # fmt: skip

    labels = np.zeros(image.shape, int)
    for label, (x_min, y_min, z_min, x_max, y_max, z_max) in enumerate(boxes, start=1):
        given_box = [x_min, y_min, x_max, y_max]
        z_mid = int((z_max - z_min) / 2 + z_min)
        found = {}
        for z in range(z_mid, z_max + 1):
            box = given_box if z == z_mid else around(found[z - 1], given_box)
            found[z] = find(z, box)
        for z in range(z_mid - 1, z_min - 1, -1):
            found[z] = find(z, around(found[z + 1], given_box))
        for z, mask in found.items():
            labels[z][mask] = label
    return labels


@st.composite
def volumes_with_boxes(draw):
    """Bright blocks of 8 x 8 in a volume (D, 64, 256), D up to 12, and up to 5 boxes (N, 6)."""
    depth = draw(st.integers(1, 12))
    blocks = draw(st_numpy.arrays(bool, (depth, HEIGHT // 8, WIDTH // 8)))
    image = np.kron(blocks, np.ones((1, 8, 8), bool)).astype(np.uint8) * 255
    corner = st.tuples(*[st.integers(0, n - 1) for n in (WIDTH, HEIGHT, depth)])
    pairs = draw(st.lists(st.tuples(corner, corner), min_size=1, max_size=5))
    return image, [[*map(min, *pair), *map(max, *pair)] for pair in pairs]


@given(volumes_with_boxes())
@settings(max_examples=100)
def test_labels_are_those_of_the_baselines_walk_object_by_object(volume):
    image, boxes = volume
    network = BrightInBox()
    labels = litemedsam(volume_with(boxes, image), network)
    np.testing.assert_array_equal(labels, baseline_volume(image, boxes))


def test_many_random_walks_that_overlap_are_the_baselines():
    """As above where examples made to be simple seldom go: full of blocks, objects and gaps."""
    chance = np.random.default_rng(0)
    for depth in range(1, 13):
        blocks = chance.random((depth, HEIGHT // 8, WIDTH // 8)) < 0.3
        blocks[chance.random(depth) < 0.2] = False
        image = np.kron(blocks, np.ones((1, 8, 8), bool)).astype(np.uint8) * 255
        corners = chance.integers(0, (WIDTH, HEIGHT, depth), (20, 2, 3))
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).tolist()
        labels = litemedsam(volume_with(boxes, image), BrightInBox())
        wanted = baseline_volume(image, boxes)
        assert len(np.unique(wanted)) > 2
        np.testing.assert_array_equal(labels, wanted)


def test_many_boxes_of_a_volume_keep_their_labels():
    corners = [(x, y) for y in range(0, 64, 4) for x in range(0, 256, 8)][:260]
    boxes = [[x, y, 0, x + 5, y + 2, 0] for x, y in corners]
    labels = litemedsam(volume_with(boxes, moving_volume(2)), BoxesAsMasks())
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(labels[0]), np.arange(261))
    assert not labels[1].any()


def test_predicted_iou_is_that_of_each_box_in_each_of_its_slices():
    boxes = [[10, 20, 0, 30, 40, 1], [50, 8, 1, 90, 30, 1]]
    volume = volume_with(boxes, moving_volume(3))
    found = segment(volume, SureOfRows(), LITEMEDSAM).predicted_iou
    # the first begins in slice 0, its middle; slice 1 is asked with the mask's box, widened by 3
    assert {box: np.round(ious, 6).tolist() for box, ious in found.items()} == {
        0: [0.02, 0.017], 1: [0.008]
    }  # fmt: skip
    still = volume_with(boxes, np.zeros((3, HEIGHT, WIDTH), np.uint8))
    best = segment(still, SureOfRows(), replace(BEST, volume_crops=0)).predicted_iou
    expected = 30 - (0.79 * 22 / 2 + 1)  # of 22 rows around the 30th 0.79, and 1
    assert best[0][1] == pytest.approx((19 + expected + 19) / 3 / 1000)  # the mean of three
