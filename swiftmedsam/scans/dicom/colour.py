"""Colours of DICOM: RGB, YBR, which decoders convert to RGB, and palettes (PS3.3 C.7.6.3.1).

An ICC profile is not applied. An alpha palette is ignored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from swiftmedsam.scans.dicom.decode import Stored, decoded
from swiftmedsam.scans.dicom.tags import DAMAGED, TagError, numbers_of, text_of, value_of, whole_of
from swiftmedsam.scans.scan import Voxels

PALETTE = "PALETTE COLOR"
# Decoders convert all of these to RGB; for YBR_ICT and YBR_RCT this is a part of JPEG 2000.
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", PALETTE)
OF_JPEG_2000 = ("YBR_ICT", "YBR_RCT")
JPEG_2000 = "1.2.840.10008.1.2.4.9"  # its transfer syntaxes begin with this
CHANNELS = ("Red", "Green", "Blue")


def is_colour(header: Any) -> bool:
    """Whether pixels are in colour, by their photometric interpretation."""
    return text_of(header, "PhotometricInterpretation") in COLOURS


def colours_of(dataset: Any, frames: Sequence[int], pydicom: Any) -> Voxels:
    """Colours (K, rows, columns, 3) of the K `frames`, in RGB, uint8 or uint16.

    Raises:
        TagError: the pixels are damaged, or tags contradict each other.
    """
    photometric = text_of(dataset, "PhotometricInterpretation")
    syntax = dataset.file_meta.TransferSyntaxUID
    if photometric in OF_JPEG_2000 and not syntax.startswith(JPEG_2000):
        raise TagError(
            f"PhotometricInterpretation {photometric} goes with JPEG 2000, found {syntax.name}"
        )
    allocated = whole_of(dataset, "BitsAllocated")
    if photometric == PALETTE:
        sample, words = decoded(dataset, pydicom)
        return palette_colours(sample.stored(words[list(frames)]), dataset, pydicom)
    if allocated not in (8, 16, 32):
        raise TagError(f"BitsAllocated should be 8, 16 or 32 in colour, found {allocated}")
    if photometric.startswith("YBR_FULL") and allocated != 8:
        raise TagError(
            f"BitsAllocated should be 8 where PhotometricInterpretation is {photometric}, "
            f"found {allocated}"
        )
    if whole_of(dataset, "PixelRepresentation") != 0:
        raise TagError("PixelRepresentation should be 0 in colour, found 1")
    planar = whole_of(dataset, "PlanarConfiguration", 0 if syntax.is_encapsulated else None)
    if planar not in (0, 1):
        raise TagError(f"PlanarConfiguration should be 0 or 1, found {planar}")
    if syntax.is_encapsulated:
        # compressed frames have their own planar configuration; decoders return RGB per pixel
        dataset.PlanarConfiguration = 0
    return np.asarray(decoded(dataset, pydicom)[1][list(frames)])


def palette_colours(stored: Stored, dataset: Any, pydicom: Any) -> Voxels:
    """Colours (..., 3) of stored values (...), by the palettes of the file.

    Values below the first entry have its colour, values above the last entry have that one's (PS3.3
    C.7.6.3.1.5).

    Raises:
        TagError: a palette is missing, or contradicts its descriptor.
    """
    tables = [_palette(dataset, channel, stored.dtype.kind == "i", pydicom) for channel in CHANNELS]
    if len({(len(entries), entries.dtype.itemsize, first) for entries, first in tables}) > 1:
        raise TagError("palettes should have one number of entries, bits and first value")
    entries = np.stack([one for one, _ in tables], axis=-1)  # (N, 3)
    index = np.clip(stored.astype(np.int32) - tables[0][1], 0, len(entries) - 1)
    return np.asarray(entries[index])


def _palette(dataset: Any, channel: str, signed: bool, pydicom: Any) -> tuple[Voxels, int]:
    """Entries (N,) of a palette, uint8 or uint16, and the stored value of the first entry."""
    keyword = f"{channel}PaletteColorLookupTable"
    descriptor = numbers_of(dataset, f"{keyword}Descriptor", 3)
    if descriptor is None:
        raise TagError(f"{keyword}Descriptor is missing")
    count, first, bits = (round(number) for number in descriptor.tolist())
    count = count % (1 << 16) or 1 << 16
    if signed and first >= 1 << 15:
        first -= 1 << 16
    if bits not in (8, 16):
        raise TagError(f"{keyword}Descriptor should say 8 or 16 bits, found {bits}")
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    data = value_of(dataset, f"{keyword}Data")
    entries: Stored = np.zeros(0, np.uint8)
    if data is None:
        if bits == 16 or count <= 1 << 8:  # pydicom counts entries with `bits` bits
            entries = _segmented(dataset, channel, first, count, pydicom)
    elif len(data) >= 2 * count:
        entries = np.frombuffer(data[: 2 * count], "<u2" if little else ">u2")
        if bits == 8:
            entries = entries & 0xFF
    elif bits == 8 and len(data) >= count:
        entries = np.frombuffer(data[:count], np.uint8)
    if len(entries) != count:
        raise TagError(f"{keyword}Data should have {count} entries of {bits} bits")
    return entries.astype(f"u{bits // 8}"), first


def _segmented(dataset: Any, channel: str, first: int, count: int, pydicom: Any) -> Voxels:
    """Entries (N,) of a palette that is stored as segments (PS3.3 C.7.9.2)."""
    if f"Segmented{channel}PaletteColorLookupTableData" not in dataset:
        raise TagError(f"{channel}PaletteColorLookupTableData is missing")
    try:
        colours = pydicom.pixels.apply_color_lut(np.arange(first, first + count), dataset)
    except DAMAGED as error:
        raise TagError(
            f"Segmented{channel}PaletteColorLookupTableData is damaged, or longer than its entries"
        ) from error
    return np.asarray(colours[:, CHANNELS.index(channel)])
