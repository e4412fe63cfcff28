"""What becomes of files that others ship for tests of their own: a page in Markdown, on stdout.

    python -m scripts.foreign_files > docs/foreign_files.md

Every file of pydicom's and nibabel's test data is opened as a scan, without options.
"""

import logging
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError

DATA = {"pydicom": "data/*_files", "nibabel": "**/tests/data"}  # of a library: folders in it
NO_DATA = (".py", ".pyc", ".zip", ".rst", ".txt", ".m", ".gitignore")
DECODERS = ("python-gdcm", "imagecodecs", "pillow")  # that messages may quote
TITLE = """\
# Files of others

What becomes of every file of pydicom's and nibabel's test data, when it is opened as a scan without
options: it is read as a grid of voxels, or refused in one line. Many are damaged on purpose, or no
images. Made by `python -m scripts.foreign_files`, with {}.
"""


def outcome(path: Path) -> str:
    """Grid, type, modality and unit of a scan, as far as it has them, or why it is refused."""
    try:
        scan = read_scan(path)
    except ScanError as error:
        return f"refused: {error}".replace(f"{path.name}: ", "", 1).replace("|", "\\|")
    size = "x".join(map(str, scan.voxels.shape))
    return " ".join(filter(None, [size, scan.voxels.dtype.name, scan.modality, scan.unit]))


def table(library: str) -> str:
    """A row for each file of a library's test data, in the order of their names."""
    spec = find_spec(library)
    assert spec is not None and spec.origin is not None
    home = Path(spec.origin).parent
    files = sorted(path for folder in home.glob(DATA[library]) for path in folder.rglob("*"))
    rows = [
        f"| `{path.relative_to(home).as_posix()}` | {outcome(path)} |\n"
        for path in files
        if path.is_file() and not path.name.endswith(NO_DATA)
    ]
    return f"\n## {library}\n| file | |\n|---|---|\n{''.join(rows)}"


def page() -> str:
    """The tables of all libraries."""
    versions = ", ".join(f"{name} {version(name)}" for name in (*DATA, *DECODERS))
    return TITLE.format(versions) + "".join(map(table, DATA))


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # of what is read all the same
    sys.stdout.write(page())
