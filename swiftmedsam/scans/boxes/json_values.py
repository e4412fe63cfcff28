"""Values of JSON, each checked to be what it should be; what is not is one line that says where."""

import json
import math
import re
from typing import Any

from swiftmedsam.messages import printable
from swiftmedsam.scans.scan import ScanError

MOST = 1e12  # of a coordinate: a thousand kilometres in micrometres; float64 can square it
MOST_SHOWN = 60  # characters of a value in a message
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # float() takes 1_0, too


def parsed(text: str, name: str) -> Any:
    """What a JSON text holds; `name` is the file's.

    Raises:
        ScanError: it is no JSON, or has a key twice, of which one would be lost.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ScanError(f"{name}: key '{printable(key)}' is there twice in one object")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ScanError(f"{name}: expected JSON, found something else at {where}") from error
    except (ValueError, RecursionError) as error:  # as for numbers of thousands of digits
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{name}: expected JSON, found numbers or lists beyond reason") from error


def shown(value: Any) -> str:
    """A value for a message, no more than the beginning of a long one."""
    try:
        text = printable(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        text = "lists in lists"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object of JSON, a value by its key."""
    if not isinstance(value, dict):
        raise ScanError(f"{where}: expected an object with keys, found {shown(value)}")
    return value


def field(owner: dict[str, Any], key: str, where: str) -> Any:
    """The value of a key that has to be there."""
    if key not in owner:
        raise ScanError(f"{where}: key '{key}' is missing")
    return owner[key]


def items(owner: dict[str, Any], key: str, where: str) -> list[Any]:
    """The list that a key that has to be there holds."""
    found = field(owner, key, where)
    if not isinstance(found, list):
        raise ScanError(f"{where}: '{key}' should be a list, got {shown(found)}")
    return found


def words(value: Any, what: str, where: str) -> str:
    """A text, or a whole number as one; `what` it is, for the message."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ScanError(f"{where}: {what} should be a text, got {shown(value)}")
    return str(value).strip()


def label(value: Any, what: str, where: str) -> str:
    """A text as the name of an object: one line, since messages and tables have it."""
    return printable(" ".join(words(value, what, where).split()))


def number(value: Any, what: str, where: str) -> float:
    """A number within `MOST` of 0, or a text that is one; `what` it is, for the message."""
    found = math.nan
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        found = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    if not math.isfinite(found) or abs(found) > MOST:
        raise ScanError(f"{where}: {what} should be a number, got {shown(value)}")
    return found


def numbers(owner: dict[str, Any], key: str, count: int | None, where: str) -> list[float]:
    """The finite numbers of a list, `count` of them; None is any."""
    found = items(owner, key, where)
    if count is not None and len(found) != count:
        raise ScanError(f"{where}: '{key}' should be {count} numbers, got {shown(found)}")
    return [number(value, f"'{key}'", where) for value in found]


def size_of_picture(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """(columns, rows) of the picture that boxes were drawn on; None where the file does not say."""
    if width in (None, "") or height in (None, ""):
        return None
    sides = [number(width, "width", where), number(height, "height", where)]
    if any(side != round(side) or side < 0 for side in sides):
        raise ScanError(f"{where}: width and height should be whole numbers, got {sides[0]:g} and "
                        f"{sides[1]:g}")  # fmt: skip
    if 0 in sides:  # some programs write 0 where they do not know
        return None
    return round(sides[0]), round(sides[1])
