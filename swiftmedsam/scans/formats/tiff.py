"""Reads the directories of a TIFF, and refuses pages that cannot be decoded correctly.

A TIFF has a directory of tags for each of its pictures ("pages"). Source: TIFF Revision 6.0, with
its supplements 1 and 2, and BigTIFF.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True),
         b"MM\0+": (">", True)}  # fmt: skip
# Types of a tag's values, as struct names them.
ASCII = 2
TYPES = {1: "B", ASCII: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}
# A file with more than these is refused: to read it would take minutes.
MOST_PAGES, MOST_TAGS, MOST_VALUES = 65535, 1_000_000, 1 << 22
MOST_SHOWN = 8  # values of a tag, in a message


class Tag(IntEnum):
    """Numbers of the tags that are read."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANAR = 284
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    IMAGE_DEPTH = 32997
    METAMORPH = 33629  # its stacks have one directory for all planes
    LSM = 34412  # Zeiss: a small picture after each large one


TAGS = frozenset(Tag)
OF_TEXT = {Tag.DESCRIPTION, Tag.METAMORPH, Tag.LSM}
DEFAULTS = {
    Tag.NEW_SUBFILE_TYPE: 0, Tag.SUBFILE_TYPE: 1, Tag.BITS: 1, Tag.COMPRESSION: 1,
    Tag.FILL_ORDER: 1, Tag.ORIENTATION: 1, Tag.SAMPLES: 1, Tag.PLANAR: 1, Tag.PREDICTOR: 1,
    Tag.INK_SET: 1, Tag.SAMPLE_FORMAT: 1, Tag.IMAGE_DEPTH: 1,
}  # fmt: skip

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
# Samples of a pixel without alpha, by PhotometricInterpretation.
SAMPLES_OF = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
FORMATS = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}  # as numpy names them
FORMAT_NAMES = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "floating-point"}
# Supported types of samples: uncompressed (numpy reads them), and compressed (OpenCV does).
RAW_TYPES = {"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
PACKED_TYPES = {"u1", "u2", "i1", "i2", "i4", "f4", "f8"}
NONE, FAX, LZW, JPEG, DEFLATE, PACKBITS = 1, (2, 3, 4), 5, 7, (8, 32946), 32773
COMPRESSIONS = {NONE, *FAX, LZW, JPEG, *DEFLATE, PACKBITS}
COMPRESSION_NAMES = {6: "old JPEG", 22610: "JPEG XR", 33003: "JPEG 2000", 33005: "JPEG 2000",
                     34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA",
                     34933: "PNG", 34934: "JPEG XR", 50000: "ZSTD", 50001: "WebP",
                     50002: "JPEG XL", 52546: "JPEG XL"}  # fmt: skip
APART = 2  # PlanarConfiguration: each sample has its own plane
ALPHA = (1, 2)  # ExtraSamples: premultiplied, and not
REDUCED, MASK = 1, 4  # bits of NewSubfileType


class TooLong(Exception):
    """A header is so long that it is not read to its end, although a decoder might."""


@dataclass(frozen=True)
class Directory:
    """The tags of one page."""

    order: str  # byte order, "<" or ">"
    values: Mapping[int, tuple[int, ...]]  # by tag
    places: Mapping[int, tuple[int, str]]  # by tag: the offset of its first value, and its type
    largest_below: int = 0  # pixels of the largest picture in its sub-directories
    shift: int = 0  # bytes that are added to the offsets of the directory, to get this page's data

    def __getitem__(self, tag: Tag) -> int:
        """The first value of a tag, or its default.

        Raises:
            KeyError: the tag is missing and has no default.
        """
        return self.values[tag][0] if tag in self.values else DEFAULTS[tag]

    @property
    def description(self) -> str:
        """ImageDescription as text; "" if there is none."""
        letters = self.values.get(Tag.DESCRIPTION, ())
        text = bytes(letter for letter in letters if letter < 256)
        return text.rstrip(b"\0").decode(errors="replace")

    @property
    def is_reduced(self) -> bool:
        """Whether the page is declared as a smaller version, or the mask, of another page."""
        flags = self[Tag.NEW_SUBFILE_TYPE]
        return bool(flags & (REDUCED | MASK)) or self[Tag.SUBFILE_TYPE] == 2

    @property
    def sample(self) -> str:
        """The type of a sample, as numpy names it; "u1" for a bit."""
        bits, kind = self[Tag.BITS], FORMATS.get(self[Tag.SAMPLE_FORMAT], "?")
        return "u1" if bits == 1 else f"{kind}{bits // 8}" if bits % 8 == 0 else f"{bits} bits"

    @property
    def is_raw(self) -> bool:
        """Whether samples are uncompressed, in whole bytes."""
        plain = self[Tag.PHOTOMETRIC] in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)
        return self[Tag.COMPRESSION] == NONE and self[Tag.BITS] % 8 == 0 and plain

    @property
    def is_tiled(self) -> bool:
        """Whether the data are in tiles, not in strips."""
        return Tag.TILE_OFFSETS in self.values

    @property
    def offsets(self) -> list[int]:
        """The byte where each strip or tile begins."""
        tag = Tag.TILE_OFFSETS if self.is_tiled else Tag.STRIP_OFFSETS
        return [offset + self.shift for offset in self.values.get(tag, ())]

    @property
    def byte_counts(self) -> tuple[int, ...]:
        """Bytes of each strip or tile."""
        return self.values.get(Tag.TILE_BYTES if self.is_tiled else Tag.STRIP_BYTES, ())

    @property
    def segment(self) -> tuple[int, int]:
        """Height and width of a tile, or of a strip (the last strip may be lower)."""
        if self.is_tiled:
            return self[Tag.TILE_LENGTH], self[Tag.TILE_WIDTH]
        rows = self.values.get(Tag.ROWS_PER_STRIP, (self[Tag.LENGTH],))[0]
        return min(rows, self[Tag.LENGTH]), self[Tag.WIDTH]

    @property
    def planes(self) -> int:
        """The number of separately stored planes of samples."""
        return self[Tag.SAMPLES] if self[Tag.PLANAR] == APART else 1


def directories(stream: BinaryIO) -> Iterator[Directory]:
    """The directories of a TIFF, each once, in their order.

    Raises:
        KeyError, ValueError, OverflowError, struct.error: the file is damaged.
        TooLong: the file has more than `MOST_PAGES` or `MOST_TAGS`.
    """
    stream.seek(0)
    order, big = MAGIC[stream.read(4)]
    offset_type, at = ("Q", 8) if big else ("I", 4)
    stream.seek(at)
    (offset,) = struct.unpack(order + offset_type, stream.read(at))
    seen, left = set[int](), MOST_TAGS
    while offset and offset not in seen:
        seen.add(offset)
        directory, following, count = _directory(stream, order, big, offset)
        left -= count
        if left < 0 or len(seen) > MOST_PAGES:
            raise TooLong
        largest = 0
        for below in directory.values.get(Tag.SUB_DIRECTORIES, ()):
            smaller, _, count = _directory(stream, order, big, below)
            left -= count
            if left < 0:
                raise TooLong
            largest = max(largest, smaller[Tag.WIDTH] * smaller[Tag.LENGTH])
        yield Directory(order, directory.values, directory.places, largest)
        offset = following


def _directory(stream: BinaryIO, order: str, big: bool, offset: int) -> tuple[Directory, int, int]:
    """The directory at `offset`, the offset of the next one (0: none), and the number of tags."""
    offset_type, count_type, at = ("Q", "Q", 8) if big else ("I", "H", 4)
    entry = struct.Struct(f"{order}HH{offset_type}{at}s")  # tag, type, count; values or offset
    counter = struct.Struct(order + count_type)
    stream.seek(offset)
    (entries,) = counter.unpack(stream.read(counter.size))
    if entries > MOST_TAGS:
        raise TooLong
    content = stream.read(entries * entry.size)
    (following,) = struct.unpack(order + offset_type, stream.read(at))
    values: dict[int, tuple[int, ...]] = {}
    places: dict[int, tuple[int, str]] = {}
    for number, (tag, kind, count, value) in enumerate(entry.iter_unpack(content)):
        if tag not in TAGS or tag in values or kind not in TYPES or count == 0:
            continue  # the first entry of a repeated tag counts
        if kind == ASCII and tag not in OF_TEXT:
            continue  # its bytes would be taken for numbers
        if count > MOST_VALUES:
            raise TooLong
        code = f"{order}{count}{TYPES[kind]}"
        size = struct.calcsize(code)
        place = offset + counter.size + (number + 1) * entry.size - at
        if size > at:
            (place,) = struct.unpack(order + offset_type, value)
            stream.seek(place)
            value = stream.read(size)
        values[tag] = struct.unpack_from(code, value)
        places[tag] = place, order + TYPES[kind]
    return Directory(order, values, places), following, entries


def refusal(page: Directory, size: int) -> str | None:
    """The reason why a page of a file of `size` bytes cannot be decoded; None if it can.

    Raises:
        KeyError: WIDTH, LENGTH or PHOTOMETRIC is missing.
    """
    checks = (_pixel_refusal, _layout_refusal, lambda page: _data_refusal(page, size))
    return next((reason for check in checks if (reason := check(page)) is not None), None)


def _some(page: Directory, tag: Tag) -> str:
    """The first values of a tag, for a message; it may have millions."""
    values = page.values[tag]
    return ", ".join(map(str, values[:MOST_SHOWN])) + ", ..." * (len(values) > MOST_SHOWN)


def _pixel_refusal(page: Directory) -> str | None:
    """The fault of samples and colours; None if there is none."""
    bits, samples, photometric = page[Tag.BITS], page[Tag.SAMPLES], page[Tag.PHOTOMETRIC]
    kind, compression = page[Tag.SAMPLE_FORMAT], page[Tag.COMPRESSION]
    if len(set(page.values.get(Tag.BITS, ()))) > 1:
        return f"BitsPerSample should be the same for all, found {_some(page, Tag.BITS)}"
    if len(set(page.values.get(Tag.SAMPLE_FORMAT, ()))) > 1:
        return f"SampleFormat should be the same for all, found {_some(page, Tag.SAMPLE_FORMAT)}"
    if compression not in COMPRESSIONS:
        known = COMPRESSION_NAMES.get(compression, "unknown")
        return f"Compression {compression} ({known}) is not read, expected none, LZW, deflate, " \
               "PackBits, JPEG or CCITT"  # fmt: skip
    if photometric not in SAMPLES_OF:
        return f"PhotometricInterpretation {photometric} is not read, expected grey, RGB, a " \
               "palette, CMYK or YCbCr"  # fmt: skip
    if bits == 1:
        fits = kind == UNSIGNED and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    else:
        fits = page.sample in (RAW_TYPES if page.is_raw else PACKED_TYPES)
    if compression in FAX or compression == JPEG or photometric in (CMYK, YCBCR):
        fits &= bits == (1 if compression in FAX else 8) and kind == UNSIGNED
    if not fits:
        named = FORMAT_NAMES.get(kind, f"SampleFormat {kind}")
        return f"samples of {bits} bits, {named}, are not read in this kind of TIFF " \
               f"(Compression {compression}, PhotometricInterpretation {photometric})"  # fmt: skip
    if photometric == WHITE_IS_ZERO and kind != UNSIGNED:
        return f"PhotometricInterpretation 0 (white is zero) has no meaning for " \
               f"{FORMAT_NAMES[kind]} samples"  # fmt: skip
    if photometric == PALETTE and (
        kind != UNSIGNED or bits > 16 or len(page.values.get(Tag.COLOUR_MAP, ())) != 3 << bits
    ):
        return f"a palette should have a ColorMap of {3 << min(bits, 16)} values, found " \
               f"{len(page.values.get(Tag.COLOUR_MAP, ()))}"  # fmt: skip
    if photometric == CMYK and page[Tag.INK_SET] != 1:
        return f"InkSet {page[Tag.INK_SET]} is not read, expected 1 (CMYK)"
    more = samples - SAMPLES_OF[photometric]
    extra = page.values.get(Tag.EXTRA_SAMPLES, (0,))
    has_alpha = more == 1 and photometric in (BLACK_IS_ZERO, RGB)
    if more and not (has_alpha and (photometric == RGB or extra[0] in ALPHA)):
        return (
            f"{samples} samples a pixel are not read with PhotometricInterpretation "
            f"{photometric}, expected {SAMPLES_OF[photometric]}, or alpha beside them"
        )
    return None


def _layout_refusal(page: Directory) -> str | None:
    """The fault of the layout of samples; None if there is none."""
    bits, samples, compression = page[Tag.BITS], page[Tag.SAMPLES], page[Tag.COMPRESSION]
    if page[Tag.PLANAR] not in (1, APART):
        return f"PlanarConfiguration should be 1 or 2, found {page[Tag.PLANAR]}"
    if samples > 1 and not page.is_raw and (
        (page[Tag.PLANAR] == APART and (bits > 8 or page[Tag.PHOTOMETRIC] != RGB))
        or (bits > 8 and page[Tag.PHOTOMETRIC] == BLACK_IS_ZERO)
    ):  # fmt: skip
        return "compressed samples of more than 8 bits are not read where planes are stored " \
               "apart (PlanarConfiguration 2), nor grey with alpha"  # fmt: skip
    predictor = page[Tag.PREDICTOR]
    if compression in (LZW, *DEFLATE) and (
        predictor not in (1, 2, 3)
        or (predictor == 3) > (page[Tag.SAMPLE_FORMAT] == FLOAT)
        or (predictor == 2) > (bits in (8, 16, 32, 64))
    ):
        return f"Predictor {predictor} is not read for these samples"
    if page[Tag.ORIENTATION] not in range(1, 9):
        return f"Orientation should be one of 1..8, found {page[Tag.ORIENTATION]}"
    if page[Tag.FILL_ORDER] != 1 and (page[Tag.FILL_ORDER] != 2 or bits != 1):
        return f"FillOrder {page[Tag.FILL_ORDER]} is not read for samples of {bits} bits"
    if page[Tag.IMAGE_DEPTH] != 1:
        return f"ImageDepth {page[Tag.IMAGE_DEPTH]} is not read, expected one page per slice"
    for tag, program in ((Tag.METAMORPH, "MetaMorph"), (Tag.LSM, "Zeiss LSM")):
        if tag in page.values:
            return f"stacks of {program} are not read, expected one page per slice"
    if page.largest_below > page[Tag.WIDTH] * page[Tag.LENGTH]:
        return "a larger picture is in its sub-directories (SubIFDs), which are not read"
    return None


def _data_refusal(page: Directory, size: int) -> str | None:
    """The fault of strips or tiles in a file of `size` bytes; None if there is none."""
    width, length = page[Tag.WIDTH], page[Tag.LENGTH]
    if page.is_tiled and not {Tag.TILE_WIDTH, Tag.TILE_LENGTH} <= page.values.keys():
        return "TileWidth or TileLength is missing"
    high, wide = page.segment
    if 0 in (width, length, high, wide):
        return f"expected pixels, found {width}x{length} in parts of {wide}x{high}"
    down, across = -(-length // high), -(-width // wide)
    count = down * across * page.planes
    offsets, counts = page.offsets, page.byte_counts
    if not len(offsets) == len(counts) == count:
        return f"expected {count} strips or tiles, found {len(offsets)} offsets and " \
               f"{len(counts)} byte counts"  # fmt: skip
    inner = page[Tag.SAMPLES] // page.planes * page[Tag.BITS] // 8
    for number, (offset, found) in enumerate(zip(offsets, counts, strict=True)):
        rows = high if page.is_tiled else min(high, length - number % down * high)
        least = rows * wide * inner if page.is_raw else 1
        if found < least or offset == 0:
            return f"strip or tile {number} should have {least} bytes, found {found} " \
                   f"at {offset}"  # fmt: skip
        if offset + found > size:
            return f"strip or tile {number} ends at byte {offset + found}, the file at {size}"
    return None
