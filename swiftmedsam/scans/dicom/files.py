"""Finds the DICOM images under a folder, by series, and warns about other files."""

import logging
import struct
from pathlib import Path
from typing import Any

from swiftmedsam.messages import printable
from swiftmedsam.scans.dicom.tags import readable, text_of
from swiftmedsam.scans.scan import ScanError, SeveralError

log = logging.getLogger(__name__)

SUFFIXES = (".dcm", ".ima")
MAGIC_AT, MAGIC = 128, b"DICM"
APPLE_DOUBLE = b"\x00\x05\x16\x07"  # start of the file ._NAME that macOS writes beside a file NAME
# Modalities of objects that are made from images, or describe them.
NO_SCAN = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO")
NAMES_SHOWN = 5  # of files in a message

Headers = list[tuple[Path, Any]]  # each file with its header, read by pydicom
SeriesKey = tuple[str, str]  # SeriesInstanceUID and SeriesNumber, "" where missing


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do; its name does not matter."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC


def names_of(paths: list[Path]) -> str:
    """The first few names of files, and the number of the others."""
    shown = ", ".join(printable(path.name) for path in paths[:NAMES_SHOWN])
    more = len(paths) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def headers_under(folder: Path, pydicom: Any) -> dict[SeriesKey, Headers]:
    """Headers of the images under a folder, by series.

    DICOM objects that are no images (reports, plans, segmentations) and files that are not DICOM
    are ignored.

    Raises:
        OSError: a file cannot be opened.
        ScanError: a file that is DICOM by its name or its first bytes cannot be read, or ends
            before the size of its image: otherwise a slice would be missing without notice.
    """
    found: dict[SeriesKey, Headers] = {}
    faults: list[str] = []
    left_alone: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if not is_dicom(path):
            if fault := _fault(path):
                faults.append(f"{printable(path.name)}: {fault}")
            elif _should_be_named(path):
                left_alone.append(path)
            continue
        try:
            with readable(printable(path.name), pydicom):
                header = pydicom.dcmread(path, stop_before_pixels=True)
                if "Rows" not in header:
                    if _is_image_class(header):
                        faults.append(
                            f"{printable(path.name)}: expected an image, found a DICOM file that "
                            "ends before its Rows: it is cut"
                        )
                    elif not _is_known_class(header):
                        left_alone.append(path)
                elif text_of(header, "Modality") not in NO_SCAN:
                    key = text_of(header, "SeriesInstanceUID"), text_of(header, "SeriesNumber")
                    found.setdefault(key, []).append((path, header))
        except ScanError as error:
            faults.append(str(error))
    if faults:
        more = f" (and {len(faults) - 1} more such files)" if len(faults) > 1 else ""
        raise ScanError(faults[0] + more)
    if left_alone:
        log.warning("%s: left alone (no images): %s", printable(folder.name), names_of(left_alone))
    return found


def _class_of(header: Any) -> Any:
    """The SOP class; if a truncated file lacks it, the one of the file's meta information."""
    return header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")


def _is_image_class(header: Any) -> bool:
    """Whether the SOP class is that of an image, or is missing in a truncated file."""
    kind = _class_of(header)
    return not kind or "Image Storage" in kind.name


def _is_known_class(header: Any) -> bool:
    kind = _class_of(header)
    return bool(kind.name != str(kind))  # pydicom has no name for classes of vendors


def _fault(path: Path) -> str:
    """The fault of a file that should be DICOM but does not begin as DICOM; "" if none."""
    named = path.name.lower().endswith(SUFFIXES)
    if named and path.is_symlink() and not path.exists():
        return "expected DICOM, found a link to a file that is not there"
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(APPLE_DOUBLE) or not (named or head):
        return ""
    if not head:
        return "expected DICOM, found an empty file"
    if _begins_as_dataset(head, path.stat().st_size):
        return "expected DICOM, found a file without its prefix"
    return "expected DICOM, found another kind of file" if named else ""


def _should_be_named(path: Path) -> bool:
    """Whether an unused file could be a slice, or an unfollowed link could lead to slices.

    Slices may be compressed one by one (`a.dcm.gz`).
    """
    if path.is_symlink() and not path.is_file():  # to a folder, or to nothing
        return path.is_dir() or not path.suffix
    if not path.is_file():
        return False
    named = any(suffix.lower() in SUFFIXES for suffix in path.suffixes)
    return named or (not path.suffix and path.stat().st_size == 0)


def _begins_as_dataset(head: bytes, size: int) -> bool:
    """Whether a file begins with an element of group 2 or 8, as DICOM data sets do.

    PS3.5 7.1: an element begins with its group and element number; the two letters of a value
    representation or a length follow.
    """
    if len(head) < 8:
        return False
    group, element, length = struct.unpack("<HHI", head)
    letters = head[4:6].isalpha() and head[4:6].isupper()
    if group in (2, 8) and element < 0x100:
        return letters or length < size
    return head[:2] == b"\x00\x08" and letters  # big endian


def choose_series(
    found: dict[SeriesKey, Headers], series: str | None, name: str, folder: Path
) -> Headers:
    """The images of the only series under a folder, or of the one with number or UID `series`.

    Raises:
        ScanError: there is no series, or several; then the message lists them.
    """
    if not found:
        raise ScanError(f"{name}: expected DICOM images, or boxes that name its files, found none")
    wanted = [key for key in found if series is None or series in key]
    if len(wanted) == 1:
        return found[wanted[0]]
    if wanted and series is not None and {uid for uid, _ in wanted} == {series}:
        return [one for key in wanted for one in found[key]]
    choices: dict[str, Headers] = {}
    for key in found:
        choices.setdefault(_chooser(key, found), []).extend(found[key])
    described = "; ".join(
        f"{printable(chooser)} ({_description(headers, chooser, folder)})"
        for chooser, headers in choices.items()
    )
    raise SeveralError(
        f"{name}: --series should name one of {len(choices)} series: {described}",
        f"{name}: has {len(choices)} series",
    )


def _chooser(key: SeriesKey, found: dict[SeriesKey, Headers]) -> str:
    """The value of --series for a series: its number, or its UID if the number is not unique."""
    uid, number = key
    is_one = number and sum(other == number for _, other in found) == 1
    return number if is_one else uid or number or "without a number"


def _description(headers: Headers, chooser: str, folder: Path) -> str:
    """Describe a series for a message; with date and folder if its number does not choose it."""
    path, header = headers[0]
    described = text_of(header, "SeriesDescription") or "no description"
    facts = [text_of(header, "Modality") or "?", f"{len(headers)} files", described]
    if chooser != text_of(header, "SeriesNumber"):
        facts += [text_of(header, "SeriesDate") or text_of(header, "StudyDate") or "no date"]
        inside = path.parent.relative_to(folder)
        facts += [f"in {inside}"] if inside.name else []
    return ", ".join(map(printable, facts))


def without_copies(headers: Headers, name: str, pydicom: Any) -> Headers:
    """Each image once; a warning lists the copies that are left out.

    Raises:
        OSError: a file cannot be opened.
        ScanError: two different images have one SOPInstanceUID, or a file is damaged.
    """
    kept: dict[str, Path] = {}
    left_out: list[Path] = []
    once: Headers = []
    for path, header in headers:
        with readable(printable(path.name), pydicom):
            uid = text_of(header, "SOPInstanceUID") or str(path)
        if uid not in kept:
            kept[uid] = path
            once.append((path, header))
            continue
        with readable(printable(path.name), pydicom):
            same = pydicom.dcmread(kept[uid]) == pydicom.dcmread(path)
        if not same:
            raise ScanError(
                f"{name}: {printable(kept[uid].name)} and {printable(path.name)} have one "
                "SOPInstanceUID and should be the same, and are not"
            )
        left_out.append(path)
    if left_out:
        log.warning(
            "%s: %d files are copies of others and left out: %s",
            name, len(left_out), names_of(left_out),
        )  # fmt: skip
    return once


def require_whole(headers: Headers, name: str) -> None:
    """Raise ScanError if an image is spread over several files and one of them is missing.

    These are concatenations, PS3.3 C.7.6.16.2.2.4.
    """
    parts: dict[str, set[int]] = {}
    totals: dict[str, int] = {}
    for _, header in headers:
        if (uid := header.get("ConcatenationUID")) and "InConcatenationNumber" in header:
            parts.setdefault(uid, set()).add(int(header.InConcatenationNumber))
            totals[uid] = int(header.get("InConcatenationTotalNumber") or 0)
    for uid, numbers in parts.items():
        total = max(totals[uid], *numbers)
        if len(numbers) < total:
            raise ScanError(
                f"{name}: an image should be in {total} files (InConcatenationTotalNumber), "
                f"found {len(numbers)} of them"
            )
