"""Mask decoder of SAM: makes mask logits and predicted IoU of an embedding and prompt tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE, Architecture
from swiftmedsam.torch_model.tiny_vit import LayerNorm2d
from swiftmedsam.torch_model.transformer import TwoWayTransformer

HYPERNETWORK_DEPTH = 3


class MLP(nn.Module):
    """`depth` linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        dims = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(dims[:-1], dims[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) of `x` (..., inputs)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """The mask decoder (Kirillov et al., 2023, appendix A) with `multimask_output=False`.

    A box needs one mask only. Further mask tokens (`Architecture.mask_tokens`) take part in the
    attention, as they did in training, but are not decoded to masks.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        dim = architecture.embedding_dim
        self.transformer = TwoWayTransformer(
            dim,
            architecture.decoder_depth,
            architecture.decoder_heads,
            architecture.decoder_mlp_dim,
        )
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(architecture.mask_tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, HYPERNETWORK_DEPTH) for _ in range(architecture.mask_tokens)
        )
        self.iou_prediction_head = MLP(
            dim, dim, architecture.mask_tokens, architecture.iou_head_depth
        )

    def forward(
        self, image: Tensor, image_positions: Tensor, prompt_tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mask logits (N, 256, 256) and predicted IoU (N,) of N prompts.

        `image` (1 or N, C, 64, 64) is the embedding plus the dense prompt, `image_positions`
        (1, C, 64, 64) are its position codes, `prompt_tokens` (N, 2, C) the boxes.
        """
        n = prompt_tokens.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + mask tokens, C)
        tokens = torch.cat([own.unsqueeze(0).expand(n, -1, -1), prompt_tokens], dim=1)
        tokens, image = self.transformer(
            tokens,
            image.flatten(2).transpose(1, 2),  # (1 or N, 4096, C)
            image_positions.flatten(2).transpose(1, 2),
        )
        features = image.transpose(1, 2).reshape(n, -1, EMBEDDING_SIZE, EMBEDDING_SIZE)
        upscaled = self.output_upscaling(features)  # (N, C / 8, 256, 256)
        kernel = self.output_hypernetworks_mlps[0](tokens[:, 1])  # (N, C / 8)
        logits = (kernel.unsqueeze(1) @ upscaled.flatten(2)).view(n, *upscaled.shape[2:])
        iou = self.iou_prediction_head(tokens[:, 0])[:, 0]
        return logits, iou
