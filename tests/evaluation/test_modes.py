"""The table of settings: what is varied, and what comes back."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.ablation import modes
from benchmarks.ablation.modes import ModeRow, Variant
from benchmarks.reference.true_boxes import TrueBoxes
from swiftmedsam import make_case, read_case
from swiftmedsam.segment import segment
from swiftmedsam.settings import BEST, LITEMEDSAM
from tests.helpers import BoxesAsMasks, labels_of, make_case_file

VOLUME_BOXES = np.array([[5, 5, 0, 60, 40, 5]])


def test_a_variant_is_parsed():
    found = Variant.parse("a name: mode=litemedsam step=2 small_box=64 taper=(1.0,0.5)")
    assert found.name == "a name"
    assert found.settings == replace(LITEMEDSAM, step=2, small_box=64, taper=(1.0, 0.5))
    assert Variant.parse("best") == Variant("best", BEST)
    assert all(Variant.parse(text) for text in modes.VARIANTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: step", "'x': expected KEY=VALUE, got 'step'"),
        ("x: stepp=3", "'x': there is no setting 'stepp'"),
        ("x: mode=fast", "'x': there is no mode fast"),
        ("x: renewal=2", "'x': renewal should be between 0 and 1, got 2"),
    ],
)
def test_what_is_no_variant_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        Variant.parse(text)


def test_true_boxes_are_those_of_the_truth_in_each_slice():
    """The network fills what it is asked with: the truth's box and a pixel around it."""
    truth = np.zeros((3, 64, 256), np.uint8)
    for z, x in enumerate((20, 40)):  # nothing in the last slice
        truth[z, 10:20, x : x + 30] = 1
    case = make_case(np.zeros(truth.shape, np.uint8), [[10, 5, 0, 90, 40, 2]], is_volume=True)
    variant = Variant.parse("x: true_boxes=True volume_crops=0")
    prompter = variant.prompter(case, truth)
    labels = segment(case, BoxesAsMasks(), variant.settings, prompter=prompter).labels
    for z, x in enumerate((20, 40)):
        ys, xs = np.nonzero(labels[z])
        assert (ys.min(), ys.max(), xs.min(), xs.max()) == (9, 20, x - 1, x + 30)
    assert np.argwhere(labels[2]).min(axis=0).tolist() == [5, 10]  # the given one
    assert not np.array_equal(labels_of(case, BoxesAsMasks(), crops=0), labels)
    twice = make_case(case.image, np.concatenate([case.boxes] * 2), is_volume=True)
    with pytest.raises(ValueError, match="two of its boxes are the same"):
        TrueBoxes(twice, truth, BEST)


def test_dsc_on_paper():
    labels, truth = np.array([1, 1, 2, 0, 0]), np.array([1, 0, 0, 0, 2])
    assert modes.case_dsc(labels, truth) == pytest.approx((2 / 3 + 0) / 2)


def test_means_are_by_modality_and_time_is_a_ratio():
    rows = [
        ModeRow("a", "2DBox_US_1", "2D", "US", 0.5, 1.0),
        ModeRow("b", "2DBox_US_1", "2D", "US", 0.7, 4.0),
        ModeRow("a", "2DBox_US_2", "2D", "US", 0.7, 1.0),
        ModeRow("b", "2DBox_US_2", "2D", "US", 0.9, 1.0),
        ModeRow("a", "2DBox_OCT_1", "2D", "OCT", 0.2, 2.0),
        ModeRow("b", "2DBox_OCT_1", "2D", "OCT", 0.4, 1.0),
    ]  # fmt: skip
    assert modes.modes_table(rows).splitlines() == [
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
        labels = labels_of(
            read_case(path), modes.load(tiny_weights, threads=1), settings=LITEMEDSAM
        )
        np.savez(truths / path.name, gts=labels)
    csv_file, picture = tmp_path / "modes.csv", tmp_path / "modes.png"
    variants = ["litemedsam: mode=litemedsam", "best", "best, every 3rd slice: step=3"]
    words = [str(inputs), str(truths), *variants, "--weights", str(tiny_weights)]
    assert modes.main([*words, "--csv", str(csv_file), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "| litemedsam | 100.0 | 100.0 | 1.00 |" in printed  # its own answers are the truth here
    with csv_file.open() as stream:
        rows = list(csv.DictReader(stream))
    names = [text.partition(":")[0] for text in variants]
    in_turn = [*names, *names[1:], names[0]]  # the second case begins with the second variant
    assert [row["variant"] for row in rows] == in_turn
    assert [row["kind"] for row in rows] == ["2D"] * 3 + ["3D"] * 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        modes.main([str(inputs), str(truths), "x: large=3"])
