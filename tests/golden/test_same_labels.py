"""The shipped network gives the same labels, bit by bit, whatever else is asked at the time."""

import functools

import numpy as np
import pytest

from swiftmedsam import load, make_case, read_case
from tests.helpers import ROOT, labels_of
from tests.helpers.networks import Remembering, runs_bf16

CASE = ROOT / "examples" / "inputs" / "3DBox_CT_kidneys.npz"
PRECISIONS = ["f32", pytest.param("bf16", marks=runs_bf16)]
SLICES, LAST = slice(11, 17), 5  # of the case, so that the test is short


@functools.cache
def shipped(precision):
    """The default network; each picture is encoded once for all the tests of a precision."""
    return Remembering(load(precision=precision))


@functools.cache
def part_of_case():
    """Ten slices with the boxes of the objects in them."""
    case = read_case(CASE)
    boxes = case.boxes.copy()
    boxes[:, [2, 5]] -= SLICES.start
    boxes = boxes[(boxes[:, 2] < LAST) & (boxes[:, 5] > 0)]
    boxes[:, [2, 5]] = boxes[:, [2, 5]].clip(0, LAST)
    assert len(boxes) > 3
    return case.image[SLICES], boxes


def labels_in(precision, boxes=None, **more):
    image, all_boxes = part_of_case()
    case = make_case(image, all_boxes if boxes is None else boxes, modality="CT")
    return labels_of(case, shipped(precision), **more)


@functools.cache
def wanted(precision):
    labels = labels_in(precision)
    assert labels.any()
    return labels


@pytest.mark.parametrize("precision", PRECISIONS)
def test_labels_do_not_depend_on_the_memory_limit(precision):
    np.testing.assert_array_equal(labels_in(precision, memory_limit=1), wanted(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_labels_do_not_depend_on_which_boxes_share_a_call(precision, monkeypatch):
    monkeypatch.setattr("swiftmedsam.memory.DECODE_BATCH", 1)  # calls of one box each
    np.testing.assert_array_equal(labels_in(precision), wanted(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_labels_do_not_depend_on_the_order_of_the_boxes(precision):
    boxes = part_of_case()[1]
    turned = labels_in(precision, boxes[::-1]).astype(int)
    back = np.where(turned > 0, len(boxes) + 1 - turned, 0)
    np.testing.assert_array_equal(back, wanted(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_labels_do_not_depend_on_the_number_of_threads(precision):
    image, boxes = part_of_case()
    one, two = (
        labels_of(
            make_case(image[:2], boxes * [1, 1, 0, 1, 1, 0] + [0, 0, 0, 0, 0, 1], modality="CT"),
            load(precision=precision, threads=count), crops=0,
        )
        for count in (1, 2)
    )  # fmt: skip
    assert one.any()
    np.testing.assert_array_equal(one, two)
