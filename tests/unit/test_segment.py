"""Which box wins where, crops, options: with networks one can check on paper."""

import functools

import numpy as np
import pytest

from swiftmedsam import Case, make_case
from swiftmedsam.decoding import batches
from swiftmedsam.memory import DECODE_BATCH
from swiftmedsam.result import Clock
from swiftmedsam.segment import segment
from swiftmedsam.settings import BEST, LITEMEDSAM, changed
from tests.helpers import (
    BoxesAsMasks,
    BrightInBox,
    Everywhere,
    SureOfRows,
    dsc,
    image_case,
    inside,
    labels_of,
    picture,
    pixels_of,
    volume_case,
)

litemedsam = functools.partial(labels_of, settings=LITEMEDSAM)

# At a longer side of 256 the frame changes nothing: slice pixels are input pixels.
HEIGHT, WIDTH = 64, 256


def image_with(boxes, height=HEIGHT, width=WIDTH):
    return make_case(picture(height, width), np.array(boxes), modality="US")


# Images, whole


def test_labels_are_the_numbers_of_the_boxes():
    labels = litemedsam(image_with([[10, 5, 12, 6], [20, 7, 21, 9]]), BoxesAsMasks())
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[5:7, 10:13] = 1
    wanted[7:10, 20:22] = 2
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, wanted)


def test_the_later_box_wins():
    small_last = litemedsam(image_with([[10, 10, 19, 19], [13, 12, 15, 14]]), BoxesAsMasks())
    assert np.bincount(small_last.ravel())[1:].tolist() == [91, 9]
    large_last = litemedsam(image_with([[13, 12, 15, 14], [10, 10, 19, 19]]), BoxesAsMasks())
    assert np.bincount(large_last.ravel())[1:].tolist() == [0, 100]


def test_a_small_image_is_enlarged_for_the_network_and_its_labels_are_not():
    labels = litemedsam(image_with([[1, 0, 3, 1]], height=2, width=4), BoxesAsMasks())
    np.testing.assert_array_equal(labels, [[0, 1, 1, 0], [0, 0, 0, 0]])  # prompt 64, 0, 192, 64


def test_an_image_is_encoded_once_and_its_boxes_are_decoded_in_batches():
    network = BoxesAsMasks()
    small = 4 * DECODE_BATCH  # prompts that take what DECODE_BATCH whole ones do
    boxes = [[x, 3, x + 4, 9] for x in range(0, 5 * (small + 3), 5)]
    labels = litemedsam(image_with(boxes), network)
    assert list(network.encoded.values()) == [1]
    assert [len(prompts) for prompts in network.prompts] == [small, 3]
    np.testing.assert_array_equal(np.concatenate(network.prompts), boxes)
    wanted = np.repeat(np.arange(len(boxes)) + 1, 5)
    np.testing.assert_array_equal(labels[6, : len(wanted)], wanted)


def square(cells):
    return slice(0, cells), slice(0, cells)


@pytest.mark.parametrize(
    ("sides", "prompts", "most", "wanted"),
    [
        ([64] * 5, 1, 2, [2, 2, 1]),
        ([64] * 5, 3, 2, [1] * 5),  # one box at least
        ([8] * 10, 1, 2, [8, 2]),  # four small ones take what one whole does
        ([8] * 10, 3, 2, [2] * 5),
        ([32] * 10, 1, 2, [8, 2]),
        ([48] * 4, 1, 2, [3, 1]),
        ([8, 8, 64, 8, 8], 1, 2, [2, 2, 1]),  # the small one beside the large counts as large
        ([64, 8, 8, 8], 1, 2, [2, 2]),
    ],
)
def test_a_call_decodes_no_more_than_so_many_whole_prompts(sides, prompts, most, wanted):
    spans = [square(side) for side in sides]
    found = list(batches(spans, [np.zeros((prompts, 4), np.float32)] * len(sides), most))
    assert [part.stop - part.start for part in found] == wanted
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(len(sides)))


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_every_one_of_many_boxes_keeps_its_own_label(count, dtype):
    corners = [(x, y) for y in range(0, 64, 4) for x in range(0, 256, 8)][:count]
    labels = litemedsam(image_with([[x, y, x + 5, y + 2] for x, y in corners]), BoxesAsMasks())
    assert labels.dtype == dtype
    wanted = np.zeros((HEIGHT, WIDTH), int)
    for label, (x, y) in enumerate(corners, start=1):
        wanted[y : y + 3, x : x + 6] = label
    np.testing.assert_array_equal(labels, wanted)


def test_a_case_without_boxes_needs_no_network():
    case = Case("none", image_case()["imgs"], np.zeros((0, 4)), False)
    labels = litemedsam(case, None)
    assert labels.shape == (48, 80)
    assert not labels.any()


# Images, small boxes in crops


def test_a_small_box_is_shown_in_a_crop_and_painted_where_it_was():
    image = picture(300, 400, inside((90, 50, 99, 57), 300, 400))
    network = BrightInBox()
    labels = labels_of(make_case(image, [[88, 48, 101, 59]], modality="US"), network)
    wanted = np.zeros((300, 400), bool)
    wanted[50:58, 90:100] = True
    assert dsc(labels > 0, wanted) > 0.9
    # a crop of four times 14 pixels, in its middle or at one of its sides with half of 14 between
    prompt, in_whole = np.concatenate(network.prompts)
    assert prompt[2] - prompt[0] == pytest.approx(14 * 256 / 56 + 1, abs=1)
    np.testing.assert_array_equal(in_whole, [55, 29, 65, 38])
    whole = litemedsam(make_case(image, [[88, 48, 101, 59]], modality="US"), BrightInBox())
    assert dsc(whole > 0, wanted) < dsc(labels > 0, wanted)


def test_large_boxes_are_shown_whole_and_small_neighbours_together():
    boxes = [[20, 20, 220, 220], [30, 30, 39, 39], [44, 32, 55, 41], [900, 700, 909, 709]]
    network = Everywhere()
    case = make_case(np.zeros((800, 1000), np.uint8), boxes, modality="US")
    labels = labels_of(case, network)
    # the large one in the whole image, and mirrored; three small ones in it and in two crops
    assert sorted(len(prompts) for prompts in network.prompts) == [1, 1, 1, 1, 2, 2]
    assert list(network.encoded.values()) == [4]  # of one colour, as the mirror image and crops
    sizes = [(x_max - x_min + 1) * (y_max - y_min + 1) for x_min, y_min, x_max, y_max in boxes]
    covered = sizes[1] + sizes[2]  # of the large box by small ones on top of it
    assert np.bincount(labels.ravel())[1:].tolist() == [sizes[0] - covered, *sizes[1:]]


LARGE, SMALL_A, SMALL_B = [20, 20, 220, 220], [30, 30, 90, 90], [80, 30, 140, 90]


@pytest.mark.parametrize(
    ("boxes", "chosen", "over"),  # the boxes by who covers whom, lowest first
    [
        ([SMALL_A, LARGE], BEST, [1, 0]),
        ([LARGE, SMALL_A], BEST, [0, 1]),
        ([SMALL_B, LARGE, SMALL_A], BEST, [1, 0, 2]),
        ([SMALL_A, LARGE], LITEMEDSAM, [0, 1]),
    ],
)
def test_where_masks_meet_the_smaller_box_counts_or_the_later(boxes, chosen, over):
    case = make_case(np.zeros((256, 256), np.uint8), boxes, modality="US")
    labels = labels_of(case, Everywhere(), chosen)
    wanted = np.zeros((256, 256), int)
    for i in over:
        x_min, y_min, x_max, y_max = boxes[i]
        wanted[y_min : y_max + 1, x_min : x_max + 1] = i + 1
    if chosen is LITEMEDSAM:  # which no box limits
        wanted[:] = over[-1] + 1
    np.testing.assert_array_equal(labels, wanted)


def test_a_small_box_of_a_volume_counts_over_a_large_one_of_more_slices():
    boxes = [[40, 10, 2, 60, 30, 4], [20, 5, 0, 200, 60, 6]]
    case = make_case(np.zeros((7, 64, 256), np.uint8), boxes, is_volume=True, modality="MR")
    labels = labels_of(case, Everywhere())
    for z in range(7):
        assert (labels[z, 10:31, 40:61] == (1 if 2 <= z <= 4 else 2)).all()
    assert (labels == 2).sum() + (labels == 1).sum() == 181 * 56 * 7


def test_a_crops_logits_count_twice_those_of_the_whole_image():
    class Judging(BoxesAsMasks):
        """+3 everywhere in what is enlarged, `whole` in the whole image; sure of both."""

        whole = -4.0

        def decode(self, embedding, prompts, cells):
            enlarged = prompts[:, 2] - prompts[:, 0] > 40
            logits = np.where(enlarged, 3.0, self.whole).astype(np.float32)
            logits = np.broadcast_to(logits[:, np.newaxis, np.newaxis], (len(prompts), 256, 256))
            return pixels_of(cells, logits), np.where(enlarged, 1.0, 0.4).astype(np.float32)

    case = make_case(picture(300, 400), [[88, 48, 101, 59]], modality="US")
    result = segment(case, Judging())
    assert result.labels.sum() == 14 * 12  # 2 of +3 against 1 of -4
    assert result.predicted_iou[0] == [pytest.approx(0.8)]
    against = Judging()
    against.whole = -7.0
    assert not labels_of(case, against).any()


def test_no_crop_is_taken_where_none_is_allowed():
    network = Everywhere()
    case = make_case(np.zeros((800, 1000), np.uint8), [[30, 30, 39, 39]], modality="US")
    labels_of(case, network, crops=0)
    np.testing.assert_array_equal(  # as it is, and mirrored
        np.concatenate(network.prompts), [[6, 6, 10, 10], [245, 6, 249, 10]]
    )


# Options, progress, time


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 0}, "step should be 1 or more, or None, got 0"),
        ({"step": -1}, "step should be 1 or more, or None, got -1"),
        ({"crop_weight": 1.5}, "crop_weight should be between 0 and 1, got 1.5"),
        ({"prompts": ["given", "guessed"]}, "prompts should be some of given, tapered, tracked"),
        ({"prompts": []}, "prompts should be some of"),
        ({"zooms": [0]}, "zooms should be numbers of 1 or more"),
        ({"image_crops": "4"}, "image_crops should be like 4, got '4'"),
        ({"image_crops": True}, "image_crops should be like 4, got True"),
        ({"mirror_images": 1}, "mirror_images should be like True, got 1"),
        ({"crops": 4}, "there is no setting 'crops'"),
    ],
)
def test_a_setting_that_is_none_is_refused_with_its_name(values, message):
    with pytest.raises(ValueError, match=message):
        changed(BEST, values)


def test_settings_may_be_changed_by_what_json_has():
    found = changed(BEST, {"step": 2, "crop_weight": 1, "prompts": ["given"], "zooms": [4, 8]})
    assert (found.step, found.crop_weight, found.prompts) == (2, 1, ("given",))
    assert found.zooms == (4, 8)
    assert changed(BEST, {}) == BEST


class WithSettings(BoxesAsMasks):
    settings = LITEMEDSAM


def test_the_settings_of_the_weights_are_the_default_and_given_ones_count_more():
    case = image_with([[10, 5, 30, 25]])
    assert (
        segment(case, WithSettings()).labels.sum()
        == labels_of(case, BoxesAsMasks(), LITEMEDSAM).sum()
    )
    network = WithSettings()
    segment(case, network, BEST)
    assert len(network.prompts) == 2  # mirrored, too


def test_a_result_repeats_the_warnings_of_its_case():
    case = image_with([[10, 5, 300, 25]])
    assert segment(case, BoxesAsMasks()).warnings == case.warnings
    assert case.warnings == ("array: 1 boxes reached outside the image and were cut to it",)


@pytest.mark.parametrize("chosen", [BEST, LITEMEDSAM])
@pytest.mark.parametrize("arrays", [image_case(), volume_case()], ids=["image", "volume"])
def test_progress_reaches_its_total_and_the_result_has_seconds_of_its_steps(arrays, chosen):
    calls = []
    case = make_case(arrays["imgs"], arrays["boxes"], modality="US")
    result = segment(case, BrightInBox(), chosen, progress=lambda *call: calls.append(call))
    total = calls[-1][1]
    assert {call[1] for call in calls} == {total}
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert set(done) - {0} == set(range(1, total + 1))
    assert set(result.seconds) == {"encode", "decode"}
    assert all(seconds > 0 for seconds in result.seconds.values())


def test_a_clock_adds_up_and_counts_what_fails():
    clock = Clock()
    for _ in range(2):
        before = clock.seconds["step"]
        with pytest.raises(ValueError, match="inside"), clock.measure("step"):
            raise ValueError("inside")
        assert clock.seconds["step"] > before


# Predicted IoU


def test_predicted_iou_goes_by_the_boxes_of_the_case_in_crops_too():
    boxes = [[20, 200, 220, 400], [30, 30, 39, 39], [900, 700, 909, 709]]
    case = make_case(np.zeros((800, 1000), np.uint8), boxes, modality="US")
    found = segment(case, SureOfRows()).predicted_iou
    assert sorted(found) == [0, 1, 2]
    assert found[0] == [pytest.approx((int(200 * 0.256) - 1) / 1000)]
