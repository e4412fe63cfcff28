"""Prompt encoder of SAM (Kirillov et al., 2023, appendix A): boxes only.

Point and mask prompts are not computed. Their weights are kept: `save_model` then writes the same
tensors that `load_model` has read.
"""

import math

import torch
from torch import Tensor, nn

from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE, INPUT_SIZE
from swiftmedsam.torch_model.tiny_vit import LayerNorm2d

TOP_LEFT, BOTTOM_RIGHT = 2, 3  # rows of SAM's point embeddings; rows 0 and 1 are for points
MASK_PROMPT_CHANNELS = 16


class RandomFourierFeatures(nn.Module):
    """Sine and cosine of random projections of a position (Tancik et al., 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, positions: Tensor) -> Tensor:
        """Return (..., 2 * features) of `positions` (..., 2), (x, y) in 0..1."""
        angles = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Makes two tokens of each box, and the position codes of the cells of the embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pe_layer = RandomFourierFeatures(dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        narrow = MASK_PROMPT_CHANNELS // 4
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, narrow, 2, stride=2),
            LayerNorm2d(narrow),
            nn.GELU(),
            nn.Conv2d(narrow, MASK_PROMPT_CHANNELS, 2, stride=2),
            LayerNorm2d(MASK_PROMPT_CHANNELS),
            nn.GELU(),
            nn.Conv2d(MASK_PROMPT_CHANNELS, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def forward(self, boxes_256: Tensor) -> Tensor:
        """Return tokens (N, 2, C) of `boxes_256` (N, 4): x_min, y_min, x_max, y_max in input px."""
        corners = (boxes_256.reshape(-1, 2, 2) + 0.5) / INPUT_SIZE  # the centres of the pixels
        kinds = [self.point_embeddings[i].weight for i in (TOP_LEFT, BOTTOM_RIGHT)]
        return self.pe_layer(corners) + torch.cat(kinds)

    def dense_positions(self) -> Tensor:
        """Return the position code (1, C, 64, 64) of the centres of the embedding's cells."""
        steps = self.no_mask_embed.weight.new_tensor(range(EMBEDDING_SIZE))
        centres = (steps + 0.5) / EMBEDDING_SIZE
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)

    def dense_prompt(self) -> Tensor:
        """Return the code of "no mask prompt", (1, C, 1, 1), which is added to each cell."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1)
