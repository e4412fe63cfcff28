"""How much each variant has to compute: `python -m benchmarks.speed.flops`.

GFLOP of the torch network, 2 for a multiplication and an addition, of all that torch's counter
knows: products, convolutions and attention. What OpenVINO executes is counted by
`benchmarks.speed.work`.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from swiftmedsam.torch_model import LITE, SWIFT_V1, SWIFT_V2, Architecture, SwiftMedSAM

PUBLISHED = {"LiteMedSAM": LITE, "v1": SWIFT_V1, "v2": SWIFT_V2}


def count(architecture: Architecture) -> tuple[int, int]:
    """FLOP of encoding a slice and of decoding a box."""
    # Without memory: shapes are enough, and attention becomes products, while the counter does not
    # know the fused one that torch has for a CPU.
    with torch.device("meta"), torch.no_grad():
        model = SwiftMedSAM(architecture).eval()
        with FlopCounterMode(display=False) as encoder:
            embedding = model.encode(torch.empty(1, 3, 256, 256))
        with FlopCounterMode(display=False) as decoder:
            model.decode(embedding, torch.empty(1, 4))
    return encoder.get_total_flops(), decoder.get_total_flops()


def main() -> None:
    """Print a line per variant."""
    for name, architecture in PUBLISHED.items():
        encoder, decoder = (flop / 1e9 for flop in count(architecture))
        print(f"{name:10}  encoder {encoder:.1f} GFLOP a slice, decoder {decoder:.2f} GFLOP a box")


if __name__ == "__main__":
    main()
