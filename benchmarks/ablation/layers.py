"""Measure what INT8 gives and costs, for each group of layers.

    python -m benchmarks.ablation.layers CALIBRATION CASES
        [--weights DIR] [--slices N] [--only TEXT ...]

The encoder is quantized as in the conversion (`swiftmedsam.convert.quantize`), then with other
settings, then with single groups of layers left in floats; the decoder is quantized, too. The
tables compare with f32 on slices of CASES: the relative squared error of the embedding, the DSC of
the masks (mean and minimum over slices), and the time of encoder or decoder, measured in turns.
CALIBRATION and CASES are folders of npz cases; no case should be in both.
"""

import argparse
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.advanced_parameters import OverflowFix

from swiftmedsam.convert.quantize import even_slices, quantize
from swiftmedsam.evaluation.dice import dsc
from swiftmedsam.frame import FloatArray, every_cell
from swiftmedsam.manifest import default_weights, read_manifest
from swiftmedsam.network import Network, compile_model, load
from swiftmedsam.system import available_threads
from swiftmedsam.torch_model import VARIANTS, Architecture

CALIBRATION_PROMPTS = 2  # of a slice, for the decoder
EIGHT_BITS = nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE)
NOT_SMOOTH = nncf.AdvancedQuantizationParameters(
    overflow_fix=OverflowFix.ENABLE,
    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
)
Slice = tuple[FloatArray, FloatArray]  # pixels and prompts
Infer = Callable[[Sequence[FloatArray]], list[FloatArray]]


def kind_of(node: ov.Node) -> str | None:
    """Return the purpose of a layer; None if it has no weights to quantize."""
    kind, name = node.get_type_name(), node.get_friendly_name()
    if kind == "GroupConvolution":
        return "depthwise convolutions"
    if kind == "Convolution":
        return "other convolutions"
    if kind == "MatMul":
        return "MLPs" if ".mlp." in name else "attention: q, k, v, projection"
    return None


def unnamed_places(architecture: Architecture) -> list[str]:
    """Return the places of the encoder's first convolutions, one for each that has no name.

    Convolutions are fused with their batch norm and then have no name with a stage. Later ones
    belong to the stage of the last named layer before them.
    """
    dense = architecture.dense_encoder
    if dense is None:  # the patch embedding has two; those of stage 0 follow
        return ["patch embedding"] * 2 + ["stage 0"]
    found = ["patch embedding"]
    for i, depth in enumerate(dense.depths):
        found += [f"stage {i}"] * (2 * depth + 1)  # two a block, and one to the next stage
    return found


def groups_of(encoder: ov.Model, architecture: Architecture) -> dict[str, list[str]]:
    """Return the names of the encoder's layers with weights, grouped by purpose and by stage."""
    groups: dict[str, list[str]] = defaultdict(list)
    unnamed, place = iter(unnamed_places(architecture)), ""
    for node in encoder.get_ordered_ops():
        kind, name = kind_of(node), node.get_friendly_name()
        if kind is None:
            continue
        if found := re.search(r"image_encoder\.(layers\.(\d)|neck)", name):
            place = f"stage {found[2]}" if found[2] else "neck"
        else:
            place = next(unnamed, place)
        groups[kind].append(name)
        groups[place].append(name)
    return dict(groups)


def compiled(model: ov.Model, precision: str) -> Infer:
    """Compile `model` for this CPU; what is not in INT8 is computed in `precision`."""
    request = compile_model(ov.Core(), model, precision, available_threads()).create_infer_request()

    def infer(inputs: Sequence[FloatArray]) -> list[FloatArray]:
        request.infer(list(inputs), share_inputs=True)
        return [np.array(tensor.data) for tensor in request.output_tensors]

    return infer


def encoders(
    read: Callable[[], ov.Model], architecture: Architecture, slices: list[FloatArray],
    precision: str, only: Sequence[str],
) -> dict[str, Infer]:  # fmt: skip
    """Return ways to compute the encoder, "f32" among them; `read` returns a new encoder."""
    model = read()
    variants = {"f32": compiled(model, "f32")}

    def add(name: str, **changes: object) -> None:
        if only and not any(text in name for text in only):
            return
        variants[name] = compiled(quantize(read(), slices, **changes), precision)

    add("all in INT8")
    add("all, weights of 8 bits", advanced_parameters=EIGHT_BITS)
    add("all, without SmoothQuant", advanced_parameters=NOT_SMOOTH)
    add("all, activations symmetric", preset=nncf.QuantizationPreset.PERFORMANCE)
    for group, names in groups_of(model, architecture).items():
        add(f"all but {group}", ignored_scope=nncf.IgnoredScope(names=names))
    return variants


def agreement(masks: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> str:
    """Return mean and least DSC over slices; the masks (N, 256, 256) of a slice count together."""
    scores = [dsc(found, right) for found, right in zip(masks, wanted, strict=True)]
    return f"{100 * np.mean(scores):.2f} | {100 * np.min(scores):.1f}"


def compare_encoders(
    variants: Mapping[str, Infer], slices: Sequence[Slice], network: Network
) -> str:
    """Return a Markdown table of the encoders; the decoder of `network` makes the masks."""
    masks: dict[str, list[np.ndarray]] = defaultdict(list)
    errors, seconds = defaultdict(list), defaultdict(list)
    for pixels, prompts in slices:
        embeddings = {}
        for name, infer in variants.items():
            began = time.perf_counter()
            (embeddings[name],) = infer([pixels])
            seconds[name].append(time.perf_counter() - began)
        right = embeddings["f32"]
        for name, embedding in embeddings.items():
            errors[name].append(np.square(embedding - right).sum() / np.square(right).sum())
            logits, _ = network.decode(embedding, prompts, every_cell(len(prompts)))
            masks[name].append(logits > 0)
    lines = [
        "| encoder | error of the embedding | DSC with f32 | least | ms |",
        "|---|---|---|---|---|",
    ]
    for name in variants:
        lines.append(
            f"| {name} | {np.mean(errors[name]):.4f} | {agreement(masks[name], masks['f32'])} "
            f"| {1e3 * np.median(seconds[name]):.1f} |"
        )
    return "\n".join(lines)


def compare_decoders(
    decoders: Mapping[str, Infer], slices: Sequence[Slice], network: Network
) -> str:
    """Return a Markdown table of the decoders, "f32" among them; `network` makes the embeddings."""
    masks: dict[str, list[np.ndarray]] = defaultdict(list)
    seconds = defaultdict(list)
    for pixels, prompts in slices:
        inputs = [network.encode(pixels).copy(), prompts, every_cell(len(prompts))]
        for name, infer in decoders.items():
            infer(inputs)  # the first call with a new number of prompts is slow
            began = time.perf_counter()
            logits, _ = infer(inputs)
            seconds[name].append((time.perf_counter() - began) / len(prompts))
            masks[name].append(logits > 0)
    lines = ["| decoder | DSC with f32 | least | ms a prompt |", "|---|---|---|---|"]
    for name in decoders:
        milliseconds = 1e3 * np.median(seconds[name])
        lines.append(f"| {name} | {agreement(masks[name], masks['f32'])} | {milliseconds:.1f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ablation.layers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("calibration", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        default="f32",
        help="precision of layers that are not in INT8",
    )
    parser.add_argument(
        "--slices", type=int, default=66, help="number of slices to calibrate on, and to compare"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="TEXT", help="only rows with such a text"
    )
    options = parser.parse_args(argv)
    weights = options.weights or default_weights()
    manifest = read_manifest(weights)
    core, files = ov.Core(), manifest["models"]["fp16"]

    def read(part: str) -> ov.Model:
        return core.read_model(weights / next(n for n in files[part] if n.endswith(".xml")))

    calibration = even_slices(options.calibration, options.slices)
    slices = [found for found in even_slices(options.cases, options.slices) if len(found[1])]
    network = load(weights, precision="f32")
    cpu = core.get_property("CPU", "FULL_DEVICE_NAME")
    print(f"{cpu}; {network.threads} threads; OpenVINO {ov.__version__.split('-')[0]}")
    print(
        f"{weights.name}: {len(calibration)} slices to calibrate on, {len(slices)} to compare, the "
        f"rest in {options.precision}; milliseconds: medians, in turns\n"
    )
    pixels = [pixels for pixels, _ in calibration]
    architecture = VARIANTS[manifest["variant"]]
    variants = encoders(
        lambda: read("encoder"), architecture, pixels, options.precision, options.only
    )
    print(compare_encoders(variants, slices, network), flush=True)

    asked = []
    for pixels, prompts in calibration:
        some = prompts[:CALIBRATION_PROMPTS]
        if len(some):
            asked.append((network.encode(pixels).copy(), some, every_cell(len(some))))
    decoders = {
        "f32": compiled(read("decoder"), "f32"),
        "decoder in INT8": compiled(quantize(read("decoder"), asked), options.precision),
    }
    print("\n" + compare_decoders(decoders, slices, network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
