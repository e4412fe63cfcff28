"""Torch modules to OpenVINO models, without ONNX in between.

Only what a box prompt needs is exported: no point or mask prompts, no ambiguous masks.
"""

from pathlib import Path

import openvino as ov
import torch

from swiftmedsam.convert.many import ManyDecoder
from swiftmedsam.convert.rewrite import ExportedDecoder, ExportedEncoder
from swiftmedsam.manifest import MANY
from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE, INPUT_SIZE

EXAMPLE_BOXES = 2  # more than one: else tracing takes the number of boxes for a constant


def _named(model: ov.Model, inputs: list[str], outputs: list[str]) -> ov.Model:
    for ports, names in ((model.inputs, inputs), (model.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.set_names({name})
    return model


def export(model: SwiftMedSAM) -> dict[str, ov.Model]:
    """Return the OpenVINO models "encoder" and "decoder" of `model`, in float32.

    If its decoder has one block, there is "decoder_many", too: the same function, faster for many
    boxes in one slice.

    The encoder takes pixels (1, 3, 256, 256) and returns an embedding (1, 4096, C), cells row by
    row. The decoder takes an embedding, boxes_256 (N, 4) in input pixels and cells (N, h, w), and
    returns logits (N, 4 h, 4 w) and iou (N,). N, h and w are free.
    """
    model = model.float().eval()
    pixels = torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE)
    embedding = torch.zeros(1, EMBEDDING_SIZE**2, model.architecture.embedding_dim)
    boxes = torch.tensor([[8.0, 16.0, 64.0, 96.0]]).repeat(EXAMPLE_BOXES, 1)
    cells = torch.zeros(EXAMPLE_BOXES, 3, 5, dtype=torch.int32)
    with torch.no_grad():
        encoder = ov.convert_model(
            ExportedEncoder(model), example_input=pixels, input=[tuple(pixels.shape)]
        )
        decoders: dict[str, ExportedDecoder] = {"decoder": ExportedDecoder(model)}
        if model.architecture.decoder_depth == 1:
            decoders[MANY] = ManyDecoder(model)
        exported = {"encoder": _named(encoder, ["pixels"], ["embedding"])}
        for name, decoder in decoders.items():
            converted = ov.convert_model(
                decoder,
                example_input=(embedding, boxes, cells),
                input=[tuple(embedding.shape), (-1, 4), (-1, -1, -1)],
            )
            ports = ["embedding", "boxes_256", "cells"], ["logits", "iou"]
            exported[name] = _named(converted, *ports)
    return exported


def save(model: ov.Model, path: Path, stored: str) -> list[Path]:
    """Write `path` (.xml) and the .bin beside it; return both paths.

    Weights are stored as fp16, or as fp32 if `stored` is "fp32". INT8 weights stay INT8.
    """
    ov.save_model(model, path, compress_to_fp16=stored != "fp32")
    return [path, path.with_suffix(".bin")]
