"""Which scan a box is for: the path that its file names, against the paths of the scans.

Files of boxes are often made on another computer, so two paths are compared from their ends: the
name of the file first, then its folder, and so on. A box is for one scan or for none.
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

MOST_NAMES = 5  # that a message lists
Said = tuple[Path, str]  # a table, and a path in it


@dataclass(frozen=True, order=True)
class Likeness:
    """How well a path in a table fits the path of a scan; the greatest fits best."""

    is_place: bool  # from the table's own folder, it leads to this very scan
    common: int  # parts that are the same at the ends of both paths
    is_whole: bool  # these are all the parts that the table has
    exact: int  # those of them that are the same in upper and lower case, and in the suffix

    @property
    def is_partial(self) -> bool:
        """Whether the table says folders that the scan is not in."""
        return not self.is_place and not self.is_whole

    @property
    def is_sure(self) -> bool:
        """Whether the path is an end of the scan's, or leads to it."""
        return self.is_place or (self.is_whole and self.exact == self.common)


def parts_of(path: str) -> tuple[str, ...]:
    """Folders and name of a path of any system, without its root, '.' and '..'.

    Either slash parts folders. Characters are composed (Unicode's NFC): macOS stores 'ü' as two.
    """
    plain = posixpath.normpath(unicodedata.normalize("NFC", path).replace("\\", "/"))
    return tuple(part for part in plain.split("/") if part not in ("", ".", ".."))


def _keys(name: str) -> set[str]:
    """What a table may call a file of that name, in lower case; the suffix may be missing."""
    lower = unicodedata.normalize("NFC", name).casefold()
    return {lower, stem_of(Path(lower))}


def _place(said: Said) -> Path | None:
    """The file that a path in a table leads to, from the table's folder; None if none is there."""
    table, file = said
    place = table.parent / file.replace("\\", "/")
    try:
        return place if place.exists() else None
    except OSError:  # a name that no file can have
        return None


def likeness(said: Said, scan: Path) -> Likeness | None:
    """How well a path in a table fits a scan; None if it is the path of another file."""
    theirs, own = parts_of(said[1])[::-1], parts_of(str(scan.absolute()))[::-1]
    if not theirs or not own or theirs[0].casefold() not in _keys(own[0]):
        return None
    pairs = list(zip(theirs, own, strict=False))
    folders = takewhile(lambda pair: pair[0].casefold() == pair[1].casefold(), pairs[1:])
    common = 1 + len(list(folders))
    is_whole = common == len(theirs)
    exact = sum(one == other for one, other in pairs[:common])
    place, is_place = _place(said), False
    if place is not None and scan.exists():
        is_place = place.samefile(scan)
        if not is_place and not is_whole:
            return None  # the file that the table names is there, and is another one
    return Likeness(is_place, common, is_whole, exact)


def _unique(entries: Iterable[Entry]) -> list[Said]:
    """The paths that boxes name, each once, in their order."""
    return list(dict.fromkeys(said for one in entries if (said := one.said) is not None))


def _fits(
    paths: Iterable[Said], scans: Iterable[Path], folder: Path | None = None
) -> dict[Said, tuple[Likeness, list[Path]]]:
    """The scans that each path in a table fits best, as well as each other; not those without.

    Of scans of a `folder`, the whole path from there has to be an end of what the table says.
    """
    by_name: dict[str, list[Path]] = {}
    for scan in scans:
        for key in _keys(scan.name):
            by_name.setdefault(key, []).append(scan)
    best: dict[Said, tuple[Likeness, list[Path]]] = {}
    for said in paths:
        parts = parts_of(said[1])
        for scan in by_name.get(parts[-1].casefold(), []) if parts else []:
            fit = likeness(said, scan)
            if fit is None or (said in best and fit < best[said][0]):
                continue
            if folder is not None and fit.common < len(scan.relative_to(folder).parts):
                continue
            if said in best and fit == best[said][0]:
                best[said][1].append(scan)
            else:
                best[said] = fit, [scan]
    return best


def _meant(scan: Path, fits: dict[Said, Likeness]) -> list[Said]:
    """Of paths that fit a scan, those that mean it: of each table the one that fits best.

    Raises:
        ScanError: they are the paths of two files.
    """
    best: dict[Path, Likeness] = {}
    for (table, _), fit in fits.items():
        best[table] = max(fit, best.get(table, fit))
    longest = max(fit.common for fit in best.values())
    meant = [
        said
        for said, fit in fits.items()
        if (fit.is_place or fit == best[said[0]]) and (not fit.is_partial or fit.common == longest)
    ]
    unsure = {parts_of(said[1]): said for said in meant if not fits[said].is_sure}
    if len(unsure) > 1:
        tables = _listed(sorted({printable(table.name) for table, _ in unsure.values()}))
        paths = " and ".join(f"'{printable(file)}'" for _, file in list(unsure.values())[:2])
        raise ScanError(
            f"{tables}: {paths} are two files, and either could be {_shown(scan)}; "
            "expected boxes that name one"
        )
    return meant


def _owners(
    fits: dict[Said, tuple[Likeness, list[Path]]], only: Path | None = None
) -> dict[Said, Path]:
    """The scan that each path in a table means, if any; all of them, or `only` one.

    Raises:
        ScanError: a path could mean two scans, or a scan is meant by the paths of two files.
    """
    by_scan: dict[Path, dict[Said, Likeness]] = {}
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
    owners: dict[Said, Path] = {}
    partial: dict[Path, list[str]] = {}
    for scan, paths in by_scan.items():
        for said in _meant(scan, paths):
            owners[said] = scan
            if paths[said].is_partial:
                taken = f"'{printable(said[1])}' is taken for {_shown(scan)}"
                partial.setdefault(said[0], []).append(taken)
    for table, taken_for in partial.items():
        name = printable(table.name)
        log.warning("%s: only the ends of the paths agree: %s", name, _listed(taken_for))
    return owners


def _shown(scan: Path) -> str:
    """A scan in a message, with its folder: the name alone may be that of several."""
    return "'" + printable("/".join(parts_of(str(scan.absolute()))[-2:])) + "'"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _say_left_out(entries: Sequence[Entry]) -> None:
    """Name the files of boxes that are for none of the scans."""
    by_table: dict[Path, list[str]] = {}
    for table, file in (one.said for one in entries if one.said is not None):
        by_table.setdefault(table, []).append(printable(file))
    for table, files in by_table.items():
        boxes = "1 box" if len(files) == 1 else f"{len(files)} boxes"
        names = _listed(list(dict.fromkeys(files)))
        log.warning(
            "%s: not used, since of other files: %s (%s)", printable(table.name), boxes, names
        )


def boxes_for_scan(scan: Path, entries: Sequence[Entry]) -> list[Drawn]:
    """The boxes that are for one scan: those that name it, and those that name nothing.

    Those for other files are left out, and said to be.

    Raises:
        ScanError: there are boxes, and none is for it; or they name two files that it could be.
    """
    beside = [scan]
    if scan.parent.is_dir():
        known = tuple(READERS)
        beside += [one for one in scan.parent.iterdir() if suffix_of(one, known) and one != scan]
    owners = _owners(_fits(_unique(entries), beside), scan)
    own = [one for one in entries if one.said is None or one.said in owners]
    others = [one for one in entries if one.said is not None and one.said not in owners]
    if others and not own:
        files = _listed(list(dict.fromkeys(f"'{printable(one.file or '')}'" for one in others)))
        raise ScanError(f"{printable(scan.name)}: expected boxes for it, found those for {files}")
    _say_left_out(others)
    return [one.box for one in own]


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Files and folders down to a depth of 1 or more; OSError if `folder` cannot be read."""
    list(folder.iterdir())  # os.walk would say nothing
    # links that lead in a circle end at that depth
    for top, folders, files in os.walk(folder, followlinks=True):
        yield from (Path(top, name) for name in sorted(folders) + sorted(files))
        if len(Path(top).relative_to(folder).parts) + 1 >= depth:
            folders.clear()


def boxes_in_folder(folder: Path, entries: Sequence[Entry]) -> dict[str, list[Drawn]]:
    """The boxes of each scan of a folder, by its path from there; other scans are named once.

    The path from the folder is an end of what the table says: 'images/a.png' is that file or
    'a.png', never one in another folder.

    Raises:
        OSError: the folder cannot be read.
        ScanError: a box names no file, one that is not there, or one that could be two.
    """
    for one in entries:
        if one.said is None:
            where = _of_folder(folder, one)
            raise ScanError(f"{where} should name its file, since this is a folder")
    paths = _unique(entries)
    depth = max(1, *(len(parts_of(file)) for _, file in paths))
    fits = _fits(paths, _below(folder, depth), folder)
    owners = _owners(fits)
    by_file: dict[str, list[Drawn]] = {}
    others: list[Entry] = []
    for one in entries:
        said = one.said
        if said in owners:
            by_file.setdefault(str(owners[said].relative_to(folder)), []).append(one.box)
        elif owners and said is not None and (said in fits or _place(said)):
            others.append(one)  # of a file in another folder
        else:
            where = _of_folder(folder, one)
            file = printable(one.file or "")
            raise ScanError(f"{where} is for {file}, which is not in that folder")
    _say_left_out(others)
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
