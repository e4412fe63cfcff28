"""Replace a weights folder by a new one, atomically."""

import re
import shutil
from pathlib import Path

from swiftmedsam.manifest import MANIFEST
from swiftmedsam.network import COMPILED
from swiftmedsam.system import exchange

# The files that a conversion or `Network.precompile` writes. Those of an older conversion go.
WRITTEN = re.compile(rf"(encoder|decoder)[^.]*\.(xml|bin)|{re.escape(MANIFEST)}|{COMPILED}")


def take_place(new: Path, out: Path) -> None:
    """Rename the folder `new` to `out`. Other files of an older `out` are kept in the new one.

    If this is killed, `out` is either the whole old folder or the whole new one. Where the file
    system cannot exchange two folders, the old one is called `.NAME.old` for an instant. Both
    folders must lie in one file system. Afterwards the old folder, if any, has the name `new`.

    Raises:
        OSError: `out` cannot be replaced; it did not change.
    """
    if not out.exists():
        new.rename(out)
        return
    for path in out.iterdir():
        if WRITTEN.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)
    shutil.copymode(out, new)
    if not exchange(new, out):
        aside = out.with_name(f".{out.name}.old")
        out.rename(aside)
        try:
            new.rename(out)
        except OSError:
            aside.rename(out)
            raise
        aside.rename(new)
