"""Chooses the precision that suits this CPU."""

import os
from collections.abc import Mapping

from swiftmedsam import system

# For each --precision: the stored types it can run from, the preferred one first.
PRECISIONS = {"f32": ("fp32", "fp16"), "bf16": ("fp16", "fp32"), "int8": ("int8",)}
AUTO = "auto"  # the fastest that suits this CPU
# For `AUTO`: the first of these flags that a CPU has says the precision; without any it is f32.
# AVX-512 without VNNI needs two instructions for INT8; it is still faster than f32, and as
# accurate. With AMX bf16 is faster than INT8 (docs/decisions). A manifest may have another table.
AUTO_PRECISIONS = {
    "amx_bf16": "bf16", "avx512bw": "int8", "avx512_vnni": "int8", "avx_vnni": "int8",
}  # fmt: skip
HAS_BF16 = {"avx512_bf16", "amx_bf16"}
# The values of ONEDNN_MAX_CPU_ISA, which limits the instructions that oneDNN, and so OpenVINO, may
# use. Each has the flags in /proc/cpuinfo that it adds to the values before it.
INSTRUCTION_SETS: dict[str, set[str]] = {
    "SSE41": set(),
    "AVX": set(),
    "AVX2": {"avx2", "fma"},
    "AVX512_CORE": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "AVX512_CORE_VNNI": {"avx512_vnni"},
    "AVX512_CORE_BF16": {"avx512_bf16"},
    "AVX512_CORE_FP16": {"avx512_fp16"},
    "AVX512_CORE_AMX": {"amx_tile", "amx_int8", "amx_bf16"},
    "ALL": {"avx_vnni"},
}


def cpu_flags() -> set[str]:
    """Flags of `INSTRUCTION_SETS` that OpenVINO may use here; empty if the system names none."""
    names = list(INSTRUCTION_SETS)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    sets = names[: names.index(limit) + 1] if limit in names else names
    return system.cpu_flags() & set().union(*(INSTRUCTION_SETS[name] for name in sets))


def floating_precision(flags: set[str] | None = None) -> str:
    """The faster type of unquantized layers, "bf16" or "f32", on this CPU or one with `flags`."""
    return "bf16" if HAS_BF16 & (cpu_flags() if flags is None else flags) else "f32"


def auto_precision(flags: set[str], precisions: Mapping[str, str]) -> str:
    """The precision of the first flag of `precisions` that is in `flags`; "f32" if none is."""
    return next((name for flag, name in precisions.items() if flag in flags), "f32")
