"""How large a picture is, by the header of its file: OpenCV says so only once it has decoded it.

PNG, BMP, JPEG and TIFF (BigTIFF, too). What is damaged, or so long that looking at it would take
minutes, has no size here, and is refused: OpenCV would decode it without a limit.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PNG, GREY_PNG = b"\x89PNG\r\n\x1a\n", 0
TIFF_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True),
              b"MM\0+": (">", True)}  # fmt: skip
# Start of frame: the marker that has the size, one for each way of coding.
JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_ALONE = {0x01, 0xFF, *range(0xD0, 0xD9)}  # markers, and padding, without a length
WIDTH, LENGTH, BITS, SAMPLES, PHOTOMETRIC, GREY_TIFF = 256, 257, 258, 277, 262, (0, 1)
TAGS = {WIDTH, LENGTH, BITS, SAMPLES, PHOTOMETRIC}
TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}
OS2_BMP = 12  # bytes of the older header
# That are looked at: of a file, some seconds' work at most.
MOST_PAGES, MOST_TAGS, MOST_MARKERS = 65535, 1_000_000, 8192


class _TooLong(Exception):
    """Where the rest, which OpenCV may decode, is not looked at."""


@dataclass(frozen=True)
class Page:
    """Size of a picture, or of a page of a TIFF, once it is decoded."""

    width: int
    height: int
    channels: int  # 1 or 3
    itemsize: int  # bytes of a sample


def read_pages(path: Path) -> list[Page]:
    """The pages of a picture file; what `pages_in` says.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return pages_in(stream)


def pages_in(stream: BinaryIO) -> list[Page]:
    """The pages of a picture; [] where its header does not say, or is too long.

    Of a damaged TIFF, those before the damage.
    """
    found: list[Page] = []
    try:
        for page in _pages(stream):
            found.append(page)  # those before an error are kept
    except (struct.error, KeyError, OverflowError, ValueError):
        pass
    except _TooLong:
        return []
    return found


def _pages(stream: BinaryIO) -> Iterator[Page]:
    head = stream.read(32)
    if head.startswith(PNG):
        width, height, bits, kind = struct.unpack_from(">IIBB", head, 16)
        yield Page(width, height, 1 if kind == GREY_PNG else 3, 1 + (bits > 8))
    elif head.startswith(b"BM"):
        (length,) = struct.unpack_from("<I", head, 14)
        width, height = struct.unpack_from("<HH" if length == OS2_BMP else "<ii", head, 18)
        yield Page(abs(width), abs(height), 3, 1)
    elif head.startswith(b"\xff\xd8"):
        yield _jpeg(stream)
    elif head[:4] in TIFF_MAGIC:
        yield from _tiff(stream, *TIFF_MAGIC[head[:4]])


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
    raise _TooLong


def _tiff(stream: BinaryIO, order: str, big: bool) -> Iterator[Page]:
    offset_type, count_type, at = ("Q", "Q", 8) if big else ("I", "H", 4)
    entry = struct.Struct(f"{order}HH{offset_type}{at}s")  # tag, type, count; values, or where

    def number(kind: str) -> int:
        (value,) = struct.unpack(order + kind, stream.read(struct.calcsize(order + kind)))
        return int(value)

    stream.seek(at)
    offset, seen, left = number(offset_type), set[int](), MOST_TAGS
    while offset and offset not in seen:
        seen.add(offset)
        stream.seek(offset)
        tags: dict[int, int] = {}
        entries = number(count_type)
        left -= entries
        if left < 0 or len(seen) > MOST_PAGES:
            raise _TooLong
        directory = stream.read(entries * entry.size)
        following = stream.read(at)
        for tag, kind, count, value in entry.iter_unpack(directory):
            if tag not in TAGS or tag in tags or kind not in TIFF_TYPES:
                continue  # of a tag that is there twice, the first counts
            if count * struct.calcsize(order + TIFF_TYPES[kind]) > at:
                stream.seek(struct.unpack(order + offset_type, value)[0])
                tags[tag] = number(TIFF_TYPES[kind])  # the first value says enough
            else:
                (tags[tag],) = struct.unpack_from(order + TIFF_TYPES[kind], value)
        grey = tags.get(SAMPLES, 1) == 1 and tags.get(PHOTOMETRIC) in GREY_TIFF
        bits = tags.get(BITS, 1)
        itemsize = next((size for size in (1, 2, 4) if bits <= 8 * size), 8)
        yield Page(tags[WIDTH], tags[LENGTH], 1 if grey else 3, itemsize)
        (offset,) = struct.unpack(order + offset_type, following)
