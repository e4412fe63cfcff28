"""Reads the size of a picture from its header; OpenCV gives it only after decoding.

PNG, BMP, JPEG and TIFF (BigTIFF, too). A header that is damaged, or so long that to read it takes
minutes, gives no size, and the file is refused: OpenCV would decode it without a limit.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from swiftmedsam.scans.formats import tiff
from swiftmedsam.scans.formats.tiff import Tag

PNG, GREY_PNG = b"\x89PNG\r\n\x1a\n", 0
# Start-of-frame markers, which have the size; one for each coding.
JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_ALONE = {0x01, 0xFF, *range(0xD0, 0xD9)}  # markers, and padding, without a length
GREY_TIFF = (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO)
OS2_BMP = 12  # bytes of the older header
MOST_MARKERS = 8192  # of a JPEG that are read


@dataclass(frozen=True)
class Page:
    """The decoded size of a picture, or of a page of a TIFF."""

    width: int
    height: int
    channels: int  # 1 or 3
    itemsize: int  # bytes of a sample


def read_pages(path: Path) -> list[Page]:
    """The pages of a picture file, see `pages_in`.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return pages_in(stream)


def pages_in(stream: BinaryIO) -> list[Page]:
    """The pages of a picture; [] if its header gives no size, or is too long.

    For a damaged TIFF, the pages before the damage.
    """
    found: list[Page] = []
    try:
        for page in _pages(stream):
            found.append(page)  # those before an error are kept
    except (struct.error, KeyError, OverflowError, ValueError):
        pass
    except tiff.TooLong:
        return []
    return found


def _pages(stream: BinaryIO) -> Iterator[Page]:
    head = stream.read(32)
    if head.startswith(PNG):
        if head[12:16] != b"IHDR":  # Xcode, for example, puts a chunk of its own first
            return
        width, height, bits, kind = struct.unpack_from(">IIBB", head, 16)
        yield Page(width, height, 1 if kind == GREY_PNG else 3, 1 + (bits > 8))
    elif head.startswith(b"BM"):
        (length,) = struct.unpack_from("<I", head, 14)
        width, height = struct.unpack_from("<HH" if length == OS2_BMP else "<ii", head, 18)
        yield Page(abs(width), abs(height), 3, 1)
    elif head.startswith(b"\xff\xd8"):
        yield _jpeg(stream)
    elif head[:4] in tiff.MAGIC:
        for one in tiff.directories(stream):
            (photometric, *_) = one.values.get(Tag.PHOTOMETRIC, (tiff.RGB,))
            is_grey = one[Tag.SAMPLES] == 1 and photometric in GREY_TIFF
            itemsize = next((size for size in (1, 2, 4) if one[Tag.BITS] <= 8 * size), 8)
            yield Page(one[Tag.WIDTH], one[Tag.LENGTH], 1 if is_grey else 3, itemsize)


def _jpeg(stream: BinaryIO) -> Page:
    stream.seek(2)
    for _ in range(MOST_MARKERS):
        start, marker = struct.unpack(">BB", stream.read(2))
        if start != 0xFF:
            raise ValueError("no marker")
        if marker == 0xFF:  # padding: the marker is still to come
            stream.seek(-1, 1)
        if marker in JPEG_ALONE:
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        if length < 2:
            raise ValueError("a length without itself")
        if marker in JPEG_SIZES:
            bits, height, width, channels = struct.unpack(">BHHB", stream.read(6))
            return Page(width, height, 1 if channels == 1 else 3, 1 + (bits > 8))
        stream.seek(length - 2, 1)
    raise tiff.TooLong
