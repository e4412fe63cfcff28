"""NIfTI (.nii, .nii.gz): read with nibabel, and labels written with the header of their source.

Not read: pairs of .hdr and .img, whose older kinds do not say where left is.
"""

import gzip
import logging
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from app.case import MAX_MEMBER_BYTES, one_line, printable
from app.scans.scan import (
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
TO_MM = {"meter": 1000.0, "micron": 0.001}  # NIfTI's other units of length
ALIGNED = 2  # NIfTI's code: aligned to another file, here the source
FORMS_AGREE_MM = 0.01  # sform and qform that differ by less differ by rounding
NIFTI1_LONGEST = 32767  # voxels along an axis


def _open(path: Path) -> Any:
    """nibabel's image of a file; its voxels are not read yet.

    Raises:
        ScanError: the file is no NIfTI, or nibabel is not installed.
    """
    name = printable(path.name)
    nibabel = extra("nibabel", name)
    damaged = (
        OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    )  # fmt: skip
    try:
        image = nibabel.load(path)
    except damaged as error:
        raise ScanError(f"{name}: not a readable NIfTI file ({one_line(error)})") from error
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise ScanError(f"{name}: expected voxels on a grid, found {type(image).__name__}")
    return image


def _warn_of_forms(header: Any, name: str) -> None:
    """Say where the file's two affines, or none, leave doubt."""
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        log.warning("%s: neither sform nor qform is set, left and right are not certain", name)
    elif sform is not None and qform is not None:
        ends = [(0, size - 1) for size in header.get_data_shape()[:3]]
        corners = np.array(list(product(*ends, [1])), np.float64)  # (8, 4)
        apart = float(np.abs(corners @ (sform - qform).T).max())
        if apart > FORMS_AGREE_MM:
            log.warning("%s: sform and qform are %.3g mm apart, the sform counts", name, apart)


def _require_memory(
    image: Any, shape: tuple[int, ...], name: str, limit: MemoryLimit | None
) -> None:
    """Raise ScanError if the volume `shape` of a file would take more than `limit`."""
    stored = image.header.get_data_dtype()
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    values = math.prod(shape)
    dtype: np.dtype[np.generic] = stored
    if stored.names:  # RGB or RGBA
        shape, dtype = (*shape, 3), np.dtype(np.uint8)
    elif scaled or stored == np.float64:
        dtype = np.dtype(np.float32)
    # unpacked in two pieces; scaled in float64, the product beside the sum
    reading = values * max(2 * stored.itemsize, 16 if scaled else 0)
    require_memory(name, shape, dtype, reading, limit)


def read(path: Path, volume: int | None, memory_limit: MemoryLimit | None = None) -> Scan:
    """The scan of a NIfTI file.

    Raises:
        ScanError: the file is broken, has several volumes and none is chosen, or would take more
            than `memory_limit`.
    """
    name = printable(path.name)
    image = _open(path)
    header = image.header
    shape = image.shape + (1,) * (3 - len(image.shape))
    if 0 in shape:
        raise ScanError(f"{name}: expected voxels, found a grid of {shape}")
    count = int(np.prod(shape[3:], dtype=object))
    chosen = choose_volume(count, volume, name)
    declared = header.get_data_dtype().itemsize * int(np.prod(shape[:3], dtype=object))
    if declared > MAX_MEMBER_BYTES:
        raise ScanError(f"{name}: declares {declared} bytes, the limit is {MAX_MEMBER_BYTES}")
    _require_memory(image, shape[:3], name, memory_limit)
    _warn_of_forms(header, name)
    index = (..., *np.unravel_index(chosen, shape[3:])) if len(shape) > 3 else ...
    try:
        voxels = np.asanyarray(image.dataobj[index]).reshape(shape[:3])
    except (OSError, EOFError, ValueError) as error:
        raise ScanError(f"{name}: not a readable NIfTI file ({one_line(error)})") from error
    if voxels.dtype.names:  # RGB or RGBA, a record of bytes
        voxels = structured_to_unstructured(voxels)[..., :3]
    if voxels.dtype == np.float64:  # what nibabel makes of a slope
        with np.errstate(over="ignore"):  # becomes an infinity, and is refused as one
            voxels = voxels.astype(np.float32)
    affine = np.diag([TO_MM.get(header.get_xyzt_units()[0], 1.0)] * 3 + [1.0]) @ image.affine
    return made_scan(path, voxels, affine, slice_axis=header.get_dim_info()[2])


def encoded(labels: Voxels, scan: Scan, path: Path) -> bytes:
    """The content of `path`, a NIfTI file of labels (I, J, K) on the grid of `scan`.

    Where the scan is NIfTI itself both its affines are kept bit by bit, with their codes.
    """
    nibabel = extra("nibabel", printable(path.name))
    if scan.path.name.lower().endswith(SUFFIXES):
        source = _open(scan.path)
        header = source.header.copy()
        header.extensions.clear()  # may hold the patient's name
        header["cal_min"] = header["cal_max"] = 0  # the display range of the scan's intensities
        header["descrip"] = header["aux_file"] = b""
        header.set_data_dtype(labels.dtype)
        image = type(source)(labels, None, header)
    else:
        kind = nibabel.Nifti1Image if max(scan.grid) <= NIFTI1_LONGEST else nibabel.Nifti2Image
        image = kind(labels, scan.affine, dtype=labels.dtype)
        image.set_sform(scan.affine, ALIGNED)
        # it knows right angles only: better none than one that a reader may believe in
        image.set_qform(scan.affine, 0 if scan.is_sheared else ALIGNED)
        image.header.set_xyzt_units("mm")
    image.header.set_intent("label")
    content: bytes = image.to_bytes()
    # no time stamp: the same labels are the same file
    return gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content
