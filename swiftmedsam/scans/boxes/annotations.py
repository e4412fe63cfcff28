"""Reads boxes of annotation programs: 3D Slicer's ROIs, COCO and LabelMe."""

import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from swiftmedsam.messages import printable
from swiftmedsam.scans.boxes.drawn import Drawn, Entry, are_fractions, to_ras
from swiftmedsam.scans.boxes.json_values import (
    field,
    items,
    label,
    mapping,
    numbers,
    shown,
    size_of_picture,
    words,
)
from swiftmedsam.scans.scan import Float64Array, ScanError

log = logging.getLogger(__name__)

TO_MM = {"mm": 1.0, "um": 0.001}  # 3D Slicer's units
ROI_TYPES = (None, "Box", "BoundingBox")
RIGHT_ANGLES = 1e-3  # tolerance of cosines; a smaller deviation is rounding
UPRIGHT = 0.5  # pixels; a rectangle whose corners deviate less is not rotated
MOST_SHOWN = 10  # shapes in a message


def read_slicer(content: dict[str, Any], path: Path) -> list[Entry]:
    """Boxes of 3D Slicer's ROI markups (schema 1.0.3): `center`, `size` and `orientation`.

    The points of a box are its 8 corners. So a ROI that is rotated like the scan's grid does not
    become larger.

    Raises:
        ScanError: a markup is no box, or has a value that the schema does not allow.
    """
    name = printable(path.name)
    stem = path.name.removesuffix(".json").removesuffix(".mrk")
    markups = items(content, "markups", name)
    entries = []
    for count, one in enumerate(markups, start=1):
        where = f"{name}: markup {count}"
        markup = mapping(one, where)
        kind = field(markup, "type", where)
        if kind != "ROI" or markup.get("roiType") not in ROI_TYPES:
            found = markup["roiType"] if kind == "ROI" else kind
            raise ScanError(f"{where}: expected a box ROI, found {shown(found)}")
        if markup.get("insideOut"):
            raise ScanError(f"{where}: is inside out, and no box")
        own = label(markup.get("name") or "", "'name'", where)
        own = own or (stem if len(markups) == 1 else f"{stem}_{count}")
        to_mm, space = _units(markup, where)
        centre = np.array(numbers(markup, "center", 3, where)) * to_mm
        size = np.array(numbers(markup, "size", 3, where)) * to_mm
        if (size <= 0).any():
            raise ScanError(
                f"{where}: 'size' should be above 0, got {shown(markup['size'])}, as of a ROI that "
                "is not placed"
            )
        axes = np.eye(3)
        if "orientation" in markup:  # its columns are the directions of the ROI's sides
            axes = np.array(numbers(markup, "orientation", 9, where)).reshape(3, 3)
        if not np.allclose(axes.T @ axes, np.eye(3), atol=RIGHT_ANGLES):
            raise ScanError(f"{where}: 'orientation' should be 3 sides of length 1 at right angles")
        corners = np.array(list(product((-0.5, 0.5), repeat=3))) * size @ axes.T + centre
        entries.append(Entry(Drawn(own, to_ras(corners, space), in_mm=True)))
    return entries


def _units(markup: dict[str, Any], where: str) -> tuple[float, str]:
    """Millimetres per unit of a markup, and its space. The unit may be a code of three parts."""
    units, space = markup.get("coordinateUnits", "mm"), markup.get("coordinateSystem", "LPS")
    unit = units[0] if isinstance(units, list) and units else units
    if not isinstance(unit, str) or unit not in TO_MM:
        raise ScanError(f"{where}: 'coordinateUnits' should be mm or um, got {shown(units)}")
    if space not in ("RAS", "LPS"):
        raise ScanError(f"{where}: 'coordinateSystem' should be RAS or LPS, got {shown(space)}")
    return TO_MM[unit], space


def _refuse_fractions(found: Sequence[float], where: str) -> None:
    if are_fractions(found):
        raise ScanError(f"{where}: numbers of 0 to 1 are fractions of a size, expected pixels")


def _on_picture(name: str, ends: Sequence[float], size: tuple[int, int] | None) -> Drawn:
    """A box of x_min, y_min, x_max, y_max, where 0 is the picture's corner, no pixel centre."""
    return Drawn(name, np.array(ends).reshape(2, 2) - 0.5, drawn_on=size)


def _warn_of_left_out(name: str, what: str, left_out: Sequence[str]) -> None:
    if left_out:
        more = len(left_out) - MOST_SHOWN
        shown_ones = ", ".join(left_out[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
        log.warning("%s: left out, being %s: %s", name, what, shown_ones)


def read_coco(content: dict[str, Any], path: Path) -> list[Entry]:
    """Boxes of COCO: `bbox` is x, y, width and height.

    Crowds of objects are left out, with a warning.

    Raises:
        ScanError: an annotation has no box, no image, or a wrong value.
    """
    file = printable(path.name)
    images = _images(content, file)
    names = _categories(content, file)
    entries = []
    crowds = []
    for count, one in enumerate(items(content, "annotations", file), start=1):
        where = f"{file}: annotation {count}"
        annotation = mapping(one, where)
        image = words(field(annotation, "image_id", where), "'image_id'", where)
        if image not in images:
            raise ScanError(f"{where}: 'image_id' {printable(image)} is none of the images")
        if annotation.get("iscrowd"):
            crowds.append(f"annotation {count}")
            continue
        x, y, width, height = numbers(annotation, "bbox", 4, where)
        if width <= 0 or height <= 0:
            raise ScanError(f"{where}: 'bbox' should be x, y and a width and height above 0, got "
                            f"{shown(annotation['bbox'])}")  # fmt: skip
        attributes = annotation.get("attributes")
        if isinstance(attributes, dict) and attributes.get("rotation") not in (None, 0, "0"):
            raise ScanError(f"{where}: is rotated, and no upright box")
        name = ""
        if (category := annotation.get("category_id")) is not None:
            key = words(category, "'category_id'", where)
            name = names.get(key, f"category {printable(key)}")
        _refuse_fractions([x, y, width, height], where)
        path_of_image, size = images[image]
        entries.append(Entry(_on_picture(name, [x, y, x + width, y + height], size), path_of_image))
    _warn_of_left_out(file, "crowds of objects", crowds)
    return entries


def _images(content: dict[str, Any], name: str) -> dict[str, tuple[str, tuple[int, int] | None]]:
    """Path and size (columns, rows) of each image of COCO, by its id."""
    images: dict[str, tuple[str, tuple[int, int] | None]] = {}
    for count, one in enumerate(items(content, "images", name), start=1):
        where = f"{name}: image {count}"
        image = mapping(one, where)
        key = words(field(image, "id", where), "'id'", where)
        if key in images:
            raise ScanError(f"{where}: 'id' {printable(key)} is that of another image, too")
        path = words(field(image, "file_name", where), "'file_name'", where)
        images[key] = path, size_of_picture(image.get("width"), image.get("height"), where)
    return images


def _categories(content: dict[str, Any], name: str) -> dict[str, str]:
    """Name of each category of COCO that has one, by its id."""
    names: dict[str, str] = {}
    categories = [] if content.get("categories") is None else items(content, "categories", name)
    for count, one in enumerate(categories, start=1):
        where = f"{name}: category {count}"
        category = mapping(one, where)
        key = words(field(category, "id", where), "'id'", where)
        if key in names:
            raise ScanError(f"{where}: 'id' {printable(key)} is that of another category, too")
        if category.get("name") is not None:
            names[key] = label(category["name"], "'name'", where)
    return names


def read_labelme(content: dict[str, Any], path: Path) -> list[Entry]:
    """Boxes of LabelMe: rectangles of two opposite corners, or of four; others are left out.

    Raises:
        ScanError: there is no rectangle, one is rotated, or a value is wrong.
    """
    name = printable(path.name)
    file = words(field(content, "imagePath", name), "'imagePath'", name)
    size = size_of_picture(content.get("imageWidth"), content.get("imageHeight"), name)
    entries = []
    others = []
    for count, one in enumerate(items(content, "shapes", name), start=1):
        where = f"{name}: shape {count}"
        shape = mapping(one, where)
        if shape.get("shape_type") != "rectangle":
            kind = shape.get("shape_type") or "polygon"  # old files had only polygons
            others.append(f"shape {count} ({printable(str(kind))})")
            continue
        own = label(field(shape, "label", where), "'label'", where)
        points = np.array([
            numbers({"points": point}, "points", 2, where)
            for point in items(shape, "points", where)
        ])  # fmt: skip
        if len(points) not in (2, 4):
            raise ScanError(f"{where}: 'points' should be 2 or 4 corners, got {len(points)}")
        low, high = points.min(axis=0), points.max(axis=0)
        if (low == high).any():
            raise ScanError(f"{where}: 'points' have no area between them, got "
                            f"{shown(shape['points'])}")  # fmt: skip
        if len(points) == 4 and not _is_upright(points, low, high):
            raise ScanError(f"{where}: is rotated, and no upright box: {shown(shape['points'])}")
        ends = [*low.tolist(), *high.tolist()]
        _refuse_fractions(ends, where)
        entries.append(Entry(_on_picture(own, ends, size), file))
    if others and not entries:
        raise ScanError(f"{name}: expected rectangles, found {', '.join(others[:MOST_SHOWN])}")
    _warn_of_left_out(name, "no rectangles", others)
    return entries


def _is_upright(points: Float64Array, low: Float64Array, high: Float64Array) -> bool:
    """Whether points (4, 2) are the four corners of the box from `low` to `high`, in any order."""
    at_high = np.abs(points - high) < np.abs(points - low)
    corners = np.where(at_high, high, low)
    are_four = len({tuple(corner) for corner in at_high.tolist()}) == 4
    return are_four and bool((np.abs(points - corners) <= UPRIGHT).all())
