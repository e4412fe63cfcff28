"""Torch modules to OpenVINO models, without a detour over ONNX.

Only what a box needs is exported: no point or mask prompts, no ambiguous masks.
"""

from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn

from swiftmedsam import SwiftMedSAM
from swiftmedsam.architecture import EMBEDDING_SIZE, INPUT_SIZE

EXAMPLE_BOXES = 2  # traced with more than one, so that nothing is taken for a constant


class DecoderForExport(nn.Module):
    """The decoder with all that depends on neither image nor box computed once, here."""

    positions: Tensor

    def __init__(self, model: SwiftMedSAM) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.register_buffer("positions", model.prompt_encoder.dense_positions())

    def forward(self, embedding: Tensor, boxes_256: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 256, 256) and IoU (N,); see `SwiftMedSAM.decode`."""
        image = embedding + self.prompt_encoder.dense_prompt()
        return self.mask_decoder(image, self.positions, self.prompt_encoder(boxes_256))


def _named(model: ov.Model, inputs: list[str], outputs: list[str]) -> ov.Model:
    for ports, names in ((model.inputs, inputs), (model.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.set_names({name})
    return model


def export(model: SwiftMedSAM) -> dict[str, ov.Model]:
    """OpenVINO models "encoder" and "decoder" of `model`, in float32.

    Encoder: pixels (1, 3, 256, 256) to embedding (1, C, 64, 64). Decoder: embedding and boxes_256
    (N, 4), N free, to logits (N, 256, 256) and iou (N,).
    """
    model = model.float().eval()
    channels = model.architecture.embedding_dim
    pixels = torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE)
    embedding = torch.zeros(1, channels, EMBEDDING_SIZE, EMBEDDING_SIZE)
    boxes = torch.tensor([[8.0, 16.0, 64.0, 96.0]]).repeat(EXAMPLE_BOXES, 1)
    with torch.no_grad():
        encoder = ov.convert_model(
            model.image_encoder, example_input=pixels, input=[tuple(pixels.shape)]
        )
        decoder = ov.convert_model(
            DecoderForExport(model),
            example_input=(embedding, boxes),
            input=[tuple(embedding.shape), (-1, 4)],
        )
    return {
        "encoder": _named(encoder, ["pixels"], ["embedding"]),
        "decoder": _named(decoder, ["embedding", "boxes_256"], ["logits", "iou"]),
    }


def save(models: dict[str, ov.Model], folder: Path, precision: str) -> dict[str, list[Path]]:
    """Write PART.xml and PART.bin, weights stored as `precision` ("fp16" or "fp32")."""
    written = {}
    for part, model in models.items():
        path = folder / f"{part}.xml"
        ov.save_model(model, path, compress_to_fp16=precision == "fp16")
        written[part] = [path, path.with_suffix(".bin")]
    return written
