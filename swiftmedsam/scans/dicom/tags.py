"""Tags of a DICOM file: their values, checked, and one line for what cannot be read.

pydicom takes much as it comes: an empty RescaleSlope, a text where a number should be. Here each
value is what its tag should hold, absent, or refused with the name of the tag.
"""

import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from swiftmedsam.messages import one_line, printable
from swiftmedsam.scans.scan import Float64Array, ScanError

# What pydicom and the decoders raise for files that are damaged or of a kind they do not know;
# `StopIteration` where there are fewer frames than the file says.
DAMAGED = (
    OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    NotImplementedError, RuntimeError, MemoryError, AssertionError, StopIteration, struct.error,
    zlib.error,
)  # fmt: skip
TAG = re.compile(r"\(([0-9a-fA-F]{4}), ?([0-9a-fA-F]{4})\)")
LACKING = re.compile(r"no attribute '(\w+)'")
UNREADABLE = "not a readable DICOM file"
# Functional groups that have an item wherever they are (DICOM PS3.3 C.7.6.16.2).
NEVER_EMPTY = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
)  # fmt: skip
MOST_SHOWN = 64  # characters of a value in a message


class TagError(ValueError):
    """What a file declares cannot be used; the message names the tag, and not yet the file."""


@contextmanager
def readable(name: str, pydicom: Any, fault: str = UNREADABLE) -> Iterator[None]:
    """Inside, what pydicom raises of the file `name` becomes one line; what else it says is lost.

    It logs a traceback for every decoder that it tries, and highdicom every module that it copies.
    """
    loggers = [logging.getLogger(library) for library in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ScanError:
        raise
    except TagError as error:
        raise ScanError(f"{name}: {printable(str(error))}") from error
    except pydicom.errors.InvalidDicomError as error:
        raise ScanError(f"{name}: expected DICOM, found a file without its prefix") from error
    except OSError as error:
        if error.filename is not None:  # the file cannot be opened, and the error knows which
            raise
        raise ScanError(f"{name}: {fault} ({_reason(error, pydicom)})") from error
    except (*DAMAGED, pydicom.errors.BytesLengthException) as error:
        if fault != UNREADABLE and type(error) is ValueError:  # highdicom says what it lacks
            raise ScanError(f"{name}: {fault} ({one_line(error)})") from error
        raise ScanError(f"{name}: {fault} ({_reason(error, pydicom)})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException, pydicom: Any) -> str:
    """What is wrong, in our own words: the tag, if the error names one."""
    if getattr(error, "strerror", None):
        return one_line(error)
    text = str(error)
    if match := TAG.search(text):
        keyword = pydicom.datadict.keyword_for_tag(int("".join(match.groups()), 16))
        return f"{keyword or match[0]} cannot be read: it is damaged"
    if match := LACKING.search(text):
        return f"{match[1]} is missing"
    if isinstance(error, zlib.error):
        return "its deflated data are damaged"
    if isinstance(error, EOFError):
        return "it ends too early"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return "it is damaged, or of a kind that is not known"


def shown(value: Any) -> str:
    """A value in a message."""
    text = printable(str(value))
    return f"'{text[:MOST_SHOWN]}...'" if len(text) > MOST_SHOWN else f"'{text}'"


def value_of(holder: Any, keyword: str) -> Any:
    """What a dataset has under `keyword`; None if the tag is missing or empty.

    Raises:
        TagError: it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's of values that are not as its VR says
            value = holder.get(keyword)
    except DAMAGED as error:
        raise TagError(f"{keyword} cannot be read: it is damaged") from error
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    return value


def text_of(holder: Any, keyword: str) -> str:
    """The text of a tag, without spaces around it; "" if it is missing or empty."""
    value = value_of(holder, keyword)
    return "" if value is None else str(value).strip()


def number_of(holder: Any, keyword: str) -> float | None:
    """The finite number of a tag; None if it is missing or empty.

    Raises:
        TagError: it is several numbers, or none.
    """
    found = numbers_of(holder, keyword, 1)
    return None if found is None else float(found[0])


def numbers_of(holder: Any, keyword: str, count: int) -> Float64Array | None:
    """The finite numbers (count,) of a tag; None if it is missing or empty.

    Raises:
        TagError: it is more of them, or fewer, or no numbers.
    """
    value = value_of(holder, keyword)
    if value is None:
        return None
    single = isinstance(value, (str, bytes)) or not hasattr(value, "__len__")
    try:
        numbers = np.array([float(part) for part in ([value] if single else value)])
    except (TypeError, ValueError):
        numbers = np.array([math.nan])
    if len(numbers) != count or not np.isfinite(numbers).all():
        wanted = "a number" if count == 1 else f"{count} numbers"
        raise TagError(f"{keyword} should be {wanted}, found {shown(value)}")
    return numbers


def whole_of(holder: Any, keyword: str, default: int | None = None) -> int:
    """The whole number of a tag, or `default` if it is missing or empty.

    Raises:
        TagError: it is none, or missing without a default.
    """
    number = number_of(holder, keyword)
    if number is None:
        if default is None:
            raise TagError(f"{keyword} is missing")
        return default
    if number != round(number):
        raise TagError(f"{keyword} should be a whole number, found {shown(number)}")
    return round(number)


def frames_of(header: Any) -> int:
    """How many frames a file declares; 1 where it says nothing.

    Raises:
        TagError: no number of frames.
    """
    frames = whole_of(header, "NumberOfFrames", 1)
    if frames < 0:
        raise TagError(f"NumberOfFrames should be 1 or more, found {frames}")
    return frames or 1


def group_of(header: Any, frame: int, sequence: str) -> Any:
    """A functional group of a frame in an enhanced file, its own before the shared one.

    Of a classic file it is the header itself, where the same tags are.

    Raises:
        TagError: there are fewer groups than frames, or the group is there and empty, so that
            place, spacing or slope would be missing without a word.
    """
    is_empty = False
    for holder in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = header.get(holder) or []
        if groups:
            index = frame if holder.startswith("Per") else 0
            if index >= len(groups):
                frames = frames_of(header)
                raise TagError(f"{holder} should have {frames} items, found {len(groups)}")
            items = groups[index].get(sequence)
            if items:
                return items[0]
            is_empty = is_empty or sequence in groups[index]
    if is_empty and sequence in NEVER_EMPTY:
        raise TagError(f"{sequence} should have an item, found none")
    return header
