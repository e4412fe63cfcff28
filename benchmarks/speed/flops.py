"""Count the FLOP of each variant: `python -m benchmarks.speed.flops`.

These are GFLOP of the torch network: products, convolutions and attention, as torch counts them. A
multiplication and an addition are 2 FLOP. `benchmarks.speed.work` counts what OpenVINO executes.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from swiftmedsam.torch_model import LITE, SWIFT_V1, SWIFT_V2, Architecture, SwiftMedSAM

PUBLISHED = {"LiteMedSAM": LITE, "v1": SWIFT_V1, "v2": SWIFT_V2}


def count(architecture: Architecture) -> tuple[int, int]:
    """Return the FLOP to encode a slice, and to decode a box."""
    # On the device "meta", shapes are enough, and attention is computed as products. The counter
    # does not know the fused attention that torch uses on a CPU.
    with torch.device("meta"), torch.no_grad():
        model = SwiftMedSAM(architecture).eval()
        with FlopCounterMode(display=False) as encoder:
            embedding = model.encode(torch.empty(1, 3, 256, 256))
        with FlopCounterMode(display=False) as decoder:
            model.decode(embedding, torch.empty(1, 4))
    return encoder.get_total_flops(), decoder.get_total_flops()


def main() -> None:
    """Print a line for each variant."""
    for name, architecture in PUBLISHED.items():
        encoder, decoder = (flop / 1e9 for flop in count(architecture))
        print(f"{name:10}  encoder {encoder:.1f} GFLOP a slice, decoder {decoder:.2f} GFLOP a box")


if __name__ == "__main__":
    main()
