"""Segment without a network, as lower limits for a network.

    python -m benchmarks.reference.trivial box|ellipse|grabcut INPUTS OUTPUTS

The mask is the filled box, the ellipse inside it, or the result of GrabCut (Rother et al., SIGGRAPH
2004) on it. Volumes are segmented slice by slice.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from swiftmedsam import read_case, write_labels
from swiftmedsam.case import IN_PLANE
from swiftmedsam.masks import box_pixels
from swiftmedsam.result import label_dtype

GRABCUT_ITERATIONS = 5
GRABCUT_CONTEXT = 0.5  # in sizes of the box: width of the background around it
GRABCUT_MAX_SIDE = 256  # pixels; larger windows are shrunk to this


def filled_box(image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Return the mask (rows, columns) of the box itself."""
    return np.ones((rows.stop - rows.start, columns.stop - columns.start), bool)


def ellipse(image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Return the mask (rows, columns) of the ellipse that touches the four sides."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return y[:, np.newaxis] ** 2 + x**2 <= 1


def grabcut(image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Return the mask (rows, columns) of GrabCut's foreground; the box if it finds none."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    up, left = (round(GRABCUT_CONTEXT * side) + 1 for side in (height, width))
    top, first = max(0, rows.start - up), max(0, columns.start - left)
    window = image[top : rows.stop + up, first : columns.stop + left]
    scale = min(1.0, GRABCUT_MAX_SIDE / max(window.shape[:2]))
    small = cv2.resize(window, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = small if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    state = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    y, x = round((rows.start - top) * scale), round((columns.start - first) * scale)
    state[y : y + max(1, round(height * scale)), x : x + max(1, round(width * scale))] = (
        cv2.GC_PR_FGD
    )
    if (state != cv2.GC_BGD).all():  # a box as large as the image leaves no background
        return filled_box(image, rows, columns)
    cv2.grabCut(
        small, state, None, np.zeros((1, 65)), np.zeros((1, 65)), GRABCUT_ITERATIONS,
        cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    found = ((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).astype(np.uint8)
    full = cv2.resize(found, window.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
    y, x = rows.start - top, columns.start - first
    mask = full[y : y + height, x : x + width]
    return mask if mask.any() else filled_box(image, rows, columns)


ANSWERS: dict[str, Callable[[np.ndarray, slice, slice], np.ndarray]] = {
    "box": filled_box,
    "ellipse": ellipse,
    "grabcut": grabcut,
}


def answer_case(path: Path, name: str) -> np.ndarray:
    """Return the labels of the case at `path`, by the function `name` of `ANSWERS`."""
    case = read_case(path)
    labels = np.zeros(case.label_shape, label_dtype(len(case.boxes)))
    for number, box in enumerate(case.boxes, start=1):
        if case.is_volume:
            slices = range(int(box[2]), int(box[5]) + 1)
            box = box[IN_PLANE]
        else:
            slices = range(1)
        height, width = labels.shape[-2:]
        rows, columns = (
            slice(part.start, min(part.stop, size))
            for part, size in zip(box_pixels(box), (height, width), strict=True)
        )
        for z in slices:
            image, target = (case.image[z], labels[z]) if case.is_volume else (case.image, labels)
            target[rows, columns][ANSWERS[name](image, rows, columns)] = number
    return labels


def main(argv: Sequence[str] | None = None) -> int:
    """Segment a folder; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.reference.trivial")
    parser.add_argument("answer", choices=ANSWERS)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--only", default="[23]DBox_*.npz")
    options = parser.parse_args(argv)
    cv2.setRNGSeed(0)  # GrabCut's clusters start at random
    options.outputs.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.inputs.glob(options.only)):
        write_labels(options.outputs / path.name, answer_case(path, options.answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
