"""Raw scanner values to 0..255, by modality.

Challenge files have values of 0..255 already; they stay unchanged, and `frame` spreads each slice
over 0..1. Other values are recognised here. They are not simply scaled to 0..255: a CT of
-1024..3071 Hounsfield units would leave the abdomen with a dozen grey levels.
"""

import functools
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from swiftmedsam.chunks import Values, chunks_of, extent, visible_percentiles
from swiftmedsam.modality import CT, Modality

log = logging.getLogger(__name__)

PERCENTILES = (0.5, 99.5)  # of a case's non-zero pixels; the organisers' rule, except for CT
CHALLENGE_MAX = 255
LEAST_SPAN = 1e-30  # of values that are scaled in float32; for less, the gain overflows it
LEAST_SHARE = 1e-4  # of the span in the largest value; for less, float32 has under 255 steps
MIN_HOUNSFIELD_SPAN = 100  # a signed CT of a smaller span was normalised, and is not in HU


@dataclass(frozen=True)
class Window:
    """A range of Hounsfield units: its middle (level) and its width."""

    level: float
    width: float


# The organisers' windows (their pre-processing of CT); soft tissue is the default.
WINDOWS = {
    "soft": Window(40, 400),
    "lung": Window(-600, 1500),
    "bone": Window(300, 1500),
    "brain": Window(40, 80),
}
DEFAULT_WINDOW = WINDOWS["soft"]


def parse_window(text: str) -> Window:
    """The window that `text` names, or that it gives as 'LEVEL,WIDTH' in Hounsfield units.

    Raises:
        ValueError: it is no known name, and not two numbers with a width above 0.
    """
    if text in WINDOWS:
        return WINDOWS[text]
    try:
        level, width = (float(part) for part in text.split(","))
        if width > 0 and np.isfinite(level) and np.isfinite(width):
            return Window(level, width)
    except ValueError:
        pass
    raise ValueError(f"expected {', '.join(WINDOWS)} or LEVEL,WIDTH with WIDTH > 0, got '{text}'")


def _stretch(values: Values, out: npt.NDArray[np.uint8], low: float, high: float) -> None:
    """Clip values to low..high, scale them to 0..255 and write them to `out`, chunk by chunk.

    If `low` equals `high`, all become 0.
    """
    span = high - low
    gain = CHALLENGE_MAX / span if span > 0 else 0.0
    is_narrow = span < LEAST_SPAN or span < LEAST_SHARE * max(abs(low), abs(high))
    dtype: np.dtype[np.floating[Any]] = np.dtype(np.float64 if is_narrow else np.float32)
    for chunk, target in zip(values(), chunks_of(out), strict=True):
        scaled = (chunk.astype(dtype) - np.asarray(low, dtype)) * np.asarray(gain, dtype)
        target[...] = np.round(scaled.clip(0, CHALLENGE_MAX))


def to_display(
    image: npt.NDArray[np.generic],
    modality: Modality,
    window: Window = DEFAULT_WINDOW,
    *,
    raw: bool = False,
    name: str = "image",
) -> npt.NDArray[np.uint8]:
    """The image in uint8, of the same shape; values of 0..255 are only rounded.

    The modality's rule is used for fractions between 0 and 1, for values outside 0..255, and with
    `raw` for every dtype but uint8: the window for a CT in Hounsfield units, `PERCENTILES` for
    all else.

    Args:
        image: any real array without NaN or infinities, of at least one pixel.
        modality: selects the rule.
        window: for CT.
        raw: the values come from a scanner, even if they lie in 0..255.
        name: for the log.
    """
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    out = np.empty(image.shape, np.uint8)
    values = functools.partial(chunks_of, image)
    fill_display(values, image.dtype, extent(values), out, modality, window, raw=raw, name=name)
    return out


def fill_display(
    values: Values, dtype: np.dtype[np.generic], ends: tuple[float, float],
    out: npt.NDArray[np.uint8], modality: Modality, window: Window, *,
    raw: bool = False, name: str = "image",
) -> None:  # fmt: skip
    """Do as `to_display` does, but read `values` in chunks and write to `out`.

    `values` are of `dtype`, in the chunks that `chunks_of(out)` has; `ends` are their lowest and
    highest.
    """
    low, high = ends
    if dtype == np.bool_:
        return _stretch(values, out, 0, 1)
    fractions = dtype.kind == "f" and high <= 1
    if low >= 0 and high <= CHALLENGE_MAX and not fractions and not raw:
        return _stretch(values, out, 0, CHALLENGE_MAX)
    if modality == CT:
        if low < 0 and high - low >= MIN_HOUNSFIELD_SPAN:
            half = window.width / 2
            log.info("%s: Hounsfield units, window %g/%g", name, window.level, window.width)
            return _stretch(values, out, window.level - half, window.level + half)
        log.warning(
            "%s: %s of %g..%g is not in Hounsfield units; percentiles are used",
            name, modality.name, low, high,
        )  # fmt: skip
    visible = visible_percentiles(values, dtype, PERCENTILES)
    if visible is not None and visible[0] < visible[1]:
        low, high = visible  # otherwise there is one value besides the background, or only one
    log.info("%s: raw values, percentiles %g..%g", name, low, high)
    return _stretch(values, out, low, high)
