"""Files of the page beside those that may be opened (`files`): where results go, what came in.

Nothing but the file that a request names is read, whatever a link in a folder or the header of a
file names. What a browser uploads gets a name made of safe characters, in a folder of its own.
"""

import os
import re
from pathlib import Path

from swiftmedsam.messages import printable, shortened
from swiftmedsam.scans.formats import itk
from swiftmedsam.scans.formats.itk_headers import MOST_BYTES, read_header
from swiftmedsam.server.hub import Refused

MOST_NAME = 120  # characters of the name that an uploaded file gets
LONGEST_NAME = 250  # bytes of a name that file systems can hold
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# NRRD: a pattern like "slice%03d.raw 1 20 1" in place of the data's file
PATTERN = re.compile(rb"^\s*data ?file\s*:[^\n]*%", re.IGNORECASE | re.MULTILINE)


def require_inside(path: Path, root: Path) -> None:
    """Refuse a folder with a link that leads out of `root`, and a header of data that lie there.

    Raises:
        Refused: a part of `path` lies elsewhere.
    """
    others = path.rglob("*") if path.is_dir() else detached(path)
    for other in others:
        if not Path(os.path.realpath(other)).is_relative_to(root):
            raise Refused(400, f"{printable(path.name)}: a part of it lies outside of --root")


def place_for(folder: Path, name: str) -> Path:
    """The path of a file of that name, to be written in the folder of an opened file.

    Raises:
        Refused: it is no plain name of a file.
    """
    words = f"'{shortened(printable(name))}'"
    is_plain = printable(name) == name == Path(name).name and not name.startswith(".")
    if not is_plain or "\\" in name or len(os.fsencode(name)) > LONGEST_NAME:
        raise Refused(400, f"{words} is no plain name of a file")
    place = folder / name
    if place.is_symlink():  # what it leads to was chosen by nobody
        raise Refused(400, f"{words}: there is a link of that name")
    if place.is_dir():
        raise Refused(400, f"{words}: there is a folder of that name")
    return place


def detached(path: Path) -> list[Path]:
    """The files of voxels that the header of a NRRD or MetaImage names, beside its own.

    Raises:
        Refused: it names them by a pattern.
        ScanError: the header is damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in itk.SUFFIXES or not path.is_file():
        return []
    is_nrrd = suffix in itk.NRRD
    with path.open("rb") as stream:
        head = stream.read(MOST_BYTES).partition(b"\n\n")[0].replace(b"\r", b"\n")
    if is_nrrd and PATTERN.search(head):
        raise Refused(400, f"{printable(path.name)}: names its data by a pattern")
    return list(read_header(path, is_nrrd=is_nrrd).files)


def safe_name(name: str, default: str = "dropped") -> str:
    """A name for an uploaded file: letters, digits, dots, dashes; its suffix is kept."""
    plain = UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")
    return plain[-MOST_NAME:].lstrip("._-") or default
