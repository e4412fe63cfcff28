"""Reads the challenge's npz files as checked cases, and writes their labels (docs/formats.md).

Every fault of a file becomes a CaseError with a message of one line. Arrays are never unpickled,
and a declared size is checked before memory is allocated.
"""

import functools
import io
import lzma
import math
import stat
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from swiftmedsam.atomic import atomic_file
from swiftmedsam.case import Case, CaseError, check_ends, check_shape, make_case
from swiftmedsam.chunks import chunks_of, extent
from swiftmedsam.display import DEFAULT_WINDOW, Window, fill_display
from swiftmedsam.memory import estimate_peak, streamed
from swiftmedsam.messages import one_line, printable, shortened
from swiftmedsam.modality import CASE_NAME, Modality, find_modality

MAX_MEMBER_BYTES = 4 << 30  # a declared array above this is refused, not allocated
MAX_STREAMED_BYTES = 10 << 30  # of pixels read in chunks: 20,000 x 20,000 x 3 of 8 bytes
MAX_HEADER_BYTES = 16 << 10  # of an npy; numpy's limit is 10,000, but it reads the whole header
HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

# The errors of zipfile and the decompressors for damaged or unsupported archives.
UNREADABLE = (
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError,
    RuntimeError, UnicodeDecodeError,
)  # fmt: skip
# The errors of numpy for broken headers, which it parses as Python literals.
BROKEN_HEADER = (
    ValueError, TypeError, OverflowError, SyntaxError, MemoryError, RecursionError,
    tokenize.TokenError,
)  # fmt: skip


def is_case_name(name: str) -> bool:
    """Whether this is the name of a challenge case: `2DBox_*.npz` or `3DBox_*.npz`."""
    return CASE_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class _Member:
    """An array of an npz with a checked header; its data are still in the archive."""

    file: str  # for messages
    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    start: int  # where the data begin: the length of the header

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)

    def as_stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of `array`, of this shape, whose C order is the order of the file."""
        return array.T if self.fortran else array

    def refuse(self, fault: str) -> NoReturn:
        """Raise a CaseError that names this array and its fault."""
        raise CaseError(f"{self.file}: '{self.key}' {fault}")


def _find_member(archive: zipfile.ZipFile, file: str, key: str) -> _Member:
    """Read and check the header of an array; nothing is allocated for its data.

    Raises:
        CaseError: there is no such array, or it is not of real numbers, too large or incomplete.
    """

    def refuse(fault: str) -> NoReturn:
        raise CaseError(f"{file}: '{key}' {fault}")

    try:
        with archive.open(f"{key}.npy") as stream:
            start = io.BytesIO(stream.read(MAX_HEADER_BYTES))
        version = npy.read_magic(start)  # type: ignore[no-untyped-call]
        if version not in HEADER_READERS:
            refuse(f"should be npy format 1 or 2, got {version}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file that Python 2 wrote is no fault
            shape, fortran, dtype = HEADER_READERS[version](start)  # type: ignore[no-untyped-call]
    except KeyError:
        found = shortened(str(sorted(name.removesuffix(".npy") for name in archive.namelist())))
        raise CaseError(f"{file}: key '{key}' is missing, found {found}") from None
    except CaseError:
        raise
    except BROKEN_HEADER as error:
        refuse(f"has a broken npy header ({one_line(error)})")
    if dtype.hasobject or dtype.kind not in "biuf":
        refuse(f"should hold real numbers, got dtype {dtype}")
    member = _Member(file, key, shape, fortran, dtype, start.tell())
    limit = MAX_STREAMED_BYTES if key == "imgs" and streamed(shape, dtype) else MAX_MEMBER_BYTES
    if member.nbytes > limit:
        refuse(f"declares {member.nbytes} bytes, more than the limit of {limit}")
    stored = archive.getinfo(f"{key}.npy").file_size - member.start
    if stored < member.nbytes:
        refuse(f"ends before its {member.nbytes} bytes, found {stored}")
    return member


def _read_member(archive: zipfile.ZipFile, member: _Member) -> npt.NDArray[np.generic]:
    """Read the array, always into C order: OpenCV would copy another order in every call.

    Raises:
        CaseError: the archive ends early, or there is not enough memory.
    """
    try:
        array = np.empty(member.shape, member.dtype)
    except MemoryError:
        member.refuse(f"needs {member.nbytes} bytes, more than can be allocated")
    except BROKEN_HEADER as error:
        member.refuse(f"has a broken npy header ({one_line(error)})")
    for target, values in zip(
        chunks_of(member.as_stored(array)), _stored_chunks(archive, member), strict=True
    ):
        target[...] = values
    return array


def _stored_chunks(archive: zipfile.ZipFile, member: _Member) -> Iterator[npt.NDArray[np.generic]]:
    """Read the array chunk by chunk, in the order of the file.

    Raises:
        CaseError: the archive ends early.
    """
    # An array of this shape that takes no memory, only to get the shapes of the chunks.
    shape = member.as_stored(np.broadcast_to(np.zeros((), member.dtype), member.shape))
    with archive.open(f"{member.key}.npy") as stream:
        stream.read(member.start)
        for part in chunks_of(shape):
            try:
                content = stream.read(part.nbytes)
                if len(content) < part.nbytes:
                    raise EOFError(f"read {len(content)} of {part.nbytes}")
            except EOFError as error:
                member.refuse(f"ends before its {member.nbytes} bytes ({one_line(error)})")
            yield np.ndarray(part.shape, member.dtype, content)
        stream.read(1)  # at the end of the stream, zipfile checks the checksum


def _read_display(
    archive: zipfile.ZipFile, member: _Member, modality: Modality, window: Window
) -> npt.NDArray[np.uint8]:
    """Do as `to_display` does, with one chunk of the array in memory at a time.

    Raises:
        CaseError: the archive ends early, or a value is out of range.
    """
    values = functools.partial(_stored_chunks, archive, member)
    ends = extent(values)
    if member.dtype.kind == "f":
        check_ends(*ends, member.file)
    display = np.empty(member.shape, np.uint8)
    target = member.as_stored(display)
    fill_display(values, member.dtype, ends, target, modality, window, name=member.file)
    return display


def _require_memory(image: _Member, boxes: _Member, limit: int, *, is_volume: bool) -> None:
    """Raise CaseError if the case would need more than `limit` bytes; see `swiftmedsam.memory`."""
    count = boxes.shape[0] if boxes.shape else 0
    peak = estimate_peak(image.shape, image.dtype, count, is_volume=is_volume)
    if peak > limit:
        image.refuse(
            f"of {image.shape} {image.dtype} with {count} boxes needs about {peak / 1e9:.1f} GB, "
            f"the memory limit is {limit / 1e9:.1f} GB"
        )


def _require_content(path: Path) -> None:
    """Check the file's kind before it is opened: a fifo would block, /dev/zero never ends.

    Raises:
        OSError: there is no file, or it is empty or not a regular file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a fifo, socket or device"
        raise OSError(f"expected a file, found {kind}")
    if status.st_size == 0:  # also the size of files in /proc, of which some block
        raise OSError("expected a zip archive, found an empty file")


def read_case(
    path: Path, window: Window = DEFAULT_WINDOW, *, memory_limit: int | None = None
) -> Case:
    """Read and check the case of an npz file in the challenge's format (docs/formats.md).

    Args:
        path: named 2DBox_MODALITY_*.npz (image) or 3DBox_MODALITY_*.npz (volume), with the keys
            'imgs' and 'boxes'.
        window: the range of Hounsfield units that is shown of a CT.
        memory_limit: in bytes; None is no limit.

    Raises:
        CaseError: the file is broken, does not fit its name, or its segmentation would need more
            than `memory_limit` bytes.
    """
    name = printable(path.name)
    match = CASE_NAME.fullmatch(path.name)
    if match is None:
        raise CaseError(f"{name}: expected a name like 2DBox_*.npz or 3DBox_*.npz")
    is_volume = match["dim"] == "3"
    try:
        _require_content(path)
        with zipfile.ZipFile(path) as archive:
            stored_image = _find_member(archive, name, "imgs")
            stored_boxes = _find_member(archive, name, "boxes")
            if memory_limit is not None:
                _require_memory(stored_image, stored_boxes, memory_limit, is_volume=is_volume)
            image: npt.NDArray[Any]
            if streamed(stored_image.shape, stored_image.dtype):
                check_shape(stored_image.shape, name, is_volume=is_volume)
                modality = find_modality(match["modality"])
                image = _read_display(archive, stored_image, modality, window)
            else:
                image = _read_member(archive, stored_image)
            boxes = _read_member(archive, stored_boxes)
    except CaseError:
        raise
    except UNREADABLE as error:
        raise CaseError(f"{name}: not a readable npz file ({one_line(error)})") from error
    return make_case(
        image,
        boxes,
        is_volume=is_volume,
        modality=printable(match["modality"]),
        window=window,
        name=name,
    )


def write_labels(path: Path, labels: npt.NDArray[np.unsignedinteger]) -> None:
    """Write `labels`, (H, W) or (D, H, W), to an npz under the key 'segs', atomically.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.
    """
    with atomic_file(path) as stream:
        np.savez_compressed(stream, segs=labels)
