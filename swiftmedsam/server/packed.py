"""Arrays as nnInteractive's clients and servers exchange them.

    b"NNIA"  version: u8 = 1  codec: u8 (1 zstd, 2 lz4)  ndim: u8  length of the name: u8
    name of the dtype, ASCII   shape: ndim x i64   number of chunks: u32
    each chunk: bytes when decompressed: u64, bytes here: u64, then one Blosc2 chunk

All numbers are little-endian, values are in C order. imagecodecs has Blosc2; the package blosc2
would be another 7 MB, and needs Python 3.11.
"""

import math
import struct

import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.scan import extra

MAGIC = b"NNIA"
VERSION = 1
CODECS = {1: "zstd", 2: "lz4"}
ZSTD = 1
LEVEL = 3  # of compression
DTYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
     "float16", "float32", "float64"]
)  # fmt: skip
MOST_AXES = 8
MOST_CHUNK = 1 << 30  # bytes of a chunk when decompressed
HEAD = struct.Struct("<4sBBBB")
CHUNK_HEAD = struct.Struct("<QQ")
# A Blosc2 chunk begins with its format, two bytes of flags, the size of a value, and three lengths:
# decompressed, of a block, and of the chunk.
BLOSC_HEAD = struct.Struct("<BBBBiii")
# A chunk of zeros is a head of 32 bytes alone, with a mark in its last byte. Unless their number is
# a multiple of 8, imagecodecs cannot read the chunk that it writes for them, nor can some versions
# of the package blosc2. So such chunks are written and read here, in blosc2's way.
ZEROS_LENGTH, ZEROS_BLOCK = 32, 1 << 17
ZEROS_START = 5, 1, 0x95  # the format, and flags
ZEROS_END = bytes.fromhex("00000000000500000000000000000010")
SPECIAL, IS_ZEROS = 0x70, 0x10  # bits of the last byte

Array = npt.NDArray[np.generic]


class PackedError(ValueError):
    """Bytes that are no packed array, or one that is too large; the message is one line."""


def pack(array: Array) -> bytes:
    """The bytes of an array of one of `DTYPES`."""
    codec = extra("imagecodecs", "nnInteractive's protocol")
    values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    name = values.dtype.name.encode("ascii")
    raw = values.data.cast("B")
    size = values.dtype.itemsize
    parts = [
        HEAD.pack(MAGIC, VERSION, ZSTD, array.ndim, len(name)),
        name,
        struct.pack(f"<{array.ndim}q", *array.shape),
        struct.pack("<I", math.ceil(len(raw) / MOST_CHUNK)),
    ]
    for start in range(0, len(raw), MOST_CHUNK):
        part = raw[start : start + MOST_CHUNK]
        if np.frombuffer(part, np.uint8).any():
            chunk = codec.blosc2_encode(part, level=LEVEL, compressor="zstd", shuffle="noshuffle")
        else:
            chunk = _zeros(len(part), size)
        parts += [CHUNK_HEAD.pack(len(part), len(chunk)), chunk]
    return b"".join(parts)


def declared(data: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """The dtype and shape that packed bytes declare; nothing is decompressed.

    Raises:
        PackedError: the head is wrong.
    """
    dtype, shape, _ = _head(data)
    return dtype, shape


def unpack(data: bytes, limit: int) -> Array:
    """The array of packed bytes.

    Every length is checked before memory is taken for it.

    Raises:
        PackedError: the bytes are wrong, or the array would have more than `limit` bytes.
    """
    dtype, shape, at = _head(data)
    size = math.prod(shape) * dtype.itemsize
    if size > limit:
        raise PackedError(f"an array can have {limit} bytes here, this one has {size}")
    chunks = _chunks(data, at, size)
    codec = extra("imagecodecs", "nnInteractive's protocol")
    values = np.zeros(size, np.uint8)  # some chunks say that any values will do
    filled = 0
    for start, length, decompressed in chunks:
        target = values[filled : filled + decompressed]
        filled += decompressed
        if _is_zeros(data, start, length):
            target[:] = 0
            continue
        try:
            done = codec.blosc2_decode(data[start : start + length], out=target)
        except Exception:  # imagecodecs has errors of its own, one for each codec
            raise PackedError("a chunk cannot be decompressed") from None
        if len(done) != decompressed:
            raise PackedError("a chunk has another length than it says")
    return values.view(dtype).reshape(shape)


def _zeros(length: int, itemsize: int) -> bytes:
    """A chunk of so many bytes, all 0."""
    lengths = length, min(length, ZEROS_BLOCK), ZEROS_LENGTH
    return BLOSC_HEAD.pack(*ZEROS_START, itemsize, *lengths) + ZEROS_END


def _is_zeros(data: bytes, start: int, length: int) -> bool:
    return length == ZEROS_LENGTH and data[start + ZEROS_LENGTH - 1] & SPECIAL == IS_ZEROS


def _head(data: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """The dtype, the shape, and where the chunks begin."""
    if len(data) < HEAD.size:
        raise PackedError("expected a packed array, found too few bytes")
    magic, version, codec, axes, length = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise PackedError("expected a packed array, which begins with NNIA")
    if version != VERSION:
        raise PackedError(f"expected version {VERSION} of packed arrays, found {version}")
    if codec not in CODECS:
        raise PackedError(f"expected codec 1 or 2 of a packed array, found {codec}")
    if not 1 <= axes <= MOST_AXES:
        raise PackedError(f"expected 1 to {MOST_AXES} axes of a packed array, found {axes}")
    at = HEAD.size + length
    if len(data) < at + 8 * axes + 4:
        raise PackedError("a packed array ends in its head")
    name = data[HEAD.size : at].decode("ascii", "replace")
    if name not in DTYPES:
        raise PackedError("expected whole or real numbers in a packed array")
    shape = struct.unpack_from(f"<{axes}q", data, at)
    if min(shape) < 1:
        raise PackedError(f"expected lengths above 0 of a packed array, found {shape}")
    return np.dtype(name).newbyteorder("<"), shape, at + 8 * axes


def _chunks(data: bytes, at: int, size: int) -> list[tuple[int, int, int]]:
    """Start, length and decompressed length of each chunk; together they are `size` bytes."""
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    found, filled = [], 0
    for _ in range(count):
        if len(data) < at + CHUNK_HEAD.size + BLOSC_HEAD.size:
            raise PackedError("a packed array ends before its last chunk")
        decompressed, length = CHUNK_HEAD.unpack_from(data, at)
        at += CHUNK_HEAD.size
        *_, inner, _, own = BLOSC_HEAD.unpack_from(data, at)
        if length > len(data) - at:
            raise PackedError("a packed array ends in a chunk")
        if not 0 < decompressed <= min(MOST_CHUNK, size - filled):
            raise PackedError("the chunks of a packed array are larger than its shape")
        if inner != decompressed or own != length:
            raise PackedError("a chunk has another length than it says")
        found.append((at, length, decompressed))
        at += length
        filled += decompressed
    if filled != size:
        raise PackedError("the chunks of a packed array are smaller than its shape")
    return found
