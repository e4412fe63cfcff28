"""Time encoder and decoder by precision, beside the largest speed of this CPU.

    python -m benchmarks.speed.latency [--weights DIR] [--rounds N]

All tasks run in turns, so that a slow machine slows all of them; the results are medians. The
largest speed is that of a product of 2048 x 2048 matrices in OpenVINO, measured in the same turns.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from benchmarks.speed.work import work
from swiftmedsam import WeightsError
from swiftmedsam.cpu import AUTO, PRECISIONS
from swiftmedsam.decoding import rectangles
from swiftmedsam.frame import EMBEDDING_SIZE
from swiftmedsam.manifest import default_weights, read_manifest
from swiftmedsam.network import IntArray, compile_model, load
from swiftmedsam.system import available_threads

SIDE = 2048  # of the matrices
# Number of prompts decoded together, and requested cells per side.
DECODED = ((1, 64), (1, 16), (3, 64), (6, 16), (24, 16))


def product(precision: str, threads: int) -> Callable[[], None]:
    """Return a task: one product of `SIDE` x `SIDE` matrices; both are quantized for INT8."""
    random = np.random.default_rng(0)
    left = ops.parameter([SIDE, SIDE], np.float32)
    right = ops.constant(random.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32))
    values: list[ov.Node] = [left, right]
    if precision == "int8":
        low, high = np.float32(-1), np.float32(127 / 128)
        values = [ops.fake_quantize(value, low, high, low, high, 256) for value in values]
    model = ov.Model([ops.matmul(values[0], values[1], False, True)], [left])
    computed = "f32" if precision == "int8" else precision
    request = compile_model(ov.Core(), model, computed, threads).create_infer_request()
    values_in = random.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)
    return lambda: request.infer([values_in], share_inputs=True)


def spread(count: int, side: int) -> IntArray:
    """Return cells (N, side, side) of prompts side by side; shared cells would be computed once.

    If there is no place for all prompts, further ones overlap the first.
    """
    spans = [slice(first, first + side) for first in range(0, EMBEDDING_SIZE, side)]
    places = itertools.cycle(itertools.product(spans, spans))
    cells, _ = rectangles(list(itertools.islice(places, count)))
    return cells


def tasks(weights: Path, precision: str) -> dict[str, Callable[[], object]]:
    """Return the tasks of one precision, by name."""
    network = load(weights, precision=precision)
    random = np.random.default_rng(0)
    pixels = random.random((1, 3, 256, 256), np.float32)
    embedding = network.encode(pixels)
    found: dict[str, Callable[[], object]] = {
        "product": product(precision, network.threads),
        "encoder": lambda: network.encode(pixels),
    }
    for count, side in DECODED:
        cells = spread(count, side)
        prompts = np.tile(np.array([[60, 70, 180, 170]], np.float32), (count, 1))
        found[f"decoder, {count} prompts, {side} x {side} cells"] = (
            lambda prompts=prompts, cells=cells: network.decode(embedding, prompts, cells)
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.latency", description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    weights = options.weights or default_weights()
    manifest = read_manifest(weights)
    precisions = [p for p, kinds in PRECISIONS.items() if set(kinds) & set(manifest["models"])]
    measured = {}
    for precision in precisions:
        try:
            measured[precision] = tasks(weights, precision)
        except WeightsError as error:  # bf16 without AVX-512
            print(f"not measured: {error}")
    seconds = {(p, name): [] for p, named in measured.items() for name in named}
    for _ in range(options.rounds):
        for precision, named in measured.items():
            for name, task in named.items():
                task()  # to fill the caches with its own data
                began = time.perf_counter()
                task()
                seconds[precision, name].append(time.perf_counter() - began)
    medians = {key: float(np.median(values)) for key, values in seconds.items()}

    cpu = str(ov.Core().get_property("CPU", "FULL_DEVICE_NAME"))
    kind = next(iter(manifest["models"].values()))["encoder"]
    encoder = next(name for name in kind if name.endswith(".xml"))
    gflop = sum(work(ov.Core().read_model(weights / encoder)).values()) / 1e9
    auto = load(weights, precision=AUTO).precision
    print(f"{cpu}; {available_threads()} threads; OpenVINO {ov.__version__.split('-')[0]}")
    print(f"{weights.name}, medians of {options.rounds} in turns; the default here is {auto}")
    width = max(len(name) for _, name in medians)
    for (precision, name), median in medians.items():
        ratio = medians["f32", name] / median
        line = f"{precision:5} {name:{width}} {1e3 * median:8.1f} ms  {ratio:5.2f} x f32"
        if name == "encoder":
            rate = gflop / median
            most = 2e-9 * SIDE**3 / medians[precision, "product"]
            line += f"  {rate:.0f} GFLOP/s, {rate / most:.2f} of the product's {most:.0f}"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
