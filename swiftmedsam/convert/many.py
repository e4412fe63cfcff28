"""The decoder for many boxes in one slice: the same masks as `rewrite`, with other products.

`rewrite` projects the few tokens of a box and multiplies them with all channels of the cells. Here
the cells are projected, as in the paper, but once for all boxes of a call. In v3 this takes 1.6
GFLOP a call. Tokens are then multiplied with the 16 channels of each head: 0.11 GFLOP for a box of
8 x 8 cells, where `rewrite` has 0.65 (tests/golden/test_waste.py counts both).

In the comments, N are boxes, T tokens of a box, d channels of a head, C channels of a cell.
"""

import torch
from torch import Tensor

from swiftmedsam.convert.rewrite import (
    ANSWERS,
    CELLS,
    ExportedDecoder,
    LastBlock,
    TokensToImage,
    minus_mean,
    split_heads,
    weight_by_head,
)
from swiftmedsam.torch_model import SwiftMedSAM


def _cells_by_head(cells: Tensor, weight: Tensor) -> Tensor:
    """Project `cells` (1, 4096, C) with `weight` (heads, d, C) to (heads, d, 4096)."""
    heads, d, channels = weight.shape
    return (weight.reshape(heads * d, channels) @ cells[0].T).reshape(heads, d, CELLS)


class ManyTokensToImage(TokensToImage):
    """`TokensToImage` for many boxes with the same cells."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (N, T, C); `q` is (N, T, C), `k` and `v` are (1, 4096, C)."""
        n, tokens, _ = q.shape
        keys = _cells_by_head(k, self.key())  # (heads, d, 4096)
        value, bias = self.value()
        values = _cells_by_head(v, value.transpose(1, 2))
        asked = self.attention.q_proj(q).unflatten(2, (self.heads, -1))  # (N, T, heads, d)
        asked = asked.permute(2, 3, 0, 1).flatten(2)  # one product for all boxes
        # over axis 1: over the last axis, OpenVINO would fuse the three steps into one slow step
        weights = torch.softmax(keys.transpose(1, 2) @ asked, 1)  # (heads, 4096, N * T)
        seen = values @ weights  # (heads, d, N * T)
        seen = seen.flatten(0, 1).T.reshape(n, tokens, -1) + bias
        return self.attention.out_proj(seen)


class ManyLastBlock(LastBlock):
    """`LastBlock` for many boxes with the same cells."""

    def forward(
        self, queries: Tensor, image: Tensor, tokens: Tensor, positions: Tensor, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the used tokens (N, 2, C), and `upscale` of the image at `cells` (N, P)."""
        norm, last = self.block.norm4, self.last
        shown = positions + image
        queries = self.block.look(queries, tokens, shown, image)

        # image to tokens: weights (N, S, 4096), values (N, S, C), S = heads * T
        attention, heads = self.image_to_tokens.attention, self.image_to_tokens.heads
        query = weight_by_head(attention.q_proj.weight, heads)  # (heads, d, C)
        query_bias = weight_by_head(attention.q_proj.bias, heads).unsqueeze(2)
        scale = query.shape[1] ** -0.5
        asked_by = _cells_by_head(shown, query * scale) + query_bias * scale  # (heads, d, 4096)
        keys = split_heads(attention.k_proj(queries + tokens), heads)  # (N, heads, T, d)
        weights = torch.softmax(keys @ asked_by, 2).flatten(1, 2)
        out = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (heads, d, C)
        out_bias = attention.out_proj.bias / heads
        own = split_heads(attention.v_proj(queries), heads)  # (N, heads, T, d)
        values = (own @ out + out_bias).flatten(1, 2)
        centred = minus_mean(values)
        of_values = (own @ _cells_by_head(image, minus_mean(out))).flatten(1, 2)
        # The weights of a head have the sum 1, so the products of the bias are equal for all boxes.
        shift = heads * (minus_mean(out_bias) @ image[0].T).reshape(1, 1, CELLS)

        # the last attention of the used tokens
        asked = split_heads(last.attention.q_proj((queries + tokens)[:, :ANSWERS]), heads)
        key = last.key()  # (heads, d, C)
        key_of_image = minus_mean(key * norm.weight)
        of_asked = (asked @ _cells_by_head(image, key_of_image)).flatten(1, 2)
        of_positions = (asked @ _cells_by_head(positions, key)).flatten(1, 2)
        rows = (asked @ key_of_image).flatten(1, 2)  # (N, A, C)

        sums = image.sum(dim=2).unsqueeze(1)
        shrink = self.shrink(image, weights, centred, of_values, sums, shift)
        scores = (of_asked + (rows @ values.transpose(1, 2)) @ weights) * shrink + of_positions
        attended = torch.softmax(scores, 2) * shrink  # (N, A, 4096)
        value, bias = last.value()  # (heads, C, d)
        by_head = attended.unflatten(1, (heads, -1))
        seen = by_head @ _cells_by_head(image, value.transpose(1, 2)).transpose(1, 2)
        mixed = ((attended @ weights.transpose(1, 2)) @ values).unflatten(1, (heads, -1))
        seen = (seen + mixed @ value).transpose(1, 2).flatten(2) + bias
        answers = queries[:, :ANSWERS] + last.attention.out_proj(seen)
        return answers, self.at(cells, image, weights, values, shrink)

    def own(self, cells: Tensor, weights: Tensor, shrink: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (N, P, S) and shrink (N, P, 1) of `cells` (N, P).

        Each value is read by its number: few of the 4096 cells are asked for, and it would take
        longer to transpose the weights of all of them.
        """
        n, parts, _ = weights.shape
        first = self.numbers(torch.zeros_like(cells[:, :1])).unsqueeze(2)  # (N, 1, 1)
        rows = parts * first + CELLS * torch.arange(parts, dtype=cells.dtype).unsqueeze(1)
        asked = (rows + cells.unsqueeze(1)).flatten()  # N * S * P
        own = weights.flatten().index_select(0, asked).view(n, parts, cells.shape[1])
        deviations = shrink.flatten().index_select(0, self.numbers(cells).flatten())
        return own.transpose(1, 2), deviations.view(*cells.shape, 1)


class ManyDecoder(ExportedDecoder):
    """`ExportedDecoder` for many boxes in one slice; of networks with one decoder block."""

    def __init__(self, model: SwiftMedSAM) -> None:
        super().__init__(model)
        block = self.transformer.last_block
        look = block.block
        look.cross_attn_token_to_image = ManyTokensToImage(
            look.cross_attn_token_to_image.attention, shared=True
        )
        block.__class__ = ManyLastBlock
