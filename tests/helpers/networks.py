"""Networks in OpenVINO."""

from pathlib import Path

import pytest

from swiftmedsam.cpu import cpu_flags
from swiftmedsam.network import ov  # which keeps it from reporting its import

runs_bf16 = pytest.mark.skipif("avx512f" not in cpu_flags(), reason="bf16 needs AVX-512")


def models_of(weights: Path) -> dict[str, ov.Model]:
    """What `swiftmedsam.convert.export.export` returned when `weights` was made."""
    return {part: ov.Core().read_model(weights / f"{part}.xml") for part in ("encoder", "decoder")}
