"""The numbers in which the variants differ, with their sources."""

from dataclasses import dataclass

INPUT_SIZE = 256  # pixels per side of the square input of the encoder
EMBEDDING_SIZE = 64  # cells per side of the embedding; two of the three patch merges halve the size


@dataclass(frozen=True, kw_only=True)
class DenseEncoder:
    """Numbers of the encoder in `dense_vit`; its stages have 128, 64, 32 and 32 cells per side."""

    widths: tuple[int, int, int, int]  # channels of each stage
    depths: tuple[
        int, int, int
    ]  # blocks of the first three stages; the last stage has one for each of `windows`
    expansion: int  # of channels inside a fused block, as a factor
    windows: tuple[int, ...]  # cells per side of the windows, for each attention block
    heads: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Hyper-parameters of one variant.

    The first five differ between LiteMedSAM and SwiftMedSAM (paper, Table 1). The others are equal
    in all published checkpoints; they are fields so that tests can use a tiny network.
    """

    encoder_depths: tuple[int, int, int, int]
    decoder_depth: int
    decoder_mlp_dim: int
    decoder_heads: int
    iou_head_depth: int

    encoder_dims: tuple[int, int, int, int] = (64, 128, 160, 320)
    encoder_heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    window_sizes: tuple[int, int, int, int] = (7, 7, 14, 7)
    embedding_dim: int = 256
    # SAM has one token for a single mask and three for ambiguous prompts, such as points. A box
    # needs the first alone, but the others take part in the attention.
    mask_tokens: int = 4
    dense_encoder: DenseEncoder | None = None  # in place of all `encoder_...` numbers


# SwiftMedSAM paper, Table 1.
LITE = Architecture(
    encoder_depths=(2, 2, 6, 2),
    decoder_depth=2,
    decoder_mlp_dim=2048,
    decoder_heads=8,
    iou_head_depth=3,
)
SWIFT_V1 = Architecture(
    encoder_depths=(2, 2, 4, 2),
    decoder_depth=1,
    decoder_mlp_dim=1024,
    decoder_heads=8,
    iou_head_depth=2,
)
SWIFT_V2 = Architecture(
    encoder_depths=(1, 2, 2, 2),
    decoder_depth=1,
    decoder_mlp_dim=256,
    decoder_heads=4,
    iou_head_depth=2,
)
# Not in the paper: the decoder of v1 with an encoder that does a quarter of the work of v2's.
# docs/log/2026-11-30-v3.md says how it was chosen.
SWIFT_V3 = Architecture(
    encoder_depths=(0, 0, 0, 0),
    decoder_depth=1,
    decoder_mlp_dim=1024,
    decoder_heads=8,
    iou_head_depth=2,
    dense_encoder=DenseEncoder(
        widths=(32, 64, 128, 256), depths=(1, 2, 3), expansion=4, windows=(8, 16, 8, 16), heads=8
    ),
)
# For tests only: each kind of layer once, with about a thousandth of the work.
TINY = Architecture(
    encoder_depths=(1, 1, 1, 1),
    decoder_depth=1,
    decoder_mlp_dim=16,
    decoder_heads=2,
    iou_head_depth=2,
    encoder_dims=(8, 8, 8, 16),
    encoder_heads=(1, 1, 1, 2),
    embedding_dim=32,
)

VARIANTS = {"lite": LITE, "v1": SWIFT_V1, "v2": SWIFT_V2, "v3": SWIFT_V3, "tiny": TINY}
