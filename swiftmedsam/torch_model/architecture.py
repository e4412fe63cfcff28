"""The numbers in which the variants differ, each with its source; nothing is computed here."""

from dataclasses import dataclass

INPUT_SIZE = 256  # pixels per side of the square the encoder sees
EMBEDDING_SIZE = 64  # cells per side of its output: two of the three patch merges halve
NUM_MASK_TOKENS = 4  # SAM: one single-mask token and three for ambiguous prompts


@dataclass(frozen=True, kw_only=True)
class DenseEncoder:
    """Numbers of the encoder in `dense_vit`: stages at 128, 64, 32 and 32 cells a side."""

    widths: tuple[int, int, int, int]  # channels of each stage
    depths: tuple[int, int, int]  # blocks of the first three; the last has one for each window
    expansion: int  # of the fused blocks
    windows: tuple[int, ...]  # cells a side of each attention block's windows
    heads: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Hyper-parameters of one variant.

    The first five differ between LiteMedSAM and SwiftMedSAM (paper, Table 1). The rest are the same
    in every published checkpoint and exist so that tests can run a network in milliseconds.
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
# Our own, not the paper's: v1's decoder behind an encoder of a quarter of v2's work. How it was
# chosen: docs/log/2026-11-30-v3.md.
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
# For tests only: every kind of layer once, about a thousandth of the work.
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
