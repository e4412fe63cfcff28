"""Networks in OpenVINO."""

from pathlib import Path

import pytest

from swiftmedsam.cpu import cpu_flags
from swiftmedsam.manifest import MANY, PARTS
from swiftmedsam.network import ov  # which keeps it from reporting its import

runs_bf16 = pytest.mark.skipif("avx512f" not in cpu_flags(), reason="bf16 needs AVX-512")


def models_of(weights: Path) -> dict[str, ov.Model]:
    """What `swiftmedsam.convert.export.export` returned when `weights` was made."""
    parts = [*PARTS, *([MANY] if (weights / f"{MANY}.xml").exists() else [])]
    return {part: ov.Core().read_model(weights / f"{part}.xml") for part in parts}


class Remembering:
    """A network that encodes the same pixels once: several tests then share what takes longest."""

    def __init__(self, network) -> None:
        self._network, self._kept = network, {}

    def encode(self, pixels):
        key = pixels.tobytes()
        if key not in self._kept:
            self._kept[key] = self._network.encode(pixels)
        return self._kept[key]

    def decode(self, embedding, prompts, cells):
        return self._network.decode(embedding, prompts, cells)

    def release_encoder(self):
        self._network.release_encoder()
