"""What a slice of a volume is asked with, on paper."""

import gc
import weakref

import cv2
import numpy as np
import pytest

from swiftmedsam import make_case
from swiftmedsam.flow import Flow
from swiftmedsam.frame import Frame
from swiftmedsam.masks import Answer, interpolated, mask_of
from swiftmedsam.prompts import (
    BoxPrompts,
    Prompts,
    box_of,
    expected_share,
    input_pixels,
    tapered_box,
)
from swiftmedsam.settings import BEST
from tests.helpers import BrightInBox, ellipse, labels_of
from tests.helpers.generated import given, st

SIDE = 256
TAPER, MARGIN = BEST.taper, BEST.tracked_margin
FRAME = Frame(SIDE, SIDE)


def found_at(z, mask, box, frame=FRAME, carried=None):
    """`mask` (256, 256) as the network's answer about a box (6,) in slice `z`."""
    answers = [Answer(frame, np.where(mask, 1, -1).astype(np.float32), (0, 0))]
    patch = mask_of(answers, frame.span)
    asked = [BoxPrompts(np.zeros((1, 4), np.float32), carried)]
    prompts = Prompts(np.zeros((9, SIDE, SIDE), np.uint8), BEST)
    return prompts.track(z, box, answers, patch, asked)


@pytest.mark.parametrize(
    ("z", "share"),
    [(20, TAPER[0]), (10, TAPER[5]), (30, TAPER[5]), (25, (TAPER[2] + TAPER[3]) / 2), (0, None)],
)
def test_an_object_tapers_towards_the_ends_of_its_box(z, share):
    """Slices 0.5 to 39.5 of a deep volume, so that half the extent is 20."""
    found = expected_share(z, 0.5, 39.5, 1000, TAPER)
    assert found == pytest.approx(share or TAPER[10], abs=0.01)


def test_where_the_volume_ends_the_object_is_cut_and_does_not_taper():
    assert expected_share(0, 0, 39, 40, TAPER) == expected_share(39, 0, 39, 40, TAPER) == TAPER[0]
    assert expected_share(0, 0, 39, 60, TAPER) == TAPER[0]
    assert expected_share(39, 0, 39, 60, TAPER) < TAPER[9]


def test_the_expected_box_has_its_share_of_the_sides_and_stays_inside():
    given_box, around = np.array([10.0, 20, 110, 60]), np.array([50.0, 30, 60, 40])
    # half of 100 and of 40, and a pixel around
    np.testing.assert_array_equal(tapered_box(given_box, around, 0.5, 1), [29, 24, 81, 46])
    corner = np.array([10.0, 20, 14, 24])
    np.testing.assert_array_equal(tapered_box(given_box, corner, 0.5, 1), [10, 20, 62, 42])


boxes = st.tuples(*[st.integers(0, 200)] * 2, *[st.integers(1, 50)] * 2).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]], np.float32)
)


@given(boxes, boxes, st.floats(0, 1))
def test_no_box_that_is_asked_leaves_the_given_one(given_box, other, share):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    left, top, right, bottom = other.astype(int)
    mask[top:bottom, left:right] = 255
    inside = input_pixels(given_box, FRAME)
    carried = box_of(mask[inside], given_box[:2], given_box, MARGIN)
    for box in (tapered_box(given_box, other, share, 1), carried):
        assert (box[:2] >= given_box[:2] - 1e-3).all()
        assert (box[2:] <= given_box[2:] + 1e-3).all()
        assert (box[2:] > box[:2]).all()


def test_the_box_of_a_carried_mask_is_a_little_wider_and_an_empty_one_is_the_given():
    given_box = np.array([0, 0, 200, 200], np.float32)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[30:40, 50:80] = 160
    m, start = MARGIN, np.array([7, 9])
    np.testing.assert_array_equal(
        box_of(mask[9:, 7:], start, given_box, MARGIN), [50 - m, 30 - m, 79 + m, 39 + m]
    )
    np.testing.assert_array_equal(box_of(mask[9:, 7:] // 2, start, given_box, MARGIN), given_box)


def test_of_what_is_carried_on_a_share_is_renewed_and_nothing_lies_outside_the_box():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:40, 20:40] = True
    box = np.array([11.0, 11, 0, 28, 249, 8])
    inside = input_pixels(FRAME.wide_prompts(box[np.newaxis, [0, 1, 3, 4]], 1)[0], FRAME)
    assert inside == (slice(10, 251), slice(10, 30))
    first = found_at(3, mask, box).masks[FRAME]
    np.testing.assert_array_equal(first, 255 * mask[inside])
    nothing = np.zeros((241, 20), np.uint8)
    later = found_at(4, mask, box, carried=nothing).masks[FRAME]
    np.testing.assert_allclose(later, BEST.renewal * 255 * mask[inside], atol=0.5)


def test_the_padding_is_not_carried():
    box = np.array([0, 20, 256, 256], np.float32)
    assert input_pixels(box, Frame(128, 256)) == (slice(20, 128), slice(0, 256))


@pytest.mark.parametrize("frame", [FRAME, Frame(SIDE, SIDE, mirrored=True)])
def test_flow_carries_a_mask_along_with_what_it_is_of(frame):
    """A textured ellipse that moves by 6 to the right and 4 down, and shrinks."""
    texture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (SIDE, SIDE), np.uint8), (0, 0), 3
    )
    masks = [ellipse(SIDE, SIDE, (100, 100), (30, 40)), ellipse(SIDE, SIDE, (104, 106), (28, 37))]
    shift = np.float32([[0.93, 0, 106 - 93], [0, 0.93, 104 - 93]])
    inside = [texture, cv2.warpAffine(texture, shift, (SIDE, SIDE))]
    image = np.stack([np.where(m, 100 + t // 2, 20) for m, t in zip(masks, inside, strict=True)])
    seen = masks[0][:, ::-1] if frame.mirrored else masks[0]
    box = np.array([40.0, 40, 0, 180, 180, 1])
    (asked,) = Prompts(image.astype(np.uint8), BEST).choose(
        frame, 1, box[np.newaxis], [found_at(0, seen, box, frame)]
    )
    prompts, carried = asked.prompts, asked.mask
    wanted = masks[1][:, ::-1] if frame.mirrored else masks[1]
    inside = input_pixels(prompts[0], frame)
    assert not wanted.sum() - wanted[inside].sum()
    moved = carried > 127
    overlap = (moved & wanted[inside]).sum() / (moved | wanted[inside]).sum()
    before = (seen & wanted).sum() / (seen | wanted).sum()
    assert overlap > 0.93 > before
    assert len(prompts) == 3
    ys, xs = np.nonzero(wanted)
    tight = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
    assert np.abs(prompts[2] - tight).max() <= MARGIN + 3


def test_without_a_neighbour_the_given_box_is_asked_alone():
    image = np.zeros((1, 40, 60, 3), np.uint8)
    frame = Frame(40, 60)
    (asked,) = Prompts(image, BEST).choose(frame, 0, np.array([[10.0, 10, 0, 30, 20, 0]]), [None])
    prompts, carried = asked.prompts, asked.mask
    np.testing.assert_array_equal(prompts, frame.wide_prompts(np.array([[10.0, 10, 30, 20]]), 1))
    assert carried is None


def test_slices_between_two_that_were_asked_get_weighted_answers_of_both():
    asked = [Answer(FRAME, np.full((4, 4), z, np.float32), (0, 0)) for z in (10, 6)]
    between = dict(interpolated(10, asked[:1], 6, asked[1:]))
    assert sorted(between) == [7, 8, 9]
    assert [answer.weight for answer in between[9]] == [0.75, 0.25]
    assert between[9][0].logits is asked[0].logits
    assert list(interpolated(7, asked[:1], 6, asked[1:])) == []


@pytest.mark.parametrize("side", [1, 7, 8, 9, 12, 15, 16, 17, 40])
@pytest.mark.parametrize("turned", [False, True])
def test_flow_of_narrow_slices_is_finite(side, turned):
    """OpenCV's DIS raises, makes NaN or crashes below 16 pixels."""
    random = np.random.default_rng(side)
    shape = (3, 512, side) if turned else (3, side, 512)
    image = random.integers(0, 255, shape, np.uint8)
    box = [0, 0, 0, shape[2] - 1, shape[1] - 1, 2]
    case = make_case(image, np.array([box]), is_volume=True, modality="MR")
    labels = labels_of(case, BrightInBox(), crops=0)
    assert labels.any(axis=(1, 2)).all()
    places = Flow(image)._places(Frame(*shape[1:]), 1, 0)
    assert np.isfinite(places).all()


def test_a_volume_is_freed_when_its_case_is_done():
    """Without waiting for the garbage collector: a folder of large volumes would fill memory."""
    image = np.random.default_rng(1).integers(0, 255, (4, 60, 80), np.uint8)
    alive = weakref.ref(image)
    gc.disable()
    try:
        case = make_case(image, [[10, 10, 0, 50, 50, 3]], is_volume=True, modality="MR")
        del image
        assert labels_of(case, BrightInBox()).any()
        assert alive() is case.image
        del case
        assert alive() is None
    finally:
        gc.enable()
