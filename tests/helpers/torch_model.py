"""Networks in torch."""

import torch

from swiftmedsam.torch_model import TINY, SwiftMedSAM

torch.set_num_threads(1)  # the tiny network is too small to share among threads

# With torch's own initial values the picture is lost on the way through the network; with much
# larger ones rounding errors grow as fast as the picture's traces. With these, masks cover about a
# third of the frame and differ between boxes and between pictures (test_model says by how much).
TINY_SEED = 12
TINY_BIASES = 0.1
TINY_ENCODER_GAIN = 1.0
TINY_DECODER_GAIN = 1.4

CACHE_PICTURES = 6  # rows of the cache that training is tested on


def make_tiny_model() -> SwiftMedSAM:
    """The tiny network, with values that make its masks depend on picture and box."""
    torch.manual_seed(TINY_SEED)
    model = SwiftMedSAM(TINY).eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        gain = TINY_DECODER_GAIN if name.startswith("mask_decoder") else TINY_ENCODER_GAIN
        if name.endswith("bias"):
            tensor.normal_(0, TINY_BIASES)
        elif tensor.ndim > 1 and not name.endswith("embed.weight") and "token" not in name:
            tensor.normal_(0, gain / tensor[0].numel() ** 0.5)
    for name, tensor in model.named_buffers():
        if name.endswith("running_mean"):
            tensor.normal_(0, TINY_BIASES)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model


def state_of(model):
    """Every tensor, those that no checkpoint holds included."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def changed_names(model, before):
    now = state_of(model)
    return {name for name, tensor in state_of(before).items() if not torch.equal(tensor, now[name])}
