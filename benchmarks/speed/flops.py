"""Count parameters and FLOP of each variant: `python -m benchmarks.speed.flops`.

These are GFLOP of the torch network: products, convolutions and attention, as torch counts them. A
multiplication and an addition are 2 FLOP. `benchmarks.speed.work` counts what OpenVINO executes.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from swiftmedsam.torch_model import VARIANTS, Architecture, SwiftMedSAM

COUNTED = {name: VARIANTS[name] for name in ("lite", "v1", "v2", "v3")}


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


def parameters(architecture: Architecture) -> int:
    """Return the number of trained values."""
    with torch.device("meta"):
        return sum(value.numel() for value in SwiftMedSAM(architecture).parameters())


def main() -> None:
    """Print a line for each variant."""
    for name, architecture in COUNTED.items():
        encoder, decoder = (flop / 1e9 for flop in count(architecture))
        print(f"{name:5} {parameters(architecture):10,} parameters, encoder {encoder:.1f} GFLOP a "
              f"slice, decoder {decoder:.2f} GFLOP a box")  # fmt: skip


if __name__ == "__main__":
    main()
