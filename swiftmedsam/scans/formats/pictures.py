"""Reads and writes PNG, JPEG, BMP and TIFF; a TIFF of several pages is one or more volumes.

Alpha is dropped and 16 bits are kept. EXIF's orientation is applied, as viewers do, so the labels
need no EXIF of their own.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.messages import printable
from swiftmedsam.scans.formats import picture_kinds
from swiftmedsam.scans.formats.picture_headers import read_pages
from swiftmedsam.scans.formats.tiff import MAGIC
from swiftmedsam.scans.formats.tiff_pixels import decode, read_stack
from swiftmedsam.scans.scan import (
    PICTURE_AFFINE,
    MemoryLimit,
    Scan,
    ScanError,
    Voxels,
    choose_volume,
    grey,
    made_scan,
    require_memory,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
TIFF = (".tif", ".tiff")
MOST_PIXELS = 1 << 30  # OpenCV's limit

Bytes = npt.NDArray[np.uint8]


def _require_memory(path: Path, limit: MemoryLimit | None) -> None:
    """Raise ScanError if the decoded pages of a file would need more than `limit`.

    Also if its size is unknown: OpenCV recognises a file by its content, and would decode kinds
    whose headers are not read here, under any name.
    """
    pages = read_pages(path)
    if not pages:
        raise ScanError(
            f"{printable(path.name)}: not a readable picture, expected the header of a PNG, JPEG, "
            f"BMP or TIFF with its size, found none in {path.stat().st_size} bytes"
        )
    width, height = max((page.width, page.height) for page in pages)
    if width * height > MOST_PIXELS:
        raise ScanError(
            f"{printable(path.name)}: expected {MOST_PIXELS} pixels at most, found {width}x{height}"
        )
    channels, itemsize = max((page.channels, page.itemsize) for page in pages)
    if len(pages) > 1:
        shape: tuple[int, ...] = (width, height, len(pages))
    else:
        shape = (width, height, 1, 3) if channels == 3 else (width, height, 1)
    decoded = sum(one.width * one.height * one.channels * one.itemsize for one in pages)
    if 0 not in shape:
        reading = 2 * decoded + path.stat().st_size  # OpenCV's pixels, a copy, and the file
        require_memory(printable(path.name), shape, f"u{itemsize}", reading, limit)


def read(path: Path, volume: int | None, memory_limit: MemoryLimit | None = None) -> Scan:
    """Read the scan of a picture: (W, H, 1) or (W, H, 1, 3), or (W, H, pages) of a TIFF.

    Raises:
        OSError: the file cannot be read.
        ScanError: the file is broken or not supported, its pages differ in size, it has several
            volumes and none is chosen, or it would need more than `memory_limit`.
    """
    return _scan(path, volume, memory_limit, as_labels=False)


def read_labels(path: Path, memory_limit: MemoryLimit | None = None) -> Scan:
    """Read a picture as label map (W, H, 1), or (W, H, pages) of a TIFF.

    With a palette, its indices are the labels, not its colours. Three equal channels become one.

    Raises:
        OSError: the file cannot be read.
        ScanError: `read` would raise it; or the picture is in colour, or a JPEG.
    """
    return _scan(path, None, memory_limit, as_labels=True)


def _scan(
    path: Path, volume: int | None, memory_limit: MemoryLimit | None, *, as_labels: bool
) -> Scan:
    name = printable(path.name)
    _require_memory(path, memory_limit)
    with path.open("rb") as stream:
        is_tiff = stream.read(4) in MAGIC  # by content, not by name
    if is_tiff:
        stack, directories = read_stack(path, name)
        chosen = choose_volume(len(stack.volumes), volume, name)
        wanted = [stack.pages[number] for number in stack.volumes[chosen]]
        content = np.fromfile(path, np.uint8)
        pages = decode(content, wanted, directories, name, as_labels=as_labels)
        pages = [_calibrated(page, stack.line) for page in pages]
    else:
        choose_volume(1, volume, name)
        content = np.fromfile(path, np.uint8)
        pages = [picture_kinds.decode_labels(content, name) if as_labels else
                 picture_kinds.decode(content, name)]  # fmt: skip
    sizes = {page.shape[:2] for page in pages}
    if len(sizes) > 1:
        raise ScanError(f"{name}: pages should be of one size, found {sorted(sizes)}")
    if as_labels:
        pages = [_one_channel(page, name) for page in pages]
    voxels: Voxels
    if len(pages) == 1:
        voxels = pages[0].swapaxes(0, 1)[:, :, np.newaxis]
    else:
        voxels = np.stack([grey(page) if page.ndim == 3 else page for page in pages]).T
    return made_scan(path, voxels, PICTURE_AFFINE, slice_axis=2, has_mm=False)


def _calibrated(page: Voxels, line: tuple[float, float]) -> Voxels:
    """Values of a page: zero + slope * sample. ImageJ stores signed 16-bit numbers this way."""
    if line == (0, 1):
        return page
    zero, slope = line
    return np.asarray(page.astype(np.float64) * slope + zero, np.float32)


def _one_channel(page: Voxels, name: str) -> Voxels:
    """Labels (H, W) of a page whose channels are equal.

    Raises:
        ScanError: the channels differ.
    """
    if page.ndim == 2:
        return page
    if (page != page[:, :, :1]).any():
        raise ScanError(
            f"{name}: is in colour, expected a label map of one channel (grey values, or indices "
            "of a palette)"
        )
    return page[:, :, 0]


def encoded(labels: Voxels, path: Path) -> bytes:
    """The content of `path`, a picture of labels (I, J, K); its pixels are the label values.

    Raises:
        ScanError: the labels are a volume, and `path` is not a TIFF.
    """
    pages = [np.ascontiguousarray(page.T) for page in np.moveaxis(labels, 2, 0)]
    suffix = path.suffix.lower()
    if len(pages) > 1:
        if suffix not in TIFF:
            raise too_many_slices(len(pages), path)
        _, content = cv2.imencodemulti(suffix, pages)
    else:
        _, content = cv2.imencode(suffix, pages[0])
    return content.tobytes()


def too_many_slices(count: int, path: Path) -> ScanError:
    """The error for a volume of `count` slices that should become one picture at `path`."""
    return ScanError(
        f"{printable(path.name)}: {count} slices do not fit into one picture, "
        "expected an output ending in .nii.gz, .seg.nrrd, .mha or .tif"
    )


def png(page: Bytes) -> bytes:
    """The content of a PNG of `page` (H, W, 3) in RGB."""
    _, content = cv2.imencode(".png", np.ascontiguousarray(page[:, :, ::-1]))
    return content.tobytes()
