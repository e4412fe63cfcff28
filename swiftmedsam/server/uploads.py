"""Files that a browser uploads: within a limit, in a folder of their own, safely named."""

import struct
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request

from swiftmedsam.scans.formats.by_suffix import READERS, suffix_of
from swiftmedsam.server.asked import aside
from swiftmedsam.server.guard import stream_body
from swiftmedsam.server.hub import Refused
from swiftmedsam.server.page_files import detached, safe_name

MOST_FILES = 20000  # of a folder
MOST_NAME_BYTES = 4096  # of a file in a folder, as the browser sends it
# before each file of a folder: the length of its name and its own, then the name in UTF-8
HEAD = struct.Struct("<IQ")
DICOM = (".dcm", ".ima")


async def blocks_of(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body of a request, block by block.

    Raises:
        Refused: it has more than `most` bytes (413), or does not come to its end (408).
    """
    too_large = Refused(413, f"a file or folder may have {most / 1e6:.0f} MB")
    async for block in stream_body(request, most, too_large):
        yield block


async def receive_file(request: Request, folder: Path, name: str, most: int) -> Path:
    """Write the body of a request into `folder`; `name` is what the user calls it.

    Raises:
        Refused: it has more than `most` bytes, files of that kind cannot be opened, or its voxels
            are in another file.
    """
    path = folder / safe_name(name)
    if "." in path.name and not suffix_of(path, tuple(READERS)):
        raise Refused(400, f"{path.name}: expected a name ending in {', '.join(READERS)}")
    with path.open("wb") as stream:
        async for block in blocks_of(request, most):
            stream.write(block)
    if await aside(detached, path):
        raise Refused(400, f"{path.name}: its voxels are in another file: open it by --root")
    return path


async def receive_folder(request: Request, folder: Path, name: str, most: int) -> Path:
    """Write the files of an uploaded folder, numbered, into a new folder in `folder`.

    Raises:
        Refused: it has more than `most` bytes or `MOST_FILES` files, or is not received as a whole.
    """
    path = folder / safe_name(name)
    path.mkdir()
    received = _Received(blocks_of(request, most))
    count = 0
    while await received.has_more():
        count += 1
        if count > MOST_FILES:
            raise Refused(413, f"a folder may have {MOST_FILES} files")
        name_length, length = HEAD.unpack(await received.take(HEAD.size))
        if name_length > MOST_NAME_BYTES:
            raise Refused(400, "the folder was not received as it should be")
        own = safe_name((await received.take(name_length)).decode(errors="replace"))
        with (path / f"{count:06}{suffix_of(Path(own), DICOM)}").open("wb") as stream:
            async for block in received.parts(length):
                stream.write(block)
    if not count:
        raise Refused(400, f"{path.name}: expected files, found none")
    return path


class _Received:
    """The body of a request, to be taken in pieces of any length."""

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""

    async def has_more(self) -> bool:
        """Whether any bytes are left."""
        while not self._rest:
            block = await anext(self._blocks, None)
            if block is None:
                return False
            self._rest = block
        return True

    async def parts(self, length: int) -> AsyncIterator[bytes]:
        """The next `length` bytes, in parts as they come."""
        while length:
            if not await self.has_more():
                raise Refused(400, "the folder was not received as a whole")
            part, self._rest = self._rest[:length], self._rest[length:]
            length -= len(part)
            yield part

    async def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        return b"".join([part async for part in self.parts(length)])
