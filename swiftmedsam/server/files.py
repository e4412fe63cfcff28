"""Which files of this machine a client may open: those of the command line, and those of a folder.

A client names a file by its id in a listing. An id is looked up in what is there; it is never put
together to a path that is then opened. Links that lead out of the folder are not followed.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swiftmedsam.messages import printable, shortened
from swiftmedsam.scans.formats.by_suffix import READERS, suffix_of

MOST_ENTRIES = 10_000  # of a folder that are listed


class UnknownFileError(LookupError):
    """There is no file of that id, or it may not be opened; the message is one line."""


@dataclass(frozen=True)
class Entry:
    """A file or folder that a client may open."""

    id: str
    name: str
    kind: Literal["scan", "folder"]  # a folder may be a DICOM series, too
    path: Path


class Files:
    """The files that clients may open."""

    def __init__(self, named: Iterable[Path] = (), root: Path | None = None) -> None:
        """`named` are single files or DICOM folders; `root` is a folder with more of them."""
        self._named = [
            Entry(f"named/{number}", printable(path.name or str(path)), _kind(path), path)
            for number, path in enumerate(named)
        ]
        self._root = None if root is None else Path(os.path.realpath(root))

    def named(self) -> list[Entry]:
        """The files of the command line."""
        return list(self._named)

    @property
    def has_root(self) -> bool:
        """Whether there is a folder to look into."""
        return self._root is not None

    @property
    def root(self) -> Path | None:
        """The folder to look into, without links."""
        return self._root

    def folder(self, folder_id: str = "root") -> list[Entry]:
        """What a folder below the root holds: folders first, then files, by name.

        Files that no reader knows by their suffix are not listed, but for those without any, which
        may be DICOM.

        Raises:
            UnknownFileError: there is no such folder.
        """
        folder = self._below(folder_id)
        try:
            names = sorted(path.name for path in folder.iterdir())[:MOST_ENTRIES]
        except OSError:
            raise UnknownFileError(_unknown(folder_id)) from None
        entries = []
        for name in names:
            path = self._inside(folder / name)
            if name.startswith(".") or path is None:
                continue
            kind = _kind(path)
            if kind == "folder" or (path.is_file() and _is_readable(path)):
                entries.append(Entry(f"{folder_id}/{_text(name)}", printable(name), kind, path))
        return sorted(entries, key=lambda entry: (entry.kind != "folder", entry.name))

    def find(self, file_id: str) -> Entry:
        """The file of that id.

        Raises:
            UnknownFileError: there is none, or it may not be opened.
        """
        for entry in self._named:
            if entry.id == file_id:
                return entry
        path = self._below(file_id)
        return Entry(file_id, printable(path.name), _kind(path), path)

    def _below(self, entry_id: str) -> Path:
        """The path of an id: each of its parts must be in the listing of the folder before it."""
        first, *parts = entry_id.split("/")
        if self._root is None or first != "root":
            raise UnknownFileError(_unknown(entry_id))
        path = self._root
        for part in parts:
            try:
                names = (one.name for one in path.iterdir() if not one.name.startswith("."))
                name = next((one for one in names if _text(one) == part), None)
            except OSError:
                name = None
            found = None if name is None else self._inside(path / name)
            if found is None:
                raise UnknownFileError(_unknown(entry_id))
            path = found
        return path

    def _inside(self, path: Path) -> Path | None:
        """`path` without links, if it is below the root; else None."""
        real = Path(os.path.realpath(path))
        return real if self._root is not None and real.is_relative_to(self._root) else None


def _text(name: str) -> str:
    """A file's name as a text that can be sent; bytes that are no UTF-8 become backslash codes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _kind(path: Path) -> Literal["scan", "folder"]:
    return "folder" if path.is_dir() else "scan"


def _is_readable(path: Path) -> bool:
    return bool(suffix_of(path, tuple(READERS))) or not path.suffix


def _unknown(entry_id: str) -> str:
    return f"there is no file {shortened(printable(repr(entry_id)))} to be opened"
