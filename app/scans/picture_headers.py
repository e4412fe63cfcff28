"""How large a picture is, by the header of its file: OpenCV says so only once it has decoded it.

PNG, BMP, JPEG and TIFF (BigTIFF, too). What is damaged or unusual has no size here; whether it is
readable at all, OpenCV says.
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
TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}
MOST_PAGES, MOST_TAGS = 65535, 256  # that are looked at


@dataclass(frozen=True)
class Page:
    """Size of a picture, or of a page of a TIFF, once it is decoded."""

    width: int
    height: int
    channels: int  # 1 or 3
    itemsize: int  # bytes of a sample


def read_pages(path: Path) -> list[Page]:
    """The pages of a picture file; [] where its header does not say.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(32)
        try:
            if head.startswith(PNG):
                width, height, bits, kind = struct.unpack_from(">IIBB", head, 16)
                return [Page(width, height, 1 if kind == GREY_PNG else 3, 1 + (bits > 8))]
            if head.startswith(b"BM"):
                width, height = struct.unpack_from("<ii", head, 18)
                return [Page(abs(width), abs(height), 3, 1)]
            if head.startswith(b"\xff\xd8"):
                return [_jpeg(stream)]
            if head[:4] in TIFF_MAGIC:
                return list(_tiff(stream, *TIFF_MAGIC[head[:4]]))
        except (struct.error, KeyError, OverflowError, ValueError):
            pass
    return []


def _jpeg(stream: BinaryIO) -> Page:
    stream.seek(2)
    while True:
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


def _tiff(stream: BinaryIO, order: str, big: bool) -> Iterator[Page]:
    offset_type, count_type, entry, at = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)

    def number(kind: str) -> int:
        (value,) = struct.unpack(order + kind, stream.read(struct.calcsize(order + kind)))
        return int(value)

    stream.seek(at)
    offset, seen = number(offset_type), set[int]()
    while offset and offset not in seen and len(seen) < MOST_PAGES:
        seen.add(offset)
        stream.seek(offset)
        tags: dict[int, int] = {}
        start, entries = offset + struct.calcsize(count_type), number(count_type)
        for index in range(min(entries, MOST_TAGS)):
            stream.seek(start + index * entry)
            tag, kind, count = number("H"), number("H"), number(offset_type)
            if kind in TIFF_TYPES:
                if count * struct.calcsize(order + TIFF_TYPES[kind]) > entry - 4 - at:
                    stream.seek(number(offset_type))
                tags[tag] = number(TIFF_TYPES[kind])  # the first value says enough
        grey = tags.get(SAMPLES, 1) == 1 and tags.get(PHOTOMETRIC) in GREY_TIFF
        bits = tags.get(BITS, 1)
        itemsize = next((size for size in (1, 2, 4) if bits <= 8 * size), 8)
        yield Page(tags[WIDTH], tags[LENGTH], 1 if grey else 3, itemsize)
        stream.seek(start + entries * entry)
        offset = number(offset_type)
