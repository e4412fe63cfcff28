"""Reads files of boxes: tables (CSV, JSON), 3D Slicer's ROI markups, COCO and LabelMe.

The kind is recognised by the content. A row may name the scan that its box belongs to.
"""

import codecs
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftmedsam.messages import one_line, printable
from swiftmedsam.scans.boxes.annotations import read_coco, read_labelme, read_slicer
from swiftmedsam.scans.boxes.drawn import Entry, Meaning
from swiftmedsam.scans.boxes.json_values import parsed
from swiftmedsam.scans.boxes.tables import KINDS, read_csv, read_rows
from swiftmedsam.scans.formats.by_suffix import READERS, suffix_of
from swiftmedsam.scans.scan import ScanError

# Each kind of JSON is recognised by a key of its outermost object.
JSON_KINDS: dict[str, Callable[[dict[str, Any], Path], list[Entry]]] = {
    "markups": read_slicer, "annotations": read_coco, "shapes": read_labelme
}  # fmt: skip


def read_boxes(path: Path, meaning: Meaning) -> list[Entry]:
    """Read the boxes of a file; a table without units or space has those of `meaning`.

    Raises:
        ScanError: the file cannot be read, is of no known kind, or has no box.
    """
    name = printable(path.name)
    text = _text(path)
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        entries = _read_json(text, path, meaning)
    else:
        entries = read_csv(text, name, meaning)
    if not entries:
        raise ScanError(f"{name}: expected boxes, found none")
    return [replace(entry, table=path) for entry in entries]


def _text(path: Path) -> str:
    """The text of a file, in UTF-8 or UTF-16 (Excel's "Unicode text")."""
    name = printable(path.name or str(path))
    if suffix_of(path, tuple(READERS)):
        raise ScanError(
            f"{name}: expected a file of boxes, found a scan (--boxes-from takes label maps)"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScanError(f"{name}: boxes cannot be read ({one_line(error)})") from error
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ScanError(f"{name}: expected text in UTF-8, found other bytes; {KINDS}")
    return text


def _read_json(text: str, path: Path, meaning: Meaning) -> list[Entry]:
    name = printable(path.name)
    content = parsed(text, name)
    found = [key for key in JSON_KINDS if isinstance(content, dict) and key in content]
    if len(found) > 1 or (found and "boxes" in content):
        keys = "', '".join([*found, "boxes"][:2])
        raise ScanError(f"{name}: keys '{keys}' are those of two kinds; {KINDS}")
    return JSON_KINDS[found[0]](content, path) if found else read_rows(content, name, meaning)
