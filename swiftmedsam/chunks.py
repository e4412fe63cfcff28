"""Arrays gone through chunk by chunk: their range, and percentiles without a sorted copy.

Raw values take many times the bytes of what they become, and may still lie compressed in a file.
So they are taken as a function that gives them from the beginning, in chunks, as often as asked.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

CHUNK = 1 << 20  # elements
DIGIT = 16  # bits of a value that are counted in one go through all values

Array = npt.NDArray[np.generic]
Values = Callable[[], Iterator[Array]]


def chunks_of(array: Array) -> Iterator[Array]:
    """Views of at most `CHUNK` elements each, in C order, of an array of any strides."""
    if array.size <= CHUNK:
        yield array
    elif len(array) == 1:
        yield from chunks_of(array[0])
    else:
        half = len(array) // 2
        yield from chunks_of(array[:half])
        yield from chunks_of(array[half:])


def extent(values: Values) -> tuple[float, float]:
    """The lowest and the highest of at least one value; both NaN if one is NaN."""
    ends = [(chunk.min(), chunk.max()) for chunk in values()]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite, and NaN that signal
        lows, highs = np.array(ends, np.float64).T
    return float(lows.min()), float(highs.max())


def visible_percentiles(
    values: Values, dtype: np.dtype[np.generic], percents: Sequence[float]
) -> list[float] | None:
    """Percentiles of the values that are not 0; None if all are.

    Linear between the two nearest values, as numpy's. `dtype` is that of the values: real, no bool.
    They are found digit by digit: the first ones of all values are counted, then the next ones of
    those that begin as the ones sought. So values of 2 bytes are gone through once, of 4 twice.
    """
    native = np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
    bits = 8 * native.itemsize
    width = min(DIGIT, bits)
    places: list[float] = []
    sought: list[tuple[int, int]] = []  # digits that are known, and rank among what begins so
    for shift in range(bits - width, -1, -width):
        counts = {known: np.zeros(1 << width, np.int64) for known, _ in sought or [(0, 0)]}
        for chunk in values():
            keys = _keys(chunk[chunk != 0], native)
            for known, count in counts.items():
                own = keys[keys >> (shift + width) == known] if sought else keys
                digits = own >> shift & (1 << width) - 1
                count += np.bincount(digits.astype(np.intp), minlength=count.size)
        if not sought:
            total = int(counts[0].sum())
            if total == 0:
                return None
            places = [percent / 100 * (total - 1) for percent in percents]
            sought = [(0, end) for place in places for end in (math.floor(place), math.ceil(place))]
        up_to = {known: count.cumsum() for known, count in counts.items()}
        digit_of = [int(np.searchsorted(up_to[known], rank, "right")) for known, rank in sought]
        sought = [
            (known << width | digit, rank - int(up_to[known][digit] - counts[known][digit]))
            for (known, rank), digit in zip(sought, digit_of, strict=True)
        ]
    near = [_value(key, native) for key, _ in sought]
    return [
        low + (high - low) * (place % 1)
        for place, low, high in zip(places, near[::2], near[1::2], strict=True)
    ]


def _sign(native: np.dtype[np.generic]) -> tuple[np.dtype[np.unsignedinteger], np.unsignedinteger]:
    unsigned: np.dtype[np.unsignedinteger] = np.dtype(f"u{native.itemsize}")
    return unsigned, unsigned.type(1 << 8 * native.itemsize - 1)


def _keys(values: Array, native: np.dtype[np.generic]) -> npt.NDArray[np.unsignedinteger]:
    """Unsigned integers in the order of the values (N,), which have no NaN."""
    unsigned, sign = _sign(native)
    keys = values.astype(native, copy=False).view(unsigned)
    if native.kind == "i":
        keys = keys ^ sign
    elif native.kind == "f":  # sign and magnitude: of negative ones the order is reversed
        keys = np.where(keys & sign, ~keys, keys | sign)
    return keys


def _value(key: int, native: np.dtype[np.generic]) -> float:
    """The value of which `_keys` made `key`."""
    unsigned, sign = _sign(native)
    found = np.array([key], unsigned)
    if native.kind == "i":
        found = found ^ sign
    elif native.kind == "f":
        found = np.where(found & sign, found ^ sign, ~found)
    return float(found.view(native)[0])
