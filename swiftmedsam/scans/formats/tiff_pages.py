"""Finds the slices and volumes among the pages of a TIFF, by the description of its writer.

ImageJ, OME and tifffile describe their stacks in ImageDescription. Without such a description every
page is a slice, in the order of the file.
"""

import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from swiftmedsam.scans.formats.tiff import NONE, Directory, Tag
from swiftmedsam.scans.scan import ScanError

log = logging.getLogger(__name__)

IMAGEJ = re.compile(r"ImageJ=")
NUMBER = re.compile(r"^(\w+)=(-?[\d.]+(?:[eE][-+]?\d+)?)\s*$", re.MULTILINE)
PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^>]*)>")
PLANE = re.compile(r"<(?:\w+:)?TiffData\b([^>]*)>")
ATTRIBUTE = re.compile(r'(\w+)\s*=\s*"([^"]*)"')
STRAIGHT_LINE, NO_CALIBRATION = 0, 20  # ImageJ's calibration functions


@dataclass(frozen=True)
class Stack:
    """The pages that are used, and the volumes that they form."""

    pages: list[Directory]
    volumes: list[list[int]]  # for each volume, the indices of its slices in `pages`
    line: tuple[float, float] = (0.0, 1.0)  # zero and slope: value = zero + slope x sample


@dataclass(frozen=True)
class _Axes:
    """The axes of a stack, as its writer describes them."""

    writer: str
    order: str  # axes of pages, the fastest first: Z, C, T and others
    sizes: tuple[int, ...]
    line: tuple[float, float] = (0.0, 1.0)


def stack_of(pages: Sequence[Directory], size: int, name: str) -> Stack:
    """The volumes and slices of a file of `size` bytes, from its pages.

    Smaller versions and masks of other pages are left out, with a warning.

    Raises:
        ScanError: the description contradicts the pages, or is not supported.
    """
    kept = [page for page in pages if not page.is_reduced] or list(pages)
    if len(kept) < len(pages):
        log.warning(
            "%s: %d of its %d pages are smaller versions or masks of others (NewSubfileType), and "
            "are left out", name, len(pages) - len(kept), len(pages),
        )  # fmt: skip
    elif pages[0].is_reduced and (len(pages) > 1 or pages[0].largest_below):
        raise ScanError(f"{name}: all pages are smaller versions of others (NewSubfileType)")
    axes = _axes(kept[0], name)
    if axes is None:
        return Stack(kept, [list(range(len(kept)))])
    count = math.prod(axes.sizes)
    if len(kept) == 1 < count:
        kept = _one_after_the_other(kept[0], count, size)
    if len(kept) != count:
        declared = ", ".join(
            f"{one} {axis}" for axis, one in zip(axes.order, axes.sizes, strict=True)
        )
        raise ScanError(
            f"{name}: the description of {axes.writer} (ImageDescription) declares {count} pages "
            f"({declared}), found {len(kept)}"
        )
    numbers = np.arange(count).reshape(axes.sizes[::-1])  # the slowest axis first
    slow = [axis for axis, letter in enumerate(axes.order[::-1]) if letter in "CT"]
    others = dict(zip(axes.order, axes.sizes, strict=True))
    if count > 1 and others.pop("T", 1) == count:
        log.warning(
            "%s: its %d pages, frames in time by %s, are taken as slices", name, count, axes.writer
        )
        slow = []
    fast = [axis for axis in range(numbers.ndim) if axis not in slow]
    volumes = math.prod(numbers.shape[axis] for axis in slow)
    if volumes > 1:
        log.info("%s: channels and frames, as %s declares them, are volumes", name, axes.writer)
    by_volume = numbers.transpose(*slow, *fast).reshape(volumes, -1)
    return Stack(kept, by_volume.tolist(), axes.line)


def _one_after_the_other(page: Directory, count: int, size: int) -> list[Directory]:
    """The pages of a stack that has a directory only for its first page; else [`page`].

    The data of the other pages follow without a gap. ImageJ and tifffile write stacks in this way
    if they are larger than a TIFF can be.
    """
    length = sum(page.byte_counts)
    starts = list(accumulate(page.byte_counts, initial=page.offsets[0] if page.offsets else 0))
    is_one = page[Tag.COMPRESSION] == NONE and starts[:-1] == page.offsets
    if not is_one or page.offsets[0] + count * length > size:
        return [page]
    return [replace(page, shift=number * length) for number in range(count)]


def _axes(page: Directory, name: str) -> _Axes | None:
    """The axes that the description of the first page gives; None if it gives none.

    Raises:
        ScanError: the description is damaged or not supported.
    """
    text = page.description.strip()
    if IMAGEJ.match(text):
        return _of_imagej(dict(NUMBER.findall(text)), name)
    if PIXELS.search(text):
        return _of_ome(text, page, name)
    if text.startswith("{") and '"shape"' in text:
        return _of_tifffile(text, page, name)
    if "BinaryOnly" in text and "<OME" in text:
        raise ScanError(f"{name}: what its pages are is in another file (OME, BinaryOnly)")
    return None


def _of_imagej(values: dict[str, str], name: str) -> _Axes:
    """Axes from ImageJ's lines KEY=VALUE; source: its classes TiffDecoder and FileInfo."""
    try:
        images, channels, slices, frames = (
            int(values.get(key, "0")) for key in ("images", "channels", "slices", "frames")
        )
        function = int(values.get("cf", NO_CALIBRATION))
        line = float(values.get("c0", 0)), float(values.get("c1", 1))
    except ValueError as error:
        raise ScanError(f"{name}: ImageJ's description (ImageDescription) is damaged") from error
    if function not in (STRAIGHT_LINE, NO_CALIBRATION):
        raise ScanError(
            f"{name}: ImageJ's calibration of values (cf={function}) is not read, expected a "
            "straight line (cf=0)"
        )
    sizes = [max(1, channels), max(1, slices), max(1, frames)]
    if math.prod(sizes) == 1:
        sizes[1] = max(1, images)
    if images and math.prod(sizes) != images:
        raise ScanError(
            f"{name}: ImageJ declares {images} images, but {channels} channels, {slices} slices "
            f"and {frames} frames"
        )
    return _Axes("ImageJ", "CZT", tuple(sizes), line if function == STRAIGHT_LINE else (0.0, 1.0))


def _of_ome(text: str, page: Directory, name: str) -> _Axes:
    """Axes from the XML of OME-TIFF; source: its specification, 6.2."""
    images = PIXELS.findall(text)
    if len(images) > 1:
        raise ScanError(f"{name}: has {len(images)} images (OME), expected one")
    attributes = dict(ATTRIBUTE.findall(images[0]))
    order = attributes.get("DimensionOrder", "XYCZT")[2:]
    sizes = {axis: attributes.get(f"Size{axis}", "1") for axis in "CZT"}
    if sorted(order) != ["C", "T", "Z"] or not all(one.isdecimal() for one in sizes.values()):
        raise ScanError(f"{name}: the description of OME (ImageDescription) is damaged")
    counts = {axis: int(one) for axis, one in sizes.items()}
    counts["C"] //= max(1, page[Tag.SAMPLES])  # OME counts each sample of a pixel as a channel
    counts = {axis: max(1, one) for axis, one in counts.items()}
    for plane in PLANE.findall(text):
        at = dict(ATTRIBUTE.findall(plane))
        if "IFD" not in at:
            continue
        place, step = 0, 1
        for axis in order:
            place += int(at.get(f"First{axis}", "0")) * step
            step *= counts[axis]
        if int(at["IFD"]) != place:
            raise ScanError(
                f"{name}: pages should be in the order {order} that OME declares, found plane "
                f"{place} on page {at['IFD']}"
            )
    return _Axes("OME", order, tuple(counts[axis] for axis in order))


def _of_tifffile(text: str, page: Directory, name: str) -> _Axes | None:
    """Axes from the JSON that tifffile writes: the shape of the array, and names of its axes."""
    try:
        described = json.loads(text)
        shape = [int(side) for side in described["shape"]]
        letters = str(described.get("axes", ""))
        pixels = page[Tag.WIDTH] * page[Tag.LENGTH] * page[Tag.SAMPLES]
    except (ValueError, TypeError, KeyError) as error:
        raise ScanError(f"{name}: tifffile's description (ImageDescription) is damaged") from error
    if len(letters) == len(shape):
        order = "".join(letter for letter in letters if letter not in "YXS")[::-1]
        sizes = tuple(
            side for letter, side in zip(letters, shape, strict=True) if letter not in "YXS"
        )[::-1]
        if math.prod(sizes) > 1 and math.prod(sizes) * pixels == math.prod(shape):
            return _Axes("tifffile", order, sizes)
    count = math.prod(shape) // max(1, pixels)
    # a description of one page says nothing about the others
    return _Axes("tifffile", "Z", (count,)) if count > 1 else None
