"""The border: npz files to checked cases, labels to npz files.

Whatever is wrong with a file is found here and said in one line; the rest of the program trusts a
`Case`. Arrays are never unpickled, and what a file declares is checked before it is allocated.
"""

import functools
import io
import logging
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

from swiftmedsam.atomic import whole_file
from swiftmedsam.chunks import extent, pieces
from swiftmedsam.display import (
    DEFAULT_WINDOW,
    Window,
    fill_display,
    to_display,
)
from swiftmedsam.memory import estimate_peak, streamed
from swiftmedsam.modality import CASE_NAME, UNKNOWN, Modality, find_modality

log = logging.getLogger(__name__)

MAX_MEMBER_BYTES = 4 << 30  # a declared array above this is refused, not allocated
MAX_STREAMED_BYTES = 10 << 30  # of pixels that are not held: 20,000 x 20,000 x 3 of 8 bytes
MAX_HEADER_BYTES = 16 << 10  # of an npy; numpy refuses 10,000, but only once it has read them all
MAX_FOUND = 200  # characters of what was found in a message; an archive may hold 65,535 long names
MAX_VALUE = 1e30  # of a pixel; sums and products of larger ones leave float32

HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

# What zipfile and the decompressors raise for damaged or unsupported archives.
UNREADABLE = (
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError,
    RuntimeError, UnicodeDecodeError,
)  # fmt: skip
# What numpy raises for headers that are no headers: it parses them as Python literals.
BROKEN_HEADER = (
    ValueError, TypeError, OverflowError, SyntaxError, MemoryError, RecursionError,
    tokenize.TokenError,
)  # fmt: skip


class CaseError(ValueError):
    """A case that cannot be segmented; the message names file, key, expected and found."""


@dataclass(frozen=True, eq=False)
class Case:
    """One image or volume with its boxes; made by `read_case` or `make_case`, already checked."""

    name: str
    image: npt.NDArray[np.uint8]  # (H, W) or (H, W, 3); a volume is (D, H, W)
    boxes: npt.NDArray[np.float64]  # (N, 4) x_min, y_min, x_max, y_max; volume: (N, 6) with z
    is_volume: bool

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of the labels: (H, W) or (D, H, W)."""
        return self.image.shape if self.is_volume else self.image.shape[:2]


def is_case_name(name: str) -> bool:
    """Whether a file of this name is for us: `2DBox_*.npz` or `3DBox_*.npz`."""
    return CASE_NAME.fullmatch(name) is not None


def printable(name: str) -> str:
    """`name` for a message: line breaks, escapes and bytes that are no text as backslash codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def one_line(error: BaseException) -> str:
    """What an error says, for a message of one line."""
    reason = getattr(error, "strerror", None) or error  # an OSError's without number and path
    return _cut(printable(" ".join(str(reason).split())))  # it may quote the file: no escapes


def _cut(text: str) -> str:
    return f"{text[:MAX_FOUND]}..." if len(text) > MAX_FOUND else text


@dataclass(frozen=True)
class _Member:
    """An array of an npz whose header was checked; its data are still in the archive."""

    file: str  # for messages, as `key`
    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    start: int  # bytes of the header

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)

    def as_stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of an array of this shape whose C order is that of the file."""
        return array.T if self.fortran else array

    def refuse(self, wrong: str) -> NoReturn:
        """Raise a CaseError that says what is wrong with this array."""
        raise CaseError(f"{self.file}: '{self.key}' {wrong}")


def _find_member(archive: zipfile.ZipFile, file: str, key: str) -> _Member:
    """What the header of an array says; nothing is allocated for its data.

    Raises:
        CaseError: there is no such array, or it is not of real numbers, too large or incomplete.
    """

    def refuse(wrong: str) -> NoReturn:
        raise CaseError(f"{file}: '{key}' {wrong}")

    try:
        with archive.open(f"{key}.npy") as stream:
            start = io.BytesIO(stream.read(MAX_HEADER_BYTES))
        version = npy.read_magic(start)  # type: ignore[no-untyped-call]
        if version not in HEADER_READERS:
            refuse(f"should be npy format 1 or 2, got {version}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Python 2 wrote it, which is no fault
            shape, fortran, dtype = HEADER_READERS[version](start)  # type: ignore[no-untyped-call]
    except KeyError:
        found = _cut(str(sorted(name.removesuffix(".npy") for name in archive.namelist())))
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
    held = archive.getinfo(f"{key}.npy").file_size - member.start
    if held < member.nbytes:
        refuse(f"ends before its {member.nbytes} bytes, found {held}")
    return member


def _read_member(archive: zipfile.ZipFile, member: _Member) -> npt.NDArray[np.generic]:
    """The array, in C order whatever the file's: OpenCV would copy another one in every call.

    Raises:
        CaseError: the archive holds less than it says, or there is no memory for it.
    """
    try:
        array = np.empty(member.shape, member.dtype)
    except MemoryError:
        member.refuse(f"needs {member.nbytes} bytes, more than can be allocated")
    except BROKEN_HEADER as error:
        member.refuse(f"has a broken npy header ({one_line(error)})")
    for target, values in zip(
        pieces(member.as_stored(array)), _stored_pieces(archive, member), strict=True
    ):
        target[...] = values
    return array


def _stored_pieces(archive: zipfile.ZipFile, member: _Member) -> Iterator[npt.NDArray[np.generic]]:
    """The array as it is stored, read piece by piece.

    Raises:
        CaseError: the archive holds less than it says.
    """
    # of no memory: a shape to be cut into pieces
    shape = member.as_stored(np.broadcast_to(np.zeros((), member.dtype), member.shape))
    with archive.open(f"{member.key}.npy") as stream:
        stream.read(member.start)
        for part in pieces(shape):
            try:
                content = stream.read(part.nbytes)
                if len(content) < part.nbytes:
                    raise EOFError(f"read {len(content)} of {part.nbytes}")
            except EOFError as error:
                member.refuse(f"ends before its {member.nbytes} bytes ({one_line(error)})")
            yield np.ndarray(part.shape, member.dtype, content)
        stream.read(1)  # at its end the archive's checksum is looked at


def _read_display(
    archive: zipfile.ZipFile, member: _Member, modality: Modality, window: Window
) -> npt.NDArray[np.uint8]:
    """What `to_display` makes of an array, of which no more than a piece is held at a time.

    Raises:
        CaseError: the archive holds less than it says, or a value is out of range.
    """
    values = functools.partial(_stored_pieces, archive, member)
    ends = extent(values)
    if member.dtype.kind == "f":
        _check_ends(*ends, member.file)
    display = np.empty(member.shape, np.uint8)
    target = member.as_stored(display)
    fill_display(values, member.dtype, ends, target, modality, window, name=member.file)
    return display


def _require_memory(image: _Member, boxes: _Member, limit: int, *, is_volume: bool) -> None:
    """Raise CaseError if the case would take more than `limit` bytes; see `swiftmedsam.memory`."""
    count = boxes.shape[0] if boxes.shape else 0
    peak = estimate_peak(image.shape, image.dtype, count, is_volume=is_volume)
    if peak > limit:
        image.refuse(
            f"of {image.shape} {image.dtype} with {count} boxes needs about {peak / 1e9:.1f} GB, "
            f"the memory limit is {limit / 1e9:.1f} GB"
        )


def _check_shape(shape: tuple[int, ...], name: str, *, is_volume: bool) -> None:
    wanted = "(D, H, W)" if is_volume else "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    right_rank = len(shape) == 3 if is_volume else len(shape) in (2, 3)
    if not is_volume and len(shape) == 3 and shape[2] not in (1, 3, 4):
        right_rank = False
    if not right_rank or 0 in shape:
        raise CaseError(f"{name}: 'imgs' should be {wanted}, got {shape}")


def _check_ends(low: float, high: float, name: str) -> None:
    """Of floating-point pixels from `low` to `high`; NaN both, if one is."""
    if not np.isfinite([low, high]).all():
        raise CaseError(f"{name}: 'imgs' should be finite, found NaN or infinity")
    if max(-low, high) > MAX_VALUE:
        raise CaseError(
            f"{name}: 'imgs' should be within {MAX_VALUE:g} of 0, found {low:g}..{high:g}"
        )


def _check_boxes(
    boxes: npt.NDArray[np.generic], name: str, shape: tuple[int, ...], *, is_volume: bool
) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) or (N, 6) as float64, brought inside the case where they overlap it.

    `shape` is (H, W) or (D, H, W).
    """
    corners = 6 if is_volume else 4
    if boxes.size == 0:
        return np.zeros((0, corners))
    if boxes.ndim != 2 or boxes.shape[1] != corners:
        kind = "a volume" if is_volume else "an image"
        raise CaseError(f"{name}: 'boxes' should be (N, {corners}) for {kind}, got {boxes.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # what no double can say is refused below
        checked = boxes.astype(np.float64)
    if not np.isfinite(checked).all():
        raise CaseError(f"{name}: 'boxes' should be finite, found NaN or infinity")
    low, high = checked[:, : corners // 2], checked[:, corners // 2 :]
    sizes = np.array(shape[::-1], np.float64)  # (W, H[, D]), the order of a box
    for wrong, problem in (
        ((low > high).any(axis=1), "has a minimum above its maximum"),
        (((high < 0) | (low >= sizes)).any(axis=1), f"lies outside the image of {shape}"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise CaseError(f"{name}: 'boxes' row {row} {problem}: {boxes[row].tolist()}")
    # The organisers clip moved boxes to 0..W, so a maximum of W is theirs; along z a slice must be.
    last = sizes.copy()
    if is_volume:
        checked[:, 2::3] = np.trunc(checked[:, 2::3])
        last[2] -= 1
    inside = np.concatenate([low.clip(0, last), high.clip(0, last)], axis=1, dtype=np.float64)
    moved = np.flatnonzero((inside != checked).any(axis=1))
    if moved.size:
        log.warning("%s: %d boxes reached outside the image and were cut to it", name, moved.size)
    return inside


def make_case(
    image: npt.ArrayLike,
    boxes: npt.ArrayLike,
    *,
    is_volume: bool | None = None,
    modality: str | Modality = "",
    window: Window = DEFAULT_WINDOW,
    raw: bool = False,
    name: str = "array",
) -> Case:
    """A checked case of arrays.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a volume is (D, H, W). Any real dtype.
        boxes: (N, 4) x_min, y_min, x_max, y_max, or (N, 6) x_min, y_min, z_min, x_max, y_max,
            z_max; inclusive, in pixels.
        is_volume: None takes it from the width of `boxes`.
        modality: as in the challenge's file names; raw values are displayed by its rule.
        window: for CT in Hounsfield units.
        raw: values are a scanner's, also where they lie in 0..255 by chance.
        name: for messages.

    Raises:
        CaseError: something does not fit; the message names the key.
    """
    pixels, raw_boxes = np.asarray(image), np.asarray(boxes)
    if is_volume is None:
        is_volume = raw_boxes.ndim == 2 and raw_boxes.shape[1] == 6
    for key, array in (("imgs", pixels), ("boxes", raw_boxes)):
        if array.dtype.kind not in "biuf":
            raise CaseError(f"{name}: '{key}' should hold real numbers, got dtype {array.dtype}")
    _check_shape(pixels.shape, name, is_volume=is_volume)
    if pixels.dtype.kind == "f":
        _check_ends(*extent(functools.partial(pieces, pixels)), name)
    if not is_volume and pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]  # no alpha
        pixels = np.ascontiguousarray(pixels)
    shape = pixels.shape if is_volume else pixels.shape[:2]
    checked = _check_boxes(raw_boxes, name, shape, is_volume=is_volume)
    if isinstance(modality, Modality):
        kind = modality
    elif (kind := find_modality(modality)) is UNKNOWN:
        log.warning("%s: unknown modality '%s', the general rule is used", name, modality)
    display = to_display(pixels, kind, window, raw=raw, name=name)
    return Case(name, display, checked, is_volume)


def _require_content(path: Path) -> None:
    """Look before opening: a fifo would be waited for, /dev/zero read without end.

    Raises:
        OSError: there is nothing, or no regular file, or an empty one.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a fifo, socket or device"
        raise OSError(f"expected a file, found {kind}")
    if status.st_size == 0:  # also what /proc says of files that are waited for
        raise OSError("expected a zip archive, found an empty file")


def read_case(
    path: Path, window: Window = DEFAULT_WINDOW, *, memory_limit: int | None = None
) -> Case:
    """The case of an npz file in the challenge's format (docs/data.md).

    Raises:
        CaseError: the file is broken, not what its name says, or its segmentation would take more
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
                _check_shape(stored_image.shape, name, is_volume=is_volume)
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


def label_dtype(count: int) -> npt.DTypeLike:
    """Smallest unsigned type for labels 0..count: uint8, uint16 from 256, uint32 from 65,536."""
    return np.min_scalar_type(count)


def write_labels(path: Path, labels: npt.NDArray[np.unsignedinteger]) -> None:
    """Write `labels`, (H, W) or (D, H, W), under the key 'segs': the whole file or none.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.
    """
    with whole_file(path) as stream:
        np.savez_compressed(stream, segs=labels)
