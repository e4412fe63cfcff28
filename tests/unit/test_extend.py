"""An object is followed from one slice to the others, with networks one can check on paper."""

from dataclasses import replace

import numpy as np
import pytest

from swiftmedsam import CaseError, make_case
from swiftmedsam.extend import Enough, extend_boxes, extend_objects, given_by_boxes, has_ended
from swiftmedsam.follow import Given, Signs, box_of, patch_of
from swiftmedsam.settings import BEST, LITEMEDSAM
from tests.helpers import BrightInBox, ellipse, inside, labels_of

# At a longer side of 256 the frame changes nothing: slice pixels are input pixels.
HEIGHT, WIDTH, DEPTH = 64, 256, 14
NO_CROPS = replace(BEST, volume_crops=0)


def squares(places, side=20):
    """A volume with a bright square in some slices: its (top, left) by slice."""
    image = np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8)
    for z, (top, left) in places.items():
        image[z, top : top + side, left : left + side] = 255
    return image


def case_of(image, *boxes):
    return make_case(image, np.array(boxes).reshape(-1, 6), is_volume=True, modality="MR")


def box_at(image, z, margin=3):
    """A box (6,) of slice z around all that is bright there."""
    x_min, y_min, x_max, y_max = box_of(patch_of(image[z] > 0))
    return [x_min - margin, y_min - margin, z, x_max + margin, y_max + margin, z]


def extended(image, *boxes, network=None, settings=NO_CROPS, **more):
    return extend_boxes(case_of(image, *boxes), network or BrightInBox(), settings, **more)


def slices_of(labels, value=1):
    return np.flatnonzero((labels == value).any(axis=(1, 2))).tolist()


MOVING = {z: (20, 60 + 2 * z) for z in range(3, 10)}  # slices 3 to 9, 2 columns further in each


# Where an object ends


def test_an_object_is_followed_up_and_down_until_it_is_gone():
    image = squares(MOVING)
    result = extended(image, box_at(image, 6))
    np.testing.assert_array_equal(result.labels, image > 0)
    assert result.warnings == ()
    assert [len(ious) for ious in result.predicted_iou.values()] == [7]


def test_only_slices_of_the_object_and_those_that_show_its_end_are_encoded():
    image = squares(MOVING)
    for z in range(DEPTH):  # no two slices are equal
        image[z, 60, 200 + z] = 9
    network = BrightInBox()
    extended(image, box_at(squares(MOVING), 6), network=network)
    assert len(network.encoded) == 7 + 2 * (1 + NO_CROPS.extend_gap)
    assert set(network.encoded.values()) == {1}


def test_the_given_box_bounds_its_own_slice_only():
    """It holds half of the object: more of it is found in the slices beside it, bit by bit."""
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    labels = extended(image, [50, 15, 6, 70, 45, 6]).labels
    assert np.flatnonzero(labels[6].any(axis=0)).tolist() == list(range(60, 71))
    areas = (labels > 0).sum(axis=(1, 2)).tolist()
    assert areas[6] == 20 * 11
    assert areas[:7] == sorted(areas[:7], reverse=True)
    assert areas[0] > 1.2 * areas[6]


@pytest.mark.parametrize("z", [0, 5, DEPTH - 1])
def test_an_object_may_reach_both_ends_of_the_volume(z):
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    result = extended(image, box_at(image, z))
    np.testing.assert_array_equal(result.labels, image > 0)
    assert result.warnings == ()


def test_an_object_that_branches_is_followed_into_both_branches():
    image = squares(dict.fromkeys(range(6), (20, 100)))
    for z in range(6, DEPTH):  # 2 columns further apart in each slice
        for left in (100 - 2 * (z - 6), 110 + 2 * (z - 6)):
            image[z, 20:40, left : left + 10] = 255
    result = extended(image, box_at(image, 3))
    np.testing.assert_array_equal(result.labels, image > 0)


@pytest.mark.parametrize(("missing", "gap", "last"), [(1, 1, 9), (1, 0, 5), (2, 1, 5), (2, 2, 9)])
def test_so_many_empty_slices_are_passed_over(missing, gap, last):
    """The object is not in slice 6, or not in 6 and 7."""
    image = squares(dict.fromkeys(range(3, 10), (20, 60)))
    image[6 : 6 + missing] = 0
    labels = extended(image, box_at(image, 4), settings=replace(NO_CROPS, extend_gap=gap)).labels
    np.testing.assert_array_equal(labels[: last + 1], image[: last + 1] > 0)
    assert slices_of(labels)[-1] == last


def test_a_bound_ends_it_and_is_told():
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    result = extended(image, box_at(image, 6), settings=replace(NO_CROPS, extend_most=3))
    assert slices_of(result.labels) == list(range(3, 10))
    assert result.warnings == ("array: object 1 was followed no further than 3 slices",)
    image[10:] = 0
    image[:3] = 0  # it ends where the bound is: nothing was cut off, but nobody looked
    told = extended(image, box_at(image, 6), settings=replace(NO_CROPS, extend_most=4)).warnings
    assert told == ()


@pytest.mark.parametrize(
    ("signs", "settings", "ended"),
    [
        (Signs(1, 1, 1, 1), {}, False),
        (Signs(0, 1, 0, 1), {"extend_least_area": 0, "extend_least_agreement": 0}, True),
        (Signs(0.3, 1, 1, 1), {"extend_least_area": 0.2}, False),
        (Signs(0.3, 1, 1, 1), {"extend_least_area": 0.4}, True),
        (Signs(1, 0.7, 1, 1), {"extend_least_likeness": 0.6}, False),
        (Signs(1, 0.5, 1, 1), {"extend_least_likeness": 0.6}, True),
        (Signs(1, 1, 0.3, 1), {"extend_least_agreement": 0.4}, True),
        (Signs(1, 1, 1, 0.7), {"extend_least_iou": 0.8}, True),
    ],
)
def test_each_sign_has_its_bound(signs, settings, ended):
    assert has_ended(signs, replace(BEST, **settings)) == ended


class UnsureOfShortRows(BrightInBox):
    """Finds what is bright; its predicted IoU is the share of the prompt's columns that are."""

    def decode(self, embedding, prompts, cells):
        logits, _ = super().decode(embedding, prompts, cells)
        bright = embedding[0, 0] > 0.5
        sure = [
            (bright & inside(prompt)).any(axis=0).sum() / (prompt[2] - prompt[0] + 1)
            for prompt in prompts
        ]
        return logits, np.array(sure, np.float32)


def test_an_object_ends_where_the_network_is_unsure_of_it():
    """It shrinks from 40 columns to 8 in slice 9, at once."""
    image = squares({})
    image[:9, 20:40, 60:100] = 255
    image[9:, 20:40, 60:68] = 255
    box = box_at(image, 6)
    only_iou = replace(NO_CROPS, extend_least_area=0.0, extend_least_agreement=0.0)
    unsure = replace(only_iou, extend_least_iou=0.8)
    ended = extended(image, box, network=UnsureOfShortRows(), settings=unsure)
    assert slices_of(ended.labels) == list(range(9))
    sure = replace(only_iou, extend_least_iou=0.0)
    went_on = extended(image, box, network=UnsureOfShortRows(), settings=sure)
    assert slices_of(went_on.labels) == list(range(DEPTH))


def test_an_object_ends_where_its_place_is_of_another_brightness():
    """Of 200 in slices 0 to 8, of 160 behind; both are bright for the network."""
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    image[:9][image[:9] > 0] = 200
    image[9:][image[9:] > 0] = 160
    labels = extended(image, box_at(image, 6)).labels
    assert slices_of(labels) == list(range(9))  # levels are 17 apart: nothing in common
    near = np.where(image == 160, np.uint8(193), image)
    assert slices_of(extended(near, box_at(near, 6)).labels) == list(range(DEPTH))


def test_brightness_is_compared_by_the_values_that_two_masks_have_in_common():
    """Half of the object gets much darker in slice 9, and a quarter of it in slice 3."""
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    image[image > 0] = 230
    image[9:, 20:40, 60:71] = 150  # 11 of 20 columns
    image[:4, 20:40, 60:65] = 150
    labels = extended(image, box_at(image, 6)).labels
    assert slices_of(labels) == list(range(9))


def test_areas_are_measured_by_the_largest_on_the_way():
    """The box is in a slice where the object is small: 4 x 4 of 24 x 24 behind it, then 6 x 6."""
    image = squares({})
    for z, side in enumerate([4, 8, 12, 16, 20, 24, 20, 16, 12, 8, 6, 6, 6, 6]):
        image[z, 32 - side // 2 : 32 + side // 2, 80 - side // 2 : 80 + side // 2] = 255
    settings = replace(NO_CROPS, extend_least_area=0.1, extend_least_agreement=0.0, extend_gap=0)
    labels = extended(image, box_at(image, 0), settings=settings).labels
    assert slices_of(labels) == list(range(10))  # 8 x 8 is more than a tenth, 6 x 6 is less


def test_a_box_without_an_object_gives_no_mask_and_no_walk():
    image = squares(MOVING)
    network = BrightInBox()
    labels = extended(image, [10, 10, 6, 30, 30, 6], network=network).labels
    assert not labels.any()
    assert len(network.prompts) == 1
    assert extended(image, [10, 10, 6, 30, 30, 6]).predicted_iou == {0: [1.0]}


def test_when_it_is_enough_what_was_found_counts_and_is_told():
    image = squares(MOVING)
    box = box_at(image, 6)

    def until(most):
        def progress(done, _):
            if done >= most:
                raise Enough

        return extended(image, box, box, progress=progress)

    result = until(3)  # of the second object its own slice alone, where the smaller counts
    assert (slices_of(result.labels, 1), slices_of(result.labels, 2)) == ([7, 8], [6])
    assert result.warnings == tuple(
        f"array: object {number} was not followed to its ends" for number in (1, 2)
    )
    np.testing.assert_array_equal(until(1000).labels, extended(image, box, box).labels)


# Several given slices of one object


class Sure(BrightInBox):
    """Finds what is bright, and doubts nothing: logits of 9 and -9."""

    def decode(self, embedding, prompts, cells):
        logits, iou = super().decode(embedding, prompts, cells)
        return 9 * logits, iou


def test_a_second_box_corrects_what_lies_around_it_and_nothing_behind_the_next_given_slice():
    """From slice 7 on it is another object for the network: nothing of it touches the first."""
    image = squares({z: (20, 60) if z < 7 else (20, 160) for z in range(DEPTH)})
    first, second = box_at(image, 4), box_at(image, 9)
    alone = extended(image, first).labels
    assert slices_of(alone) == list(range(7))
    both = extended(image, first, second, objects=[0, 0], network=Sure()).labels
    np.testing.assert_array_equal(both[:5], alone[:5])
    np.testing.assert_array_equal(both[9:], image[9:] > 0)
    assert both.max() == 1
    # between them the nearer one counts
    np.testing.assert_array_equal(both[5:7], image[5:7] > 0)
    np.testing.assert_array_equal(both[7:9], image[7:9] > 0)


def test_between_two_given_slices_both_ways_count_by_their_nearness():
    """In slice 0 the object has 20 columns, in slice 10 the user says that it has 10 of them."""
    image = squares({})
    image[:, 20:40, 60:80] = 255
    masks = {0: image[0] > 0, 10: image[10] > 0}
    masks[10][:, 70:80] = False
    given = [Given(z, np.zeros((0, 4)), mask) for z, mask in masks.items()]
    labels = extend_objects(case_of(image), Sure(), NO_CROPS, [given]).labels
    np.testing.assert_array_equal(labels[0], masks[0])
    np.testing.assert_array_equal(labels[10], masks[10])
    widths = [int((labels[z] > 0).any(axis=0).sum()) for z in range(11)]
    assert widths[1:3] == [20, 20]
    assert widths == sorted(widths, reverse=True)


def test_a_given_mask_stays_as_it_is_and_is_followed():
    image = squares(MOVING)
    image[:, 45:60] = image[:, 20:35]  # a second object below the first, with 5 rows between them
    drawn = image[6] > 0
    drawn[41:] = False
    given = Given(6, np.zeros((0, 4)), drawn)
    labels = extend_objects(case_of(image), BrightInBox(), NO_CROPS, [[given]]).labels
    np.testing.assert_array_equal(labels[6], drawn)
    assert slices_of(labels) == list(range(3, 10))
    assert not labels[:, 50:].any()


def test_an_empty_mask_says_where_an_object_ends():
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    box = box_at(image, 4)[:2] + box_at(image, 4)[3:5]
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    given = [Given(4, np.array([box])), Given(9, np.zeros((0, 4)), nothing)]
    labels = extend_objects(case_of(image), BrightInBox(), NO_CROPS, [given]).labels
    assert slices_of(labels) == list(range(9))
    given.append(Given(2, np.zeros((0, 4)), nothing))
    labels = extend_objects(case_of(image), BrightInBox(), NO_CROPS, [given]).labels
    assert slices_of(labels) == [3, 4, 5, 6, 7, 8]


def test_two_boxes_in_one_slice_are_one_mask():
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    image |= squares(dict.fromkeys(range(DEPTH), (20, 90)))
    boxes = [57, 17, 6, 82, 43, 6], [87, 17, 6, 112, 43, 6]
    labels = extended(image, *boxes, objects=[0, 0]).labels
    np.testing.assert_array_equal(labels, image > 0)


# Several objects


def test_objects_are_followed_each_by_itself_and_slices_are_encoded_once():
    image = squares(MOVING)
    other = squares({z: (30, 200) for z in range(5, DEPTH)})
    network = BrightInBox()
    both = image | other
    both[:, 60, 100:128:2] = 9 * np.eye(DEPTH, dtype=np.uint8)  # no two slices are equal
    result = extended(both, box_at(image, 6), box_at(other, 8), network=network)
    np.testing.assert_array_equal(result.labels == 1, image > 0)
    np.testing.assert_array_equal(result.labels == 2, other > 0)
    assert set(network.encoded.values()) == {1}
    assert {i: len(ious) for i, ious in result.predicted_iou.items()} == {0: 7, 1: 9}


@pytest.mark.parametrize("first", ["large", "small"])
def test_where_objects_overlap_the_smaller_counts(first):
    image = squares(dict.fromkeys(range(DEPTH), (10, 60)), side=40)
    boxes = {"large": [55, 5, 6, 105, 55, 6], "small": [65, 15, 6, 75, 25, 6]}
    names = sorted(boxes, key=lambda name: name != first)
    settings = replace(NO_CROPS, extend_reach=0.0)
    labels = extended(image, *(boxes[name] for name in names), settings=settings).labels
    assert labels[6, 20, 70] == names.index("small") + 1
    assert labels[6, 45, 95] == names.index("large") + 1


def test_a_thicker_box_is_a_bound_as_ever():
    image = squares(dict.fromkeys(range(DEPTH), (20, 60)))
    image |= squares(dict.fromkeys(range(DEPTH), (20, 150)))
    thin, thick = [57, 17, 6, 82, 43, 6], [147, 17, 4, 172, 43, 8]
    result = extended(image, thin, thick)
    assert slices_of(result.labels, 1) == list(range(DEPTH))
    assert slices_of(result.labels, 2) == [4, 5, 6, 7, 8]
    assert sorted(result.predicted_iou) == [0, 1]
    with pytest.raises(CaseError, match="^array: box 2 is thicker than one slice, and not the onl"):
        extended(image, thin, thick, objects=[0, 0])


def test_an_image_and_no_box_are_segmented_as_ever():
    image = squares(MOVING)[6]
    case = make_case(image, [[80, 15, 110, 45]], modality="MR")
    result = extend_boxes(case, BrightInBox(), NO_CROPS)
    np.testing.assert_array_equal(result.labels, labels_of(case, BrightInBox(), NO_CROPS))
    assert result.labels.any()
    assert not extended(squares(MOVING)).labels.any()


def test_boxes_of_one_object_are_sorted_by_their_slices():
    boxes = np.array(
        [[1, 2, 5, 3, 4, 5], [0, 0, 2, 9, 9, 2], [1, 1, 5, 2, 2, 5], [7, 7, 0, 8, 8, 0]]
    )
    first, second = given_by_boxes(boxes.astype(float), [0, 0, 0, 1])
    assert [(one.z, one.boxes.tolist()) for one in first] == [
        (2, [[0, 0, 9, 9]]), (5, [[1, 2, 3, 4], [1, 1, 2, 2]]),
    ]  # fmt: skip
    assert [(one.z, one.boxes.tolist()) for one in second] == [(0, [[7, 7, 8, 8]])]


# What slices are asked with


class Wholly(BrightInBox):
    """Finds all that is bright, in the box and beside it."""

    def decode(self, embedding, prompts, cells):
        everything = np.tile(np.array([0, 0, 256, 256], np.float32), (len(prompts), 1))
        logits, iou = super().decode(embedding, everything, cells)
        self.prompts[-1] = prompts
        return logits, iou


def prompts_of(given, image, settings=NO_CROPS):
    """What an object is asked with: the given slice's prompts first, then upwards, then down."""
    network = BrightInBox()
    extend_objects(case_of(image), network, settings, [given])
    return np.concatenate(network.prompts).tolist()


def test_each_side_of_the_box_keeps_its_distance_from_the_object():
    """It is 20 x 20 and moves by 2 columns a slice; the box is 10, 4, 7 and 1 pixels wider."""
    image = squares({z: (20, 60 + 2 * z) for z in range(3)})[:3]
    given = Given(1, np.array([[52.0, 16, 88, 40]]))
    asked = prompts_of([given], image)
    assert asked[0] == [51, 15, 89, 41]  # 1 wider
    np.testing.assert_allclose(asked[1:], [[53, 15, 91, 41], [49, 15, 87, 41]], atol=1)
    same_place = squares(dict.fromkeys(range(3), (20, 62)))[:3]
    assert prompts_of([given], same_place) == [[51, 15, 89, 41]] * 3


def test_a_given_mask_has_no_box_and_several_boxes_have_the_one_around_them():
    image = squares(dict.fromkeys(range(3), (20, 60)))[:3]
    mask = Given(1, np.zeros((0, 4)), image[1] > 0)
    assert prompts_of([mask], image) == [[57, 17, 82, 42]] * 2  # 3 wider
    halves = Given(1, np.array([[55.0, 15, 70, 42], [68, 18, 85, 40]]))
    assert prompts_of([halves], image)[2:] == [[54, 14, 86, 43]] * 2


def test_a_mask_beyond_its_box_has_no_margin_there():
    """With `cut_to_box` off the mask, of columns 60 to 79, is wider than the box."""
    image = squares(dict.fromkeys(range(3), (20, 60)))[:3]
    given = Given(1, np.array([[66.0, 12, 90, 50]]))
    settings = replace(NO_CROPS, cut_to_box=False)
    inside = prompts_of([given], image)
    assert inside == [[65, 11, 91, 51]] * 3
    network = Wholly()
    extend_objects(case_of(image), network, settings, [[given]])
    assert np.concatenate(network.prompts).tolist()[1:] == [[60, 11, 91, 51]] * 2


def test_without_tracking_a_slice_is_asked_with_the_box_around_the_previous_mask():
    image = squares(dict.fromkeys(range(3), (20, 60)))[:3]
    given = Given(1, np.array([[50.0, 10, 90, 50]]))
    previous = [57, 17, 82, 42]  # 3 wider
    assert prompts_of([given], image, LITEMEDSAM) == [[50, 10, 90, 50], previous, previous]


def test_a_small_object_is_followed_in_crops_that_move_with_it():
    """Of 25 columns; it moves by 78 of 400 columns, more than a crop can hold."""
    image = np.zeros((DEPTH, 300, 400), np.uint8)
    for z in range(DEPTH):
        image[z][ellipse(300, 400, (50, 20 + 6 * z), (6, 12))] = 255
    box = box_at(image, 7)
    result = extended(image, box, settings=replace(BEST, volume_crops=1))
    found = result.labels > 0
    assert slices_of(result.labels) == list(range(DEPTH))
    assert 2 * (found & (image > 0)).sum() / (found.sum() + (image > 0).sum()) > 0.9


def test_progress_ends_with_all_done():
    image = squares(MOVING)
    seen = []
    extended(image, box_at(image, 6), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (DEPTH, DEPTH)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("name", "value"),
    [("extend_most", -1), ("extend_least_iou", 1.5), ("extend_reach", -0.5), ("extend_gap", -1)],
)
def test_a_bound_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} should be "):
        replace(BEST, **{name: value})
