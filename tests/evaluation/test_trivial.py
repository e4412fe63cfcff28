"""Answers that need no network, on pictures one can check on paper."""

import numpy as np
import pytest

from benchmarks.reference import trivial
from tests.helpers import (
    dsc,
    ellipse,
    image_case,
    make_case_file,
    picture,
    read_labels,
    volume_case,
)

BOX = slice(20, 40), slice(30, 70)


def test_the_filled_box_fills_every_pixel_the_box_touches(tmp_path):
    path = make_case_file(tmp_path, "2DBox_US_0.npz", boxes=np.array([[7, 10, 9, 11]]))
    labels = trivial.answer_case(path, "box")
    assert np.argwhere(labels).tolist() == [[y, x] for y in (10, 11) for x in (7, 8, 9)]


def test_the_ellipse_touches_the_sides_and_covers_pi_quarters():
    mask = trivial.ellipse(np.zeros((64, 96)), *BOX)
    assert mask.shape == (20, 40)
    assert mask.any(axis=1).all() and mask.any(axis=0).all()
    assert not mask[0, 0]
    assert mask.mean() == pytest.approx(np.pi / 4, abs=0.01)


@pytest.mark.parametrize("colour", [False, True])
def test_grabcut_finds_a_bright_ellipse_better_than_the_box_does(colour):
    truth = ellipse(64, 96, (29, 49), (7, 15))
    image = picture(64, 96, truth, colour=colour)
    found = trivial.grabcut(image, *BOX)
    assert dsc(found, truth[BOX]) > 0.95 > dsc(trivial.filled_box(image, *BOX), truth[BOX])


def test_grabcut_falls_back_to_the_box():
    image = np.zeros((20, 40), np.uint8)
    assert trivial.grabcut(image, slice(0, 20), slice(0, 40)).all()  # no background to learn
    assert trivial.grabcut(np.zeros((64, 96), np.uint8), *BOX).any()


def test_a_folder_is_answered_and_volumes_slice_by_slice(tmp_path):
    make_case_file(tmp_path, "2DBox_US_0.npz")
    make_case_file(tmp_path, "3DBox_MR_0.npz")
    assert trivial.main(["box", str(tmp_path), str(tmp_path / "out")]) == 0
    assert read_labels(tmp_path / "out" / "2DBox_US_0.npz").shape == image_case()["imgs"].shape[:2]
    labels = read_labels(tmp_path / "out" / "3DBox_MR_0.npz")
    for z, slice_labels in enumerate(labels):
        numbers = np.unique(slice_labels)[1:].tolist()
        boxes = volume_case()["boxes"]
        # a box that a later one covers is not seen
        wanted = [n for n, box in enumerate(boxes, 1) if box[2] <= z <= box[5]]
        assert set(numbers) <= set(wanted) and max(wanted) in numbers
