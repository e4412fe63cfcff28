"""Pictures decoded by OpenCV, without its words: what its decoders complain of is damaged.

They write what they find to the standard error, and go on with grey or nothing for the rest.
"""

import re

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.quiet import complaints
from swiftmedsam.scans.scan import ScanError, Voxels

Bytes = npt.NDArray[np.uint8]

FLAGS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # turned by EXIF, without alpha
HARMLESS = re.compile(rb"libpng warning: .*|Unknown Adobe color .*|Warning: unknown JFIF .*|")


def decoded(content: Bytes, name: str, pages: tuple[int, int] | None = None) -> list[Voxels]:
    """The picture in `content`, or its `pages` from the first to before the last, as stored.

    Each (H, W) or (H, W, 3), red first.

    Raises:
        MemoryError: there is not enough.
        ScanError: it is damaged, or of a kind that OpenCV does not decode.
    """
    said: list[bytes] = []
    images: list[Voxels] = []
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    try:
        with complaints(said):
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
    if len(images) != expected or any(not HARMLESS.fullmatch(line) for line in said):
        raise ScanError(
            f"{name}: not a readable picture, its pixels are damaged or stored in a way that is "
            "not read"
        )
    return [image[:, :, ::-1] if image.ndim == 3 else image for image in images]
