"""The network as it is exported: the same masks as `swiftmedsam.torch_model`, with less work.

There are six rewrites. All are exact but for the order of sums (tests/torch/test_convert.py
compares them with torch):

    attention   Project the few tokens instead of the 4096 cells: (W x) . q = x . (W' q). Terms that
                are equal for all cells cancel in the softmax over the cells.
    layout      Cells are rows, from the embedding to the logits. A transposed convolution with
                stride = kernel is then a matrix product, one cell at a time.
    cells       Only the requested cells are scaled up to pixels. No cell needs its neighbours.
    tokens      The last attention is computed for the two tokens whose results are used.
    image       The last block adds a product of few values to the cells, another one for each box.
                The sum is never formed: the first step of scaling up is linear, so it is applied
                to the cells, which all boxes share, and to the few values.
    constants   Position codes and the decoder's own tokens are computed once, at export.

The modules compute with the parameters of the network that they are made of, so the network can be
trained in this form, too. At export, OpenVINO computes once what depends on parameters alone.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE
from swiftmedsam.torch_model.transformer import Attention, TwoWayBlock, TwoWayTransformer

CELLS = EMBEDDING_SIZE**2
# The tokens whose results are used: predicted IoU, and the one mask that a box needs. The other
# tokens only take part in the attention.
ANSWERS = 2


def weight_by_head(weight: Tensor, heads: int) -> Tensor:
    """Return the weight (inner, C) of a projection as (heads, inner / heads, C)."""
    return weight.unflatten(0, (heads, -1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return `x` (N, T, inner) as (N, heads, T, inner / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _product(x: Tensor, y: Tensor, *, shared: bool) -> Tensor:
    """Return `x` (N, R, K) times `y` (1 or N, K, M); `shared`: `y` is (1, K, M), one product."""
    rows = x.reshape(1, -1, x.shape[2]) if shared else x
    return (rows @ y).reshape(x.shape[0], x.shape[1], y.shape[2])


class TokensToImage(nn.Module):
    """`Attention` of a few tokens to the cells of the image.

    `shared`: all boxes have the same cells, so there is one set of them. `norm`: the cells are
    given as they were before this layer norm, divided by their deviation.
    """

    def __init__(
        self, attention: Attention, norm: nn.LayerNorm | None = None, *, shared: bool
    ) -> None:
        super().__init__()
        self.heads, self.shared = attention.heads, shared
        self.attention, self.norm = attention, norm

    def key(self) -> Tensor:
        """Return the weight (heads, d, C) of the keys, with the scale of the softmax."""
        key = weight_by_head(self.attention.k_proj.weight, self.heads)
        return key * key.shape[1] ** -0.5

    def value(self) -> tuple[Tensor, Tensor]:
        """Return weight (heads, C, d) and bias (heads * d,) of the values."""
        value = weight_by_head(self.attention.v_proj.weight, self.heads)  # (heads, d, C)
        bias = self.attention.v_proj.bias
        if self.norm is not None:
            bias = bias + (value @ self.norm.bias).flatten()
            value = minus_mean(value * self.norm.weight)
        return value.transpose(1, 2), bias

    def rows(self, q: Tensor) -> Tensor:
        """Return the factors (N, heads * T, C) that cells are multiplied with; `q` is (N, T, C)."""
        return (split_heads(self.attention.q_proj(q), self.heads) @ self.key()).flatten(1, 2)

    def answer(self, seen: Tensor) -> Tensor:
        """Return the output (N, T, C); `seen` (N, heads * T, C) are weighted sums of the cells."""
        by_head = seen.unflatten(1, (self.heads, -1))
        value, bias = self.value()
        values = (by_head @ value).transpose(1, 2).flatten(2) + bias
        return self.attention.out_proj(values)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (N, T, C); `q` is (N, T, C), `k` and `v` are (1 or N, 4096, C)."""
        n, _, channels = q.shape
        q = self.rows(q)
        if self.shared:  # one product for all boxes
            q = q.reshape(1, -1, channels)
        # over axis 1: over the last axis, OpenVINO would fuse the three steps into one slow step
        weights = torch.softmax(k @ q.transpose(1, 2), 1)  # (1 or N, 4096, ...)
        return self.answer((weights.transpose(1, 2) @ v).reshape(n, -1, channels))


class ImageToTokens(nn.Module):
    """`Attention` of the cells of the image to a few tokens.

    `shared`: all boxes have the same cells, so there is one set of them.
    """

    def __init__(self, attention: Attention, *, shared: bool) -> None:
        super().__init__()
        self.heads, self.shared = attention.heads, shared
        self.attention = attention

    def parts(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (N, S, 4096) and values (N, S, C); their product is the output.

        `q` is (1 or N, 4096, C), `k` and `v` (N, T, C); S = heads * T.
        """
        n, tokens, _ = k.shape
        attention = self.attention
        query = weight_by_head(attention.q_proj.weight, self.heads)  # (heads, d, C)
        query_bias = weight_by_head(attention.q_proj.bias, self.heads).unsqueeze(2)  # (heads, d, 1)
        scale = query.shape[1] ** -0.5
        out = attention.out_proj.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        # the weights of a head have the sum 1, so the bias can be added to its values
        out_bias = attention.out_proj.bias / self.heads
        keys = split_heads(attention.k_proj(k), self.heads)  # (N, heads, T, d)
        offsets = (keys @ (query_bias * scale)).reshape(n, -1, 1)
        keys = (keys @ (query * scale)).flatten(1, 2)  # (N, heads * T, C)
        values = (split_heads(attention.v_proj(v), self.heads) @ out + out_bias).flatten(1, 2)
        scores = _product(keys, q.transpose(1, 2), shared=self.shared) + offsets
        weights = torch.softmax(scores.view(n, self.heads, tokens, CELLS), 2).flatten(1, 2)
        return weights, values

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output (N, 4096, C); the arguments are as for `parts`."""
        weights, values = self.parts(q, k, v)
        return weights.transpose(1, 2) @ values


def minus_mean(x: Tensor) -> Tensor:
    """Return `x` (..., C) minus its mean over C; x . minus_mean(y) = minus_mean(x) . y."""
    return x - x.mean(dim=-1, keepdim=True)


class LastBlock(nn.Module):
    """The last block of `TwoWayTransformer`, and the last attention of tokens to the image.

    The block would make norm(image + weights' values): 4096 cells for each box. Only products with
    this are needed, so it is never made. Each product is the sum of a product with `image`, which
    all boxes share, and a product with the few values. The norm is computed from such products,
    too: its mean vanishes if the other factor is centred, the deviation of a cell is a sum of
    products, and its scale and shift are moved into the other factors.
    """

    def __init__(
        self, block: TwoWayBlock, attention: Attention, upscale: nn.ConvTranspose2d, *, shared: bool
    ) -> None:
        super().__init__()
        self.block, self.upscale, self.shared = block, upscale, shared
        self.eps = block.norm4.eps
        self.image_to_tokens = ImageToTokens(block.cross_attn_image_to_token, shared=shared)
        # the shift of the norm is equal for all cells, so it cancels in the softmax over the keys
        self.last = TokensToImage(attention, block.norm4, shared=shared)

    def forward(
        self, queries: Tensor, image: Tensor, tokens: Tensor, positions: Tensor, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the used tokens (N, 2, C), and `upscale` of the image at `cells` (N, P).

        The other arguments are as for a block of `TwoWayTransformer`.
        """
        shown = positions + image  # in the other order OpenVINO keeps the positions twice, 4 MB
        queries = self.block.look(queries, tokens, shown, image)
        weights, values = self.image_to_tokens.parts(shown, queries + tokens, queries)
        keys = self.last.rows((queries + tokens)[:, :ANSWERS])  # (N, A, C)
        asked, centred = minus_mean(keys * self.block.norm4.weight), minus_mean(values)
        rows = torch.cat([asked, centred, torch.ones_like(values[:, :1])], dim=1)
        sizes = [asked.shape[1], centred.shape[1], 1]
        products = _product(rows, image.transpose(1, 2), shared=self.shared)
        of_asked, of_values, sums = products.split(sizes, dim=1)

        shrink = self.shrink(image, weights, centred, of_values, sums)
        scores = (of_asked + (asked @ values.transpose(1, 2)) @ weights) * shrink
        scores = scores + _product(keys, positions.transpose(1, 2), shared=True)
        attention = torch.softmax(scores, 2) * shrink  # (N, A, 4096)
        seen = _product(attention, image, shared=self.shared)
        seen = seen + (attention @ weights.transpose(1, 2)) @ values
        answers = queries[:, :ANSWERS] + self.last.answer(seen)
        return answers, self.at(cells, image, weights, values, shrink)

    def shrink(
        self, image: Tensor, weights: Tensor, centred: Tensor, of_values: Tensor, sums: Tensor,
        shift: Tensor | float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Return 1 / deviation of each cell of the block's image over its channels, (N, 1, 4096).

        The variance is the mean of (image + weights' values)^2, both centred. `of_values`
        (N, S, 4096) are the products of the values with `image`; `sums` (N, 1, 4096) are the sums
        of `image` over its channels.
        """
        channels = image.shape[2]
        squares = image.square().sum(dim=2).unsqueeze(1) - sums.square() / channels + 2 * shift
        mixed = 2 * of_values + (centred @ centred.transpose(1, 2)) @ weights
        squares = squares + (weights * mixed).sum(dim=1, keepdim=True)
        return (F.relu(squares / channels) + self.eps).rsqrt()

    def at(
        self, cells: Tensor, image: Tensor, weights: Tensor, values: Tensor, shrink: Tensor
    ) -> Tensor:
        """Return `self.upscale` (N, P, outputs) of the block's image at `cells` (N, P).

        It is linear: it is applied once to each cell that any box requests, and to the values.
        """
        own_weights, own_shrink = self.own(cells, weights, shrink)
        if self.shared:
            asked = cells.flatten()
            # integers: OpenVINO would count in bfloat16, which is not exact above 256
            none = torch.zeros(CELLS, dtype=cells.dtype)
            wanted = none.scatter(0, asked.long(), torch.ones_like(asked))
            image = image[0].index_select(0, wanted.nonzero()[:, 0])
            cells = wanted.cumsum(0, dtype=cells.dtype).index_select(0, asked) - 1
        else:
            image, cells = image.flatten(0, 1), self.numbers(cells).flatten()
        weight, bias = _as_linear(self.upscale)
        norm = self.block.norm4
        weight, bias = minus_mean(weight * norm.weight), bias + weight @ norm.bias
        x = F.linear(image, weight).index_select(0, cells).unflatten(0, own_shrink.shape[:2])
        return (x + own_weights @ F.linear(values, weight)) * own_shrink + bias

    def numbers(self, cells: Tensor) -> Tensor:
        """Return `cells` (N, P) as numbers among all N * 4096 cells."""
        return cells + CELLS * torch.arange(cells.shape[0], dtype=cells.dtype).unsqueeze(1)

    def own(self, cells: Tensor, weights: Tensor, shrink: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (N, P, S) and shrink (N, P, 1) of `cells` (N, P)."""
        own = torch.cat([weights, shrink], dim=1).transpose(1, 2).flatten(0, 1)
        own = own.index_select(0, self.numbers(cells).flatten()).unflatten(0, cells.shape)
        return own[:, :, :-1], own[:, :, -1:]


def _with_own_modules(block: TwoWayBlock) -> TwoWayBlock:
    """Return a copy that can get other modules; its parameters are those of `block`."""
    own = copy.copy(block)
    own._modules = dict(block._modules)  # noqa: SLF001 - torch has no function for it
    return own


class RewrittenTransformer(nn.Module):
    """`TwoWayTransformer` with the attentions of this module.

    It returns the two used tokens only, and the image as `LastBlock` returns it.
    """

    def __init__(self, transformer: TwoWayTransformer, upscale: nn.ConvTranspose2d) -> None:
        super().__init__()
        blocks = [_with_own_modules(block) for block in transformer.layers]
        for i, block in enumerate(blocks):
            shared = i == 0  # the first block changes the cells, for each box in another way
            block.cross_attn_token_to_image = TokensToImage(
                block.cross_attn_token_to_image, shared=shared
            )
            if i < len(blocks) - 1:
                block.cross_attn_image_to_token = ImageToTokens(
                    block.cross_attn_image_to_token, shared=shared
                )
        self.layers = nn.ModuleList(blocks[:-1])
        self.last_block = LastBlock(
            blocks[-1], transformer.final_attn_token_to_image, upscale, shared=len(blocks) == 1
        )
        self.last_norm = transformer.norm_final_attn

    def forward(
        self, tokens: Tensor, image: Tensor, positions: Tensor, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (N, 2, C) and `upscale` of the `cells` (N, P) of the image.

        The other arguments are as for `TwoWayTransformer`.
        """
        queries = tokens
        for layer in self.layers:
            queries, image = layer(queries, image, tokens, positions)
        queries, image = self.last_block(queries, image, tokens, positions, cells)
        return self.last_norm(queries), image


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return a transposed convolution of kernel = stride = 2 as a product (inputs -> 4 outputs).

    The weight is (4 outputs, inputs), the bias (4 outputs,). Outputs are ordered by row, column,
    channel of the 2 x 2 pixels.
    """
    assert convolution.bias is not None
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return weight, convolution.bias.repeat(4)


class ExportedEncoder(nn.Module):
    """The image encoder; `ExportedDecoder` takes its output."""

    dense_prompt: Tensor

    def __init__(self, model: SwiftMedSAM) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        self.register_buffer("dense_prompt", model.prompt_encoder.dense_prompt().detach())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the cells (1, 4096, C) row by row, with the code of "no mask prompt" added."""
        return (self.image_encoder(pixels) + self.dense_prompt).flatten(2).transpose(1, 2)


class ExportedDecoder(nn.Module):
    """Prompt encoder and mask decoder."""

    positions: Tensor

    def __init__(self, model: SwiftMedSAM) -> None:
        super().__init__()
        decoder = model.mask_decoder
        self.prompt_encoder = model.prompt_encoder
        first, self.norm, _, second, _ = decoder.output_upscaling
        self.transformer = RewrittenTransformer(decoder.transformer, first)
        self.upscale = second
        self.kernel = decoder.output_hypernetworks_mlps[0]
        self.iou_head = decoder.iou_prediction_head
        positions = model.prompt_encoder.dense_positions().flatten(2).transpose(1, 2)
        self.register_buffer("positions", positions.detach().contiguous())  # (1, 4096, C)
        self.iou_token, self.mask_tokens = decoder.iou_token, decoder.mask_tokens

    def forward(self, image: Tensor, boxes_256: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 4 h, 4 w) of the requested cells, and predicted IoU (N,).

        `image` (1, 4096, C) is the output of the encoder. `boxes_256` (N, 4) are in input pixels.
        `cells` (N, h, w) int32 are the numbers, row * 64 + column, of a rectangle of cells for each
        box.
        """
        n, height, width = cells.shape
        corners = self.prompt_encoder(boxes_256)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + mask tokens, C)
        tokens = torch.cat([own.unsqueeze(0).expand(n, -1, -1), corners], dim=1)
        # in a module of its own: else OpenVINO keeps the positions twice, 4 MB each
        tokens, x = self.transformer(tokens, image, self.positions, cells.flatten(1))

        x = x.flatten(0, 1).unflatten(1, (4, -1))  # (N h w, 4, C / 4)
        norm = self.norm
        x = F.gelu(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = F.gelu(F.linear(x, *_as_linear(self.upscale))).reshape(n, height * width * 16, -1)
        logits = (x @ self.kernel(tokens[:, 1]).unsqueeze(2)).view(n, height, width, 2, 2, 2, 2)
        logits = logits.permute(0, 1, 3, 5, 2, 4, 6)  # rows of cells, of 2 x 2 blocks, of pixels
        return logits.reshape(n, 4 * height, 4 * width), self.iou_head(tokens[:, 0])[:, 0]
