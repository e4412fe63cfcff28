"""Functions of operating systems that not all systems have, with a fallback for the others.

Linux has all of them. macOS has no CPU affinity, no /proc and no cgroups. Windows lacks these, too,
and `fcntl` locks and SIGTERM, and does not rename or remove an open file. A missing function costs
speed or convenience, but does not change a result. docs/platforms.md lists what was run where.
"""

import contextlib
import ctypes
import os
import platform
import signal
import stat
import sys
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OPEN_FILES_STAY = sys.platform == "win32"  # whether the system refuses to remove an open file
CPU_INFO = Path("/proc/cpuinfo")
CGROUP_QUOTAS = (  # (file with the quota, file with the period or None if both are in the first)
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
CGROUP_LIMITS = (  # of this container: v2, then v1
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
ASSUMED_MEMORY = 8 << 30  # bytes, if the system gives none: as much as the challenge's machine has
CURRENT_FOLDER, EXCHANGE = -100, 2  # Linux: AT_FDCWD and RENAME_EXCHANGE of renameat2(2)

# Signals that ask a program to end: from `kill` and `docker stop`, Ctrl-C, and Windows' Ctrl-Break.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)
)


def one_blas_thread() -> None:
    """Let numpy's OpenBLAS start no threads of its own; for a program that did not import numpy.

    An idle thread of it asks for work for 30 ms before it sleeps. On two cores this takes time from
    a program that starts. Nothing here multiplies large matrices with numpy.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def available_threads() -> int:
    """The number of threads that this process can keep busy.

    It is the number of CPUs of its affinity, or of the machine if there is none, limited by the
    container's CPU quota.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for quota_file, period_file in CGROUP_QUOTAS:
        try:
            words = Path(quota_file).read_text().split()
            if period_file:
                words.append(Path(period_file).read_text().strip())
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such cgroup, or "max": no limit
            continue
        if quota > 0:
            return max(1, min(threads or 1, round(quota / period)))
    return threads or 1


def cpu_flags() -> set[str]:
    """Flags of the CPU as Linux names them on x86-64, such as "avx512bw"; empty elsewhere."""
    return set(_cpu_info("flags").split())


def cpu_model() -> str:
    """The CPU's name; its architecture if the system has no name."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """The value of `key` for the first core in /proc/cpuinfo; "" if there is none."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")


def physical_memory() -> int:
    """Bytes of the machine's memory; `ASSUMED_MEMORY` if it is unknown."""
    if hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):  # a name that this system does not know
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _windows_memory() or ASSUMED_MEMORY


def _windows_memory() -> int | None:
    """Bytes of the machine's memory on Windows; None on other systems."""
    windows = getattr(ctypes, "windll", None)
    if windows is None:
        return None
    # MEMORYSTATUSEX: its own length and a percentage in 32 bits each, then seven numbers of 64
    # bits; the first is the memory.
    status = (ctypes.c_uint64 * 8)(64)
    return int(status[1]) if windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def container_memory_limits() -> list[int]:
    """Bytes that the container's cgroup allows; empty without a container or a limit."""
    limits = []
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such cgroup, or "max": no limit
            limits.append(int(Path(file).read_text()))
    return limits


def lock(stream: IO[bytes]) -> None:
    """Mark a file as in use for `remove_unused`, until it is closed.

    On a file system without locks this does nothing, and `remove_unused` removes nothing. On
    Windows every open file counts as in use.
    """
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)


def try_lock(stream: IO[bytes]) -> bool:
    """Mark a file as in use, as `lock` does, and return True; False if it is in use already.

    Without locks, by the system or the file system, no file counts as in use.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_unused(path: Path) -> bool:
    """Remove a regular file unless a running program has locked it; return whether it is removed.

    The program may run in another container, or on another host that shares the folder and its
    locks.

    Raises:
        OSError: the file is in use, or cannot be opened, locked or removed.
    """
    if fcntl is None:
        if not OPEN_FILES_STAY or not stat.S_ISREG(path.lstat().st_mode):
            return False
        path.unlink()
        return True
    # O_RDWR: an exclusive lock on NFS needs it. O_NONBLOCK: do not wait for a fifo.
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    finally:
        os.close(handle)


def rename_open(stream: IO[bytes], path: Path, target: Path) -> None:
    """Rename `path`, which `stream` writes to, to `target`, and replace a file of that name.

    If the system allows it, the stream stays open, so that the file stays locked. On Windows it is
    closed first.

    Raises:
        OSError: the file cannot be renamed.
    """
    try:
        path.replace(target)
    except PermissionError:
        stream.close()
        path.replace(target)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one atomic step; return whether it succeeded.

    Only Linux can do this, and not in every file system. Otherwise nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # not in every C library
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(rename(CURRENT_FOLDER, paths[0], CURRENT_FOLDER, paths[1], EXCHANGE) == 0)


def new_file_mode() -> int:
    """The permissions of a new file of this process, by its umask."""
    mask = os.umask(0)  # to read the umask, one must set it
    os.umask(mask)
    return 0o666 & ~mask
