"""bfloat16 where the processor computes in it, f32 elsewhere.

Without matrix products in bfloat16 of oneDNN's, torch falls back on loops of its own: with AVX2
alone 0.9 GFLOP/s where f32 has 97.
"""

import torch


def computes_bfloat16() -> bool:
    """Whether this CPU does."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - nothing public says


def cpu_autocast() -> torch.autocast:
    """Context in which a CPU computes as fast as it can."""
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16())


def default_precision(accelerator: str) -> str:
    """Fabric's name of the precision for "auto", "cpu", "cuda" and so on."""
    elsewhere = torch.accelerator.is_available() if accelerator == "auto" else accelerator != "cpu"
    return "bf16-mixed" if elsewhere or computes_bfloat16() else "32-true"
