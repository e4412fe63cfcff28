"""Temporary folders of a server: for what browsers upload, and what they are to download.

All are in one folder, which goes when the server ends. If the server was killed it stays, and the
next server of the same user removes it: it may hold images of patients.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from swiftmedsam import system

PREFIX = "swiftmedsam-serve-"
LOCK = ".lock"  # a file that is locked as long as its server runs


def remove(folder: Path | None) -> None:
    """Remove a folder with all that is in it; None is no folder."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


class Temporary:
    """The temporary folders of one server. The first one that is asked for makes their folder."""

    def __init__(self) -> None:
        """Nothing is made yet."""
        self._home: Path | None = None
        self._making = threading.Lock()
        self._open = contextlib.ExitStack()  # what locks the folder

    def new_folder(self) -> Path:
        """A new, empty folder that only this user can read; `remove` removes it.

        Raises:
            OSError: it cannot be made.
        """
        with self._making:
            if self._home is None:
                home = Path(tempfile.mkdtemp(prefix=PREFIX))
                # at the latest when Python ends
                self._tidy = weakref.finalize(self, remove, home)
                system.lock(self._open.enter_context((home / LOCK).open("wb")))
                self._home = home
        return Path(tempfile.mkdtemp(dir=self._home))

    def close(self) -> None:
        """Remove all folders."""
        with self._making:
            self._open.close()
            remove(self._home)
            self._home = None


def remove_left() -> int:
    """Remove the folders of this user's servers that were killed; return their number.

    Without locks, by the system or the file system, none is removed.
    """
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            is_own = not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()
            if is_own and not folder.is_symlink() and system.remove_unused(folder / LOCK):
                remove(folder)
                removed += 1
    return removed
