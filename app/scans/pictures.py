"""PNG, JPEG, BMP and TIFF with OpenCV; a TIFF of several pages is a volume.

Alpha is dropped, 16 bits are kept, and a picture is turned as its EXIF says: its labels lie on it
as every viewer shows it, and have no EXIF of their own.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from app.case import printable
from app.scans.picture_headers import read_pages
from app.scans.scan import (
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
AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # turned by EXIF, without alpha

Bytes = npt.NDArray[np.uint8]


def _require_memory(path: Path, limit: MemoryLimit | None) -> None:
    """Raise ScanError if the pages of a file would take more than `limit`, decoded.

    Or if its header does not say: OpenCV goes by the content, and decodes kinds of files whose
    headers are not known here, whatever they are called.
    """
    pages = read_pages(path)
    if not pages:
        raise ScanError(
            f"{printable(path.name)}: not a readable picture, expected the header of a PNG, JPEG, "
            f"BMP or TIFF with its size, found none in {path.stat().st_size} bytes"
        )
    width, height = max((page.width, page.height) for page in pages)
    channels, itemsize = max((page.channels, page.itemsize) for page in pages)
    if len(pages) > 1:
        shape: tuple[int, ...] = (width, height, len(pages))
    else:
        shape = (width, height, 1, 3) if channels == 3 else (width, height, 1)
    decoded = sum(one.width * one.height * one.channels * one.itemsize for one in pages)
    if 0 not in shape:
        reading = 2 * decoded + path.stat().st_size  # OpenCV's, and an array of it
        require_memory(printable(path.name), shape, f"u{itemsize}", reading, limit)


def read(path: Path, volume: int | None, memory_limit: MemoryLimit | None = None) -> Scan:
    """The scan of a picture: (W, H, 1) or (W, H, 1, 3), or (W, H, pages) of a TIFF.

    Raises:
        OSError: the file cannot be read.
        ScanError: it is broken, its pages differ in size, or it would take more than
            `memory_limit`.
    """
    name = printable(path.name)
    choose_volume(1, volume, name)
    try:
        _require_memory(path, memory_limit)
        content = np.fromfile(path, np.uint8)
        if path.suffix.lower() in TIFF:
            _, found = cv2.imdecodemulti(content, AS_STORED)
            pages = list(found)
        else:
            page = cv2.imdecode(content, AS_STORED)
            pages = [] if page is None else [page]
    except cv2.error as error:
        raise ScanError(f"{name}: not a readable picture ({error.err})") from error
    if not pages:
        raise ScanError(f"{name}: not a readable picture, {content.size} bytes")
    sizes = {page.shape[:2] for page in pages}
    if len(sizes) > 1:
        raise ScanError(f"{name}: pages should be of one size, found {sorted(sizes)}")
    rgb = [page[:, :, ::-1] if page.ndim == 3 else page for page in pages]
    voxels: Voxels
    if len(rgb) == 1:
        voxels = rgb[0].swapaxes(0, 1)[:, :, np.newaxis]
    else:
        voxels = np.stack([grey(page) if page.ndim == 3 else page for page in rgb]).T
    return made_scan(path, voxels, PICTURE_AFFINE, slice_axis=2, has_mm=False)


def encoded(labels: Voxels, path: Path) -> bytes:
    """The content of `path`, a picture of labels (I, J, K), whose pixels are the label values.

    Raises:
        ScanError: it is a volume, and not a TIFF.
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
    """What to raise where a volume of `count` slices should become one picture at `path`."""
    return ScanError(
        f"{printable(path.name)}: {count} slices do not fit into one picture, "
        "expected an output ending in .nii.gz, .seg.nrrd, .mha or .tif"
    )


def png(page: Bytes) -> bytes:
    """The content of a PNG of `page` (H, W, 3), red first."""
    _, content = cv2.imencode(".png", np.ascontiguousarray(page[:, :, ::-1]))
    return content.tobytes()
