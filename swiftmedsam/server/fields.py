"""The fields of a request, checked: each function raises `Refused` (400) with what was expected."""

import json
import math
from typing import Any

from starlette.requests import Request

from swiftmedsam.messages import printable, shortened
from swiftmedsam.server.guard import read_body
from swiftmedsam.server.hub import Refused

META = "x-meta"
MOST_JSON = 1 << 16  # bytes
MOST_COORDINATE = 1e9  # NaN and infinity are none, either


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object that a request sends; nothing is an empty one."""
    body = await read_body(request, MOST_JSON)
    return object_of(body or b"{}", "the request")


def meta_of(request: Request) -> dict[str, Any]:
    """The JSON object in the header of a request with binary content."""
    return object_of(request.headers.get(META, "{}"), META)


def object_of(text: bytes | str, what: str) -> dict[str, Any]:
    """The JSON object that `text` is; `what` is its name in messages."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(400, f"{what} should be a JSON object")
    return value


def flag(asked: dict[str, Any], name: str, default: bool) -> bool:
    """The field `name`, true or false."""
    value = asked.get(name, default)
    if not isinstance(value, bool):
        raise Refused(400, f"{name} should be true or false, got {shown(value)}")
    return value


def is_length(value: object) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: object) -> bool:
    """Whether it is a number that may be a coordinate or a length."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -MOST_COORDINATE < value < MOST_COORDINATE


def shown(value: object) -> str:
    """A value of a request, for a message."""
    return shortened(printable(json.dumps(value)))


def spacing_of(properties: dict[str, Any]) -> list[float] | None:
    """The field `spacing`: three lengths, which may be negative (napari); None: it is not given."""
    spacing = properties.get("spacing")
    if spacing is None:
        return None
    if not (
        isinstance(spacing, list)
        and len(spacing) == 3
        and all(is_number(one) and one != 0 for one in spacing)
    ):
        raise Refused(400, f"spacing should be 3 lengths, none of them 0, got {shown(spacing)}")
    return spacing


def box_of(value: object) -> tuple[tuple[int, int], ...]:
    """A half-open box of numbers, to whole voxels; a pair of equal numbers is one voxel."""
    is_box = isinstance(value, list) and len(value) == 3 and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(is_number(one) for one in pair)
        for pair in value
    )  # fmt: skip
    if not is_box:
        raise Refused(
            400, f"bbox_coords should be three pairs of numbers, half open, got {shown(value)}"
        )
    ends = []
    for low, high in value:  # type: ignore[attr-defined]
        start = math.floor(min(low, high) + 0.5)
        ends.append((start, max(start + 1, math.floor(max(low, high) + 0.5))))
    return tuple(ends)
