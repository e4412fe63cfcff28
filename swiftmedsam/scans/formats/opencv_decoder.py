"""Decodes pictures with OpenCV; a picture with any warning counts as damaged.

OpenCV's decoders write warnings to standard error, and fill the damaged part with grey or nothing.
"""

import re

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.quiet import complaints
from swiftmedsam.scans.scan import ScanError, Voxels

Bytes = npt.NDArray[np.uint8]

FLAGS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # applies EXIF's orientation, drops alpha
HARMLESS = re.compile(rb"libpng warning: .*|Unknown Adobe color .*|Warning: unknown JFIF .*|")


def decoded(content: Bytes, name: str, pages: tuple[int, int] | None = None) -> list[Voxels]:
    """Decode the picture in `content`, or its pages from `pages[0]` to before `pages[1]`.

    Each is (H, W) or (H, W, 3) in RGB.

    Raises:
        MemoryError: there is not enough memory.
        ScanError: the picture is damaged, or of a kind that OpenCV does not decode.
    """
    messages: list[bytes] = []
    images: list[Voxels] = []
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    try:
        with complaints(messages):
            if pages is None:
                image = cv2.imdecode(content, FLAGS)
                images = [] if image is None else [np.asarray(image)]
            else:
                _, found = cv2.imdecodemulti(content, FLAGS, range=pages)
                images = [np.asarray(image) for image in found]
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    expected = 1 if pages is None else pages[1] - pages[0]
    if len(images) != expected or any(not HARMLESS.fullmatch(line) for line in messages):
        raise ScanError(
            f"{name}: not a readable picture, its pixels are damaged or stored in a way that is "
            "not read"
        )
    return [image[:, :, ::-1] if image.ndim == 3 else image for image in images]
