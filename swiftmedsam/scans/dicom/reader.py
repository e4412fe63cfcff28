"""Reads DICOM: a folder of one or several series, or a file; classic, enhanced or multi-frame.

pydicom reads the files; gdcm decodes the pixels, or `jpeg` does. Values are in the unit of the
modality (`values`): rescaled, inverted if low values are shown bright, and for PET converted to SUV
if the file allows it (`suv`).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swiftmedsam.messages import printable
from swiftmedsam.npz import MAX_MEMBER_BYTES
from swiftmedsam.scans.dicom.files import (
    NO_SCAN,
    SUFFIXES,
    choose_series,
    headers_under,
    is_dicom,
    require_whole,
    without_copies,
)
from swiftmedsam.scans.dicom.slices import Slice, slices_of
from swiftmedsam.scans.dicom.stack import stack
from swiftmedsam.scans.dicom.suv import uptake
from swiftmedsam.scans.dicom.tags import MOST_SHOWN, frames_of, readable, text_of
from swiftmedsam.scans.dicom.values import (
    check_pixels,
    in_hounsfield,
    is_inverted,
    is_rescaled,
    read_values,
)
from swiftmedsam.scans.dicom.volumes import choose, choose_frames
from swiftmedsam.scans.scan import (
    PICTURE_AFFINE,
    Float64Array,
    MemoryLimit,
    Scan,
    ScanError,
    choose_volume,
    extra,
    grey,
    made_scan,
    require_memory,
    require_peak,
)

__all__ = ["SUFFIXES", "is_dicom", "read", "readable"]

log = logging.getLogger(__name__)

SLICE_BYTES = 632  # of a `Slice` with all its fields


def _stored(header: Any) -> int:
    """Bytes of a sample."""
    return int(header.get("BitsAllocated") or 8) // 8 or 1


def _decoded(header: Any) -> int:
    """Bytes of all decoded frames of a file; they are decoded at once."""
    samples = int(header.get("SamplesPerPixel") or 1) * _stored(header)
    return int(header.Rows) * int(header.Columns) * frames_of(header) * samples


def _require_memory_of_frames(headers: Sequence[Any], name: str, limit: MemoryLimit | None) -> None:
    """Raise ScanError if the `Slice` objects of all declared frames would need more than `limit`.

    Their pixels are checked later, by `_require_memory`, once the volume is chosen.
    """
    if limit is None:
        return
    frames = sum(map(frames_of, headers))
    peak = limit.estimate((1, 1, 1), np.dtype(np.float32), frames * SLICE_BYTES)
    require_peak(name, f"{frames} frames", peak, limit)


def _require_memory(
    headers: Sequence[Any], chosen: Sequence[Slice], name: str, limit: MemoryLimit | None
) -> None:
    """Raise ScanError if the `chosen` slices, from files with `headers`, need more than `limit`."""
    header = headers[0]
    rows, columns = chosen[0].size
    shape: tuple[int, ...] = (columns, rows, len(chosen))
    values, dtype = math.prod(shape), np.dtype(np.float32)
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette or header.get("SamplesPerPixel", 1) == 3:
        values, dtype = 3 * values, np.dtype(f"u{2 if _stored(header) > 1 else 1}")
        shape = shape if len(chosen) > 1 else (*shape, 3)
    reading = 2 * values * dtype.itemsize  # the slices, and the volume that they are copied to
    if dtype == np.float32:
        reading += 8 * rows * columns  # one slice in float64, while it is rescaled
    else:
        reading += 4 * values  # the conversion to grey
    # the decoded frames of one file
    reading += 2 * max(map(_decoded, headers)) + SLICE_BYTES * sum(map(frames_of, headers))
    require_memory(name, shape, dtype, reading, limit)


def read(
    path: Path,
    volume: int | None,
    memory_limit: MemoryLimit | None = None,
    series: str | None = None,
) -> Scan:
    """Read the scan of a DICOM file, or of a folder of DICOM files.

    Args:
        path: the file or folder.
        volume: which volume, counted from 0, if there are several.
        memory_limit: None is no limit.
        series: number or UID of the series, if a folder has several.

    Raises:
        OSError: a file cannot be opened.
        ScanError: nothing can be read, the images are not one series on one regular grid, or they
            need more than `memory_limit`.
    """
    name = printable(path.name)
    pydicom = extra("pydicom", name)
    if path.is_dir():
        found = headers_under(path, pydicom)
        with readable(name, pydicom):
            headers = choose_series(found, series, name, path)
        headers = without_copies(headers, name, pydicom)
    else:
        with readable(name, pydicom):
            headers = [(path, pydicom.dcmread(path, stop_before_pixels=True))]
        found = {("", ""): headers}
    with readable(name, pydicom):
        for file, header in headers:
            with readable(printable(file.name), pydicom):
                _check_kind(header, name)
        require_whole(headers, name)
        _require_memory_of_frames([header for _, header in headers], name, memory_limit)
        slices: list[Slice] = []
        for file, header in headers:
            with readable(printable(file.name), pydicom):
                slices += slices_of(file, header, pydicom)
        chosen, affine, has_mm = _placed(slices, volume, name)
        files = {one.path for one in chosen}
        # headers of the volume first, then the others of the series
        every = [header for _, header in sorted(headers, key=lambda one: one[0] not in files)]
        own = every[: len(files)]
        _require_memory(own, chosen, name, memory_limit)
        voxels = read_values(_by_file(chosen), name, pydicom)
        factor, unit = (1.0, "") if voxels.ndim == 4 else _factor_and_unit(every, name)
        modality = _modality(every[0], name)
        if path.is_dir():
            _warn_of_fewer(headers, len(chosen), name)
    if voxels.ndim == 4 and len(voxels) > 1:
        voxels = grey(voxels)
    if factor != 1:
        np.multiply(voxels, factor, out=voxels)
    order = (2, 1, 0, 3)[: voxels.ndim]
    return made_scan(
        path, voxels.transpose(order), affine, modality=modality,
        slice_axis=2, has_mm=has_mm, sources=tuple((one.path, one.frame) for one in chosen),
        unit=unit, files=tuple(file for same in found.values() for file, _ in same),
    )  # fmt: skip


def _check_kind(header: Any, name: str) -> None:
    if header.get("Modality") in NO_SCAN or "Rows" not in header:
        kind = getattr(header.get("SOPClassUID"), "name", "an object of no kind")
        without = "" if "Rows" in header else " without pixels"
        shown = printable(kind)[:MOST_SHOWN]
        raise ScanError(f"{name}: expected an image, found {shown}{without}")
    check_pixels(header)
    declared = _decoded(header)
    if not 0 < declared <= MAX_MEMBER_BYTES:
        raise ScanError(f"{name}: declares {declared} bytes, the limit is {MAX_MEMBER_BYTES}")


def _placed(
    slices: Sequence[Slice], volume: int | None, name: str
) -> tuple[list[Slice], Float64Array, bool]:
    """Slices of the chosen volume in order, their affine (4, 4), and whether it is in mm."""
    first = slices[0]
    if len(slices) == 1 and (first.position is None or first.spacing_mm is None):
        choose_volume(1, volume, name)
        return list(slices), _without_place(first), False
    if any(one.position is not None for one in slices):
        return *stack(choose(slices, volume, name), name), True
    if len({one.path for one in slices}) > 1:
        raise ScanError(f"{name}: {len(slices)} slices should have a position each, found none")
    chosen = choose_frames(slices, volume, name)
    if len(chosen) > 1:
        log.warning("%s: %d slices have numbers and no position", name, len(chosen))
    return chosen, _without_place(first), False


def _without_place(one: Slice) -> Float64Array:
    rows_mm, columns_mm = one.spacing_mm or (1.0, 1.0)
    return np.asarray(PICTURE_AFFINE @ np.diag([columns_mm, rows_mm, 1, 1]), np.float64)


def _by_file(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Group consecutive slices that are frames of one file, so that a file is decoded once."""
    run: list[Slice] = []
    for one in slices:
        if run and run[-1].path != one.path:
            yield run
            run = []
        run.append(one)
    yield run


def _warn_of_fewer(headers: Sequence[tuple[Path, Any]], count: int, name: str) -> None:
    """Warn if files declare more slices than exist: a stack without its ends looks complete.

    NumberOfSlices (PS3.3 C.8.9.1) counts those of a volume, ImagesInAcquisition (PS3.3 C.7.6.1) all
    images.
    """
    images = sum(frames_of(header) for _, header in headers)
    for tag, found in (("NumberOfSlices", count), ("ImagesInAcquisition", images)):
        declared = text_of(headers[0][1], tag)
        if declared.isdecimal() and int(declared) > found:
            log.warning(
                "%s: %d slices, %s says %d: some may be missing at the ends",
                name, found, tag, int(declared),
            )  # fmt: skip


def _factor_and_unit(headers: Sequence[Any], name: str) -> tuple[float, str]:
    """The factor for rescaled values, and the unit that they have then; "" if it is unknown."""
    header = headers[0]
    if is_inverted(header, {}):  # inverted values have no unit
        if text_of(header, "Modality") == "PT":
            log.warning("%s: PET whose low values are shown bright: inverted, without a unit", name)
        return 1.0, ""
    if text_of(header, "Modality") == "PT":
        return uptake(headers, name)
    if text_of(header, "Modality") == "CT" and in_hounsfield(header)[0]:
        return 1.0, "HU"
    return 1.0, ""


def _modality(header: Any, name: str) -> str:
    """DICOM's code of the modality; "" for a CT whose values may not be in Hounsfield units."""
    modality = text_of(header, "Modality")
    if modality == "CT" and not is_rescaled(header):
        log.warning(
            "%s: CT without RescaleSlope, so its unit is unknown; it is shown as a CT only if it "
            "has air at -1000 (else --modality CT)",
            name,
        )
        return ""
    if modality == "CT" and not in_hounsfield(header)[1]:
        log.warning("%s: CT, but by its RescaleType not in Hounsfield units", name)
        return ""
    if modality == "CT" and is_inverted(header, {}):
        log.warning(
            "%s: CT whose low values are shown bright: inverted, not in Hounsfield units", name
        )
        return ""
    return modality
