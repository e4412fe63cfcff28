"""Files of boxes: tables (CSV, JSON), 3D Slicer's ROI markups, COCO and LabelMe.

Which kind it is, its content says; which scan a box is for, its row does, or nothing.
"""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from app.case import one_line, printable
from app.scans.boxes import Drawn, Entry, drawn_box, to_ras
from app.scans.scan import ScanError

log = logging.getLogger(__name__)

# Names of columns, without case, spaces and underscores.
FILE_COLUMNS = ("file", "filename", "image", "scan")
NAME_COLUMNS = ("name", "label", "labelname", "class")
CORNERS = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")
PLANAR = ("xmin", "ymin", "xmax", "ymax")
TO_MM = {"mm": 1.0, "um": 0.001}  # 3D Slicer's units
STRAIGHT = 1e-6  # of an axis' cosines: what deviates less is not rotated


@dataclass(frozen=True)
class Meaning:
    """What numbers mean where a file does not say it itself."""

    units: str = "voxel"
    space: str | None = None


def read_boxes(path: Path, meaning: Meaning) -> list[Entry]:
    """The boxes of a file; those of a table are meant as `meaning` says.

    Raises:
        ScanError: it cannot be read, is of no known kind, or holds no box.
    """
    name = printable(path.name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ScanError(f"{name}: boxes cannot be read ({one_line(error)})") from error
    if path.suffix.lower() == ".json":
        entries = _read_json(text, path, meaning)
    else:
        entries = list(_read_csv(text, name, meaning))
    if not entries:
        raise ScanError(f"{name}: expected boxes, found none")
    return [replace(entry, table=path) for entry in entries]


def _read_csv(text: str, name: str, meaning: Meaning) -> Iterator[Entry]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if None in row:
                raise ScanError(f"{name}: line {rows.line_num} has more columns than the first")
            yield _table_row(row, f"{name}: line {rows.line_num}", meaning)
    except csv.Error as error:
        raise ScanError(f"{name}: line {rows.line_num} is no CSV ({error})") from error


def _plain(column: str) -> str:
    return "".join(c for c in column.lower() if c.isalnum())


def _table_row(row: Mapping[str, Any], where: str, meaning: Meaning) -> Entry:
    """A box of named columns; `where` is the row, for messages."""
    cells = {
        _plain(key): value
        for key, value in row.items()
        if value is not None and str(value).strip() != ""
    }

    def first_of(columns: tuple[str, ...]) -> str | None:
        return next((str(cells[key]).strip() for key in columns if key in cells), None)

    units, space = cells.get("units", meaning.units), cells.get("space", meaning.space)
    if units not in ("voxel", "mm") or space not in (None, "RAS", "LPS"):
        raise ScanError(f"{where}: expected units voxel or mm and space RAS or LPS, got "
                        f"{units} and {space}")  # fmt: skip
    columns = CORNERS if {"zmin", "zmax"} & set(cells) else PLANAR
    numbers = cells.get("box", [cells.get(column) for column in columns])
    missing = [column for column in columns if column not in cells]
    if missing and "box" not in cells:
        found = ", ".join(printable(str(key)) for key in row)
        raise ScanError(f"{where}: expected columns {', '.join(columns)}, found {found}")
    box = drawn_box(first_of(NAME_COLUMNS) or "", _numbers(numbers, where), units, space, where)
    return Entry(box, first_of(FILE_COLUMNS))


def _numbers(values: Any, where: str) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ScanError(f"{where}: expected numbers, found {one_line(error)}") from error


def _read_json(text: str, path: Path, meaning: Meaning) -> list[Entry]:
    name = printable(path.name)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScanError(f"{name}: not JSON ({one_line(error)})") from error
    readers: dict[str, Callable[[Any, Path], Iterator[Entry]]] = {
        "markups": _slicer, "annotations": _coco, "shapes": _labelme
    }  # fmt: skip
    try:
        if isinstance(content, dict):
            for key, reader in readers.items():
                if key in content:
                    return list(reader(content, path))
            content = content["boxes"]
        return [
            _table_row(row, f"{name}: box {count}", meaning)
            for count, row in enumerate(content, start=1)
        ]
    except KeyError as error:
        expected = ", ".join([*readers, "boxes"]) if error.args == ("boxes",) else error.args[0]
        raise ScanError(f"{name}: key '{expected}' is missing") from error
    except (AttributeError, TypeError) as error:
        raise ScanError(f"{name}: not the structure of its kind ({one_line(error)})") from error


def _slicer(content: Any, path: Path) -> Iterator[Entry]:
    """ROI markups of 3D Slicer (its schema 1.0.3): `center`, `size` and `orientation`."""
    name = printable(path.name)
    stem = path.name.removesuffix(".json").removesuffix(".mrk")
    rois = content["markups"]
    for count, markup in enumerate(rois, start=1):
        where = f"{name}: markup {count}"
        if markup["type"] != "ROI" or "center" not in markup:
            raise ScanError(f"{where}: expected a box ROI, found {markup['type']}")
        if markup.get("insideOut"):
            raise ScanError(f"{where}: is inside out, and no box")
        units, space = markup.get("coordinateUnits", "mm"), markup.get("coordinateSystem", "LPS")
        units = units[0] if isinstance(units, list) else units
        if units not in TO_MM or space not in ("RAS", "LPS"):
            raise ScanError(f"{where}: expected mm or um in RAS or LPS, got {units} in {space}")
        centre = np.array(_numbers(markup["center"], where)) * TO_MM[units]
        size = np.array(_numbers(markup["size"], where)) * TO_MM[units]
        turned = np.array(_numbers(markup.get("orientation", np.eye(3).ravel()), where))
        if centre.shape != (3,) or size.shape != (3,) or turned.shape != (9,) or (size <= 0).any():
            raise ScanError(f"{where}: expected a center, a size above 0 and 9 cosines")
        axes = turned.reshape(3, 3)  # columns are the directions of the ROI's sides
        own = markup.get("name") or (stem if len(rois) == 1 else f"{stem}_{count}")
        if not np.isclose(np.abs(axes).max(axis=0), 1, atol=STRAIGHT).all():
            log.warning("%s: '%s' is rotated, its extent is taken", name, own)
        corners = np.array(list(product((-0.5, 0.5), repeat=3))) * size @ axes.T + centre
        low, high = corners.min(axis=0), corners.max(axis=0)
        around = np.array(list(product(*zip(low, high, strict=True))))
        yield Entry(Drawn(own, to_ras(around, space), in_mm=True))


def _pixels(name: str, x: float, y: float, other_x: float, other_y: float) -> Drawn:
    """A box whose coordinates count from the picture's corner, not from a pixel's centre."""
    return Drawn(name, np.array([[x, y], [other_x, other_y]]) - 0.5)


def _coco(content: Any, path: Path) -> Iterator[Entry]:
    """COCO: `bbox` is x, y, width and height, by image and category."""
    files = {image["id"]: str(image["file_name"]) for image in content["images"]}
    names = {one["id"]: str(one["name"]) for one in content.get("categories", [])}
    for count, annotation in enumerate(content["annotations"], start=1):
        where = f"{printable(path.name)}: annotation {count}"
        box = _numbers(annotation["bbox"], where)
        if len(box) != 4 or not min(box[2:]) > 0 or annotation["image_id"] not in files:
            raise ScanError(f"{where}: expected x, y, width, height and a known image, got {box}")
        x, y, width, height = box
        name = names.get(annotation.get("category_id"), "")
        yield Entry(_pixels(name, x, y, x + width, y + height), files[annotation["image_id"]])


def _labelme(content: Any, path: Path) -> Iterator[Entry]:
    """LabelMe: rectangles of two points; other shapes are left out, and said to be."""
    file = str(content["imagePath"])
    for count, shape in enumerate(content["shapes"], start=1):
        where = f"{printable(path.name)}: shape {count}"
        if shape.get("shape_type") != "rectangle":
            log.warning("%s is no rectangle, and left out", where)
            continue
        points = [_numbers(point, where) for point in shape["points"]]
        if [len(point) for point in points] != [2, 2]:
            raise ScanError(f"{where}: expected 2 points of 2 numbers, got {points}")
        yield Entry(_pixels(str(shape["label"]), *points[0], *points[1]), file)
