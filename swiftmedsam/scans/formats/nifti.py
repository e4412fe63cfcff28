"""Reads NIfTI (.nii, .nii.gz) with nibabel, and writes labels with the header of their scan.

Pairs of .hdr and .img are not read: the older kinds do not define which side is left.
"""

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from swiftmedsam.messages import printable
from swiftmedsam.npz import MAX_MEMBER_BYTES
from swiftmedsam.scans.formats.nifti_header import Header, read_header
from swiftmedsam.scans.scan import (
    MemoryLimit,
    Scan,
    ScanError,
    Voxels,
    choose_volume,
    extra,
    made_scan,
    require_memory,
)

log = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
ALIGNED = 2  # NIfTI's code: aligned to another file, here the scan
NIFTI1_LONGEST = 32767  # voxels along an axis
GZIP = b"\x1f\x8b"
PIECE_BYTES = 1 << 20  # unpacked at a time, after the voxels


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Header]]:
    """Open a file: a stream of its unpacked content, and its header.

    Raises:
        ScanError: the file is no NIfTI, is damaged, or nibabel is not installed.
    """
    name = printable(path.name)
    is_packed = path.suffix.lower() == ".gz"
    with path.open("rb") as stored:
        start = stored.read(2)
        stored.seek(0)
        if start and (start == GZIP) != is_packed:
            found, end = ("gzip", ".nii.gz") if start == GZIP else ("no gzip", ".nii")
            raise ScanError(
                f"{name}: not a readable NIfTI file (its content is {found}, expected a name "
                f"that ends in {end})"
            )
        stream: BinaryIO = gzip.GzipFile(fileobj=stored) if is_packed else stored  # type: ignore[assignment]
        try:
            yield stream, read_header(stream, name)
        except EOFError as error:
            raise ScanError(f"{name}: not a readable NIfTI file (it ends too early)") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise ScanError(
                f"{name}: not a readable NIfTI file (its compressed data are damaged)"
            ) from error


def _require_memory(header: Header, name: str, limit: MemoryLimit | None) -> None:
    """Raise ScanError if a volume of a file would need more than `limit`."""
    stored = header.fields.get_data_dtype()
    shape = header.shape[:3]
    values = math.prod(shape)
    dtype: np.dtype[np.generic] = stored
    if stored.names:  # RGB or RGBA
        shape, dtype = (*shape, 3), np.dtype(np.uint8)
    elif header.slope is not None or stored == np.float64:
        dtype = np.dtype(np.float32)
    # the content and the array of it; or two arrays in float64 while values are scaled
    reading = values * max(2 * stored.itemsize, 16 if header.slope is not None else 0)
    require_memory(name, shape, dtype, reading, limit)


def read(path: Path, volume: int | None, memory_limit: MemoryLimit | None = None) -> Scan:
    """Read the scan of a NIfTI file; `volume` counts from 0.

    Raises:
        OSError: the file cannot be read.
        ScanError: the file is broken, has several volumes and none is chosen, or would need more
            than `memory_limit`.
    """
    name = printable(path.name)
    with _opened(path) as (stream, header):
        shape = header.shape
        chosen = choose_volume(math.prod(shape[3:]), volume, name)
        declared = header.fields.get_data_dtype().itemsize * math.prod(shape[:3])
        if declared > MAX_MEMBER_BYTES:
            raise ScanError(f"{name}: declares {declared} bytes, the limit is {MAX_MEMBER_BYTES}")
        _require_memory(header, name, memory_limit)
        for doubt in header.doubts:
            log.warning("%s: %s", name, doubt)
        voxels = _voxels(stream, header, chosen, name)
    return made_scan(path, voxels, header.affine, slice_axis=header.slice_axis)


def _voxels(stream: BinaryIO, header: Header, chosen: int, name: str) -> Voxels:
    """Voxels (I, J, K[, 3]) of volume `chosen`; its number runs fastest along the last axis.

    The rest of the file is unpacked, too: a truncated file is only noticed at its end.

    Raises:
        EOFError, zlib.error: the file is damaged.
        ScanError: the file ends too early.
    """
    stored = header.fields.get_data_dtype()
    grid, others = header.shape[:3], header.shape[3:]
    length = stored.itemsize * math.prod(grid)
    index = np.unravel_index(chosen, others) if others else ()
    number = int(np.ravel_multi_index(index, others, order="F")) if others else 0
    stream.seek(header.offset + number * length)
    content = bytearray(length)
    view = memoryview(content)
    found = 0
    while found < length and (count := stream.readinto(view[found:])):  # type: ignore[attr-defined]
        found += count
    if found < length:
        raise ScanError(
            f"{name}: not a readable NIfTI file (expected {length} bytes of voxels from byte "
            f"{header.offset + number * length}, found {found})"
        )
    rest = 0
    while piece := stream.read(PIECE_BYTES):
        rest += len(piece)
    beyond = rest - (math.prod(others) - number - 1) * length
    if beyond < 0:
        raise ScanError(
            f"{name}: not a readable NIfTI file (its volumes lack {-beyond} bytes at the end)"
        )
    if beyond > 0:
        log.warning("%s: %d bytes after its voxels, by dim and vox_offset, are not used",
                    name, beyond)  # fmt: skip
    voxels = np.frombuffer(content, stored).reshape(grid, order="F")
    if voxels.dtype.names:  # RGB or RGBA: records of bytes, which are not scaled
        return np.asarray(structured_to_unstructured(voxels)[..., :3])
    with np.errstate(over="ignore"):  # an overflow becomes infinity, which is refused later
        if header.slope is None:
            is_double = voxels.dtype.kind == "f" and voxels.dtype.itemsize > 4
            return voxels.astype(np.float32) if is_double else voxels
        values = voxels.astype(np.float64)
        values *= header.slope
        values += header.inter
        return values.astype(np.float32)


def encoded(labels: Voxels, scan: Scan, path: Path) -> bytes:
    """The content of `path`, a NIfTI file of labels (I, J, K) on the grid of `scan`.

    If the scan is NIfTI, too, the labels have its sform and qform, bit by bit, with their codes.
    """
    nibabel = extra("nibabel", printable(path.name))
    if scan.path.name.lower().endswith(SUFFIXES):
        with _opened(scan.path) as (_, source):
            header = source.fields
        header["cal_min"] = header["cal_max"] = 0  # the display range of the scan's intensities
        header["descrip"] = header["aux_file"] = b""
        header["vox_offset"] = 0  # without extensions, which may hold the patient's name
        header.set_data_dtype(labels.dtype)
        image = source.image(labels, None, header)
    else:
        kind = nibabel.Nifti1Image if max(scan.grid) <= NIFTI1_LONGEST else nibabel.Nifti2Image
        image = kind(labels, scan.affine, dtype=labels.dtype)
        image.set_sform(scan.affine, ALIGNED)
        # a qform has only right angles: none is better than a wrong one
        image.set_qform(scan.affine, 0 if scan.is_sheared else ALIGNED)
        image.header.set_xyzt_units("mm")
    image.header.set_intent("label")
    content: bytes = image.to_bytes()
    # without a time stamp, so that equal labels give equal files
    return gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content
