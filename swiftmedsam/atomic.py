"""Atomic writes: a file is there as a whole or not at all, whenever the program is killed."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from swiftmedsam import system

PARTIAL_PREFIX, PARTIAL_SUFFIX = ".segs-", ".partial"  # names of unfinished files
_marked = ""  # in the names of this process's unfinished files, after the prefix


def _new_partial(folder: Path) -> tuple[IO[bytes], Path]:
    """A new file in `folder`, open for writing, and its temporary path; locked while it is open.

    Raises:
        OSError: the folder cannot be written to.
    """
    while True:
        handle, name = tempfile.mkstemp(PARTIAL_SUFFIX, PARTIAL_PREFIX + _marked, folder)
        # From here the stream owns the file: any exception closes it, and so frees the lock.
        stream, path = os.fdopen(handle, "wb"), Path(name)
        system.lock(stream)
        if path.exists():
            return stream, path
        stream.close()  # another run removed it before it was locked


@contextlib.contextmanager
def atomic_file(path: Path, mode: int | None = None) -> Iterator[IO[bytes]]:
    """A stream that writes `path` atomically: until the end, `path` keeps its former content.

    `mode` has the permissions of the file; None: those that new files of this process get.

    The file is written under a temporary name in the same folder, flushed to disk, then renamed.
    If the process is killed, the temporary file stays; `remove_partials` removes it.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.
    """
    stream, partial = _new_partial(path.parent)
    try:
        with stream:  # it stays open, and so locked, until it is renamed
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            # mkstemp's own is 0600: only the owner could read it
            partial.chmod(system.new_file_mode() if mode is None else mode)
            system.rename_open(stream, partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_partials(folder: Path) -> int:
    """Remove the temporary files that killed runs left in `folder`; return their number.

    A running process, in any container or on any host that shares the folder and its locks, keeps
    its temporary files locked. Files that cannot be opened, locked or removed stay, and so do
    entries that are not regular files.
    """
    removed = 0
    for path in folder.glob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            removed += system.remove_unused(path)
    return removed


def mark_partials(run: str) -> None:
    """Let the names of this process's temporary files say that they are of `run`."""
    global _marked
    _marked = f"{run}-"


def remove_partials_of(run: str, folder: Path) -> int:
    """Remove the temporary files of a `run` whose processes have all ended; return their number.

    No lock is asked for: not every file system shows the locks of other hosts.
    """
    removed = 0
    for path in folder.glob(f"{PARTIAL_PREFIX}{run}-*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are on disk before the first is renamed into place.

    They are renamed in reverse order: the last of `contents` first.

    Raises:
        OSError: a folder cannot be written to, or is full; nothing is left behind.
    """
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            stream = stack.enter_context(atomic_file(path))
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def why_not_writable(path: Path) -> str:
    """The reason why `path` cannot be written, in a few words; "" if it can.

    An empty temporary file is made beside it and removed again. A read-only file counts as
    protected, although the system would let it be replaced in a writable folder.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "there is a folder of that name"
        if not stat.S_ISREG(mode):
            return "there is a fifo, socket or device of that name"
        if not mode & 0o222:
            return "there is a read-only file of that name"
    except FileNotFoundError:
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
    except OSError as error:
        return error.strerror or "no reason given"
    try:
        stream, partial = _new_partial(path.parent)
        stream.close()  # Windows does not remove an open file
        partial.unlink(missing_ok=True)  # another run may have removed it meanwhile
    except OSError as error:
        return error.strerror or "no reason given"
    return ""


def why_tables_fail(tables: Sequence[Path], outputs: Iterable[Path]) -> str:
    """A message about the first of `tables` that cannot be written; "" if all can.

    The tables must differ from each other and from all `outputs`.
    """
    taken = {same_place(path) for path in outputs}
    for table in tables:
        if same_place(table) in taken:
            return f"{table}: is the name of another output, too"
        taken.add(same_place(table))
        if why := why_not_writable(table):
            return f"{table}: cannot be written ({why})"
    return ""


def same_place(path: Path) -> Path:
    """A path that is equal for all names of one place: the folder's links are resolved."""
    return Path(os.path.realpath(path.parent)) / path.name


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        OSError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        reason = "expected a folder, found a file or a link to nothing"
        raise NotADirectoryError(errno.ENOTDIR, reason, str(folder)) from error


def same_files(outputs: Iterable[Path], inputs: Iterable[Path]) -> list[Path]:
    """The existing `outputs` that are the same file as one of `inputs`, also by another name."""
    identities = {_identity(path) for path in inputs} - {None}
    return [path for path in outputs if _identity(path) in identities]


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode: equal for all names of one file; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
