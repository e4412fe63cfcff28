"""Finds the scan that each box belongs to, by the path of the scan that a file of boxes gives.

Files of boxes are often made on another computer. So two paths are compared from their ends: first
the file names, then their folders, and so on. A box belongs to one scan or to none.
"""

import logging
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from swiftmedsam.messages import printable
from swiftmedsam.scans.boxes.drawn import Drawn, Entry
from swiftmedsam.scans.formats.by_suffix import READERS, stem_of, suffix_of
from swiftmedsam.scans.scan import ScanError

log = logging.getLogger(__name__)

MOST_NAMES = 5  # in a message
Reference = tuple[Path, str]  # a table (file of boxes), and the path of a scan in it


@dataclass(frozen=True, order=True)
class Likeness:
    """How well a path in a table fits the path of a scan; the greatest fits best."""

    is_place: bool  # the path, relative to the table's folder, leads to this scan
    common: int  # equal parts (folders and name), counted from the ends of both paths
    is_whole: bool  # whether these are all parts of the path in the table
    exact: int  # the common parts that are also equal in case and suffix

    @property
    def is_partial(self) -> bool:
        """Whether the table's path has folders that the scan's path does not have."""
        return not self.is_place and not self.is_whole

    @property
    def is_sure(self) -> bool:
        """Whether the scan's path ends with the table's path, or the table's path leads to it."""
        return self.is_place or (self.is_whole and self.exact == self.common)


def parts_of(path: str) -> tuple[str, ...]:
    """Folders and name of a path of any system, without its root, '.' and '..'.

    Both slashes separate folders. Characters are composed (Unicode NFC), since macOS stores 'ü' as
    two characters.
    """
    plain = posixpath.normpath(unicodedata.normalize("NFC", path).replace("\\", "/"))
    return tuple(part for part in plain.split("/") if part not in ("", ".", ".."))


def _keys(name: str) -> set[str]:
    """The names that a table may use for a file: with and without suffix, in lower case."""
    lower = unicodedata.normalize("NFC", name).casefold()
    return {lower, stem_of(Path(lower))}


def _place(reference: Reference) -> Path | None:
    """The file at a path in a table, relative to the table's folder; None if there is none."""
    table, file = reference
    place = table.parent / file.replace("\\", "/")
    try:
        return place if place.exists() else None
    except OSError:  # a name that no file can have
        return None


def likeness(reference: Reference, scan: Path) -> Likeness | None:
    """How well a path in a table fits a scan; None if it is the path of another file."""
    theirs, own = parts_of(reference[1])[::-1], parts_of(str(scan.absolute()))[::-1]
    if not theirs or not own or theirs[0].casefold() not in _keys(own[0]):
        return None
    pairs = list(zip(theirs, own, strict=False))
    folders = takewhile(lambda pair: pair[0].casefold() == pair[1].casefold(), pairs[1:])
    common = 1 + len(list(folders))
    is_whole = common == len(theirs)
    exact = sum(one == other for one, other in pairs[:common])
    place, is_place = _place(reference), False
    if place is not None and scan.exists():
        is_place = place.samefile(scan)
        if not is_place and not is_whole:
            return None  # the file that the table names exists, and is another one
    return Likeness(is_place, common, is_whole, exact)


def _unique(entries: Iterable[Entry]) -> list[Reference]:
    """The references of boxes, each once, in their order."""
    return list(
        dict.fromkeys(reference for one in entries if (reference := one.reference) is not None)
    )


def _fits(
    paths: Iterable[Reference], scans: Iterable[Path], folder: Path | None = None
) -> dict[Reference, tuple[Likeness, list[Path]]]:
    """For each reference, its best likeness and the scans that have it; without misfits.

    If `folder` is given, the table's path must end with the scan's whole path from `folder`.
    """
    by_name: dict[str, list[Path]] = {}
    for scan in scans:
        for key in _keys(scan.name):
            by_name.setdefault(key, []).append(scan)
    best: dict[Reference, tuple[Likeness, list[Path]]] = {}
    for reference in paths:
        parts = parts_of(reference[1])
        for scan in by_name.get(parts[-1].casefold(), []) if parts else []:
            fit = likeness(reference, scan)
            if fit is None or (reference in best and fit < best[reference][0]):
                continue
            if folder is not None and fit.common < len(scan.relative_to(folder).parts):
                continue
            if reference in best and fit == best[reference][0]:
                best[reference][1].append(scan)
            else:
                best[reference] = fit, [scan]
    return best


def _references_to(scan: Path, fits: dict[Reference, Likeness]) -> list[Reference]:
    """The references that mean a scan, of those that fit it: the best one of each table.

    Raises:
        ScanError: they could be the paths of two files.
    """
    best: dict[Path, Likeness] = {}
    for (table, _), fit in fits.items():
        best[table] = max(fit, best.get(table, fit))
    longest = max(fit.common for fit in best.values())
    chosen = [
        reference
        for reference, fit in fits.items()
        if (fit.is_place or fit == best[reference[0]])
        and (not fit.is_partial or fit.common == longest)
    ]
    unsure = {
        parts_of(reference[1]): reference for reference in chosen if not fits[reference].is_sure
    }
    if len(unsure) > 1:
        tables = _listed(sorted({printable(table.name) for table, _ in unsure.values()}))
        paths = " and ".join(f"'{printable(file)}'" for _, file in list(unsure.values())[:2])
        raise ScanError(
            f"{tables}: {paths} are two files, and either could be {_shown(scan)}; "
            "expected boxes that name one"
        )
    return chosen


def _owners(
    fits: dict[Reference, tuple[Likeness, list[Path]]], only: Path | None = None
) -> dict[Reference, Path]:
    """The scan of each reference that has one; with `only`, just the references to that scan.

    Raises:
        ScanError: a path could mean two scans, or the paths of two files could mean one scan.
    """
    by_scan: dict[Path, dict[Reference, Likeness]] = {}
    for (table, file), (fit, scans) in fits.items():
        if only is not None and only not in scans:
            continue
        if len(scans) > 1:
            either = " or ".join(_shown(scan) for scan in scans[:2])
            raise ScanError(
                f"{printable(table.name)}: '{printable(file)}' could be {either}; expected a path "
                "that means one"
            )
        by_scan.setdefault(scans[0], {})[table, file] = fit
    owners: dict[Reference, Path] = {}
    partial: dict[Path, list[str]] = {}
    for scan, paths in by_scan.items():
        for reference in _references_to(scan, paths):
            owners[reference] = scan
            if paths[reference].is_partial:
                taken = f"'{printable(reference[1])}' is taken for {_shown(scan)}"
                partial.setdefault(reference[0], []).append(taken)
    for table, taken_for in partial.items():
        name = printable(table.name)
        log.warning("%s: only the ends of the paths agree: %s", name, _listed(taken_for))
    return owners


def _shown(scan: Path) -> str:
    """A scan in a message, with its folder, since several scans may have one name."""
    return "'" + printable("/".join(parts_of(str(scan.absolute()))[-2:])) + "'"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _warn_of_left_out(entries: Sequence[Entry]) -> None:
    """Log a warning about boxes that belong to none of the scans."""
    by_table: dict[Path, list[str]] = {}
    for table, file in (one.reference for one in entries if one.reference is not None):
        by_table.setdefault(table, []).append(printable(file))
    for table, files in by_table.items():
        boxes = "1 box" if len(files) == 1 else f"{len(files)} boxes"
        names = _listed(list(dict.fromkeys(files)))
        log.warning(
            "%s: boxes of other files are not used: %s (%s)", printable(table.name), boxes, names
        )


def boxes_for_scan(scan: Path, entries: Sequence[Entry]) -> list[Drawn]:
    """The boxes of one scan: those that name it, and those that name no file.

    Boxes of other files are left out, with a warning.

    Raises:
        ScanError: all boxes are for other files, or they name two files that could be this scan.
    """
    beside = [scan]
    if scan.parent.is_dir():
        known = tuple(READERS)
        beside += [one for one in scan.parent.iterdir() if suffix_of(one, known) and one != scan]
    owners = _owners(_fits(_unique(entries), beside), scan)
    own = [one for one in entries if one.reference is None or one.reference in owners]
    others = [one for one in entries if one.reference is not None and one.reference not in owners]
    if others and not own:
        files = _listed(list(dict.fromkeys(f"'{printable(one.file or '')}'" for one in others)))
        raise ScanError(f"{printable(scan.name)}: expected boxes for it, found those for {files}")
    _warn_of_left_out(others)
    return [one.box for one in own]


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Files and folders under `folder`, down to `depth`, 1 or more; OSError if it is unreadable."""
    list(folder.iterdir())  # raises the error, which os.walk would ignore
    # the depth also ends circles of links
    for top, folders, files in os.walk(folder, followlinks=True):
        yield from (Path(top, name) for name in sorted(folders) + sorted(files))
        if len(Path(top).relative_to(folder).parts) + 1 >= depth:
            folders.clear()


def boxes_in_folder(folder: Path, entries: Sequence[Entry]) -> dict[str, list[Drawn]]:
    """The boxes of each scan of a folder, by the scan's path from there.

    The table's path must end with the path from the folder: 'images/a.png' means that file or
    'a.png', never one in another folder. One warning lists the scans without boxes.

    Raises:
        OSError: the folder cannot be read.
        ScanError: a box names no file, a missing file, or a path that could mean two files.
    """
    for one in entries:
        if one.reference is None:
            where = _of_folder(folder, one)
            raise ScanError(f"{where} should name its file, since this is a folder")
    paths = _unique(entries)
    depth = max(1, *(len(parts_of(file)) for _, file in paths))
    fits = _fits(paths, _below(folder, depth), folder)
    owners = _owners(fits)
    by_file: dict[str, list[Drawn]] = {}
    others: list[Entry] = []
    for one in entries:
        reference = one.reference
        if reference in owners:
            by_file.setdefault(str(owners[reference].relative_to(folder)), []).append(one.box)
        elif owners and reference is not None and (reference in fits or _place(reference)):
            others.append(one)  # of a file in another folder
        else:
            where = _of_folder(folder, one)
            file = printable(one.file or "")
            raise ScanError(f"{where} is for {file}, which is not in that folder")
    _warn_of_left_out(others)
    alone = [
        printable(path.name)
        for path in sorted(folder.iterdir())
        if suffix_of(path, tuple(READERS)) and path.name not in by_file
    ]
    if alone:
        log.warning("left alone (no box): %s", ", ".join(alone))
    return by_file


def _of_folder(folder: Path, one: Entry) -> str:
    box = f"box '{one.box.name}'" if one.box.name else "a box"
    return f"{printable(folder.name)}: {box}"
