"""The shipped network does no more work than when its speed was measured: counts, no seconds."""

from collections import Counter
from math import prod

import numpy as np
import pytest
from openvino import opset13 as ops

from benchmarks.speed.work import work
from swiftmedsam.cpu import cpu_flags
from swiftmedsam.network import ov
from swiftmedsam.torch_model import SWIFT_V2, SWIFT_V3
from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE
from tests.helpers import ROOT

FOLDER = ROOT / "weights" / "v3"
ENCODER_FLOP = 15.75e9
ATTENTION_BLOCKS = len(SWIFT_V3.dense_encoder.windows)
V2_ENCODER_FLOP = 57.1e9
V2_ATTENTION_BLOCKS = sum(SWIFT_V2.encoder_depths[1:])
DECODER_FLOP, SIDE = 697e6, 16  # of a box of 16 x 16 cells


@pytest.fixture(scope="module")
def core():
    return ov.Core()


def steps(compiled):
    """Number of executed steps by kind."""
    operations = compiled.get_runtime_model().get_ordered_ops()
    return Counter(str(node.get_rt_info()["layerType"].astype(str)) for node in operations)


def decoder(core, boxes, side, name="decoder"):
    """The decoder for boxes of `side` x `side` cells, of which none lie in two boxes."""
    model = core.read_model(FOLDER / f"{name}.xml")
    shapes = {"boxes_256": [boxes, 4], "cells": [boxes, side, side]}
    model.reshape({name: ov.PartialShape(shape) for name, shape in shapes.items()})
    (wanted,) = (n for n in model.get_ordered_ops() if n.get_type_name() == "NonZero")
    count = min(boxes * side**2, EMBEDDING_SIZE**2)
    distinct = ops.constant(np.zeros((1, count), np.int64))
    for target in wanted.output(0).get_target_inputs():
        target.replace_source_output(distinct.output(0))
    model.validate_nodes_and_infer_types()
    return model


def decoder_flop(core, boxes, side, name="decoder"):
    return sum(work(decoder(core, boxes, side, name)).values())


def kinds_of(model):
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def test_the_encoder_does_a_quarter_of_the_work_of_v2_and_norms_are_folded(core):
    model = core.read_model(FOLDER / "encoder.xml")
    assert sum(work(model).values()) <= ENCODER_FLOP * 1.001 < V2_ENCODER_FLOP / 3.6
    kinds = kinds_of(model)
    assert kinds["BatchNormInference"] == 0
    assert kinds["ScaledDotProductAttention"] == ATTENTION_BLOCKS
    assert kinds["MVN"] == 2 * ATTENTION_BLOCKS + 2  # before attention and MLP; two in the neck


def test_the_encoder_of_v2_multiplies_what_the_paper_draws_and_norms_are_folded(core, v2_weights):
    model = core.read_model(v2_weights / "encoder.xml")
    assert sum(work(model).values()) <= V2_ENCODER_FLOP * 1.001
    kinds = kinds_of(model)
    assert kinds["BatchNormInference"] == 0
    assert kinds["ScaledDotProductAttention"] == V2_ATTENTION_BLOCKS
    assert kinds["MVN"] == 2 * V2_ATTENTION_BLOCKS + 2


def fused(core, path):
    """The steps of a model that is compiled for one thread."""
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return steps(core.compile_model(path, "CPU", config))


@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="OpenVINO fuses other steps elsewhere")
@pytest.mark.parametrize("name", ["encoder.xml", "encoder_int8.xml"])
def test_openvino_fuses_the_encoder_into_the_steps_it_was_tuned_to(core, name):
    found = fused(core, FOLDER / name)
    assert found["Convolution"] == 24  # each with its norm and its activation
    assert found["FullyConnected"] == 6 * ATTENTION_BLOCKS  # q, k, v, out, and two of the MLP
    assert not {"Gelu", "HSwish", "BatchNormalization"} & set(found)


@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="OpenVINO fuses other steps elsewhere")
def test_openvino_fuses_the_encoder_of_v2_too(core, v2_weights):
    found = fused(core, v2_weights / "encoder.xml")
    assert found["Convolution"] == 22  # each with its norm, its GELU and what it adds to
    assert found["FullyConnected"] == 6 * V2_ATTENTION_BLOCKS
    assert found["MVN"] == 2 * V2_ATTENTION_BLOCKS + 2
    assert not {"Eltwise", "Gelu", "BatchNormalization"} & set(found)


def test_a_box_costs_no_more_than_the_cells_asked_for(core):
    """LiteMedSAM's rules decode each box whole: 1.6 GFLOP (v3)."""
    one = decoder_flop(core, 1, SIDE)
    assert one <= DECODER_FLOP
    assert decoder_flop(core, 1, EMBEDDING_SIZE) > 2 * one
    assert decoder_flop(core, 6, SIDE) <= 6 * one


def test_the_decoder_for_many_boxes_does_a_quarter_of_the_work_for_each(core):
    fewer, more = (decoder_flop(core, boxes, 8, "decoder_many") for boxes in (2, 26))
    assert more - fewer < (decoder_flop(core, 26, 8) - decoder_flop(core, 2, 8)) / 4
    assert more < decoder_flop(core, 26, 8) / 2


def test_what_boxes_share_of_whole_slices_is_done_once(core):
    """The first scaling up of all cells is 0.5 GFLOP."""
    whole = EMBEDDING_SIZE
    one, six = decoder_flop(core, 1, whole), decoder_flop(core, 6, whole)
    assert six < 6 * one - 5 * 0.5e9


def test_no_box_has_an_image_of_its_own(core):
    """Of 4 MB, to be written and read several times."""
    image = EMBEDDING_SIZE**2 * SWIFT_V3.embedding_dim
    nodes = decoder(core, 6, SIDE).get_ordered_ops()
    outputs = [output for node in nodes for output in node.outputs()]
    sizes = [prod(output.get_shape()) for output in outputs]
    assert image <= max(sizes) < 2 * image  # that of the slice is there


def test_position_codes_are_kept_once(core):
    """Of two, each is 4 MB of every kept model."""
    model = core.read_model(FOLDER / "decoder.xml")
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    shapes = [list(node.output(0).get_shape()) for node in constants]
    assert shapes.count([1, EMBEDDING_SIZE**2, SWIFT_V3.embedding_dim]) == 1
