"""A weights folder that takes the place of another one, at once."""

import re
import shutil
from pathlib import Path

from swiftmedsam.manifest import MANIFEST
from swiftmedsam.network import COMPILED
from swiftmedsam.system import exchange

# What a conversion writes, and `Network.precompile`: no such file of an older conversion stays.
WRITTEN = re.compile(rf"(encoder|decoder)[^.]*\.(xml|bin)|{re.escape(MANIFEST)}|{COMPILED}")


def take_place(new: Path, out: Path) -> None:
    """Give the folder `new` the name `out`; whatever lay there with other names moves along.

    Whenever this is killed, `out` is the old folder or the new one, and whole. Where the file
    system cannot exchange two folders, there is an instant in which the old one is called
    `.NAME.old`. Both lie in the same file system; afterwards `new` is the old folder, if there was
    one.

    Raises:
        OSError: `out` cannot be replaced, and is as it was.
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
