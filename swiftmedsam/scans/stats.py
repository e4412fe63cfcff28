"""The table of --stats: size, intensity and extent of each object."""

import csv
import io
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.result import PredictedIou
from swiftmedsam.scans.orientation import Orientation
from swiftmedsam.scans.scan import Float64Array, Scan, Segment, grey

MM3_PER_ML = 1000
COLUMNS = (
    "scan", "label", "name", "voxels", "slices", "volume_ml", "area_mm2",
    "longest_diameter_mm", "intensity_mean", "intensity_sd", "intensity_unit", "predicted_iou_mean",
)  # fmt: skip
PIXEL_CORNERS = np.array(list(product((-0.5, 0.5), repeat=2)))

Row = dict[str, object]


def measure(
    labels: npt.NDArray[np.unsignedinteger],
    scan: Scan,
    orientation: Orientation,
    segments: list[Segment],
    predicted_iou: PredictedIou,
) -> list[Row]:
    """A row of `COLUMNS` for each segment of labels (I, J, K) on the grid of `scan`.

    `predicted_iou` is that of the `Result`, for the boxes of `segments` in their order. Unknown
    cells are empty: millimetres of a picture, the volume of a single slice, the intensity of an
    object without voxels. Intensities are the scan's own values.
    """
    values = grey(scan.voxels) if scan.voxels.ndim == 4 else scan.voxels
    slices = orientation.to_slices(labels)
    steps = scan.affine[:3, list(orientation.axes)]  # columns (3,) in mm along D, H, W
    voxel_mm3 = abs(float(np.linalg.det(steps)))
    pixel_mm2 = float(np.linalg.norm(np.cross(steps[:, 1], steps[:, 2])))
    rows = []
    for box, one in enumerate(segments):
        mask = slices == one.value
        count = int(mask.sum())
        inside = values[labels == one.value].astype(np.float64)
        row: Row = dict.fromkeys(COLUMNS, "")
        row |= {"scan": scan.name, "label": one.value, "name": one.name, "voxels": count}
        row["slices"] = int(mask.any(axis=(1, 2)).sum())
        if scan.has_mm and len(slices) > 1:
            row["volume_ml"] = _rounded(count * voxel_mm3 / MM3_PER_ML)
        elif scan.has_mm:
            row["area_mm2"] = _rounded(count * pixel_mm2)
        if scan.has_mm:
            row["longest_diameter_mm"] = _rounded(
                max((longest_diameter(plane, steps[:, 1:]) for plane in mask), default=0.0)
            )
        if count:
            row["intensity_mean"] = _rounded(float(inside.mean()))
            row["intensity_sd"] = _rounded(float(inside.std()))
        row["intensity_unit"] = scan.unit
        row["predicted_iou_mean"] = _rounded(float(np.mean(predicted_iou[box])))
        rows.append(row)
    return rows


def _rounded(number: float) -> str:
    return f"{number:.6g}"


def longest_diameter(mask: npt.NDArray[np.bool_], steps: Float64Array) -> float:
    """The largest distance in mm between two pixel corners of a mask (H, W); 0 if it is empty.

    `steps` (3, 2) are the vectors in mm to the next row and to the next column.
    """
    pixels = np.argwhere(mask)
    if len(pixels) == 0:
        return 0.0
    hull = cv2.convexHull(pixels.astype(np.int32))[:, 0]  # the outermost pixels
    corners = (hull[:, np.newaxis] + PIXEL_CORNERS).reshape(-1, 2) @ steps.T  # (4 P, 3)
    apart = corners[:, np.newaxis] - corners
    return float(np.sqrt((apart**2).sum(axis=-1)).max())


def table(rows: list[Row]) -> bytes:
    """The content of a CSV file of `rows`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def read_table(path: Path) -> list[Row] | None:
    """The rows of a file that `table` made, cells as text; None if it is something else.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows: list[Row] = [dict(row) for row in reader]
    except (UnicodeDecodeError, csv.Error):
        return None
    is_table = tuple(reader.fieldnames or ()) == COLUMNS
    return rows if is_table and all(row.keys() == set(COLUMNS) for row in rows) else None
