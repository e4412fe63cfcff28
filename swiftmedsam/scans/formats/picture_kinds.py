"""Decodes PNG, JPEG and BMP: refuses kinds that are not supported; reads palettes as labels."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from swiftmedsam.scans.formats.opencv_decoder import Bytes, decoded
from swiftmedsam.scans.formats.picture_headers import PNG
from swiftmedsam.scans.scan import ScanError, Voxels

JPEG, BMP = b"\xff\xd8", b"BM"
PALETTE_PNG = 3  # colour type
BMP_BITS = (1, 4, 8, 16, 24, 32)
BMP_CODINGS = (0, 1, 2, 3)  # uncompressed, run lengths of 8 and of 4 bits, bit fields
OS2_BMP = 12


def _chunks(content: Bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of the data of each chunk of a PNG."""
    place = len(PNG)
    while place + 8 <= content.size:
        length, kind = struct.unpack(">I4s", content[place : place + 8].tobytes())
        yield kind, place + 8, length
        place += length + 12


def decode(content: Bytes, name: str) -> Voxels:
    """Decode a PNG, JPEG or BMP: (H, W), or (H, W, 3) in RGB.

    Raises:
        ScanError: the picture is damaged, an animation, or of a kind that is not supported.
    """
    start = content[:64].tobytes()
    if start.startswith(PNG):
        for kind, place, _ in _chunks(content):
            if kind == b"acTL":
                (frames,) = struct.unpack(">I", content[place : place + 4].tobytes())
                if frames != 1:
                    raise ScanError(f"{name}: expected one picture, found {frames} (animated PNG)")
    elif start.startswith(BMP):
        bits, coding = _bmp(start)[1:]
        if bits not in BMP_BITS or coding not in BMP_CODINGS:
            raise ScanError(f"{name}: a BMP of {bits} bits, compression {coding}, is not read")
    return decoded(content, name)[0]


def _bmp(start: bytes) -> tuple[int, int, int]:
    """Bytes of the second header, bits per pixel, and compression."""
    (header,) = struct.unpack_from("<I", start, 14)
    if header == OS2_BMP:
        (bits,) = struct.unpack_from("<H", start, 24)
        return header, bits, 0
    bits, coding = struct.unpack_from("<HI", start, 28)
    return header, bits, coding


def decode_labels(content: Bytes, name: str) -> Voxels:
    """Decode a PNG or BMP as label map (H, W), or (H, W, 3) if it is in colour.

    With a palette, its indices are the labels. Samples of fewer than 8 bits keep their stored
    values.

    Raises:
        ScanError: the picture is damaged, or a JPEG, which changes values.
    """
    start = content[:64].tobytes()
    if start.startswith(JPEG):
        raise ScanError(f"{name}: a JPEG does not keep labels as they were drawn, expected a PNG")
    content = content.copy()
    scale = 1
    if start.startswith(PNG):
        bits, colour = start[24], start[25]
        if colour == PALETTE_PNG:
            content = _without_palette(content)
        if bits < 8:
            scale = 255 // ((1 << bits) - 1)  # the decoder multiplies samples by it
    elif start.startswith(BMP):
        header, bits, _ = _bmp(start)
        if bits <= 8:
            size = 3 if header == OS2_BMP else 4
            entries = np.repeat(np.arange(1 << bits, dtype=np.uint8)[:, np.newaxis], size, axis=1)
            (data,) = struct.unpack_from("<I", start, 10)
            room = max(0, min(data, content.size) - 14 - header)
            room = min(room, entries.size)
            content[14 + header : 14 + header + room] = entries.ravel()[:room]
    labels = decode(content, name)
    return (labels // np.array(scale, labels.dtype)) if scale > 1 else labels


def _without_palette(content: Bytes) -> Bytes:
    """Change a PNG with a palette into a grey PNG whose values are the indices."""
    pieces = [np.frombuffer(PNG, np.uint8)]
    for kind, place, length in _chunks(content):
        piece = content[place - 8 : place + length + 4]
        if kind == b"IHDR":
            piece = piece.copy()
            piece[8 + 9] = 0  # the colour type: grey
            checked = np.frombuffer(struct.pack(">I", zlib.crc32(piece[4:-4].tobytes())), np.uint8)
            piece[-4:] = checked
        if kind not in (b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT"):  # these belong to a palette
            pieces.append(piece)
    return np.concatenate(pieces)
