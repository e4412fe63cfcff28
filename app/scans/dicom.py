"""DICOM: a folder of one series or several, or a file; classic, enhanced, and frames in time.

pydicom reads, gdcm decodes, or `dicom_jpeg`. Values are those of the modality (`dicom_values`):
rescaled, PET to SUV where the file allows it, turned so that more is brighter.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.case import MAX_MEMBER_BYTES, printable
from app.scans.dicom_stack import Slice, stack
from app.scans.dicom_tags import MOST_SHOWN, readable, text_of
from app.scans.dicom_tags import frames_of as _frames
from app.scans.dicom_tags import group_of as _group
from app.scans.dicom_tags import numbers_of as _numbers
from app.scans.dicom_values import check_alike, check_pixels, in_hounsfield, read_values
from app.scans.scan import (
    PICTURE_AFFINE,
    FloatArray,
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
from app.scans.suv import uptake

log = logging.getLogger(__name__)

SUFFIXES = (".dcm", ".ima")
MAGIC_AT, MAGIC = 128, b"DICM"
SLICE_BYTES = 632  # of a `Slice` and what it holds
# Modalities of DICOM by the names of app.intensity; the others are called the same, or unknown.
MODALITIES = {
    "ES": "Endoscopy", "SM": "Microscopy", "GM": "Microscopy", "OP": "Fundus", "OPT": "OCT",
    "DMS": "Dermoscopy", "XA": "X-Ray", "RF": "X-Ray", "PX": "X-Ray", "IO": "X-Ray",
}  # fmt: skip
# Modalities of what only describes images.
NO_SCAN = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO")


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do, whatever it is called."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC


def _stored(header: Any) -> int:
    """Bytes of a sample."""
    return int(header.get("BitsAllocated") or 8) // 8 or 1


def _decoded(header: Any) -> int:
    """Bytes of the frames of a file, which are decoded all at once."""
    samples = int(header.get("SamplesPerPixel") or 1) * _stored(header)
    return int(header.Rows) * int(header.Columns) * _frames(header) * samples


def _require_memory_of_frames(headers: Sequence[Any], name: str, limit: MemoryLimit | None) -> None:
    """Raise ScanError if slices of frames that are only declared would take more than `limit`.

    Which of them are wanted is not known yet: what their pixels take is asked afterwards.
    """
    if limit is None:
        return
    frames = sum(map(_frames, headers))
    peak = limit.estimate((1, 1, 1), np.dtype(np.float32), frames * SLICE_BYTES)
    require_peak(name, f"{frames} frames", peak, limit)


def _require_memory(
    headers: Sequence[Any], chosen: Sequence[Slice], name: str, limit: MemoryLimit | None
) -> None:
    """Raise ScanError if `chosen` slices, of files of these headers, take more than `limit`."""
    header = headers[0]
    rows, columns = chosen[0].size
    shape: tuple[int, ...] = (columns, rows, len(chosen))
    values, dtype = math.prod(shape), np.dtype(np.float32)
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette or header.get("SamplesPerPixel", 1) == 3:
        values, dtype = 3 * values, np.dtype(f"u{2 if _stored(header) > 1 else 1}")
        shape = shape if len(chosen) > 1 else (*shape, 3)
    reading = 2 * values * dtype.itemsize  # slices, beside the volume of them
    if dtype == np.float32:
        reading += 8 * rows * columns  # one of them in float64, while it is rescaled
    else:
        reading += 4 * values  # their grey
    # and what the decoder makes of one file
    reading += 2 * max(map(_decoded, headers)) + SLICE_BYTES * sum(map(_frames, headers))
    require_memory(name, shape, dtype, reading, limit)


def read(
    path: Path,
    volume: int | None,
    memory_limit: MemoryLimit | None = None,
    series: str | None = None,
) -> Scan:
    """The scan of a DICOM file, or of a folder of them; `series` chooses by number or UID.

    Raises:
        OSError: a file cannot be opened.
        ScanError: nothing there can be read, it is not one series of one regular grid, or would
            take more than `memory_limit`.
    """
    name = printable(path.name)
    pydicom = extra("pydicom", name)
    with readable(name, pydicom):
        if path.is_dir():
            found = _headers(path, pydicom)
            headers = _choose_series(found, series, name)
        else:
            headers = [(path, pydicom.dcmread(path, stop_before_pixels=True))]
            found = {"": headers}
        for file, header in headers:
            with readable(printable(file.name), pydicom):
                _check_kind(header, name)
        every = [header for _, header in headers]
        check_alike(every)
        _require_memory_of_frames(every, name, memory_limit)
        slices: list[Slice] = []
        for file, header in headers:
            with readable(printable(file.name), pydicom):
                slices += _slices(file, header)
        if any(one.position is not None for one in slices):
            chosen, affine = stack(slices, volume, name)
            has_mm = True
        else:
            chosen, affine, has_mm = _pages(slices, volume, name)
        _require_memory(every, chosen, name, memory_limit)
        voxels = read_values(_by_file(chosen), name, pydicom)
        factor, unit = (1.0, "") if voxels.ndim == 4 else _factor_and_unit(every, name)
        modality = _modality(every[0], name)
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


def _headers(folder: Path, pydicom: Any) -> dict[str, list[tuple[Path, Any]]]:
    """Headers of the images under a folder, by series; other files are left alone."""
    found: dict[str, list[tuple[Path, Any]]] = {}
    for path in sorted(folder.rglob("*")):
        if is_dicom(path):
            with readable(printable(path.name), pydicom):
                header = pydicom.dcmread(path, stop_before_pixels=True)
            if "Rows" in header and header.get("Modality") not in NO_SCAN:
                uid = str(header.get("SeriesInstanceUID", ""))
                found.setdefault(uid, []).append((path, header))
    return found


def _choose_series(
    found: dict[str, list[tuple[Path, Any]]], series: str | None, name: str
) -> list[tuple[Path, Any]]:
    if not found:
        raise ScanError(f"{name}: expected DICOM images, or boxes that name its files, found none")
    numbers = {uid: str(headers[0][1].get("SeriesNumber", "")) for uid, headers in found.items()}
    wanted = [uid for uid in found if series in (None, uid, numbers[uid])]
    if len(wanted) == 1:
        return found[wanted[0]]
    choices = "; ".join(
        f"{numbers[uid] or uid} ({one.get('Modality', '?')}, {len(headers)} files, "
        f"{printable(str(one.get('SeriesDescription', 'no description')))})"
        for uid, headers in found.items()
        for one in [headers[0][1]]
    )
    raise ScanError(f"{name}: --series should name one of {len(found)} series: {choices}")


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


def _slices(path: Path, header: Any) -> Iterator[Slice]:
    """The slices of one file.

    Where it has several frames without functional groups, as films have, they are at no position.
    """
    frames = _frames(header)
    in_space = frames == 1 or "PerFrameFunctionalGroupsSequence" in header
    for frame in range(frames):
        measures = _group(header, frame, "PixelMeasuresSequence")
        spacing = _numbers(measures, "PixelSpacing", 2)
        if spacing is None:
            spacing = _numbers(header, "ImagerPixelSpacing", 2)
        rows, columns = (1.0, 1.0) if spacing is None else spacing.tolist()
        content = _group(header, frame, "FrameContentSequence")
        yield Slice(
            path, frame, (int(header.Rows), int(header.Columns)), (rows, columns),
            tuple(int(header.get(key) or 0) for key in ("AcquisitionNumber", "EchoNumbers",
                  "TemporalPositionIdentifier", "InstanceNumber"))
            + (int(content.get("TemporalPositionIndex") or 0), frame),
            _numbers(_group(header, frame, "PlanePositionSequence"), "ImagePositionPatient", 3)
            if in_space else None,
            _numbers(_group(header, frame, "PlaneOrientationSequence"),
                     "ImageOrientationPatient", 6),
            float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1),
        )  # fmt: skip


def _pages(
    slices: Sequence[Slice], volume: int | None, name: str
) -> tuple[list[Slice], FloatArray, bool]:
    """Slices that say no place: one image, or the frames of one file in their order."""
    if len({one.path for one in slices}) > 1:
        raise ScanError(f"{name}: {len(slices)} slices should have a position each, found none")
    choose_volume(1, volume, name)
    if len(slices) > 1:
        log.warning("%s: %d frames have no position, and keep their order", name, len(slices))
    rows_mm, columns_mm = slices[0].spacing_mm
    return list(slices), PICTURE_AFFINE @ np.diag([columns_mm, rows_mm, 1, 1]), False


def _by_file(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Runs of slices that are frames of one file, so that a file is decoded once."""
    run: list[Slice] = []
    for one in slices:
        if run and run[-1].path != one.path:
            yield run
            run = []
        run.append(one)
    yield run


def _factor_and_unit(headers: Sequence[Any], name: str) -> tuple[float, str]:
    """What rescaled values are multiplied by, and their unit then; "" where the file says none."""
    header = headers[0]
    if text_of(header, "Modality") == "PT":
        return uptake(headers, name)
    if text_of(header, "Modality") == "CT" and in_hounsfield(header)[0]:
        return 1.0, "HU"
    return 1.0, ""


def _modality(header: Any, name: str) -> str:
    """The modality by its name in app.intensity; "" of a CT whose values are of another kind."""
    modality = text_of(header, "Modality")
    if modality == "CT" and not in_hounsfield(header)[1]:
        log.warning("%s: CT, but by its RescaleType in no Hounsfield units", name)
        return ""
    return MODALITIES.get(modality, modality)
