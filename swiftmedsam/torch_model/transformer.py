"""Two-way transformer of SAM's mask decoder: attention from tokens to image, and back.

Kirillov et al., "Segment Anything", 2023, appendix A, figure 14.
"""

import torch.nn.functional as F
from torch import Tensor, nn

DOWNSAMPLE_RATE = 2  # cross-attention has half the dimension


class Attention(nn.Module):
    """Multi-head attention with a smaller inner dimension."""

    def __init__(self, dim: int, heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = dim // downsample_rate
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def _split(self, x: Tensor) -> Tensor:
        b, length, inner = x.shape
        return x.view(b, length, self.heads, inner // self.heads).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (B, Lq, dim) of `q` (B, Lq, dim), `k` and `v` (B, Lk, dim)."""
        q, k, v = (
            self._split(project(x))
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, Lq, inner / heads)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class TransformerMlp(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., dim) of `x` (..., dim)."""
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, first: bool) -> None:
        super().__init__()
        self.first = first  # in the first block the queries are their own position codes
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, DOWNSAMPLE_RATE)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TransformerMlp(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, DOWNSAMPLE_RATE)

    def look(self, tokens: Tensor, token_positions: Tensor, keys: Tensor, image: Tensor) -> Tensor:
        """Return `tokens` (N, T, C) after self-attention, attention to the image, and the MLP.

        `image` (N, 4096, C) are the values; `keys` are `image` plus its position codes.
        """
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_positions
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        q = tokens + token_positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(q, keys, image))
        return self.norm3(tokens + self.mlp(tokens))

    def forward(
        self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return updated `tokens` (N, T, C) and `image` (N, 4096, C)."""
        keys = image_positions + image
        tokens = self.look(tokens, token_positions, keys, image)
        q = tokens + token_positions
        image = self.norm4(image + self.cross_attn_image_to_token(keys, q, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks, then one more attention of the tokens to the image."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, heads, DOWNSAMPLE_RATE)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, image_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (N, T, C) and image (N, 4096, C) after all blocks.

        `tokens` (N, T, C) are also their own position codes. `image` and `image_positions` are
        (1 or N, 4096, C).
        """
        queries = tokens
        for layer in self.layers:
            queries, image = layer(queries, image, tokens, image_positions)
        attended = self.final_attn_token_to_image(queries + tokens, image + image_positions, image)
        return self.norm_final_attn(queries + attended), image
