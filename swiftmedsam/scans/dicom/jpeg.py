"""Lossy JPEG of 12 bits in DICOM (JPEG Extended, process 4): imagecodecs decodes it, gdcm cannot.

imagecodecs calls libjpeg-turbo, which fills the missing part of a truncated stream without an
error. So a frame without an end, or of another size than the file's, is refused before.
"""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.dicom.decode import check_streams
from swiftmedsam.scans.dicom.tags import DAMAGED, TagError, frames_of
from swiftmedsam.scans.formats.picture_headers import Page, pages_in
from swiftmedsam.scans.scan import extra

SYNTAX = "1.2.840.10008.1.2.4.51"  # JPEG Extended, of 12 bits or of 8 (process 2)
MOST_STORED = 12  # bits of a sample


def is_of_12_bits(dataset: Any) -> bool:
    """Whether the frames of a file are lossy JPEG of 9 to 12 bits."""
    lossy = dataset.file_meta.TransferSyntaxUID == SYNTAX
    return bool(lossy and 8 < dataset.BitsStored <= MOST_STORED)


def samples_of(dataset: Any, name: str, pydicom: Any) -> npt.NDArray[np.uint16]:
    """Decode such a file: unsigned samples (frames, rows, columns); `name` is for messages.

    Raises:
        ScanError: imagecodecs is not installed.
        TagError: a frame is damaged, cut off, in colour or of another size, or the number of frames
            is wrong.
    """
    imagecodecs = extra("imagecodecs", name)
    check_streams(dataset, pydicom)
    frames = frames_of(dataset)
    samples = np.empty((frames, dataset.Rows, dataset.Columns), np.uint16)
    encoded = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=frames)
    for plane, frame in zip(samples, encoded, strict=True):
        _check(frame, *plane.shape)
        try:
            imagecodecs.jpeg8_decode(frame, out=plane)
        except DAMAGED as error:
            raise TagError("PixelData cannot be decoded as JPEG of 12 bits: it is damaged") from (
                error
            )
    return samples


def _check(frame: bytes, rows: int, columns: int) -> None:
    """Raise TagError unless a frame is a grey JPEG of that size with more than 8 bits."""
    pages = pages_in(BytesIO(frame))
    if pages != [Page(columns, rows, 1, 2)]:
        found = " and ".join(
            f"{one.width} x {one.height} pixels of {one.channels} channels, {one.itemsize} bytes "
            "each" for one in pages
        )  # fmt: skip
        raise TagError(
            f"PixelData should be {columns} x {rows} grey pixels of 12 bits, found "
            f"{found or 'none'}"
        )
