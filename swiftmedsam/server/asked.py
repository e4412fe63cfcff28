"""What requests of the page ask for, checked: each function raises `Refused` (400)."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool

from swiftmedsam.case import CaseError
from swiftmedsam.display import Window
from swiftmedsam.messages import words_of
from swiftmedsam.scans.scan import Colour
from swiftmedsam.server.hub import Refused
from swiftmedsam.server.slices import Part, Plane

MOST_WINDOW = 1e6  # Hounsfield units
MOST_DIGITS = 9

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn errors that the request caused into `Refused`."""
    try:
        yield
    except CaseError as error:
        raise Refused(400, str(error)) from None
    except OSError as error:
        raise Refused(400, words_of(error)) from None


async def aside(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `call` returns, in a thread that does not use the network."""
    with refusing():
        return await run_in_threadpool(call, *arguments, **named)


def whole(value: object, what: str) -> int:
    """A whole number of JSON, or of the text of a query."""
    text = str(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    is_text = isinstance(value, str) and text.isascii() and text.removeprefix("-").isdigit()
    if not (is_number or is_text) or len(text) > MOST_DIGITS:
        raise Refused(400, f"{what} should be a whole number")
    return int(text)


def text_of(value: object, what: str) -> str | None:
    """A text; None if there is none, or an empty one."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Refused(400, f"{what} should be a text")
    return value


def volume_of(value: object) -> int | None:
    """The number of a volume; None if there is none."""
    return None if value in (None, "") else whole(value, "volume")


def colour_of(value: object) -> Colour | None:
    """Red, green and blue; None if there is none."""
    if value is None:
        return None
    parts = value if isinstance(value, list) and len(value) == 3 else [None]
    found = [whole(part, "each part of a colour") for part in parts]
    if not all(0 <= part <= 255 for part in found):
        raise Refused(400, "each part of a colour should be one of 0..255")
    red, green, blue = found
    return red, green, blue


def window_of(value: object) -> Window:
    """A window of its level and width, numbers or texts."""
    try:
        level, width = (float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        level, width = math.nan, math.nan
    if not (abs(level) <= MOST_WINDOW and 0 < width <= MOST_WINDOW):
        raise Refused(400, "a window should be a level and a width above 0")
    return Window(level, width)


def part_of(plane: Plane, value: object) -> Part:
    """A part of a slice: [x0, y0, x1, y1], half open, columns first; it lies in the slice."""
    ends = value if isinstance(value, list) and len(value) == 4 else [None]
    found = [whole(end, "each end of a box") for end in ends]
    x0, y0, x1, y1 = found
    _, rows, columns = plane.size
    if not (0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows):
        raise Refused(
            400,
            f"a box should be x0, y0, x1, y1, half open, in a slice of {columns} x {rows} pixels, "
            f"got {found}",
        )
    return (y0, y1), (x0, x1)


def numbers_of(value: object) -> list[int]:
    """A list of numbers of objects."""
    if not isinstance(value, list):
        raise Refused(400, "objects should be a list of numbers")
    return [whole(one, "the number of an object") for one in value]
