"""Checked access to the tags of a DICOM file; a wrong value is an error of one line.

pydicom accepts much: an empty RescaleSlope, or a text in place of a number. Here a value has the
right type, or is absent, or is refused with the name of its tag.
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

# The errors of pydicom and the decoders for files that are damaged or of an unknown kind;
# `StopIteration` if there are fewer frames than the file says.
DAMAGED = (
    OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    NotImplementedError, RuntimeError, MemoryError, AssertionError, StopIteration, struct.error,
    zlib.error,
)  # fmt: skip
TAG = re.compile(r"\(([0-9a-fA-F]{4}), ?([0-9a-fA-F]{4})\)")
LACKING = re.compile(r"no attribute '(\w+)'")
UNREADABLE = "not a readable DICOM file"
# Functional groups that must have an item if they are present (PS3.3 C.7.6.16.2).
NEVER_EMPTY = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
)  # fmt: skip
MOST_SHOWN = 64  # characters of a value in a message


class TagError(ValueError):
    """A tag or the pixels cannot be used; the message names the tag, but not yet the file."""


@contextmanager
def readable(name: str, pydicom: Any, fault: str = UNREADABLE) -> Iterator[None]:
    """Inside this `with`, errors of pydicom become a ScanError of one line with the file `name`.

    Warnings and log messages of pydicom and highdicom are suppressed: pydicom logs a traceback for
    every decoder that it tries, and highdicom logs every module that it copies.
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
        if error.filename is not None:  # the file cannot be opened; the error names it
            raise
        raise ScanError(f"{name}: {fault} ({_reason(error, pydicom)})") from error
    except (*DAMAGED, pydicom.errors.BytesLengthException) as error:
        if fault != UNREADABLE and type(error) is ValueError:  # highdicom's message has the reason
            raise ScanError(f"{name}: {fault} ({one_line(error)})") from error
        raise ScanError(f"{name}: {fault} ({_reason(error, pydicom)})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException, pydicom: Any) -> str:
    """The reason of an error in plain words, with the tag if the error names one."""
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
    """The value of a tag, by its keyword; None if it is missing or empty.

    Raises:
        TagError: the tag is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of values that do not fit their VR
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
        TagError: the value is not one number.
    """
    found = numbers_of(holder, keyword, 1)
    return None if found is None else float(found[0])


def numbers_of(holder: Any, keyword: str, count: int) -> Float64Array | None:
    """The finite numbers (count,) of a tag; None if it is missing or empty.

    Raises:
        TagError: the value is not `count` numbers.
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
        TagError: the value is not a whole number, or is missing without a default.
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
    """The number of frames that a file declares; 1 if the tag is missing.

    Raises:
        TagError: the number is below 0, or no whole number.
    """
    frames = whole_of(header, "NumberOfFrames", 1)
    if frames < 0:
        raise TagError(f"NumberOfFrames should be 1 or more, found {frames}")
    return frames or 1


def group_of(header: Any, frame: int, sequence: str) -> Any:
    """A functional group of a frame of an enhanced file: its own one, else the shared one.

    For a classic file it is the header itself, which has the same tags.

    Raises:
        TagError: there are fewer groups than frames, or a group of `NEVER_EMPTY` is empty:
            otherwise position, spacing or slope would be missing without notice.
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
