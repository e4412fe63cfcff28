"""Reads tables of boxes, one box per row: CSV of any delimiter, and lists of rows in JSON."""

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftmedsam.messages import printable
from swiftmedsam.scans.boxes.drawn import Entry, Meaning, are_fractions, drawn_box
from swiftmedsam.scans.boxes.json_values import (
    items,
    label,
    mapping,
    number,
    shown,
    size_of_picture,
    words,
)
from swiftmedsam.scans.formats.by_suffix import READERS, suffix_of
from swiftmedsam.scans.scan import ScanError

log = logging.getLogger(__name__)

# The meanings of columns, with their names in lower case, letters and digits only. If a meaning has
# several groups of names, a later group counts only if no column has a name of an earlier one.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "file": (
        ("file", "filename", "filepath", "path", "image", "imagename", "imagefile", "imagepath",
         "img", "imgname", "imgpath", "scan", "scanname", "picture"),
        ("imageid", "imgid", "imageindex", "scanid", "volumeid"),
        ("series", "seriesid", "seriesuid", "seriesinstanceuid", "study", "studyid", "studyuid",
         "studyinstanceuid", "patient", "patientid", "subject", "subjectid", "case", "caseid"),
    ),
    "name": (("name", "label", "labelname", "class", "classname", "category", "categoryname"),),
    "x_min": (("xmin",),), "y_min": (("ymin",),), "z_min": (("zmin",),),
    "x_max": (("xmax",),), "y_max": (("ymax",),), "z_max": (("zmax",),),
    "box": (("box",),),
    "units": (("units",),), "space": (("space",),),
    "width": (("imagewidth", "imgwidth"), ("width",)),  # of the picture
    "height": (("imageheight", "imgheight"), ("height",)),
}  # fmt: skip
CORNERS = ("x_min", "y_min", "z_min", "x_max", "y_max", "z_max")
PLANAR = ("x_min", "y_min", "x_max", "y_max")
UNITS = {"voxel": "voxel", "voxels": "voxel", "pixel": "voxel", "pixels": "voxel", "px": "voxel",
         "mm": "mm"}  # fmt: skip
KINDS = (
    f"read are tables (CSV, TSV, JSON) with columns {', '.join(PLANAR)}, ROIs of 3D Slicer "
    "(.mrk.json), COCO and LabelMe"
)
SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t ]*(\r\n|\r|\n)', re.IGNORECASE)  # Excel's first line
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)


def _plain(column: str) -> str:
    return "".join(c for c in column.lower() if c.isalnum())


def columns_of(header: Iterable[str], where: str) -> dict[str, str]:
    """The columns of a header by meaning, a key of `COLUMNS`; other columns are left out.

    Raises:
        ScanError: two columns have the same meaning.
    """
    plain = [(column, _plain(column)) for column in header]
    found: dict[str, str] = {}
    for meaning, groups in COLUMNS.items():
        for group in groups:
            same = [column for column, name in plain if name in group]
            if len(same) > 1:
                both = " and ".join(f"'{printable(column)}'" for column in same[:2])
                raise ScanError(f"{where}: columns {both} mean the same, expected one of them")
            if same:
                found[meaning] = same[0]
                break
    return found


def _needed(columns: Iterable[str]) -> tuple[str, ...]:
    return CORNERS if {"z_min", "z_max"} & set(columns) else PLANAR


def read_csv(text: str, name: str, meaning: Meaning) -> list[Entry]:
    """Read the boxes of a CSV table with a header; `name` is that of the file, for messages.

    Excel's line `sep=;`, empty rows and rows that begin with # are skipped.

    Raises:
        ScanError: the text is no such table, or a row is no box.
    """
    header: list[str] | None = None
    columns: dict[str, str] = {}
    rows: list[tuple[str, Mapping[str, Any]]] = []
    comments: list[int] = []
    first_line = 1
    if separator := SEPARATOR.match(text):
        text, first_line = text[separator.end() :], 2
    delimiter = separator[1] if separator else _delimiter(text)
    for line, cells in _cells(text, delimiter, first_line, name):
        where = f"{name}: line {line}"
        if cells[0].startswith("#"):
            comments.append(line)
        elif header is None:
            header = cells
            columns = columns_of(header, name)
            if not columns:
                raise ScanError(f"{name}: not a table, nor JSON; {KINDS}")
            needed = _needed(columns)
            if not set(needed) <= set(columns):
                found = ", ".join(printable(cell) for cell in header)
                raise ScanError(f"{name}: expected columns {', '.join(needed)}, found {found}")
        elif any(cells[len(header) :]):
            raise ScanError(f"{where} has more columns than the first")
        else:
            row = dict(zip(header, cells, strict=False))
            rows.append((where, {key: row.get(column, "") for key, column in columns.items()}))
    if delimiter != ",":
        rows = [(where, _with_points(row, where)) for where, row in rows]
    entries = _entries(rows, meaning)
    if comments:
        log.warning("%s: left out, since they begin with #: lines %s", name, _few(comments))
    _warn_of_unused(name, header or [], columns.values())
    return entries


def read_rows(content: Any, name: str, meaning: Meaning) -> list[Entry]:
    """Read the boxes of a JSON list of rows, or of an object with such a list under `boxes`.

    The other keys of that object count for each row.

    Raises:
        ScanError: the content is no such list, or a row is no box.
    """
    if isinstance(content, list):
        content = {"boxes": content}
    if not isinstance(content, dict) or "boxes" not in content:
        raise ScanError(f"{name}: not a kind of boxes that is known; {KINDS}")
    common = {key: value for key, value in content.items() if key != "boxes"}
    rows: list[tuple[str, Mapping[str, Any]]] = []
    keys: dict[str, None] = {}
    used: set[str] = set()
    for count, one in enumerate(items(content, "boxes", name), start=1):
        where = f"{name}: box {count}"
        row = common | mapping(one, where)
        columns = columns_of(row, where)
        if not columns:
            raise ScanError(f"{name}: not a kind of boxes that is known; {KINDS}")
        if "box" in columns and {*CORNERS} & set(columns):
            raise ScanError(f"{where}: has 'box' and columns of corners, expected one of them")
        keys |= dict.fromkeys(row)
        used |= set(columns.values())
        rows.append((where, {key: row[column] for key, column in columns.items()}))
    entries = _entries(rows, meaning)
    _warn_of_unused(name, keys, used)
    return entries


def _delimiter(text: str) -> str:
    """The delimiter of the header's cells: the most frequent of comma, semicolon and tab."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return max(",;\t", key=next(lines, "").count)


def _cells(
    text: str, delimiter: str, first_line: int, name: str
) -> Iterator[tuple[int, list[str]]]:
    """For each line that is not empty, its number and its cells, stripped of spaces."""
    stream = io.StringIO(text, newline="")
    rows = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield rows.line_num + first_line - 1, cells
    except csv.Error as error:
        raise ScanError(
            f"{name}: line {rows.line_num + first_line - 1} cannot be split into cells, a "
            "quote may not be closed"
        ) from error


def _with_points(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row with decimal points in place of decimal commas."""
    plain = dict(row)
    for key in (*CORNERS, "width", "height"):
        cell = plain.get(key, "")
        if THOUSANDS.fullmatch(cell):
            raise ScanError(f"{where}: {key} is {cell}, which could be a fraction or thousands; "
                            "expected a decimal point")  # fmt: skip
        if DECIMAL_COMMA.fullmatch(cell):
            plain[key] = cell.replace(",", ".")
    return plain


def _entries(rows: Iterable[tuple[str, Mapping[str, Any]]], meaning: Meaning) -> list[Entry]:
    """The boxes of rows; a row is its place, for messages, and its values by meaning."""
    entries: list[Entry] = []
    nameless = ""
    for where, row in rows:
        entries.append(_entry(row, where, meaning))
        if entries[-1].file is None:
            nameless = nameless or where
    if nameless and any(one.file is not None for one in entries):
        raise ScanError(f"{nameless}: file is empty, and other rows have one; expected one in each")
    return entries


def _entry(row: Mapping[str, Any], where: str, meaning: Meaning) -> Entry:
    """The box of a row, given as values by meaning; None and blank text count as no value."""
    cells = {key: value for key, value in row.items() if value is not None and str(value).strip()}
    units = UNITS.get(str(cells.get("units", meaning.units)).lower())
    space = cells.get("space", meaning.space)
    space = space.upper() if isinstance(space, str) else space
    if units is None or space not in (None, "RAS", "LPS"):
        raise ScanError(
            f"{where}: expected units voxel or mm and space RAS or LPS, got "
            f"{shown(cells.get('units', meaning.units))} and {shown(space)}"
        )
    if "box" in cells:
        if not isinstance(cells["box"], list):
            raise ScanError(f"{where}: 'box' should be a list, got {shown(cells['box'])}")
        corners = [number(value, "'box'", where) for value in cells["box"]]
    else:
        needed = _needed(cells)
        if lacking := [key for key in needed if key not in cells]:
            state = "is empty" if lacking[0] in row else "is missing"
            raise ScanError(f"{where}: {lacking[0]} {state}, expected {', '.join(needed)}")
        corners = [number(cells[key], key, where) for key in needed]
    if units == "voxel" and are_fractions(corners):
        raise ScanError(f"{where}: numbers of 0 to 1 are fractions of a size, expected voxels")
    name = label(cells["name"], "name", where) if "name" in cells else ""
    file = words(cells["file"], "file", where) if "file" in cells else None
    if file is None and suffix_of(Path(name), tuple(READERS)):
        raise ScanError(f"{where}: the name '{printable(name)}' is that of a file; expected a "
                        "column file")  # fmt: skip
    drawn = drawn_box(name, corners, units, space, where)
    size = size_of_picture(cells.get("width"), cells.get("height"), where)
    return Entry(replace(drawn, drawn_on=size), file)


def _warn_of_unused(name: str, header: Iterable[str], used: Iterable[str]) -> None:
    unused = [f"'{printable(key)}'" for key in header if key and key not in set(used)]
    if unused:
        log.warning("%s: columns that are not used: %s", name, ", ".join(unused))


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
