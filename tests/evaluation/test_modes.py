"""The table of rules: what is varied, what comes back, and that nothing stays changed."""

import csv

import numpy as np
import pytest

from benchmarks.ablation import modes
from benchmarks.ablation.modes import Row, Variant
from benchmarks.reference.true_boxes import TrueBoxes
from swiftmedsam import make_case, read_case, views
from swiftmedsam import prompts as follow
from swiftmedsam.segment import segment
from tests.helpers import BoxesAsMasks, make_case_file

VOLUME_BOXES = np.array([[5, 5, 0, 60, 40, 5]])


def test_a_variant_is_parsed():
    found = Variant.parse("a name: mode=exact step=2 views.SMALL_BOX=64 follow.TAPER=(1.0,0.5)")
    assert found.name == "a name"
    assert found.arguments == {"mode": "exact", "step": 2}
    assert found.constants == {("views", "SMALL_BOX"): 64, ("follow", "TAPER"): (1.0, 0.5)}
    assert Variant.parse("best") == Variant("best", {}, {})
    assert all(Variant.parse(text) for text in modes.VARIANTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: step", "'x': expected KEY=VALUE, got 'step'"),
        ("x: views.LARGE=3", "'x': there is no views.LARGE to set"),
        ("x: nothing.LARGE=3", "'x': there is no nothing.LARGE to set"),
        ("x: stepp=3", "'x': there is no stepp to set"),
        ("x: mode=exact true_boxes=True", "'x': true_boxes is for mode best only"),
    ],
)
def test_what_is_no_variant_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        Variant.parse(text)


def test_constants_are_changed_for_the_variant_only():
    before = views.SMALL_BOX, follow.RENEWAL
    case, truth = make_case(np.zeros((9, 9), np.uint8), [[1, 1, 3, 3]]), np.zeros((9, 9))
    with Variant.parse("x: views.SMALL_BOX=64 follow.RENEWAL=1.0").in_force(case, truth):
        assert (views.SMALL_BOX, follow.RENEWAL) == (64, 1.0)
    assert before == (views.SMALL_BOX, follow.RENEWAL)


def test_true_boxes_are_those_of_the_truth_in_each_slice():
    """The network fills what it is asked with: the truth's box and a pixel around it."""
    truth = np.zeros((3, 64, 256), np.uint8)
    for z, x in enumerate((20, 40)):  # nothing in the last slice
        truth[z, 10:20, x : x + 30] = 1
    case = make_case(np.zeros(truth.shape, np.uint8), [[10, 5, 0, 90, 40, 2]], is_volume=True)
    with Variant.parse("x: true_boxes=True").in_force(case, truth):
        labels = segment(case, BoxesAsMasks(), max_crops=0)
    for z, x in enumerate((20, 40)):
        ys, xs = np.nonzero(labels[z])
        assert (ys.min(), ys.max(), xs.min(), xs.max()) == (9, 20, x - 1, x + 30)
    assert np.argwhere(labels[2]).min(axis=0).tolist() == [5, 10]  # the given one
    assert not np.array_equal(segment(case, BoxesAsMasks(), max_crops=0), labels)
    twice = make_case(case.image, np.concatenate([case.boxes] * 2), is_volume=True)
    with pytest.raises(ValueError, match="two of its boxes are the same"):
        TrueBoxes(twice, truth)


def test_dsc_on_paper():
    labels, truth = np.array([1, 1, 2, 0, 0]), np.array([1, 0, 0, 0, 2])
    assert modes.case_dsc(labels, truth) == pytest.approx((2 / 3 + 0) / 2)


def test_means_are_by_modality_and_time_is_a_ratio():
    rows = [
        Row("a", "2DBox_US_1", "2D", "US", 0.5, 1.0), Row("b", "2DBox_US_1", "2D", "US", 0.7, 4.0),
        Row("a", "2DBox_US_2", "2D", "US", 0.7, 1.0), Row("b", "2DBox_US_2", "2D", "US", 0.9, 1.0),
        Row("a", "2DBox_OCT_1", "2D", "OCT", 0.2, 2.0),
        Row("b", "2DBox_OCT_1", "2D", "OCT", 0.4, 1.0),
    ]  # fmt: skip
    assert modes.table(rows).splitlines() == [
        "| 2D, 3 cases | OCT | US | mean | time |",
        "|---|---|---|---|---|",
        "| a | 20.0 | 60.0 | 40.0 | 1.00 |",
        "| b | 40.0 | 80.0 | 60.0 | 1.50 |",
    ]


def test_the_command_compares_variants_on_cases(inputs, tmp_path, tiny_weights, capsys):
    truths = tmp_path / "gts"
    truths.mkdir()
    image = make_case_file(inputs, "2DBox_US_0.npz")
    volume = make_case_file(inputs, "3DBox_MR_0.npz", boxes=VOLUME_BOXES)
    for path in (image, volume):
        labels = segment(read_case(path), modes.load(tiny_weights, threads=1), mode="exact")
        np.savez(truths / path.name, gts=labels)
    table, picture = tmp_path / "modes.csv", tmp_path / "modes.png"
    variants = ["exact: mode=exact", "best", "best, every 3rd slice: step=3"]
    words = [str(inputs), str(truths), *variants, "--weights", str(tiny_weights)]
    assert modes.main([*words, "--csv", str(table), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "| exact | 100.0 | 100.0 | 1.00 |" in printed  # its own answers are the truth here
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    names = [text.partition(":")[0] for text in variants]
    in_turn = [*names, *names[1:], names[0]]  # the second case begins with the second variant
    assert [row["variant"] for row in rows] == in_turn
    assert [row["kind"] for row in rows] == ["2D"] * 3 + ["3D"] * 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        modes.main([str(inputs), str(truths), "x: views.LARGE=3"])
