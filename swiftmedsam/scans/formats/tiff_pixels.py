"""Decodes the pixels of a TIFF: uncompressed ones with numpy, compressed ones with OpenCV.

White-is-zero, palettes, alpha and orientation are applied here, at every bit depth. OpenCV inverts
white-is-zero at 8 bits only, multiplies colours by alpha, and orients some tiled pages wrongly.
"""

import logging
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.formats import tiff
from swiftmedsam.scans.formats.opencv_decoder import Bytes, decoded
from swiftmedsam.scans.formats.tiff import Directory, Tag
from swiftmedsam.scans.formats.tiff_pages import Stack, stack_of
from swiftmedsam.scans.scan import ScanError, Voxels

log = logging.getLogger(__name__)

# By Orientation (TIFF 6.0): whether to transpose the picture; then the steps of rows and columns,
# -1 to reverse them.
TURNS = {1: (False, 1, 1), 2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
         5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1)}  # fmt: skip


def read_stack(path: Path, name: str) -> tuple[Stack, list[Directory]]:
    """The volumes and slices of a TIFF, and all its directories.

    Raises:
        OSError: the file cannot be read.
        ScanError: the file is damaged, or declares a property that is not supported.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        try:
            pages = list(tiff.directories(stream))
            stack = stack_of(pages, size, name) if pages else None
            reasons = [tiff.refusal(page, size) for page in stack.pages] if stack else []
        except (KeyError, OverflowError, struct.error, tiff.TooLong) as error:
            raise ScanError(
                f"{name}: not a readable picture, a directory of the TIFF is damaged, too long or "
                "lacks a tag"
            ) from error
    if stack is None:
        raise ScanError(f"{name}: not a readable picture, the TIFF has no page")
    for number, reason in enumerate(reasons):
        if reason is not None:
            where = f"page {number}: " if len(reasons) > 1 else ""
            raise ScanError(f"{name}: {where}{reason}")
    kinds = {(page.sample, page[Tag.SAMPLES]) for page in stack.pages}
    if len(kinds) > 1:
        raise ScanError(f"{name}: pages should be of one kind, found {sorted(kinds)}")
    if any(page[Tag.SAMPLES] > tiff.SAMPLES_OF[page[Tag.PHOTOMETRIC]] for page in stack.pages):
        log.warning("%s: alpha is not used, colours count as they are stored", name)
    return stack, pages


def decode(
    content: Bytes, wanted: Sequence[Directory], pages: Sequence[Directory], name: str,
    *, as_labels: bool,
) -> list[Voxels]:  # fmt: skip
    """Decode the `wanted` of all `pages` of a file: each (H, W), or (H, W, 3) in RGB.

    With `as_labels`, the values of a palette are its indices, not its colours, and a bit is 0 or 1.

    Raises:
        ScanError: the file is damaged.
    """
    packed = [page for page in wanted if not page.is_raw]
    if packed:
        content = _as_opencv_reads(content, packed)
    numbers = [pages.index(page) for page in packed]
    if numbers == list(range(len(pages))):
        found = iter(decoded(content, name, (0, len(pages))))
    else:
        found = (decoded(content, name, (one, one + 1))[0] for one in numbers)
    return [
        _as_shown(_raw(content, page) if page.is_raw else next(found), page, name, as_labels)
        for page in wanted
    ]


def _as_opencv_reads(content: Bytes, pages: Sequence[Directory]) -> Bytes:
    """A copy of the file without white-is-zero, palette, orientation and alpha in `pages`.

    So OpenCV decodes the stored samples.
    """
    copy = content.copy()
    for page in pages:
        changes = {Tag.ORIENTATION: 1, Tag.EXTRA_SAMPLES: 0}
        if page[Tag.PHOTOMETRIC] in (tiff.WHITE_IS_ZERO, tiff.PALETTE):
            changes[Tag.PHOTOMETRIC] = tiff.BLACK_IS_ZERO
        for tag, value in changes.items():
            if tag in page.places:
                place, code = page.places[tag]
                stored = struct.pack(code, value)
                copy[place : place + len(stored)] = np.frombuffer(stored, np.uint8)
    return copy


def _raw(content: Bytes, page: Directory) -> Voxels:
    """The samples (H, W) or (H, W, S) of an uncompressed page."""
    width, length = page[Tag.WIDTH], page[Tag.LENGTH]
    high, wide = page.segment
    across, down = -(-width // wide), -(-length // high)
    samples = page[Tag.SAMPLES] // page.planes  # of a pixel in one plane
    dtype = np.dtype(page.order + page.sample)
    image = np.empty((page.planes, length, width, samples), dtype.newbyteorder("="))
    for number, offset in enumerate(page.offsets):
        plane, place = divmod(number, down * across)
        top, left = place // across * high, place % across * wide
        target = image[plane, top : top + high, left : left + wide]
        rows = high if page.is_tiled else len(target)
        part = np.frombuffer(content, dtype, rows * wide * samples, offset)
        part = part.reshape(rows, wide, samples)
        target[:] = part[: target.shape[0], : target.shape[1]]
    if page.planes > 1:
        return np.moveaxis(image[..., 0], 0, -1)
    return image[0] if samples > 1 else image[0, :, :, 0]


def _as_shown(samples: Voxels, page: Directory, name: str, as_labels: bool) -> Voxels:
    """Samples (H, W[, S]) of a page as a picture: without alpha, oriented, white above black."""
    photometric, bits = page[Tag.PHOTOMETRIC], page[Tag.BITS]
    declared = np.dtype(page.sample)
    if samples.shape[:2] != (page[Tag.LENGTH], page[Tag.WIDTH]) or samples.dtype != declared:
        raise ScanError(f"{name}: not a readable picture, its pixels differ from its header")
    if samples.ndim == 3:
        samples = samples[:, :, :3] if photometric not in (0, 1) else samples[:, :, 0]
    if bits == 1 and as_labels:
        samples = np.not_equal(samples, 0).astype(np.uint8)
    if photometric == tiff.WHITE_IS_ZERO:
        top = 1 if bits == 1 and as_labels else np.iinfo(declared).max
        samples = np.asarray(top, declared) - samples
    elif photometric == tiff.PALETTE and not as_labels:
        samples = _colours(page)[samples]
    transposed, down, right = TURNS[page[Tag.ORIENTATION]]
    if transposed:
        samples = samples.swapaxes(0, 1)
    return samples[::down, ::right]


def _colours(page: Directory) -> npt.NDArray[np.uint8]:
    """The palette (N, 3) of a page; it is stored with 16 bits."""
    entries = np.array(page.values[Tag.COLOUR_MAP], np.uint16).reshape(3, -1).T
    # some writers store 8 bits; libtiff handles them in the same way
    return (entries >> 8 if entries.max(initial=0) > 255 else entries).astype(np.uint8)
