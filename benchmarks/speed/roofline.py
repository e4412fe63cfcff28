"""Compare each step of the encoder with the limits of the CPU (a roofline).

    python -m benchmarks.speed.roofline [--weights DIR] [--precision NAME] [--picture FILE]

A step is an operation that OpenVINO executes; it may be fused from several. Its work is that of the
products and convolutions in it, counted from their shapes; a multiplication and an addition are 2
FLOP. Its bytes are all its inputs and outputs, each once. The roof is the smaller of two limits:
the speed of a product of 2048 x 2048 matrices in OpenVINO, and the speed of a copy in memory times
FLOP by byte. Both are measured in turns with the encoder. Steps whose data stay in the cache may be
above the roof.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov

from benchmarks.speed.latency import SIDE, product
from benchmarks.speed.work import work
from swiftmedsam.cpu import PRECISIONS, floating_precision
from swiftmedsam.manifest import default_weights, read_manifest
from swiftmedsam.network import compile_model
from swiftmedsam.system import available_threads

ROUNDS = 15
COPIED = 256 << 20  # bytes; much more than the cache
NO_STEP = {"Const", "Input", "Output"}
DEQUANTIZED = "/DequantizationMultiply"  # OpenVINO adds this to the name of a product in INT8


@dataclass(frozen=True)
class ExecutedStep:
    """One executed step; its time is a mean over all rounds, with the slow first one."""

    kind: str
    seconds: float
    flop: int
    moved: int  # bytes

    def most(self, peak: float, bandwidth: float) -> float:
        """Return the roof of this step in FLOP/s, for `peak` FLOP/s and `bandwidth` bytes/s."""
        return min(peak, bandwidth * self.flop / self.moved)


def _names(node: ov.Node) -> Iterator[str]:
    """Yield possible names of the step with this node: its own, or those of fused nodes."""
    yield node.get_friendly_name()
    for port in node.output(0).get_target_inputs():
        yield port.get_node().get_friendly_name()  # the bias
    yield node.input_value(0).get_node().get_friendly_name()  # what orders the queries


def _words(node: ov.Node, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _moved(node: ov.Node) -> int:
    """Return the bytes of the inputs and outputs of an executed step."""
    tensors = [port.get_tensor() for port in (*node.inputs(), *node.outputs())]
    return sum(
        int(np.prod(list(tensor.get_shape()))) * tensor.get_element_type().size
        for tensor in tensors
    )


def executed_steps(model: ov.Model, executed: ov.Model) -> list[ExecutedStep]:
    """Return the executed steps of `model`; very short ones may have a time of 0."""
    nodes = [
        node for node in executed.get_ordered_ops()
        if _words(node, "layerType") not in NO_STEP and _words(node, "execTimeMcs").isdecimal()
    ]  # fmt: skip
    at = {
        name.removesuffix(DEQUANTIZED): i
        for i, node in enumerate(nodes)
        for name in _words(node, "originalLayersNames").split(",")
    }
    flop, amounts = [0] * len(nodes), work(model)
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in amounts:
            where = next((at[name] for name in _names(node) if name in at), None)
            if where is not None:
                flop[where] += amounts[node.get_friendly_name()]
    return [
        ExecutedStep(
            _words(node, "layerType"), int(_words(node, "execTimeMcs")) / 1e6, own, _moved(node)
        )
        for node, own in zip(nodes, flop, strict=True)
    ]


def roofline_table(found: Sequence[ExecutedStep], peak: float, bandwidth: float) -> str:
    """Return a Markdown table by kind of step: time, work, speed, and part of the roof."""
    groups: dict[str, list[ExecutedStep]] = defaultdict(list)
    for step in found:
        groups[step.kind].append(step)
    total = sum(step.seconds for step in found) or 1.0
    lines = [
        "| step | number | ms | of all | GFLOP | GFLOP/s | FLOP/byte | of the roof |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, group in sorted(groups.items(), key=lambda item: -sum(s.seconds for s in item[1])):
        seconds, flop = sum(s.seconds for s in group), sum(s.flop for s in group)
        cells = [kind, str(len(group)), f"{1e3 * seconds:.1f}", f"{100 * seconds / total:.0f}%"]
        if flop and seconds:
            least = sum(s.flop / s.most(peak, bandwidth) for s in group if s.flop)
            moved = sum(s.moved for s in group)
            cells += [
                f"{flop / 1e9:.2f}", f"{flop / seconds / 1e9:.0f}", f"{flop / moved:.0f}",
                f"{100 * least / seconds:.0f}%",
            ]  # fmt: skip
        else:
            cells += ["-"] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_roofline(
    found: Sequence[ExecutedStep], peak: float, bandwidth: float, picture: Path
) -> None:
    """Draw the roof, and each step with work, its area by its time; write `picture`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    ends = np.geomspace(1, 3000, 200)
    axes.loglog(ends, np.minimum(peak, bandwidth * ends) / 1e9, color="black")
    total = sum(step.seconds for step in found)
    for kind in sorted({step.kind for step in found if step.flop}):
        own = [step for step in found if step.kind == kind and step.flop and step.seconds]
        axes.scatter(
            [step.flop / step.moved for step in own],
            [step.flop / step.seconds / 1e9 for step in own],
            [4000 * step.seconds / total for step in own], alpha=0.5, label=kind,
        )  # fmt: skip
    axes.set(
        xlabel="FLOP by byte read or written", ylabel="GFLOP/s", title="areas: share of the time"
    )
    axes.grid(alpha=0.3, which="both")
    for handle in axes.legend(frameon=False).legend_handles:
        handle.set_sizes([40])
    figure.savefig(picture, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.roofline", description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    weights = options.weights or default_weights()
    models = read_manifest(weights)["models"]
    kind = next((kind for kind in PRECISIONS[options.precision] if kind in models), None)
    if kind is None:
        parser.error(f"{weights.name} has no encoder for {options.precision}")
    name = next(name for name in models[kind]["encoder"] if name.endswith(".xml"))
    threads = available_threads()
    core = ov.Core()
    model = core.read_model(weights / name)
    computed = floating_precision() if options.precision == "int8" else options.precision
    try:
        compiled = compile_model(core, model, computed, threads, PERF_COUNT=True)
    except RuntimeError as error:
        parser.error(f"{options.precision}: {error}")
    request = compiled.create_infer_request()
    pixels = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    matrices = product(options.precision, threads)
    source = np.ones(COPIED // 8)
    target = np.empty_like(source)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for what, task in (
            ("encoder", lambda: request.infer([pixels], share_inputs=True)),
            ("product", matrices),
            ("copy", lambda: np.copyto(target, source)),
        ):
            began = time.perf_counter()
            task()
            seconds[what].append(time.perf_counter() - began)
    medians = {what: float(np.median(values)) for what, values in seconds.items()}
    peak, bandwidth = 2 * SIDE**3 / medians["product"], 2 * COPIED / medians["copy"]
    found = executed_steps(model, compiled.get_runtime_model())
    flop = sum(step.flop for step in found)
    cpu = core.get_property("CPU", "FULL_DEVICE_NAME")
    print(f"{cpu}; {threads} threads; OpenVINO {ov.__version__.split('-')[0]}")
    print(
        f"{weights.name}, encoder in {options.precision}: {1e3 * medians['encoder']:.1f} ms, "
        f"{flop / 1e9:.1f} GFLOP; the most is {peak / 1e9:.0f} GFLOP/s and "
        f"{bandwidth / 1e9:.0f} GB/s, {ROUNDS} rounds in turns\n"
    )
    print(roofline_table(found, peak, bandwidth))
    if options.picture:
        draw_roofline(found, peak, bandwidth, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
