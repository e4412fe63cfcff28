"""The network in torch: LiteMedSAM and its reductions SwiftMedSAM v1 and v2.

The image goes through `tiny_vit` to an embedding; a box goes through `prompt_encoder` to two
tokens; `mask_decoder` (around `transformer`) makes mask logits of both. `architecture` holds the
numbers in which the variants differ, `checkpoint` reads and writes their weights. Nothing here
knows about files of images, OpenVINO or training.
"""

from swiftmedsam.torch_model.architecture import (
    LITE,
    SWIFT_V1,
    SWIFT_V2,
    SWIFT_V3,
    TINY,
    VARIANTS,
    Architecture,
)
from swiftmedsam.torch_model.checkpoint import (
    CheckpointError,
    load_model,
    read_state_dict,
    save_model,
    trained_on,
)
from swiftmedsam.torch_model.model import SwiftMedSAM

__all__ = [
    "LITE",
    "SWIFT_V1",
    "SWIFT_V2",
    "SWIFT_V3",
    "TINY",
    "VARIANTS",
    "Architecture",
    "CheckpointError",
    "SwiftMedSAM",
    "load_model",
    "read_state_dict",
    "save_model",
    "trained_on",
]
