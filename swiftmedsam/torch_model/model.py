"""The whole network: it encodes a slice once, and decodes any number of boxes in it."""

from torch import Tensor, nn

from swiftmedsam.torch_model.architecture import Architecture
from swiftmedsam.torch_model.dense_vit import DenseViT
from swiftmedsam.torch_model.mask_decoder import MaskDecoder
from swiftmedsam.torch_model.prompt_encoder import PromptEncoder
from swiftmedsam.torch_model.tiny_vit import TinyViT


class SwiftMedSAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder, named as in published checkpoints."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        dense = architecture.dense_encoder
        self.image_encoder = (
            DenseViT(dense, architecture.embedding_dim) if dense else TinyViT(architecture)
        )
        self.prompt_encoder = PromptEncoder(architecture.embedding_dim)
        self.mask_decoder = MaskDecoder(architecture)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embedding (B, C, 64, 64) of `pixels` (B, 3, 256, 256), values 0..1."""
        return self.image_encoder(pixels)

    def decode(self, embedding: Tensor, boxes_256: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits (N, 256, 256) and predicted IoU (N,) of `boxes_256` (N, 4).

        `embedding` is (1, C, 64, 64) for all boxes, or (N, C, 64, 64), one for each box. Boxes are
        x_min, y_min, x_max, y_max in input pixels.
        """
        kind = embedding.dtype  # may be bfloat16; added to f32 codes it would become f32
        return self.mask_decoder(
            embedding + self.prompt_encoder.dense_prompt().to(kind),
            self.prompt_encoder.dense_positions().to(kind),
            self.prompt_encoder(boxes_256),
        )

    def forward(self, pixels: Tensor, boxes_256: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, 256, 256) and IoU (B,), one box (B, 4) per image (B, 3, 256, 256)."""
        return self.decode(self.encode(pixels), boxes_256)
