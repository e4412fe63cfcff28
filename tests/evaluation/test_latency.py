"""`python -m benchmarks.speed.latency`, and how it and the other benchmarks compile a model."""

import numpy as np
import openvino as ov
import pytest

from benchmarks.speed.latency import spread
from swiftmedsam.network import compile_model


@pytest.mark.parametrize(("count", "side", "distinct"), [(6, 16, 6 * 256), (24, 16, 4096)])
def test_prompts_share_no_cell_as_long_as_there_is_room(count, side, distinct):
    cells = spread(count, side)
    assert cells.shape == (count, side, side)
    assert len(np.unique(cells)) == distinct


def test_a_benchmark_compiles_as_the_program_does_and_may_ask_for_more(tiny_weights):
    path = tiny_weights / "encoder.xml"
    compiled = compile_model(ov.Core(), path, "f32", 1, PERF_COUNT=True)
    settings = {name: compiled.get_property(name) for name in ("ENABLE_CPU_PINNING", "PERF_COUNT")}
    assert settings == {"ENABLE_CPU_PINNING": False, "PERF_COUNT": "YES"}
