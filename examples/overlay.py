"""Draw cases with boxes and masks: `python -m examples.overlay INPUTS OUTPUTS SHEET.png`.

docs/demo.png is such a picture. Of a volume it shows the slice with the most labelled pixels.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

TILE = 320  # pixels per side
COLUMNS = 4
# The colours of Okabe and Ito, which colour-blind people can tell apart; RGB.
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip


def tile(path: Path, labels: np.ndarray) -> np.ndarray:
    """Draw a case with its boxes and the contours of `labels`: RGB (TILE, TILE, 3)."""
    with np.load(path) as case:
        image, boxes = case["imgs"], case["boxes"]
    numbers = range(1, len(boxes) + 1)
    if labels.ndim == 3:
        z = int((labels > 0).sum(axis=(1, 2)).argmax())
        image = np.repeat(image[z][:, :, np.newaxis], 3, axis=2)
        numbers = [n for n in numbers if boxes[n - 1][2] <= z <= boxes[n - 1][5]]
        labels, boxes = labels[z], boxes[:, [0, 1, 3, 4]]
    scale = TILE / max(labels.shape)
    size = (round(labels.shape[1] * scale), round(labels.shape[0] * scale))
    shown = np.zeros((TILE, TILE, 3), np.uint8)
    shown[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for number in numbers:
        colour = COLOURS[(number - 1) % len(COLOURS)]
        mask = (labels == number).astype(np.uint8)
        enlarged = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(enlarged, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, contours, -1, colour, 2)
        x_min, y_min, x_max, y_max = (int(v * scale) for v in boxes[number - 1])
        cv2.rectangle(shown, (x_min, y_min), (x_max, y_max), colour, 1)
    cv2.putText(shown, path.stem, (6, TILE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sheet; return the exit status."""
    parser = argparse.ArgumentParser("python -m examples.overlay")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("sheet", type=Path)
    options = parser.parse_args(argv)
    tiles = []
    for path in sorted(options.outputs.glob("[23]DBox_*.npz")):
        with np.load(path) as output:
            tiles.append(tile(options.inputs / path.name, output["segs"]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    cv2.imwrite(str(options.sheet), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    return 0


if __name__ == "__main__":
    sys.exit(main())
