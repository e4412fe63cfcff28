"""Bytes of a fuzzer as a file, and what must hold for any file.

A fuzzer that only had the file's bytes would never get past the checksums of a zip archive. So the
first byte says what the rest is: the file itself, or the two arrays, which then go into an archive
without a fault.

    0..3    the file; the number is the name's, in NAMES
    4..7    a byte of how it is packed (METHODS), two with the length of the first array's file,
            little-endian, imgs.npy, boxes.npy
"""

import io
import struct
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np

from swiftmedsam import Case, CaseError, read_case

NAMES = ("2DBox_US_1.npz", "3DBox_MR_1.npz", "2DBox_CT_1.npz", "3DBox_CT_1.npz")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
PACKED = len(NAMES)  # from this number on
HEAD = struct.Struct("<BBH")
MEMORY_LIMIT = 1 << 30
EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(name: str, method: int, imgs: bytes, boxes: bytes) -> bytes:
    """A fuzzer's bytes of two npy files."""
    return HEAD.pack(NAMES.index(name) + PACKED, METHODS.index(method), len(imgs)) + imgs + boxes


def whole(name: str, file: bytes) -> bytes:
    """A fuzzer's bytes of a file."""
    return bytes([NAMES.index(name)]) + file


def archive(method: int, imgs: bytes, boxes: bytes) -> bytes:
    """A zip archive of two npy files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for key, content in (("imgs", imgs), ("boxes", boxes)):
            file.writestr(zipfile.ZipInfo(f"{key}.npy", EPOCH), content, method)
    return stream.getvalue()


def write(data: bytes, folder: Path) -> Path:
    """Write the file of a fuzzer's bytes into `folder`."""
    kind = data[0] % (2 * PACKED) if data else 0
    path = folder / NAMES[kind % PACKED]
    if kind >= PACKED and len(data) >= HEAD.size:
        _, method, length = HEAD.unpack_from(data)
        rest = data[HEAD.size :]
        content = archive(METHODS[method % len(METHODS)], rest[:length], rest[length:])
    else:
        content = data[1:]
    path.write_bytes(content)
    return path


def _read(path: Path) -> Case | None:
    """The case of a file; None if it is refused, in one line."""
    try:
        return read_case(path, memory_limit=MEMORY_LIMIT)
    except CaseError as error:
        message = str(error)
        assert message.startswith(f"{path.name}: "), message
        assert message.isprintable(), message
        return None


def check(data: bytes, folder: Path) -> bool:
    """Whether the file of `data` is a case; it is one as documented, or refused as documented.

    Whether its pixels are held or read in pieces changes nothing.

    Raises:
        AssertionError: neither; so does anything else that `read_case` raises.
    """
    path = write(data, folder)
    case = _read(path)
    with mock.patch("swiftmedsam.memory.HELD_BYTES", 0):  # in pieces, as the largest files are
        in_pieces = _read(path)
    assert (case is None) == (in_pieces is None)
    if case is None or in_pieces is None:
        return False
    assert np.array_equal(case.image, in_pieces.image)
    assert case.image.dtype == np.uint8
    assert case.image.size
    assert case.image.flags.c_contiguous
    assert case.is_volume == path.name.startswith("3D")
    assert case.image.ndim == 3 if case.is_volume else case.image.shape[2:] in ((), (3,))
    corners = 6 if case.is_volume else 4
    assert case.boxes.shape == (len(case.boxes), corners)
    low, high = case.boxes[:, : corners // 2], case.boxes[:, corners // 2 :]
    assert (low >= 0).all()
    assert (low <= high).all()
    assert (high <= case.label_shape[::-1]).all()
    return True
