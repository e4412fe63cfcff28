"""Which part of a slice is shown for which box."""

from dataclasses import replace

import numpy as np
import pytest

from swiftmedsam import views as views_module
from swiftmedsam.frame import Frame
from swiftmedsam.masks import box_pixels
from swiftmedsam.settings import BEST
from swiftmedsam.views import MOST_TRIED
from tests.helpers.generated import given, st


def choose_views(boxes, height, width, most, *, mirror=False, slices=None):
    """Views of boxes (N, 4) with so many crops at most; of an image, if no slices are given."""
    if slices is None:
        slices = np.zeros((len(boxes), 2))
    full = np.insert(boxes, [2, 4], slices, axis=1)
    settings = replace(BEST, image_crops=most, volume_crops=most, mirror_images=mirror)
    return views_module.choose_views(full, height, width, settings, is_volume=False)


def crops_of(views):
    return {view[0][0] for view in views if len(view) > 1}


def test_a_slice_of_large_boxes_is_shown_whole():
    boxes = np.array([[10, 10, 200, 150], [0, 0, 255, 255]], float)
    whole = Frame(256, 256)
    assert choose_views(boxes, 256, 256, 16) == [((whole, 1.0),)] * 2
    mirrored = Frame(256, 256, mirrored=True)
    both = (whole, 0.5), (mirrored, 0.5)
    assert choose_views(boxes, 256, 256, 16, mirror=True) == [both] * 2


@pytest.mark.parametrize(("side", "crops"), [(BEST.small_box - 1, 1), (BEST.small_box, 0)])
def test_a_box_is_small_by_its_longer_side_in_the_frame(side, crops):
    box = np.array([[100, 100, 100 + 2 * side - 1, 110]], float)  # at half a frame pixel a pixel
    (view,) = choose_views(box, 512, 512, 16)
    assert len(view) == 1 + crops
    # a small box is shown in the whole slice, too
    assert view[-1] == (Frame(512, 512), pytest.approx(1 - BEST.crop_weight if crops else 1))


@pytest.mark.parametrize(("crop_weight", "shown_whole"), [(1, False), (0, True)])
def test_a_frame_that_counts_nothing_is_not_shown(crop_weight, shown_whole):
    boxes = np.array([[0, 0, 0, 9, 9, 0]], float)
    settings = replace(BEST, crop_weight=crop_weight)
    (((frame, weight),),) = views_module.choose_views(boxes, 512, 512, settings, is_volume=True)
    assert (frame == Frame(512, 512), weight) == (shown_whole, 1)


def test_a_crop_is_four_boxes_wide_and_not_below_the_least():
    boxes = np.array([[500, 300, 519, 309], [100, 700, 101, 701]], float)
    ((large, _), _), ((small, _), _) = choose_views(boxes, 1000, 1000, 16, mirror=True)
    assert large.size == (80, 80)
    assert small.size == (BEST.least_crop, BEST.least_crop)


def test_a_grid_of_boxes_shares_crops_and_the_bound_holds():
    """241 nuclei, as in the challenge's largest case."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, (2540, 1900), (241, 2)).round()
    boxes = np.concatenate([corner, corner + random.integers(10, 20, (241, 2))], axis=1)
    for most in (1, 4, 16, 400):
        views = choose_views(boxes, 1920, 2560, most)
        assert len(views) == 241
        assert 1 <= len(crops_of(views)) <= most
    assert len(crops_of(choose_views(boxes, 1920, 2560, 16))) < 241 / 10


def test_of_too_many_crops_those_that_hold_most_boxes_are_used():
    """Pairs and a triple of small boxes, too far apart to share the widest crop."""
    corners = [[0, 0], [8, 0], [900, 0], [908, 0], [916, 0], [0, 900], [8, 900], [900, 900]]
    boxes = np.array([[x, y, x + 4, y + 4] for x, y in corners], float)
    for most, shown in ((1, [2, 3, 4]), (2, [0, 1, 2, 3, 4]), (3, [0, 1, 2, 3, 4, 5, 6])):
        views = choose_views(boxes, 1000, 1000, most)
        assert [i for i, view in enumerate(views) if len(view) > 1] == shown
        assert len(crops_of(views)) == most


def test_a_box_with_a_crop_of_its_own_is_shown_as_when_it_is_asked_alone():
    """At the first zoom three crops are needed; at the second, two: one holds two boxes."""
    boxes = np.array([[10, 10, 17, 17], [44, 10, 51, 17], [700, 700, 719, 719]], float)
    views = choose_views(boxes, 1000, 1000, 2)
    assert views[0] == views[1]
    assert len(crops_of(views)) == 2
    assert views[2] == choose_views(boxes[[2]], 1000, 1000, 2)[0]
    assert views[0] != choose_views(boxes[[0]], 1000, 1000, 2)[0]


@pytest.mark.parametrize(
    ("slices", "alone"),
    [
        ([[0, 4], [5, 9], [10, 10]], [True, True, True]),
        ([[10, 10], [0, 4], [5, 9]], [True, True, True]),
        ([[0, 5], [5, 9], [10, 12]], [False, False, True]),
        ([[0, 20], [3, 4], [8, 9]], [False, False, False]),
        ([[3, 3], [3, 3], [0, 2]], [False, False, True]),
    ],
)
def test_boxes_of_a_volume_that_share_no_slice_share_no_crop(slices, alone):
    boxes = np.array([[10, 10, 19, 19], [22, 10, 31, 19], [36, 12, 43, 19]], float)
    views = choose_views(boxes, 400, 400, 1, slices=np.array(slices, float))
    own = [choose_views(boxes[[i]], 400, 400, 1)[0] for i in range(3)]
    shared = choose_views(boxes, 400, 400, 1)
    assert shared[0] == shared[1] == shared[2] not in own
    assert views == [own[i] if alone[i] else shared[i] for i in range(3)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_no_slice_gets_more_crops_than_there_may_be(spans, most, seed):
    slices = np.array([[z, z + more] for z, more in spans], float)
    corner = np.random.default_rng(seed).integers(0, 480, (len(spans), 2))
    boxes = np.concatenate([corner, corner + 10], axis=1).astype(float)
    views = choose_views(boxes, 500, 500, most, slices=slices)
    shared = choose_views(boxes, 500, 500, most)
    for z in range(40):
        here = [i for i, (first, last) in enumerate(slices) if first <= z <= last]
        assert len(crops_of([views[i] for i in here])) <= most
        assert len(crops_of([views[i] for i in here])) <= len(crops_of([shared[i] for i in here]))


@st.composite
def slices_with_boxes(draw):
    """Height, width and up to 12 boxes (N, 4) inside."""
    height, width = draw(st.integers(1, 900)), draw(st.integers(1, 900))
    corner = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    pairs = draw(st.lists(st.tuples(corner, corner), min_size=1, max_size=12))
    boxes = [[*map(min, *pair), *map(max, *pair)] for pair in pairs]
    return height, width, np.array(boxes, float)


@given(slices_with_boxes(), st.integers(0, 20))
def test_each_box_is_shown_once_and_whole_with_its_margin(drawn, most):
    height, width, boxes = drawn
    views = choose_views(boxes, height, width, most)
    assert len(views) == len(boxes)
    assert len(crops_of(views)) <= most
    for view, (x_min, y_min, x_max, y_max) in zip(views, boxes, strict=True):
        assert view[-1][0] == Frame(height, width)
        assert sum(weight for _, weight in view) == pytest.approx(1)
        margin = BEST.crop_margin * (max(x_max - x_min, y_max - y_min) + 1)
        rows, columns = view[0][0].span
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        # start is rounded down, so up to a pixel of the margin may be lost
        assert columns.start <= max(0, x_min - margin)
        assert rows.start <= max(0, y_min - margin)
        assert columns.stop >= min(width, x_max + 1 + margin) - 1
        assert rows.stop >= min(height, y_max + 1 + margin) - 1


@given(st.integers(40, 900), st.data())
def test_every_pixel_of_a_fractional_box_is_in_its_crop(side, data):
    place = st.floats(0, side - 1)
    pairs = data.draw(st.lists(st.tuples(place, place, place, place), min_size=1, max_size=5))
    boxes = np.array([[min(a, b), min(c, d), max(a, b), max(c, d)] for a, b, c, d in pairs])
    for view, box in zip(choose_views(boxes, side, side, 4), boxes, strict=True):
        rows, columns = view[0][0].span
        touched = box_pixels(box)
        assert rows.start <= touched[0].start and touched[0].stop <= rows.stop
        assert columns.start <= touched[1].start and touched[1].stop <= columns.stop


def test_tens_of_thousands_of_boxes_are_not_gone_through_for_each_crop(monkeypatch):
    """Scattered points, each of which would get a crop of its own: an hour, silently."""
    corners = np.random.default_rng(0).integers(0, 19_000, (70_000, 2)).astype(float)
    rounds, real = [], np.ndindex
    monkeypatch.setattr(np, "ndindex", lambda *shape: rounds.append(shape) or real(*shape))
    views = choose_views(np.concatenate([corners, corners + 1], axis=1), 20_000, 20_000, 2)
    assert len(crops_of(views)) == 2
    assert len(rounds) <= 2 * MOST_TRIED + (len(BEST.zooms) - 1) * 3
