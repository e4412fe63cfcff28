"""Make cases with worse boxes: all sides are moved outward or inward."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import Frame
from swiftmedsam.npz import read_case


def moved_boxes(
    boxes: npt.NDArray[np.float64], move_256: float, height: int, width: int
) -> npt.NDArray[np.float64]:
    """Return boxes (N, 4) or (N, 6) with all sides in x and y moved outward; z does not change.

    The result is not rounded: in an image of 28 pixels, one pixel is 9 input pixels. The program
    truncates prompts to whole input pixels, so each side moves by `move_256` of them. (One in 400
    moves by one pixel more or less, as floats may be just below a whole number.)

    Args:
        boxes: x_min, y_min[, z_min], x_max, y_max[, z_max] in pixels of the stored image.
        move_256: distance in input pixels; below 0 is inward. No side passes the centre of its box.
        height: of the stored image, in pixels. Boxes are cut at 0..height, as the organisers do.
        width: of the stored image, in pixels, likewise.
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
    """Write the case of the npz file `path` with moved boxes, under the same name, to `folder`.

    Raises:
        CaseError: the file is not a case.
        OSError: the folder cannot be written to.
    """
    case = read_case(path)
    with np.load(path, allow_pickle=False) as archive:
        image = archive["imgs"]  # as stored; the program converts raw values
    boxes = moved_boxes(case.boxes, move_256, *case.label_shape[-2:])
    np.savez(folder / path.name, imgs=image, boxes=boxes)
