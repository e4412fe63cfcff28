"""Cases whose boxes are worse than drawn: every side moved outward or inward."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import Frame
from swiftmedsam.npz import read_case


def moved_boxes(
    boxes: npt.NDArray[np.float64], move_256: float, height: int, width: int
) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) or (N, 6) with each side in x and y moved outward, z as it was.

    The result is not rounded: in an image of 28 pixels a whole pixel is 9 of the input. The program
    truncates in the input's frame, so that there every side moves by whole `move_256` (one in 400,
    where a float falls just short of a whole number, by one pixel less or more).

    Args:
        boxes: x_min, y_min[, z_min], x_max, y_max[, z_max] in pixels of the stored image.
        move_256: pixels of the network's input, whose longer side is 256; below 0 is inward, and no
            side passes the centre of its box.
        height: of the stored image, in pixels; boxes end there, at 0..height, as the organisers'
            moved boxes do.
        width: the same.
    """
    moved = boxes.copy()
    step = move_256 / Frame(height, width).scale
    axes = boxes.shape[1] // 2
    for axis, size in ((0, width), (1, height)):
        low, high = boxes[:, axis], boxes[:, axes + axis]
        centre = (low + high) / 2
        moved[:, axis] = np.minimum(low - step, centre).clip(0, size)
        moved[:, axes + axis] = np.maximum(high + step, centre).clip(0, size)
    return moved


def write_moved(path: Path, folder: Path, move_256: float) -> None:
    """Write the case of the npz file `path` under its name into `folder`, its boxes moved.

    Raises:
        CaseError: the file is not a case.
        OSError: the folder cannot be written to.
    """
    case = read_case(path)
    with np.load(path, allow_pickle=False) as archive:
        image = archive["imgs"]  # as stored: what becomes of raw values is the program's business
    boxes = moved_boxes(case.boxes, move_256, *case.label_shape[-2:])
    np.savez(folder / path.name, imgs=image, boxes=boxes)
