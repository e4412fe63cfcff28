"""Write the seeds of the fuzzer, `fuzz/corpus`: `python -m fuzz.make_corpus`.

They are valid cases, and a bad case of each kind in tests/program/test_bad_inputs.py, all as small
as possible.
"""

import io
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fuzz.inputs import NAMES, archive, pack, whole

CORPUS = Path(__file__).parent / "corpus"
IMAGE, VOLUME, CT_IMAGE, CT_VOLUME = NAMES
BOX, BOX_3D = np.array([[1, 0, 4, 3]]), np.array([[1, 0, 0, 4, 3, 1]])
GREY = np.arange(30, dtype=np.uint8).reshape(5, 6)
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of an npy file; objects are pickled."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def headed(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an npy file with any text as header, and a little data."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin1") + bytes(16)


def arrays() -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield the seeds of two arrays: name of the seed, name of the file, pixels, boxes."""
    colour = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    volume = np.arange(60, dtype=np.uint8).reshape(2, 5, 6)
    yield "image", IMAGE, GREY, BOX
    yield "colour", IMAGE, colour, BOX
    yield "alpha", IMAGE, np.ones((5, 6, 4), np.uint8), BOX
    yield "volume", VOLUME, volume, BOX_3D
    yield "hounsfield", CT_VOLUME, (volume.astype(np.int16) * 50) - 1000, BOX_3D
    yield "shifted", CT_IMAGE, GREY.astype(np.uint16) * 100, BOX
    yield "fortran", IMAGE, np.asfortranarray(GREY.astype(">i2") * 99), BOX
    yield "half", IMAGE, (GREY / 7).astype(np.float16), BOX.astype(np.float32)
    yield "double", VOLUME, volume.astype(">f8") * 1e6, BOX_3D.astype(np.uint64)
    wide = np.zeros(
        (5, 6), np.longdouble
    )  # zeros only: padding bytes of other values are not defined
    yield "long_double", IMAGE, wide, wide[:1, :4]
    yield "bool", IMAGE, GREY > 7, BOX
    yield "no_boxes", IMAGE, GREY, np.zeros((0, 4))
    yield "cut", IMAGE, GREY, BOX - 0.5 + [0, 0, 3, 3]
    yield "outside", IMAGE, GREY, BOX + 9
    yield "inverted", IMAGE, GREY, BOX[:, ::-1]
    yield "nan", IMAGE, np.full((5, 6), np.nan), BOX
    yield "nan_box", IMAGE, GREY, BOX * np.nan
    signalling = np.array([0x7FA00000], np.uint32).view(np.float32)  # copying it gives a warning
    yield "signalling", IMAGE, np.repeat(signalling, 30).reshape(5, 6), BOX
    yield "signalling_box", IMAGE, GREY, np.repeat(signalling, 4).reshape(1, 4)
    yield "astronomic", IMAGE, np.full((5, 6), 1e300), BOX
    yield "scalar", IMAGE, np.uint8(3), BOX
    yield "five", IMAGE, np.ones((1, 2, 1, 2, 1), np.uint8), BOX
    yield "nothing", IMAGE, np.ones((0, 6), np.uint8), BOX
    yield "objects", IMAGE, GREY, np.array([[None]])
    yield "complex", IMAGE, GREY.astype(np.complex64), BOX


def seeds() -> dict[str, bytes]:
    """Return all seeds by name."""
    found = {name: pack(file, STORED, npy(a), npy(b)) for name, file, a, b in arrays()}
    for method in (DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        found[f"method_{method}"] = pack(IMAGE, method, npy(GREY), npy(BOX))
    headers = {
        "huge": "{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 1048576)}",
        "large": "{'descr': '|u1', 'fortran_order': False, 'shape': (32768, 65536)}",
        "short": "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 6)}",
        "negative": "{'descr': '|u1', 'fortran_order': False, 'shape': (-2, 6)}",
        "structured": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
        "python_2": "{'descr': '|u1', 'fortran_order': False, 'shape': (4L, 4L)}",
        "escape": "{'descr': '2 \x9b31m', 'fortran_order': False, 'shape': (4, 4)}",
        "keys": "{'descr': '|u1', 'shape': (2, 2)}",
        "text": "no dictionary",
    }
    for name, text in headers.items():
        found[f"header_{name}"] = pack(IMAGE, STORED, headed(f"{text}\n"), npy(BOX))
    found["header_2"] = pack(IMAGE, STORED, headed(f"{headers['short']}\n", (2, 0)), npy(BOX))
    for name, method in (("stored", STORED), ("deflated", DEFLATED)):
        found[f"file_{name}"] = whole(IMAGE, archive(method, npy(GREY), npy(BOX)))
    volume = archive(STORED, npy(np.ones((2, 5, 6))), npy(BOX_3D))
    found["file_volume"] = whole(VOLUME, volume)
    found["file_truncated"] = whole(IMAGE, volume[: len(volume) // 2])
    found["file_empty"] = whole(IMAGE, b"")
    return found


def main() -> int:
    """Write the seeds, and remove old ones."""
    CORPUS.mkdir(exist_ok=True)
    made = seeds()
    for path in CORPUS.iterdir():
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (CORPUS / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
