"""Image encoder of v3: dense convolutions at high resolution, attention at 32 x 32 only.

Like `tiny_vit`, it takes pixels (B, 3, 256, 256) and returns an embedding (B, C, 64, 64), with less
work. Its 3 x 3 convolutions are not depthwise: they use the matrix units of a CPU fully and read
and write memory less often (fused blocks: Tan and Le, "EfficientNetV2", ICML 2021, section 3.3).
The decoder needs details at 64 x 64. The neck takes them from the stage of that resolution; all
later stages are at 32 x 32.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from swiftmedsam.torch_model.architecture import DenseEncoder
from swiftmedsam.torch_model.tiny_vit import AttentionBlock, ConvNorm, LayerNorm2d, Stage


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3)
        self.conv2 = ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, (B, channels, H, W)."""
        return F.hardswish(x + self.conv2(F.hardswish(self.conv1(x))))


class FusedBlock(nn.Module):
    """A 3 x 3 convolution to more channels, a 1 x 1 back to fewer, added to their input."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels * expansion, 3)
        self.conv2 = ConvNorm(channels * expansion, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, (B, channels, H, W)."""
        return x + self.conv2(F.hardswish(self.conv1(x)))


class Downsample(nn.Module):
    """A convolution of stride 1 or 2, batch norm, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, outputs, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) of `x` (B, inputs, H, W)."""
        return F.hardswish(self.conv(x))


class Neck(nn.Module):
    """Features at 32 x 32 and at 64 x 64 are combined to the embedding."""

    def __init__(self, deep: int, fine: int, channels: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(deep, channels, 1, bias=False)
        self.fine = nn.Conv2d(fine, channels, 1, bias=False)
        self.norm1 = LayerNorm2d(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = LayerNorm2d(channels)

    def forward(self, deep: Tensor, fine: Tensor) -> Tensor:
        """Return (B, channels, 64, 64) of `deep` (B, C, 32, 32) and `fine` (B, C', 64, 64)."""
        coarse = F.interpolate(self.deep(deep), scale_factor=2, mode="nearest")
        x = self.norm1(coarse + self.fine(fine))
        return self.norm2(self.pointwise(self.depthwise(x)))


class DenseViT(nn.Module):
    """The image encoder: a stem, stages of 128, 64, 32 and 32 cells per side, the neck."""

    def __init__(self, dims: DenseEncoder, embedding_dim: int) -> None:
        super().__init__()
        widths, depths = dims.widths, dims.depths
        self.patch_embed = Downsample(3, widths[0], 3, 2)
        blocks: list[list[nn.Module]] = [
            [ResidualBlock(widths[0]) for _ in range(depths[0])],
            [FusedBlock(widths[1], dims.expansion) for _ in range(depths[1])],
            [FusedBlock(widths[2], dims.expansion) for _ in range(depths[2])],
            [AttentionBlock(widths[3], dims.heads, window) for window in dims.windows],
        ]
        merges: list[nn.Module | None] = [
            Downsample(widths[0], widths[1], 3, 2),
            Downsample(widths[1], widths[2], 3, 2),
            Downsample(widths[2], widths[3], 1, 1),
            None,
        ]
        self.layers = nn.ModuleList(
            Stage(stage, merge) for stage, merge in zip(blocks, merges, strict=True)
        )
        self.neck = Neck(widths[3], widths[1], embedding_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the embedding (B, C, 64, 64) of `pixels` (B, 3, 256, 256), values 0..1."""
        early, fine, middle, late = self.layers
        x = early(self.patch_embed(pixels))
        for block in fine.blocks:
            x = block(x)
        deep = late(middle(fine.downsample(x)))
        return self.neck(deep, x)
