"""Choose the precision: bfloat16 where the processor has it, else f32.

Where oneDNN has no matrix products in bfloat16, torch uses slow loops of its own: with AVX2 they
have 0.9 GFLOP/s, and products in f32 have 97.
"""

import torch


def computes_bfloat16() -> bool:
    """Whether this CPU computes matrix products in bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - no public function


def cpu_autocast() -> torch.autocast:
    """Return a context that uses bfloat16 on a CPU that has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16())


def default_precision(accelerator: str) -> str:
    """Return Fabric's name of the precision for an accelerator: "auto", "cpu", "cuda", ..."""
    elsewhere = torch.accelerator.is_available() if accelerator == "auto" else accelerator != "cpu"
    return "bf16-mixed" if elsewhere or computes_bfloat16() else "32-true"
