"""INT8 layer group by layer group: which layers are in a group, and what the table says."""

from collections import Counter

import numpy as np
import openvino as ov
import pytest

from benchmarks.ablation import layers
from swiftmedsam.torch_model import SWIFT_V2, SWIFT_V3
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def v2_encoder(v2_weights):
    return ov.Core().read_model(v2_weights / "encoder.xml")


def number_by_place(encoder, architecture):
    """Number of layers with weights in each place, each of which has one purpose and one place."""
    groups = layers.groups_of(encoder, architecture)
    wanted = [n.get_friendly_name() for n in encoder.get_ordered_ops() if layers.kind_of(n)]
    places = ["patch embedding", *(f"stage {i}" for i in range(4)), "neck"]
    kinds = groups.keys() - set(places)
    for half in (places, kinds):
        assert Counter(name for group in half for name in groups[group]) == Counter(wanted)
    return {place: len(groups[place]) for place in places}


def test_every_layer_with_weights_has_one_purpose_and_one_place(v2_encoder):
    # v2: one MBConv of three convolutions in stage 0 and two blocks in each of
    # the others, of four products of attention (q, k, v apart), two of the MLP and a depthwise
    # convolution; three convolutions merge, and belong to the stage before
    assert number_by_place(v2_encoder, SWIFT_V2) == {
        "patch embedding": 2, "stage 0": 6, "stage 1": 17, "stage 2": 17, "stage 3": 14, "neck": 2,
    }  # fmt: skip


def test_layers_of_v3_have_places_too():
    """Blocks of two convolutions, one to the next stage; four blocks of attention; the neck."""
    encoder = ov.Core().read_model(ROOT / "weights" / "v3" / "encoder.xml")
    assert number_by_place(encoder, SWIFT_V3) == {
        "patch embedding": 1, "stage 0": 3, "stage 1": 5, "stage 2": 7, "stage 3": 28, "neck": 4,
    }  # fmt: skip


def rows_of(text):
    """Cells by first cell, of the tables in `text`."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


class Thresholded:
    """A network whose masks are the embedding itself, for any prompt."""

    def decode(self, embedding, prompts, cells):
        return np.repeat(embedding, len(prompts), axis=0), np.ones(len(prompts))


def test_the_table_says_how_far_an_encoder_is_from_f32():
    """On pictures of four pixels: one variant loses one of two, the other one nothing."""
    picture = np.array([[[1, 1], [-1, -1]]], np.float32)
    lost = np.array([[[-1, 1], [-1, -1]]], np.float32)
    variants = {"f32": lambda _: [picture], "lost": lambda _: [lost], "same": lambda _: [picture]}
    slices = [(picture, np.zeros((1, 4), np.float32))] * 2
    rows = rows_of(layers.compare_encoders(variants, slices, Thresholded()))
    assert rows.keys() == {"encoder", "---", *variants}
    assert rows["lost"][:3] == ["1.0000", "66.67", "66.7"]  # 2^2 of 4; 2 * 1 of 2 + 1 pixels
    assert rows["same"][:3] == rows["f32"][:3] == ["0.0000", "100.00", "100.0"]


def test_each_group_of_layers_is_left_out_once(v2_encoder, monkeypatch):
    asked = []
    monkeypatch.setattr(layers, "compiled", lambda model, precision: precision)
    monkeypatch.setattr(layers, "quantize", lambda model, slices, **how: asked.append(how))
    groups = layers.groups_of(v2_encoder, SWIFT_V2)
    found = layers.encoders(lambda: v2_encoder, SWIFT_V2, [], "f32", [])
    assert {f"all but {group}" for group in groups} < found.keys()
    left_out = [how["ignored_scope"].names for how in asked if "ignored_scope" in how]
    assert left_out == list(groups.values())
    found = layers.encoders(lambda: v2_encoder, SWIFT_V2, [], "f32", ["MLPs"])
    assert list(found) == ["f32", "all but MLPs"]
