"""Large arrays, read in chunks: their range, and percentiles without a sorted copy.

Raw values take many times the bytes of the uint8 values that they become, and may still be
compressed in a file. So functions here take `Values`: each call returns a new iterator over all
chunks, from the first.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

CHUNK = 1 << 20  # elements
DIGIT = 16  # bits of a value that one pass over all values resolves

Array = npt.NDArray[np.generic]
Values = Callable[[], Iterator[Array]]


def chunks_of(array: Array) -> Iterator[Array]:
    """Views of an array of any strides, at most `CHUNK` elements each, in C order."""
    if array.size <= CHUNK:
        yield array
    elif len(array) == 1:
        yield from chunks_of(array[0])
    else:
        half = len(array) // 2
        yield from chunks_of(array[:half])
        yield from chunks_of(array[half:])


def extent(values: Values) -> tuple[float, float]:
    """The lowest and the highest value of a non-empty array; both are NaN if any value is."""
    ends = [(chunk.min(), chunk.max()) for chunk in values()]
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and signalling NaN
        lows, highs = np.array(ends, np.float64).T
    return float(lows.min()), float(highs.max())


def visible_percentiles(
    values: Values, dtype: np.dtype[np.generic], percents: Sequence[float]
) -> list[float] | None:
    """Percentiles of the values that are not 0; None if all values are 0.

    They are interpolated linearly, as `np.percentile` does. `dtype` is that of the values: a real
    type, not bool. The method is a radix selection with digits of `DIGIT` bits: each pass counts
    the next digit of the values whose first digits are those of a wanted value. Values of 2 bytes
    take one pass, values of 4 bytes take two.
    """
    native = np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
    bits = 8 * native.itemsize
    width = min(DIGIT, bits)
    places: list[float] = []
    # For each wanted value: its known first digits, and its rank among the values that have them.
    sought: list[tuple[int, int]] = []
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
    neighbours = [_value(key, native) for key, _ in sought]
    return [
        low + (high - low) * (place % 1)
        for place, low, high in zip(places, neighbours[::2], neighbours[1::2], strict=True)
    ]


def _sign(native: np.dtype[np.generic]) -> tuple[np.dtype[np.unsignedinteger], np.unsignedinteger]:
    """The unsigned type of the same size, and its highest bit."""
    unsigned: np.dtype[np.unsignedinteger] = np.dtype(f"u{native.itemsize}")
    return unsigned, unsigned.type(1 << 8 * native.itemsize - 1)


def _keys(values: Array, native: np.dtype[np.generic]) -> npt.NDArray[np.unsignedinteger]:
    """Unsigned integers (N,) that sort as the values (N,) do; no value is NaN."""
    unsigned, sign = _sign(native)
    keys = values.astype(native, copy=False).view(unsigned)
    if native.kind == "i":
        keys = keys ^ sign
    elif native.kind == "f":  # sign and magnitude: the bits of negative values sort in reverse
        keys = np.where(keys & sign, ~keys, keys | sign)
    return keys


def _value(key: int, native: np.dtype[np.generic]) -> float:
    """The value that `_keys` maps to `key`."""
    unsigned, sign = _sign(native)
    bits = np.array([key], unsigned)
    if native.kind == "i":
        bits = bits ^ sign
    elif native.kind == "f":
        bits = np.where(bits & sign, bits ^ sign, ~bits)
    return float(bits.view(native)[0])
