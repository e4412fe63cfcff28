"""Files that are whole or not there, whenever the program is killed."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from swiftmedsam import system

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
        system.lock(stream)
        if path.exists():
            return stream, path
        stream.close()  # another run swept it away in the instant before it was locked


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
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
            partial.chmod(system.new_file_mode())  # mkstemp's 0600 would lock the organisers out
            system.rename_open(stream, partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_partials(folder: Path) -> int:
    """Remove what dead runs left of `atomic_file` in `folder`; return how many files that were.

    The file of a living run is locked, by whichever process, container or host that shares the
    folder and its locks. What cannot be opened, locked or removed stays, and so does what is no
    regular file.
    """
    removed = 0
    for path in folder.glob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            removed += system.remove_unused(path)
    return removed


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are on the disk before the first one gets its name.

    They get their names from the last one to the first.

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
    """Why no file can be written at `path`, in a few words; "" if one can.

    This is tried with an empty file under a temporary name beside it, which is then removed. A
    file that nobody may write to counts as protected, also where only its folder would be asked.
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
        stream.close()  # Windows removes no file that is open
        partial.unlink(missing_ok=True)  # another run may have swept it away in this instant
    except OSError as error:
        return error.strerror or "no reason given"
    return ""


def why_tables_fail(tables: Sequence[Path], outputs: Iterable[Path]) -> str:
    """The line that says which of `tables` cannot be written; "" if all can.

    Their names must differ from each other's and from those of the other `outputs`.
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
    """The same for every name under which a file would be written to the same place."""
    return Path(os.path.realpath(path.parent)) / path.name


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, unless it is there.

    Raises:
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        words = "expected a folder, found a file or a link to nothing"
        raise NotADirectoryError(errno.ENOTDIR, words, str(folder)) from error


def same_files(outputs: Iterable[Path], inputs: Iterable[Path]) -> list[Path]:
    """Those of `outputs` that are there and are one of `inputs`, by whatever name."""
    read = {_identity(path) for path in inputs} - {None}
    return [path for path in outputs if _identity(path) in read]


def _identity(path: Path) -> tuple[int, int] | None:
    """The same for every name of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
