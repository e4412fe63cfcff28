"""The quick measure of checkpoints: what is asked, what is counted, what is printed."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from swiftmedsam.torch_model import TINY, SwiftMedSAM, save_model
from swiftmedsam.train.losses import dice_of
from swiftmedsam.train.tools import measure
from swiftmedsam.train.tools.measure import (
    AskedSlice,
    CheckpointScores,
    Converted,
    asked_in,
    dice_in,
)


def test_dice_of_masks_that_overlap_by_a_half_and_of_empty_ones():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    others = masks.clone()
    masks[0, 0], others[0, 0, 2:], others[0, 1, :2] = True, True, True
    masks[1, 2] = True
    assert dice_of(masks, others).tolist() == [0.5, 0, 1]


@pytest.fixture
def val(tmp_path):
    """A picture of two objects, and a volume whose object is in 4 of its 6 slices."""
    for folder in ("inputs", "gts"):
        (tmp_path / folder).mkdir()
    labels = np.zeros((128, 256), np.uint8)
    labels[10:30, 20:60], labels[100:104, 200:203] = 1, 2
    volume = np.zeros((6, 256, 256), np.uint8)
    for z in range(1, 5):
        volume[z, 50 : 60 + z, 70:90] = 1
    for name, truth in (("2DBox_US_a", labels), ("3DBox_CT_b", volume)):
        np.savez(tmp_path / "inputs" / f"{name}.npz", imgs=(truth * 100).astype(np.uint8))
        np.savez(tmp_path / "gts" / f"{name}.npz", gts=truth)
    return tmp_path


def test_large_objects_are_asked_for_by_their_own_boxes_and_two_pixels(val):
    (asked,) = asked_in(val / "inputs/2DBox_US_a.npz", val / "gts/2DBox_US_a.npz", 2)
    assert asked.boxes.tolist() == [[18, 8, 61, 31]]  # the other has 12 pixels
    assert asked.masks.sum() == 20 * 40


def test_slices_of_a_volume_are_spread_over_those_with_an_object(val):
    found = list(asked_in(val / "inputs/3DBox_CT_b.npz", val / "gts/3DBox_CT_b.npz", 2))
    assert [asked.masks[0].any(axis=1).sum() for asked in found] == [12, 14]  # slices 2 and 4


class Squares:
    """Answers each box with itself."""

    def encode(self, pixels):
        return pixels

    def decode(self, embedding, boxes):
        logits = torch.full((len(boxes), 256, 256), -1.0)
        for mask, (x, y, x2, y2) in zip(logits, boxes.int().tolist(), strict=True):
            mask[y : y2 + 1, x : x2 + 1] = 1
        return logits, None


def test_masks_are_those_of_their_boxes_however_many_there_are():
    masks = np.zeros((11, 256, 256), bool)
    boxes = np.array([[10 * i, 5, 10 * i + 7, 9] for i in range(11)], np.float32)
    for mask, (x, y, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y : y2 + 1, x : x2 + 1] = True
    masks[3] = False
    asked = AskedSlice("a", np.zeros((1, 3, 256, 256), np.float32), boxes, masks)
    assert dice_in(Squares(), asked).tolist() == [1.0] * 3 + [0.0] + [1.0] * 7


def test_a_weights_folder_is_scored_as_its_checkpoint(tiny_model, exact_network, monkeypatch):
    monkeypatch.setattr(measure, "cpu_autocast", nullcontext)  # the folder computes in f32
    pixels = np.random.default_rng(1).random((1, 3, 256, 256), np.float32)
    boxes = np.array([[10, 20, 90, 80], [100, 100, 220, 180]], np.float32)
    masks = np.zeros((2, 256, 256), bool)
    masks[0, 20:60, 10:70], masks[1, 100:180, 120:220] = True, True
    asked = AskedSlice("a", pixels, boxes, masks)
    wanted = dice_in(tiny_model, asked)
    assert (wanted > 0).all()
    np.testing.assert_allclose(dice_in(Converted(exact_network), asked), wanted, atol=0.01)


def test_sets_count_once_each_and_objects_by_their_size():
    scores = CheckpointScores({"2DBox_US_a": 0.5, "2DBox_US_b": 0.7, "2DBox_CT_c": 0.9},
                    [(0.001, 0.2), (0.001, 0.4), (0.5, 1.0)])  # fmt: skip
    sets = {"2DBox_US_a": {"set": "US_A", "trained": True},
            "2DBox_US_b": {"set": "US_A", "trained": True},
            "2DBox_CT_c": {"set": "CT_C", "trained": False}}  # fmt: skip
    lines = {
        name: (pytest.approx(mean), count) for name, (mean, count) in scores.lines(sets).items()
    }
    assert lines == {
        "mean over modalities": (0.75, 3), "sets trained on": (0.6, 1),
        "sets never seen": (0.9, 1), "mean of both": (0.75, 2), "objects under 0.2%": (0.3, 2),
        "objects over 5%": (1.0, 1), "CT": (0.9, 1), "US": (0.6, 2),
    }  # fmt: skip


def test_the_command_prints_a_column_for_each_checkpoint(
    val, tiny_weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(measure, "keep_freed_memory", lambda: None)
    torch.manual_seed(0)
    save_model(SwiftMedSAM(TINY), tmp_path / "first.safetensors")
    sets = {
        "2DBox_US_a": {"set": "A", "trained": True},
        "3DBox_CT_b": {"set": "B", "trained": False},
    }
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    path, flags = str(tmp_path / "first.safetensors"), ["--val", str(val)]
    folder = f"{tiny_weights}:f32"
    assert measure.main([path, folder, *flags, "--sets", str(tmp_path / "sets.json")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[-2:] == ["first", "tiny:f32"]
    assert [line[:24].strip() for line in out[1:5]] == [
        "mean over modalities", "sets trained on", "sets never seen", "mean of both",
    ]  # fmt: skip
    assert measure.main([path, *flags, "--only", "none*"]) == 1
    assert "no case with an object" in capsys.readouterr().err
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert measure.main([str(tmp_path / "broken.safetensors"), *flags]) == 1
    assert "broken.safetensors" in capsys.readouterr().err
    assert measure.main([f"{tiny_weights}:int8", *flags]) == 1
    assert "precision int8 needs a model in int8" in capsys.readouterr().err
