"""Keep freed memory in the process: half of a training step was page faults."""

import ctypes
import sys

# Parameters of mallopt (glibc's malloc.h).
M_TRIM_THRESHOLD, NEVER = -1, -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks for reuse; return False where this is not possible.

    Otherwise each step maps activations of tens of megabytes, zeroes them page by page and unmaps
    them. With this a step takes half as long (docs/log/2026-11-27-training-speed.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
