"""Work by step, on models whose products one can count on paper."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from benchmarks.speed import roofline
from benchmarks.speed.roofline import ExecutedStep, executed_steps, roofline_table
from benchmarks.speed.work import work


def model_of(node, *parameters):
    return ov.Model([node], list(parameters))


def test_products_convolutions_and_attention_are_counted():
    left = ops.parameter([3, 5, 7], np.float32)
    product = ops.matmul(left, np.ones((7, 11), np.float32), False, False)
    assert list(work(model_of(product, left)).values()) == [2 * 3 * 5 * 7 * 11]
    turned = ops.matmul(left, np.ones((5, 11), np.float32), True, False)
    assert list(work(model_of(turned, left)).values()) == [2 * 3 * 5 * 7 * 11]
    image = ops.parameter([1, 6, 8, 8], np.float32)
    ends = ([1, 1], [1, 1], [1, 1], [1, 1])
    convolved = ops.convolution(image, np.ones((4, 6, 3, 3), np.float32), *ends)
    assert list(work(model_of(convolved, image)).values()) == [2 * 4 * 64 * 6 * 9]
    depthwise = ops.group_convolution(image, np.ones((6, 1, 1, 3, 3), np.float32), *ends)
    assert list(work(model_of(depthwise, image)).values()) == [2 * 6 * 64 * 9]
    queries = ops.parameter([2, 4, 49, 32], np.float32)
    attention = ops.scaled_dot_product_attention(queries, queries, queries)
    assert list(work(model_of(attention, queries)).values()) == [2 * 2 * 2 * 4 * 49 * 49 * 32]


def test_the_table_says_how_much_of_the_roof_is_reached():
    steps = [
        ExecutedStep("Conv", 1e-3, 100_000_000, 1_000_000),
        ExecutedStep("Conv", 1e-3, 1_000_000, 1_000_000),
        ExecutedStep("Copy", 2e-3, 0, 5_000_000),
    ]  # fmt: skip
    # at 200 GFLOP/s and 10 GB/s these take 0.5 and 0.1 ms at least, and take 2 ms
    assert roofline_table(steps, 200e9, 10e9).splitlines()[2:] == [
        "| Conv | 2 | 2.0 | 50% | 0.10 | 50 | 50 | 30% |",
        "| Copy | 1 | 2.0 | 50% | - | - | - | - |",
    ]


def test_all_of_the_work_is_found_in_the_steps(tiny_weights):
    core = ov.Core()
    model = core.read_model(tiny_weights / "encoder.xml")
    compiled = core.compile_model(model, "CPU", {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1})
    compiled.create_infer_request().infer([np.zeros((1, 3, 256, 256), np.float32)])
    found = executed_steps(model, compiled.get_runtime_model())
    assert sum(step.flop for step in found) == sum(work(model).values()) > 0


def test_the_command_prints_and_draws(tiny_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(roofline, "ROUNDS", 1)
    monkeypatch.setattr(roofline, "COPIED", 1 << 20)
    picture = tmp_path / "roof.png"
    words = ["--weights", str(tiny_weights), "--picture", str(picture)]
    assert roofline.main([*words, "--precision", "f32"]) == 0
    assert "| FullyConnected |" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        roofline.main([*words, "--precision", "int8"])
    assert "tiny has no encoder for int8" in capsys.readouterr().err
