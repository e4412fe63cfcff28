"""The network in torch: LiteMedSAM, and the smaller SwiftMedSAM v1, v2 and v3.

- `model`: the whole network.
- `tiny_vit`: the image encoder of lite, v1 and v2. Pixels become an embedding.
- `dense_vit`: the image encoder of v3.
- `prompt_encoder`: a box becomes two tokens.
- `mask_decoder`: embedding and tokens become mask logits and predicted IoU.
- `transformer`: the attention inside the mask decoder.
- `architecture`: the numbers in which the variants differ.
- `checkpoint`: reads and writes the weights.

Nothing here reads images, and nothing here uses OpenVINO or trains.
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
