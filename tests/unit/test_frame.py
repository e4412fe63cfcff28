"""The letterbox, with numbers one can check on paper and against the baseline's rules."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from swiftmedsam.frame import INPUT_SIZE, Frame, Patch
from swiftmedsam.masks import Answer, mask_of
from swiftmedsam.settings import BEST
from tests.helpers import inside
from tests.helpers.generated import example, given, st


def whole_mask(frame, logits, limits=None):
    """Mask (H, W) of `logits` (256, 256), as the patch of it painted into nothing."""
    patch = mask_of([Answer(frame, logits, (0, 0))], limits or frame.span)
    mask = np.zeros(frame.size, bool)
    mask[patch.rows, patch.columns] = patch.mask
    return mask


def prompt_around(frame, mask):
    """That of a whole mask (H, W)."""
    return frame.prompt_around(Patch(*frame.span, mask), BEST.previous_margin)


sides = st.integers(1, 400)
frames = st.builds(Frame, sides, sides)
SHAPES = [(48, 80), (80, 48), (256, 256), (300, 200), (123, 457), (512, 511), (1000, 30), (31, 17)]


@st.composite
def frames_with_box(draw, kind=st.integers):
    """A frame and a box (4,) in it, of whole pixels or fractions."""
    frame = draw(frames)
    xs = sorted(draw(st.tuples(*[kind(0, frame.width - 1)] * 2)))
    ys = sorted(draw(st.tuples(*[kind(0, frame.height - 1)] * 2)))
    return frame, np.array([xs[0], ys[0], xs[1], ys[1]], np.float64)


# On paper


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    [
        (2, 4, (128, 256)),
        (512, 256, (256, 128)),
        (300, 200, (256, 171)),  # 170.67
        (200, 301, (170, 256)),  # 170.10
        (256, 1, (256, 1)),
        (1, 1000, (1, 256)),  # 0.256 would be no row at all
    ],
)
def test_the_longer_side_becomes_256_and_the_shorter_is_rounded(height, width, inner):
    assert Frame(height, width).inner == inner


def test_a_picture_of_2_by_4_blocks_keeps_its_numbers_over_zero_padding():
    numbers = np.array([[10, 20, 30, 40], [60, 50, 110, 20]], np.uint8)
    blocks = np.kron(numbers, np.ones((64, 64), np.uint8))  # 128 x 256: scale 1
    pixels = Frame(128, 256).pixels(blocks)
    assert pixels.shape == (1, 3, 256, 256)
    assert pixels.dtype == np.float32
    wanted = np.array([[0, 0.1, 0.2, 0.3], [0.5, 0.4, 1, 0.1], [0, 0, 0, 0], [0, 0, 0, 0]])
    for channel in pixels[0]:  # the centres of the blocks
        np.testing.assert_array_equal(channel[32::64, 32::64], wanted.astype(np.float32))


def test_a_large_picture_is_averaged():
    numbers = np.array([[0, 100], [200, 100]], np.uint8)
    pixels = Frame(512, 256).pixels(np.tile(numbers, (256, 128)))  # every 2 x 2 averages 100
    assert not pixels.any()
    stripes = np.array([[0], [0], [200], [200]], np.uint8)
    pixels = Frame(512, 256).pixels(np.tile(stripes, (128, 256)))
    np.testing.assert_array_equal(pixels[0, 0, :4, 127], [0, 1, 0, 1])
    assert not pixels[0, :, :, 128:].any()


def test_the_range_is_taken_over_all_channels_together():
    image = np.full((3, 2, 3), 100, np.uint8)
    image[..., 0], image[..., 2] = 50, 250
    np.testing.assert_array_equal(
        Frame(3, 2).pixels(image)[0, :, 100, 100], np.array([0, 0.25, 1], np.float32)
    )


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_picture_becomes_zeros(value):
    assert not Frame(5, 3).pixels(np.full((5, 3, 3), value, np.uint8)).any()


def test_the_darkest_value_is_that_of_the_picture_not_of_the_padding():
    image = np.full((64, 256), 200, np.uint8)
    image[:, :128] = 100
    pixels = Frame(64, 256).pixels(image)
    np.testing.assert_array_equal(pixels[0, 0, [0, 0, 100], [0, 200, 200]], [0, 1, 0])


def test_boxes_become_prompts_truncated_to_whole_input_pixels():
    boxes = np.array([[1, 0, 3, 1], [0.5, 0.2, 3.99, 1.999]])
    prompts = Frame(2, 4).prompts(boxes)  # 64 input pixels per pixel
    assert prompts.dtype == np.float32
    np.testing.assert_array_equal(prompts, [[64, 0, 192, 64], [32, 12, 255, 127]])
    prompts = Frame(300, 200).prompts(np.array([[10.0, 150, 199, 299]]))  # 0.8533 per pixel
    np.testing.assert_array_equal(prompts, [[8, 128, 169, 255]])
    assert Frame(3, 2).prompts(np.zeros((0, 4))).shape == (0, 4)


def test_a_mask_is_read_at_the_centres_of_the_pixels_and_not_from_the_padding():
    logits = np.full((256, 256), -1, np.float32)
    logits[64:, :128] = 1
    logits[128:] = 1  # padding of a 2 x 4 picture
    np.testing.assert_array_equal(whole_mask(Frame(2, 4), logits), [[0, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(
        whole_mask(Frame(4, 2), logits), np.array([[0, 0], [1, 1], [1, 1], [1, 1]], bool)
    )


def test_a_logit_of_zero_is_not_part_of_the_mask():
    mask = whole_mask(Frame(3, 5), np.zeros((256, 256), np.float32))
    assert not mask.any()


def test_the_prompt_around_a_mask_is_its_bounding_box_and_three_pixels_more():
    mask = np.zeros((2, 4), bool)
    mask[1, 2] = True  # input pixels 128..191 by 64..127
    prompt = prompt_around(Frame(2, 4), mask)
    assert prompt.dtype == np.float32
    np.testing.assert_array_equal(prompt, [125, 61, 194, 130])
    mask[0, 1] = True
    np.testing.assert_array_equal(prompt_around(Frame(2, 4), mask), [61, 0, 194, 130])


def test_the_prompt_around_a_mask_is_cut_to_the_input():
    mask = np.zeros((2, 4), bool)
    mask[0, 0] = mask[1, 3] = True
    np.testing.assert_array_equal(prompt_around(Frame(2, 4), mask), [0, 0, 256, 130])
    tall = np.zeros((4, 2), bool)
    tall[3, 0] = True
    np.testing.assert_array_equal(prompt_around(Frame(4, 2), tall), [0, 189, 66, 256])


def test_at_scale_1_the_prompt_is_the_baselines():
    mask = np.zeros((100, 256), bool)
    mask[20:31, 40:61] = True
    np.testing.assert_array_equal(prompt_around(Frame(100, 256), mask), [37, 17, 63, 33])


def test_a_single_pixel_of_a_large_picture_is_not_lost():
    mask = np.zeros((1024, 2048), bool)
    mask[1023, 1001] = True  # an eighth of an input pixel: 125.1 by 127.9
    np.testing.assert_array_equal(prompt_around(Frame(1024, 2048), mask), [122, 124, 128, 130])


def test_the_box_of_an_empty_mask_is_none():
    assert prompt_around(Frame(3, 5), np.zeros((3, 5), bool)) is None


# Against the baseline's rules


def baseline_pixels(image):
    """LiteMedSAM: grey thrice, longest side to 256 by area, min-max, padded, channels first."""
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=-1)
    height, width = image.shape[:2]
    scale = 256 * 1.0 / max(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = (image - image.min()) / np.clip(image.max() - image.min(), a_min=1e-8, a_max=None)
    height, width = image.shape[:2]
    image = np.pad(image, ((0, 256 - height), (0, 256 - width), (0, 0)))
    return image.transpose(2, 0, 1)[None].astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_pixels_are_the_baselines(shape, channels):
    image = np.random.default_rng(0).integers(30, 200, (*shape, *channels), np.uint8)
    np.testing.assert_array_equal(Frame(*shape).pixels(image), baseline_pixels(image))


@given(frames_with_box(st.floats))
def test_prompts_are_the_baselines_and_inside_the_input(frame_and_box):
    frame, box = frame_and_box
    (prompt,) = frame.prompts(box[np.newaxis])
    ratio = 256 / max(frame.height, frame.width)
    np.testing.assert_array_equal(prompt, [int(coordinate * ratio) for coordinate in box])
    assert prompt.min() >= 0
    assert prompt.max() <= INPUT_SIZE


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_inside_limits_is_the_whole_mask_there_and_needs_only_the_cells_under_them(shape):
    frame = Frame(*shape)
    coarse = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    logits = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
    height, width = shape
    limits = slice(height // 5, max(height // 5 + 1, height // 2)), slice(width // 3, width)
    wanted = np.zeros(shape, bool)
    wanted[limits] = whole_mask(frame, logits)[limits]
    rows, columns = frame.cells(limits)
    assert rows.stop - rows.start < 64 or shape == (1000, 30)
    seen = logits[4 * rows.start : 4 * rows.stop, 4 * columns.start : 4 * columns.stop]
    patch = mask_of([Answer(frame, seen, (4 * rows.start, 4 * columns.start))], limits)
    found = np.zeros(shape, bool)
    found[patch.rows, patch.columns] = patch.mask
    assert wanted.any()
    np.testing.assert_array_equal(found, wanted)


def test_a_mask_is_looked_for_only_where_logits_above_0_reach():
    logits = np.full((256, 256), -1, np.float32)
    logits[40:50, 200:210] = 1
    frame = Frame(2560, 2560)
    patch = mask_of([Answer(frame, logits, (0, 0))], frame.span)
    assert patch.mask.any()
    assert patch.mask.size < 130 * 130
    assert not patch.mask[[0, -1]].any()
    assert not patch.mask[:, [0, -1]].any()


# Parts of a slice, and several answers about one object


def test_a_frame_of_a_part_counts_pixels_as_the_slice_does():
    image = (np.arange(90 * 120).reshape(90, 120) % 251).astype(np.uint8)
    part, shifted = Frame(40, 64, top=30, left=50), Frame(40, 64)
    cut = np.ascontiguousarray(image[30:70, 50:114])
    np.testing.assert_array_equal(part.pixels(image), shifted.pixels(cut))
    boxes = np.array([[60.0, 35, 80, 60]])
    np.testing.assert_array_equal(part.prompts(boxes), [[40, 20, 120, 120]])  # 4 per pixel
    within = slice(35, 61), slice(60, 81)
    assert part.cells(within) == shifted.cells((slice(5, 31), slice(10, 31)))
    logits = np.full((256, 256), -1, np.float32)
    logits[20:124, 40:124] = 1
    patch = mask_of([Answer(part, logits, (0, 0))], within)
    found = np.zeros((90, 120), bool)
    found[patch.rows, patch.columns] = patch.mask
    wanted = np.zeros((90, 120), bool)
    wanted[within] = True
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(part.prompt_around(patch, 3), [40 - 3, 20 - 3, 123 + 3, 123 + 3])


@given(frames_with_box())
def test_a_mirrored_frame_shows_the_mirror_image_and_says_the_same(frame_and_box):
    frame, box = frame_and_box
    mirrored = replace(frame, mirrored=True)
    image = (np.arange(frame.height * frame.width) % 251).astype(np.uint8).reshape(frame.size)
    height, width = frame.inner
    np.testing.assert_array_equal(
        mirrored.pixels(image)[0, :, :height, :width],
        frame.pixels(image)[0, :, :height, :width][:, :, ::-1],
    )
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    turned = logits.copy()
    turned[:, :width] = logits[:, :width][:, ::-1]
    np.testing.assert_array_equal(whole_mask(mirrored, turned), whole_mask(frame, logits))
    for way in (Frame.prompts, lambda *of: Frame.wide_prompts(*of, 1)):
        (prompt,), (there,) = way(frame, box[np.newaxis]), way(mirrored, box[np.newaxis])
        wanted = [width - 1 - prompt[2], prompt[1], width - 1 - prompt[0], prompt[3]]
        np.testing.assert_array_equal(there, np.maximum(wanted, 0))


def test_wide_prompts_hold_all_of_the_last_pixel_and_one_more():
    """64 input pixels a pixel, then a quarter of one."""
    boxes = np.array([[1.0, 0, 2, 0]])
    np.testing.assert_array_equal(Frame(2, 4).wide_prompts(boxes, 1), [[63, 0, 192, 64]])
    boxes = np.array([[101.0, 203, 401, 407]])
    np.testing.assert_array_equal(Frame(1024, 800).wide_prompts(boxes, 1), [[24, 49, 101, 102]])


def test_the_weighted_sum_of_answers_decides():
    """A crop of 4 and a whole of 8 pixels; 6 against 4, then 6 against 4 halved."""
    crop = Answer(Frame(4, 4, top=2, left=2), np.full((256, 256), 6, np.float32), (0, 0), 0.5)
    whole = Answer(Frame(8, 8), np.full((256, 256), -4, np.float32), (0, 0), 0.5)
    within = slice(3, 5), slice(2, 6)
    assert mask_of([crop, whole], within).mask.tolist() == [[True] * 4] * 2
    weak = Answer(crop.frame, crop.logits, (0, 0), 0.25)
    assert not mask_of([weak, whole], within).mask.any()
    assert not mask_of([whole], within).mask.any()


def test_an_answer_that_reaches_other_pixels_only_does_not_widen_the_mask():
    logits = np.full((256, 256), -1, np.float32)
    logits[200:] = 1
    frame = Frame(256, 256)
    patch = mask_of([Answer(frame, logits, (0, 0))], (slice(0, 50), slice(0, 50)))
    assert patch.mask.size == 0


# For any size


@given(frames)
@example(Frame(1, 5000))
@example(Frame(5000, 1))
@example(Frame(1, 1))
@example(Frame(20, 2000))
@example(Frame(2000, 20))
def test_any_size_goes_in_and_comes_out(frame):
    image = np.arange(frame.height * frame.width).reshape(frame.height, frame.width)
    pixels = frame.pixels((image % 251).astype(np.uint8))
    assert pixels.shape == (1, 3, 256, 256)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert max(frame.inner) == INPUT_SIZE
    assert min(frame.inner) >= 1
    mask = whole_mask(frame, np.ones((256, 256), np.float32))
    assert mask.shape == (frame.height, frame.width)
    assert mask.all()


@given(frames_with_box())
@example((Frame(46, 43), np.array([11.0, 20, 18, 30])))  # 43 becomes 239, not 239.3: a shift
def test_the_prompt_around_a_mask_is_the_box_of_the_resized_mask(frame_and_box):
    """The baseline's rule, on the whole mask instead of its shadows."""
    frame, box = frame_and_box
    mask = inside(box, frame.height, frame.width)
    resized = cv2.resize(mask.astype(np.float32), frame.inner[::-1], interpolation=cv2.INTER_AREA)
    ys, xs = np.nonzero(resized)
    low = np.array([xs.min(), ys.min()]) - BEST.previous_margin
    high = np.array([xs.max(), ys.max()]) + BEST.previous_margin
    wanted = np.concatenate([low, high]).clip(0, INPUT_SIZE)
    np.testing.assert_array_equal(prompt_around(frame, mask), wanted)


@given(frames_with_box())
def test_the_box_of_a_mask_painted_back_covers_the_mask(frame_and_box):
    frame, box = frame_and_box
    mask = inside(box, frame.height, frame.width)
    painted = np.where(inside(prompt_around(frame, mask)), 1, -1).astype(np.float32)
    assert not (mask & ~whole_mask(frame, painted)).any()
