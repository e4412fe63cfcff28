"""The same network with fewer passes over memory, for training under autocast.

On a GPU, memory limits the speed of a training step, not arithmetic. Half of a step was casts to
f32 and back around layer norms, and batch norms that are constant
(docs/log/2026-11-27-training-speed.md). `make_lean` changes the classes of modules. Weights and
their names stay, and so do results in f32. Under autocast, norms are computed in the type of
products, and positions of prompts in f32, as at inference.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swiftmedsam.torch_model.prompt_encoder import RandomFourierFeatures
from swiftmedsam.torch_model.tiny_vit import ConvNorm, LayerNorm2d, to_maps, to_tokens


def _autocast_type(x: Tensor) -> torch.dtype:
    """Return the type in which products of `x` are computed here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class FoldedConvNorm(ConvNorm):
    """If the statistics are frozen, batch norm becomes part of the convolution's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H', W') of `x` (B, inputs, H, W)."""
        conv, norm = self.c, self.bn
        if norm.training:
            return super().forward(x)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, shift, conv.stride, conv.padding, 1, conv.groups)


def _layer_norm(x: Tensor, norm: nn.LayerNorm | LayerNorm2d) -> Tensor:
    """Layer norm over the last axis in the type of products; CUDA's autocast would take f32."""
    kind, shape = _autocast_type(x), norm.weight.shape
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x.to(kind), shape, norm.weight.to(kind), norm.bias.to(kind), norm.eps)


class LeanLayerNorm(nn.LayerNorm):
    """Layer norm of tokens (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (..., C) with mean 0 and variance 1 over C, scaled and shifted."""
        return _layer_norm(x, self)


class LeanLayerNorm2d(LayerNorm2d):
    """Layer norm of maps (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) with mean 0 and variance 1 over C, scaled and shifted."""
        return to_maps(_layer_norm(to_tokens(x), self), *x.shape[2:])


class ExactFourierFeatures(RandomFourierFeatures):
    """Position codes in f32: bfloat16 has 8 bits, too few for neighbouring pixels."""

    def forward(self, positions: Tensor) -> Tensor:
        """Return (..., 2 * features) of `positions` (..., 2), (x, y) in 0..1."""
        with torch.autocast(positions.device.type, enabled=False):
            return super().forward(positions.float())


LEAN = {
    ConvNorm: FoldedConvNorm,
    nn.LayerNorm: LeanLayerNorm,
    LayerNorm2d: LeanLayerNorm2d,
    RandomFourierFeatures: ExactFourierFeatures,
}


def make_lean(model: nn.Module) -> None:
    """Change the modules of `model` in place to those with fewer passes over memory."""
    for module in model.modules():
        if lean := LEAN.get(type(module)):
            module.__class__ = lean
