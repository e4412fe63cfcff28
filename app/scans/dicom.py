"""DICOM: a folder of one series or several, or a file; classic, enhanced, and frames in time.

pydicom reads, gdcm decodes, or `dicom_jpeg`. Values are those of the modality: rescaled, PET to SUV
where the file allows it, MONOCHROME1 turned so that more is brighter.
"""

import logging
import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.case import MAX_MEMBER_BYTES, one_line, printable
from app.scans import dicom_jpeg
from app.scans.dicom_stack import Slice, stack
from app.scans.scan import (
    PICTURE_AFFINE,
    FloatArray,
    MemoryLimit,
    Scan,
    ScanError,
    Voxels,
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
# What pydicom and the decoders raise for files that are damaged or of a kind they do not know.
DAMAGED = (
    OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError,
    NotImplementedError, RuntimeError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
# Modalities of what only describes images.
NO_SCAN = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO")


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do, whatever it is called."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC


@contextmanager
def readable(
    name: str, pydicom: Any, fault: str = "not a readable DICOM file"
) -> Iterator[None]:
    """Inside, what pydicom raises of a file becomes one line; what else it says is kept back.

    It logs a traceback for every decoder that it tries, and highdicom every module that it copies.
    """
    loggers = [logging.getLogger(library) for library in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ScanError:
        raise
    except pydicom.errors.InvalidDicomError as error:
        raise ScanError(f"{name}: expected DICOM, found a file without its prefix") from error
    except DAMAGED as error:
        raise ScanError(f"{name}: {fault} ({one_line(error)})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _frames(header: Any) -> int:
    return int(header.get("NumberOfFrames") or 1)


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
    if path.is_dir():
        found = _headers(path, pydicom)
        headers = _choose_series(found, series, name)
    else:
        with readable(name, pydicom):
            headers = [(path, pydicom.dcmread(path, stop_before_pixels=True))]
        found = {"": headers}
    first = headers[0][1]
    with readable(name, pydicom):
        for _, header in headers:
            _check_kind(header, name)
        every = [header for _, header in headers]
        _require_memory_of_frames(every, name, memory_limit)
        slices = [one for file, header in headers for one in _slices(file, header)]
        if any(one.position is not None for one in slices):
            chosen, affine = stack(slices, volume, name)
            has_mm = True
        else:
            chosen, affine, has_mm = _pages(slices, volume, name)
        _require_memory(every, chosen, name, memory_limit)
        pixels = [_values(part, pydicom) for part in _by_file(chosen)]
        factor, unit = (1.0, "") if pixels[0].ndim == 4 else _factor_and_unit(every, name)
    voxels = np.concatenate(pixels)  # (K, rows, columns[, 3])
    if voxels.ndim == 4 and len(voxels) > 1:
        voxels = grey(voxels)
    if factor != 1:
        np.multiply(voxels, factor, out=voxels)
    order = (2, 1, 0, 3)[: voxels.ndim]
    modality = str(first.get("Modality", ""))
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
        raise ScanError(f"{name}: expected an image, found {kind}{without}")
    declared = _decoded(header)
    if not 0 < declared <= MAX_MEMBER_BYTES:
        raise ScanError(f"{name}: declares {declared} bytes, the limit is {MAX_MEMBER_BYTES}")


def _group(header: Any, frame: int, sequence: str) -> Any:
    """A functional group of a frame in an enhanced file, its own before the shared one."""
    for holder in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = header.get(holder) or []
        if groups:
            items = groups[frame if holder.startswith("Per") else 0].get(sequence)
            if items:
                return items[0]
    return header  # where classic files have it


def _numbers(holder: Any, key: str, count: int) -> FloatArray | None:
    value = holder.get(key)
    if value is None or value == "" or len(value) != count:
        return None
    return np.array(value, np.float64)


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
    if header.get("Modality") == "PT":
        return uptake(headers, name)
    rescale = _group(header, 0, "PixelValueTransformationSequence")
    in_hu = header.get("Modality") == "CT" and "RescaleSlope" in rescale
    return 1.0, "HU" if in_hu and (rescale.get("RescaleType") or "HU") == "HU" else ""


def _values(slices: Sequence[Slice], pydicom: Any) -> Voxels:
    """Values (K, rows, columns[, 3]) of frames of one file."""
    dataset = pydicom.dcmread(slices[0].path)
    photometric = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    stored: Voxels
    if dicom_jpeg.is_of_12_bits(dataset):
        name = printable(slices[0].path.name)
        stored = dicom_jpeg.samples_of(dataset, _frames(dataset), name, pydicom)
    else:
        stored = pydicom.pixels.pixel_array(dataset)
    in_colour = dataset.get("SamplesPerPixel", 1) == 3
    planes = stored.reshape(-1, *stored.shape[-3 if in_colour else -2 :])
    picked = planes[[one.frame for one in slices]]
    if photometric == "PALETTE COLOR":
        return np.asarray(pydicom.pixels.apply_color_lut(picked, dataset))
    if in_colour:
        return np.asarray(picked)
    if photometric == "MONOCHROME1":
        top = 2 ** int(dataset.BitsStored) - 1
        picked = (-1 if dataset.get("PixelRepresentation", 0) else top) - picked.astype(np.int32)
    out = np.empty(picked.shape, np.float32)
    for target, plane, one in zip(out, picked, slices, strict=True):
        rescale = _group(dataset, one.frame, "PixelValueTransformationSequence")
        target[...] = pydicom.pixels.apply_modality_lut(plane, rescale)
    return out
