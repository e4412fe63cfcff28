"""INT8 layer group by layer group, on the tiny network."""

from collections import Counter

import openvino as ov
import pytest

from benchmarks.ablation import layers
from swiftmedsam.manifest import default_weights


@pytest.fixture(scope="module")
def v2_encoder():
    return ov.Core().read_model(default_weights() / "encoder.xml")


def test_every_layer_with_weights_has_one_purpose_and_one_place(v2_encoder):
    groups = layers.groups_of(v2_encoder)
    wanted = [n.get_friendly_name() for n in v2_encoder.get_ordered_ops() if layers.kind_of(n)]
    places = ["patch embedding", *(f"stage {i}" for i in range(4)), "neck"]
    kinds = groups.keys() - set(places)
    for half in (places, kinds):
        assert Counter(name for group in half for name in groups[group]) == Counter(wanted)
    # v2: one MBConv of three convolutions in stage 0 and two blocks in each of
    # the others, of four products of attention (q, k, v apart), two of the MLP and a depthwise
    # convolution; three convolutions merge, and belong to the stage before
    assert {place: len(groups[place]) for place in places} == {
        "patch embedding": 2, "stage 0": 6, "stage 1": 17, "stage 2": 17, "stage 3": 14, "neck": 2,
    }  # fmt: skip


def rows_of(text):
    """Cells by first cell, of the tables in `text`."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_tables_say_what_int8_costs(tiny_weights_fp16, parity_cases, capsys):
    arguments = [parity_cases, parity_cases, "--weights", tiny_weights_fp16, "--slices", "8"]
    assert layers.main([*map(str, arguments), "--only", "in INT8", "symmetric", "but MLPs"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows.keys() == {
        "encoder", "---", "f32", "all in INT8", "all, activations symmetric", "all but MLPs",
        "decoder", "decoder in INT8",
    }  # fmt: skip
    error, agreed = (float(cell) for cell in rows["all in INT8"][:2])
    assert 0 < float(rows["all but MLPs"][0]) < error < 0.1
    assert 50 < agreed < 100  # masks of random weights are noise
