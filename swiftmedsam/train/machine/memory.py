"""Freed memory stays with the process: half of a training step was page faults."""

import ctypes
import sys

# Parameters of mallopt (glibc's malloc.h).
M_TRIM_THRESHOLD, NEVER = -1, -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let glibc reuse large blocks instead of handing each back to the system; False elsewhere.

    Activations of tens of megabytes are mapped, zeroed page by page and unmapped in every step
    otherwise. Measured: a step takes half as long (docs/log/2026-11-27-training-speed.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
