"""Keeps the objects of a session on disk until they are saved, for a server that was killed.

    journal = Journal.of(session, folder)
    journal.claim()                      # False: another server, or another page, has it
    for kept in journal.kept:            # what an earlier server left of the same image
        restore(session, kept)
    journal.follow(session)              # from here on each change is written
    journal.saved()                      # the user saved all objects: nothing is left to restore

The journal of an image is one file, to which each change is added: what an object is now in the box
that changed. A change is in the file before its request is answered. If the server is killed while
it writes, the last entry is cut off and does not count. Masks, names and colours are kept, but
neither boxes nor the image.

Only its owner can read the file: names of objects may say something of a patient.

    magic  entries: length of the head u32, length of the bits u32, CRC-32 of both u32, head, bits
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from swiftmedsam import system
from swiftmedsam.atomic import atomic_file, remove_partials
from swiftmedsam.messages import one_line
from swiftmedsam.scans.scan import Colour, Scan
from swiftmedsam.server.objects import Change, Event, Object
from swiftmedsam.server.region import Box, Packed, Region, Shape
from swiftmedsam.server.session import Session

log = logging.getLogger(__name__)

MAGIC = b"SwiftMedSAM journal 1\n"
HEAD = struct.Struct("<III")
SUFFIX = ".journal"
OWN_FILE = 0o600  # permissions: its owner reads and writes it
LEVEL = 1  # of compression: masks shrink by a factor of 50 even so
MOST_HEAD = 1 << 16
LARGE = 64 << 20  # bytes of a journal that is written anew, without what was changed later
HASHED = 1 << 16  # bytes of voxels at a time


@dataclass
class Kept:
    """An object as a journal has it."""

    name: str
    colour: Colour
    content: Region = field(default_factory=Region)


def restore(session: Session, kept: Kept) -> Object:
    """Make an object of what was kept."""
    one = session.new_object(kept.name, kept.colour)
    box = kept.content.box
    if box is not None:
        mask = np.zeros(session.shape, np.bool_)
        mask[tuple(slice(start, end) for start, end in box)] = kept.content.at(box)
        session.seed(one.number, mask)
        session.forget(one.number)
    return one


def fingerprint(scan: Scan) -> str:
    """32 digits that depend on the voxels and the grid of a scan, and not on the file's name."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((scan.voxels.shape, scan.voxels.dtype.str)).encode())
    digest.update(np.round(scan.affine, 6).tobytes())
    for plane in scan.voxels.T:
        digest.update(np.ascontiguousarray(plane).data.cast("B"))
    return digest.hexdigest()


class Journal:
    """The journal of one image."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """Nothing is read or written yet."""
        self._path, self._shape = path, shape
        self._objects: dict[int, Kept] = {}
        self._stream: IO[bytes] | None = None
        self._claimed: IO[bytes] | None = None  # a locked file beside it: the journal is renamed
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @classmethod
    def of(cls, session: Session, folder: Path) -> "Journal":
        """The journal of a session's image in `folder`, which is made if it is missing.

        Raises:
            OSError: the folder cannot be made.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(folder / (fingerprint(session.image.scan) + SUFFIX), session.shape)

    def claim(self) -> bool:
        """Whether no other journal of the same image is claimed, here or in another process.

        From here on, until `close`, no other can be. What killed servers left half written goes.

        Raises:
            OSError: the folder cannot be written to.
        """
        path = self._path.with_suffix(".lock")
        while True:
            no_link = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
            handle = os.open(path, os.O_RDWR | os.O_CREAT | no_link, OWN_FILE)
            stream = os.fdopen(handle, "r+b")
            if not system.try_lock(stream):
                stream.close()
                return False
            if _is_there(stream, path):
                break
            stream.close()  # the one who had it removed it meanwhile
        self._claimed = stream
        remove_partials(path.parent)
        return True

    @functools.cached_property
    def kept(self) -> list[Kept]:
        """The objects that are in the file, if there is one, when this is first asked.

        Raises:
            OSError: it cannot be read.
        """
        return list(self._read().values())

    def follow(self, session: Session) -> None:
        """Write what the session has now, and from then on each of its changes.

        Raises:
            OSError: the file cannot be written.
        """
        for one in session.objects.values():
            self._objects[one.number] = kept = Kept(one.name, one.colour)
            if one.box is not None:
                kept.content.put(one.box, one.mask)
        if self._objects:
            self._write_anew()
        else:
            self._remove()
        session.listen(self._heard)

    def saved(self) -> None:
        """Forget all changes until now: the user has them in a file of their own."""
        with self._lock:
            self._remove()

    def close(self) -> None:
        """Close the file; it stays if anything is not saved."""
        with self._lock:
            self._close()
            if self._claimed is not None:
                with contextlib.suppress(OSError):  # Windows does not remove an open file
                    self._path.with_suffix(".lock").unlink()
                self._claimed.close()
                self._claimed = None

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):  # the disk is full
                stream.close()

    # Writing

    def _heard(self, event: Event) -> None:
        one, kind = event.object, event.kind
        with self._lock:
            try:
                if kind == "removed":
                    self._objects.pop(one.number, None)
                    self._add({"object": one.number, "removed": True})
                    return
                kept = self._objects.setdefault(one.number, Kept(one.name, one.colour))
                kept.name, kept.colour = one.name, one.colour
                change = event.change
                if change is not None and change.box is not None:
                    kept.content.put(change.box, change.mask)
                self._add(_head_of(one.number, kept), change)
            except OSError as error:  # a full disk must not keep anybody from drawing
                # A part of an entry may be in the file, and what follows it could not be read. So
                # the next change writes the whole file anew.
                self._close()
                log.error("%s: the journal cannot be written (%s)", self._path, one_line(error))

    def _add(self, head: dict[str, Any], change: Change | None = None) -> None:
        """Write one entry; the file begins with what is there, if it is new."""
        if self._stream is None or self._stream.tell() > LARGE:
            self._write_anew()
            return
        box = change.box if change is not None else None
        packed = None if change is None or box is None else Packed.of(box, change.mask)
        self._stream.write(_entry(head, packed))
        self._stream.flush()  # to the system, which outlives this process

    def _write_anew(self) -> None:
        self._close()
        with atomic_file(self._path, OWN_FILE) as stream:
            stream.write(MAGIC)
            for number, kept in self._objects.items():
                box = kept.content.box
                packed = None if box is None else Packed.of(box, kept.content.at(box))
                stream.write(_entry(_head_of(number, kept), packed))
        self._stream = self._path.open("ab")
        self._stream.seek(0, os.SEEK_END)

    def _remove(self) -> None:
        self._close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    # Reading

    def _read(self) -> dict[int, Kept]:
        found: dict[int, Kept] = {}
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return found
        for head, bits in _entries(content):
            try:
                self._take(found, head, bits)
            except (KeyError, TypeError, ValueError, zlib.error):
                log.warning("%s: an entry cannot be read, and what follows it", self._path)
                break
        return found

    def _take(self, found: dict[int, Kept], head: dict[str, Any], bits: bytes) -> None:
        number = int(head["object"])
        if head.get("removed"):
            found.pop(number, None)
            return
        red, green, blue = (int(value) for value in head["colour"])
        kept = found.setdefault(number, Kept("", (0, 0, 0)))
        kept.name, kept.colour = str(head["name"]), (red, green, blue)
        if head["box"] is not None:
            box = _box(head["box"], self._shape)
            voxels = int(np.prod([end - start for start, end in box]))
            wanted = (voxels + 7) // 8
            inflated = zlib.decompressobj().decompress(bits, wanted + 1)
            if len(inflated) != wanted:
                raise ValueError("another number of voxels")
            kept.content.put(box, Packed(box, inflated).mask())


def _is_there(stream: IO[bytes], path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _head_of(number: int, kept: Kept) -> dict[str, Any]:
    return {"object": number, "name": kept.name, "colour": kept.colour}


def _entry(head: dict[str, Any], packed: Packed | None) -> bytes:
    whole = {**head, "box": None if packed is None else packed.box}
    text = json.dumps(whole).encode()
    bits = b"" if packed is None else zlib.compress(packed.bits, LEVEL)
    return HEAD.pack(len(text), len(bits), zlib.crc32(text + bits)) + text + bits


def _entries(content: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The whole entries of a journal, up to the first that is not."""
    if not content.startswith(MAGIC):
        return
    at = len(MAGIC)
    while at + HEAD.size <= len(content):
        head, bits, crc = HEAD.unpack_from(content, at)
        at += HEAD.size
        body = content[at : at + head + bits]
        if head > MOST_HEAD or len(body) < head + bits or zlib.crc32(body) != crc:
            return
        found = json.loads(body[:head])
        if not isinstance(found, dict):
            return
        yield found, body[head:]
        at += head + bits


def _box(value: Any, shape: Shape) -> Box:
    """A box of a journal, which must lie in the volume."""
    k, j, i = ((int(start), int(end)) for start, end in value)
    for (start, end), length in zip((k, j, i), shape, strict=True):
        if not 0 <= start < end <= length:
            raise ValueError("a box outside the volume")
    return k, j, i
