"""The teacher's encoder on a CPU, run by OpenVINO: faster than torch, to the same embedding."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE

Encode = Callable[[Tensor], Tensor]


def openvino_encoder(model: SwiftMedSAM, precision: str) -> Encode:
    """Return a function like `model.encode`, in OpenVINO's `precision`, "bf16" or "f32".

    It takes pixels (B, 3, 256, 256), values 0..1, and returns the embedding (B, C, 64, 64) in f32.
    """
    # imported here: a lent machine has no OpenVINO, and does not come here
    import openvino as ov

    from swiftmedsam.convert.export import export

    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    # the exported encoder adds the code of "no mask prompt", which training adds in the decoder
    added = model.prompt_encoder.dense_prompt().detach().clone()
    encoder = export(copy.deepcopy(model))["encoder"]
    request = ov.Core().compile_model(encoder, "CPU", options).create_infer_request()

    def encode(pixels: Tensor) -> Tensor:
        cells = [
            torch.from_numpy(request.infer([one.contiguous().numpy()])[0].copy())
            for one in pixels.split(1)
        ]
        # (B, 4096, C) to (B, C, 64, 64)
        maps = torch.cat(cells).transpose(1, 2).unflatten(2, (EMBEDDING_SIZE, EMBEDDING_SIZE))
        return maps - added

    return encode
