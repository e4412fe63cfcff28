"""Files that are whole or not there, whenever the program is killed."""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PARTIAL_PREFIX, PARTIAL_SUFFIX = ".segs-", ".partial"  # of files that are not whole yet


def _new_partial(folder: Path) -> tuple[IO[bytes], Path]:
    """A new file in `folder` to write to, and its temporary name; locked as long as it is open.

    Raises:
        OSError: the folder cannot be written to.
    """
    while True:
        handle, name = tempfile.mkstemp(PARTIAL_SUFFIX, PARTIAL_PREFIX, folder)
        # From here the stream owns the file: whatever is raised closes it, and so frees the lock.
        stream, path = os.fdopen(handle, "wb"), Path(name)
        with contextlib.suppress(OSError):  # a file system without locks; nobody sweeps there
            fcntl.flock(stream, fcntl.LOCK_EX)
        if path.exists():
            return stream, path
        stream.close()  # another run swept it away in the instant before it was locked


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream to write `path` with: under that name there is the whole file or what was before.

    Written under a temporary name in the same folder, flushed to disk, then renamed. What a killed
    process leaves under the temporary name, `remove_partials` finds.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.
    """
    stream, partial = _new_partial(path.parent)
    try:
        with stream:  # open, and so locked, until it has its name
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            mask = os.umask(0)
            os.umask(mask)
            partial.chmod(0o666 & ~mask)  # mkstemp's 0600 would lock the organisers out
            partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_partials(folder: Path) -> int:
    """Remove what dead runs left of `whole_file` in `folder`; return how many files that were.

    The file of a living run is locked, by whichever process, container or host that shares the
    folder and its locks. What cannot be opened, locked or removed stays, and so does what is no
    regular file.
    """
    removed = 0
    for path in folder.glob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            # to write: an exclusive lock on NFS asks for it; and never wait for a fifo
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    removed += 1
            finally:
                os.close(handle)
    return removed
