"""Make a file of the bytes of a fuzzer, and check what must hold for any file.

A fuzzer that changes the bytes of a zip archive would break its checksums in every file. So the
first byte says what follows: the file itself, or two arrays that are packed into a valid archive.

    0..3    the file; its name is NAMES[byte]
    4..7    one byte for the method of packing (METHODS), two bytes with the length of imgs.npy
            (little-endian), imgs.npy, boxes.npy; the name is NAMES[byte - 4]
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
PACKED = len(NAMES)  # first bytes from this number mean two arrays
HEAD = struct.Struct("<BBH")
MEMORY_LIMIT = 1 << 30
EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(name: str, method: int, imgs: bytes, boxes: bytes) -> bytes:
    """Return the bytes of a fuzzer for two npy files."""
    return HEAD.pack(NAMES.index(name) + PACKED, METHODS.index(method), len(imgs)) + imgs + boxes


def whole(name: str, file: bytes) -> bytes:
    """Return the bytes of a fuzzer for a file."""
    return bytes([NAMES.index(name)]) + file


def archive(method: int, imgs: bytes, boxes: bytes) -> bytes:
    """Return a zip archive of two npy files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for key, content in (("imgs", imgs), ("boxes", boxes)):
            file.writestr(zipfile.ZipInfo(f"{key}.npy", EPOCH), content, method)
    return stream.getvalue()


def write(data: bytes, folder: Path) -> Path:
    """Write the file for the bytes of a fuzzer into `folder`; return its path."""
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
    """Read the case of a file; None if it is refused with a message of one line."""
    try:
        return read_case(path, memory_limit=MEMORY_LIMIT)
    except CaseError as error:
        message = str(error)
        assert message.startswith(f"{path.name}: "), message
        assert message.isprintable(), message
        return None


def check(data: bytes, folder: Path) -> bool:
    """Check that the file of `data` is a valid case or is refused, as documented.

    The result must be the same if the pixels are read in chunks. Returns whether it is a case.

    Raises:
        AssertionError: it is neither; other errors of `read_case` are raised, too.
    """
    path = write(data, folder)
    case = _read(path)
    with mock.patch("swiftmedsam.memory.HELD_BYTES", 0):  # in chunks, like the largest files
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
