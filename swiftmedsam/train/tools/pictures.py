"""A sheet of what augmentation does: `python -m swiftmedsam.train.tools.pictures CASES SHEET.jpg`.

CASES is a folder of the program's own input; each row is a case, each column one change that is
always applied, the first none.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from swiftmedsam import Case, read_case
from swiftmedsam.frame import Frame
from swiftmedsam.train.data.augment import (
    Augmentation,
    change_intensity,
    crop_around,
    flip_and_turn,
)
from swiftmedsam.train.data.framed import warp

NOTHING = Augmentation(**{field.name: 0.0 for field in dataclasses.fields(Augmentation)})
CHANGES = (
    "none",
    # an extent changes the box alone
    *(f.name for f in dataclasses.fields(Augmentation) if f.name != "extent"),
)
TITLE_HEIGHT = 24  # pixels
SEED = 3
SCALE = 0.6  # of the sheet that is written


def slice_and_boxes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The image, or the middle slice of the first box, and a label map of its boxes."""
    image, boxes = case.image, case.boxes
    if case.is_volume:
        z = int(boxes[0, 2] + boxes[0, 5]) // 2
        image, boxes = image[z], boxes[:1, [0, 1, 3, 4]]
    labels = np.zeros(image.shape[:2], np.uint16)
    for number, (x_min, y_min, x_max, y_max) in enumerate(boxes.astype(int), start=1):
        labels[y_min : y_max + 1, x_min : x_max + 1] = number
    return image, labels


def changed(image: np.ndarray, labels: np.ndarray, change: str) -> np.ndarray:
    """The network's input (256, 256, 3), uint8 RGB, with one `change` of `CHANGES` applied."""
    options = NOTHING if change == "none" else dataclasses.replace(NOTHING, **{change: 1.0})
    random = np.random.default_rng(SEED)
    if options.warp:
        image, labels = warp(image, labels, random)
    if options.crop:
        image, labels = crop_around(image, labels, 1, random)
    image, _ = flip_and_turn(image, labels, options, random)
    pixels = torch.from_numpy(Frame(*image.shape[:2]).pixels(image))
    shown = change_intensity(pixels, options, torch.Generator().manual_seed(SEED))[0]
    return (shown.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def sheet(cases: Sequence[Case]) -> np.ndarray:
    """Rows of cases, columns of changes under their names, uint8 RGB."""
    rows = []
    for case in cases:
        image, labels = slice_and_boxes(case)
        rows.append(np.hstack([changed(image, labels, change) for change in CHANGES]))
    titles = np.full((TITLE_HEIGHT, rows[0].shape[1], 3), 255, np.uint8)
    for i, change in enumerate(CHANGES):
        at = (i * rows[0].shape[0] + 6, TITLE_HEIGHT - 7)
        cv2.putText(titles, change, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([titles, *rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sheet; return the exit status."""
    parser = argparse.ArgumentParser("python -m swiftmedsam.train.tools.pictures")
    parser.add_argument("cases", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--only", default="[23]DBox_*.npz")
    options = parser.parse_args(argv)
    cases = [read_case(path) for path in sorted(options.cases.glob(options.only))]
    picture = cv2.cvtColor(sheet(cases), cv2.COLOR_RGB2BGR)
    small = cv2.resize(picture, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(options.sheet), small)
    return 0


if __name__ == "__main__":
    sys.exit(main())
