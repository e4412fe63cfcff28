"""Checked access to JSON values; a wrong value raises a ScanError of one line with its place."""

import json
import math
import re
from typing import Any

from swiftmedsam.messages import printable
from swiftmedsam.scans.scan import ScanError

MOST = 1e12  # of a coordinate: a thousand kilometres in micrometres; float64 can square it
MOST_SHOWN = 60  # characters of a value in a message
# float() would accept 1_0, too.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parsed(text: str, name: str) -> Any:
    """Parse a JSON text; `name` is that of the file.

    Raises:
        ScanError: it is not JSON, or an object has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content:
                raise ScanError(f"{name}: key '{printable(key)}' is there twice in one object")
            content[key] = value
        return content

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ScanError(f"{name}: expected JSON, found something else at {where}") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        if isinstance(error, ScanError):
            raise
        raise ScanError(
            f"{name}: expected JSON, found numbers or lists that are too large"
        ) from error


def shown(value: Any) -> str:
    """A value as text for a message; a long one is cut."""
    try:
        text = printable(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        text = "lists in lists"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def mapping(value: Any, where: str) -> dict[str, Any]:
    """`value`, which must be a JSON object."""
    if not isinstance(value, dict):
        raise ScanError(f"{where}: expected an object with keys, found {shown(value)}")
    return value


def field(owner: dict[str, Any], key: str, where: str) -> Any:
    """The value of `key`, which must be there."""
    if key not in owner:
        raise ScanError(f"{where}: key '{key}' is missing")
    return owner[key]


def items(owner: dict[str, Any], key: str, where: str) -> list[Any]:
    """The list under `key`, which must be there."""
    value = field(owner, key, where)
    if not isinstance(value, list):
        raise ScanError(f"{where}: '{key}' should be a list, got {shown(value)}")
    return value


def words(value: Any, what: str, where: str) -> str:
    """A text; a whole number becomes one. `what` names the value in the message."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ScanError(f"{where}: {what} should be a text, got {shown(value)}")
    return str(value).strip()


def label(value: Any, what: str, where: str) -> str:
    """A text as the name of an object, made one line for messages and tables."""
    return printable(" ".join(words(value, what, where).split()))


def number(value: Any, what: str, where: str) -> float:
    """A number of at most `MOST`; a text may contain it. `what` names it in the message."""
    result = math.nan
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        result = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
    if not math.isfinite(result) or abs(result) > MOST:
        raise ScanError(f"{where}: {what} should be a number, got {shown(value)}")
    return result


def numbers(owner: dict[str, Any], key: str, count: int | None, where: str) -> list[float]:
    """The list of finite numbers under `key`; it must have `count`, or any number if None."""
    values = items(owner, key, where)
    if count is not None and len(values) != count:
        raise ScanError(f"{where}: '{key}' should be {count} numbers, got {shown(values)}")
    return [number(value, f"'{key}'", where) for value in values]


def size_of_picture(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """(columns, rows) of the picture that boxes were drawn on; None if the file has no size."""
    if width in (None, "") or height in (None, ""):
        return None
    sides = [number(width, "width", where), number(height, "height", where)]
    if any(side != round(side) or side < 0 for side in sides):
        raise ScanError(f"{where}: width and height should be whole numbers, got {sides[0]:g} and "
                        f"{sides[1]:g}")  # fmt: skip
    if 0 in sides:  # some programs write 0 for an unknown size
        return None
    return round(sides[0]), round(sides[1])
