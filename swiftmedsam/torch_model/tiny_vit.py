"""Image encoder of lite, v1 and v2: TinyViT as in LiteMedSAM.

It takes pixels (B, 3, 256, 256) and returns an embedding (B, C, 64, 64).

It has four stages: one of inverted-bottleneck convolutions at full resolution, three of windowed
attention (Wu et al., "TinyViT", ECCV 2022, section 3 and figure 2). There are two differences from
that paper, both as in the published checkpoint of LiteMedSAM: the patch embedding keeps the
resolution, and the last patch merge has stride 1.

Between convolutions, features have the shape (B, H * W, C). With four axes, OpenVINO's CPU plugin
keeps the layout of the convolutions and copies back and forth (docs/log/2026-11-24-speed.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swiftmedsam.torch_model.architecture import Architecture

MBCONV_EXPANSION = 4
MLP_RATIO = 4
MERGE_STRIDES = (2, 2, 1)  # 256 -> 128 -> 64 -> 64


def to_tokens(x: Tensor) -> Tensor:
    """Return tokens (B, H * W, C), one for each pixel of `x` (B, C, H, W)."""
    b, c, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, height * width, c)


def to_maps(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return (B, C, height, width) of `tokens` (B, height * width, C)."""
    b, _, c = tokens.shape
    return tokens.view(b, height, width, c).permute(0, 3, 1, 2)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel of (B, C, H, W), as in SAM."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) with mean 0 and variance 1 over C, scaled and shifted."""
        tokens = F.layer_norm(to_tokens(x), self.weight.shape, self.weight, self.bias, self.eps)
        return to_maps(tokens, *x.shape[2:])


class ConvNorm(nn.Sequential):
    """A convolution without bias, then batch norm; padded so that stride 1 keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.add_module(
            "c", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        )
        self.add_module("bn", nn.BatchNorm2d(outputs))


class PatchEmbed(nn.Module):
    """Two 1x1 convolutions: from 3 colours to the channels of the first stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, channels // 2), nn.GELU(), ConvNorm(channels // 2, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, channels, H, W) of the pixels (B, 3, H, W)."""
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck: more channels, 3x3 depthwise, fewer channels, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * MBCONV_EXPANSION
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, (B, channels, H, W)."""
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """Change the number of channels and, with stride 2, halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) of `x` (B, inputs, H, W)."""
        x = F.gelu(self.conv1(x))
        x = F.gelu(self.conv2(x))
        return self.conv3(x)


class WindowAttention(nn.Module):
    """Multi-head self-attention in one window; each head learns a bias for each |offset|."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = y.flatten(), x.flatten()
        offsets = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        self.register_buffer("attention_bias_idxs", offsets, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, dim) of the windows `x` (B, L, dim), L = window * window."""
        b, length, dim = x.shape
        x = self.norm(x)
        weights = self.qkv.weight.view(self.heads, 3, -1, dim)  # by head, then q, k and v
        biases = self.qkv.bias.view(self.heads, 3, -1)
        q, k, v = (  # each (B, heads, L, dim / heads); split this way, none is copied
            F.linear(x, weights[:, i].reshape(dim, dim), biases[:, i].flatten())
            .view(b, length, self.heads, -1)
            .transpose(1, 2)
            for i in range(3)
        )
        bias = self.attention_biases[:, self.attention_bias_idxs].to(q.dtype)  # (heads, L, L)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
        return self.proj(x.transpose(1, 2).reshape(b, length, dim))


class Mlp(nn.Module):
    """Layer norm, linear to more channels, GELU, linear back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., dim) of `x` (..., dim)."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    """Windowed attention, a 3x3 depthwise convolution across windows, an MLP."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, (B, dim, H, W)."""
        height, width = x.shape[2:]
        tokens = to_tokens(x)
        tokens = tokens + self._attend(tokens, height, width)
        tokens = to_tokens(self.local_conv(to_maps(tokens, height, width)))
        tokens = tokens + self.mlp(tokens)
        return to_maps(tokens, height, width)

    def _attend(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Return the attention (B, H * W, dim) of `tokens` (B, H * W, dim), window by window."""
        b, _, dim = tokens.shape
        w = self.window
        bottom, right = -height % w, -width % w
        x = F.pad(tokens.view(b, height, width, dim), (0, 0, 0, right, 0, bottom))
        rows, columns = (height + bottom) // w, (width + right) // w
        x = x.view(b, rows, w, columns, w, dim).transpose(2, 3).reshape(-1, w * w, dim)
        x = self.attn(x)
        x = x.view(b, rows, columns, w, w, dim).transpose(2, 3)
        x = x.reshape(b, height + bottom, width + right, dim)[:, :height, :width]
        return x.reshape(b, height * width, dim)


class Stage(nn.Module):
    """Blocks of one resolution, then the patch merge; the last stage has no patch merge."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', H', W'), the input of the next stage, of `x` (B, C, H, W)."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """The image encoder."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.patch_embed = PatchEmbed(a.encoder_dims[0])
        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(a.encoder_dims, a.encoder_depths, strict=True)):
            blocks: list[nn.Module] = [
                MBConv(dim)
                if i == 0
                else AttentionBlock(dim, a.encoder_heads[i], a.window_sizes[i])
                for _ in range(depth)
            ]
            last = i == len(a.encoder_dims) - 1
            merge = None if last else PatchMerging(dim, a.encoder_dims[i + 1], MERGE_STRIDES[i])
            self.layers.append(Stage(blocks, merge))
        self.neck = nn.Sequential(
            nn.Conv2d(a.encoder_dims[-1], a.embedding_dim, 1, bias=False),
            LayerNorm2d(a.embedding_dim),
            nn.Conv2d(a.embedding_dim, a.embedding_dim, 3, padding=1, bias=False),
            LayerNorm2d(a.embedding_dim),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the embedding (B, C, 64, 64) of `pixels` (B, 3, 256, 256), values 0..1."""
        x = self.patch_embed(pixels)
        for stage in self.layers:
            x = stage(x)
        return self.neck(x)
