"""Lossy JPEG of 12 bits in DICOM (JPEG Extended, process 4): imagecodecs decodes it, gdcm cannot.

libjpeg-turbo, which is what imagecodecs calls, makes up what a stream lacks, without a word. So a
frame is refused before that where it has no end, or is not of the size that the file says.
"""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from app.scans.picture_headers import Page, pages_in
from app.scans.scan import extra

SYNTAX = "1.2.840.10008.1.2.4.51"  # JPEG Extended, of 12 bits or of 8 (process 2)
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
ALLOCATED, MOST_STORED = 16, 12  # bits of a sample


def is_of_12_bits(dataset: Any) -> bool:
    """Whether the frames of a file are lossy JPEG of 9 to 12 bits."""
    lossy = dataset.file_meta.TransferSyntaxUID == SYNTAX
    return bool(lossy and 8 < dataset.BitsStored <= MOST_STORED)


def samples_of(
    dataset: Any, frames: int, name: str, pydicom: Any
) -> npt.NDArray[np.uint16] | npt.NDArray[np.int16]:
    """The samples (frames, rows, columns) of such a file, `name` in messages.

    Raises:
        ScanError: imagecodecs is not installed.
        RuntimeError: a frame is damaged.
        ValueError: a frame is cut off, in colour or of another size, or there are more or fewer.
    """
    imagecodecs = extra("imagecodecs", name)
    samples = np.empty((frames, dataset.Rows, dataset.Columns), np.uint16)
    encoded = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=frames))
    if len(encoded) != frames:
        raise ValueError(f"expected {frames} frames, found {len(encoded)}")
    for plane, frame in zip(samples, encoded, strict=True):
        _check(frame, *plane.shape)
        imagecodecs.jpeg8_decode(frame, out=plane)
    if not dataset.PixelRepresentation:
        return samples
    unused = ALLOCATED - int(dataset.BitsStored)  # above the sign
    return (samples << unused).view(np.int16) >> unused


def _check(frame: bytes, rows: int, columns: int) -> None:
    """Raise ValueError if a frame is no whole JPEG of that size, grey and of more than 8 bits."""
    pages = pages_in(BytesIO(frame))
    if pages != [Page(columns, rows, 1, 2)]:
        found = ", ".join(map(str, pages)) or "none"
        raise ValueError(f"expected {columns} x {rows} grey pixels of 12 bits, found {found}")
    # neither can be a part of what is between them
    if frame.rfind(END_OF_IMAGE) < frame.rfind(START_OF_SCAN):
        raise ValueError(f"expected the end of a JPEG, found none in {len(frame)} bytes")
