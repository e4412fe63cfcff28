"""Which precision suits this CPU."""

import os

from swiftmedsam import system

# --precision: the IR it needs, the first one that the manifest has.
PRECISIONS = {"f32": ("fp32", "fp16"), "bf16": ("fp16", "fp32"), "int8": ("int8",)}
AUTO = "auto"  # the fastest that suits this CPU
# Flags of which a CPU has one, if the precision suits it: in AVX-512 without VNNI, INT8 takes two
# steps, and is faster than f32 and as good all the same (docs/decisions).
SUITED = {
    "int8": {"avx512bw", "avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16"},
}
MATRIX_UNITS = "amx_bf16"  # with them bf16 is faster than INT8 (docs/decisions)
# What oneDNN, and so OpenVINO, may use of a CPU, by the names that bound it (ONEDNN_MAX_CPU_ISA);
# each with what /proc/cpuinfo says of it beyond those before.
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
    """Flags of `INSTRUCTION_SETS` that OpenVINO may use here; none where the system names none."""
    names = list(INSTRUCTION_SETS)
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    sets = names[: names.index(most) + 1] if most in names else names
    return system.cpu_flags() & set().union(*(INSTRUCTION_SETS[name] for name in sets))


def suited_precisions(flags: set[str]) -> set[str]:
    """Those of `PRECISIONS` that suit a CPU of these flags; only "f32" where there are none."""
    return {"f32", *(name for name, any_of in SUITED.items() if any_of & flags)}


def floating_precision(flags: set[str] | None = None) -> str:
    """The faster type for what is not quantized, "bf16" or "f32", of this CPU or one of `flags`."""
    flags = cpu_flags() if flags is None else flags
    return "bf16" if "bf16" in suited_precisions(flags) else "f32"
