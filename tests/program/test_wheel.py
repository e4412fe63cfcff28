"""What `pip install .` puts on a machine: a typed package with its network, and a command."""

import email
import shutil
import subprocess
import sys
import zipfile

import pytest

from swiftmedsam import __version__
from swiftmedsam.manifest import default_weights
from tests.helpers import ROOT

SOURCES = ("swiftmedsam", "weights", "pyproject.toml", "README.md", "LICENSE", "NOTICE",
           "requirements.txt", "requirements-scans.txt")  # fmt: skip
LARGEST = 40 << 20  # bytes: without checkpoints for torch, and without what was converted here


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy: setuptools writes beside the sources."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "checkpoints", "lite*", ".convert-*")
            shutil.copytree(ROOT / name, copy / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, copy)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_every_module_the_types_and_the_network(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "swiftmedsam").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {
        "swiftmedsam/py.typed",
        "swiftmedsam/weights/DEFAULT",
        "swiftmedsam/weights/v2/encoder.bin",
    } <= names
    assert {name.partition("/")[0] for name in names} == {
        "swiftmedsam"
    }  # nothing beside the package
    assert not [name for name in names if name.endswith((".safetensors", ".pth"))]
    assert {name.split("/")[2] for name in names if name.count("/") > 2 and "weights" in name} == {
        default_weights().name
    }
    assert wheel.stat().st_size < LARGEST


def test_a_wheel_has_a_command_a_version_and_an_extra(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"swiftmedsam-{__version__}.dist-info"
        commands = archive.read(f"{info}/entry_points.txt").decode()
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert "swiftmedsam = swiftmedsam.commands:main" in commands
    assert metadata["Version"] == __version__
    needed = metadata.get_all("Requires-Dist")
    plain = {one.partition("==")[0] for one in needed if "extra" not in one}
    assert plain == {"numpy", "opencv-python-headless", "openvino"}
    assert any(one.startswith("nibabel") and "extra" in one for one in needed)


def test_three_lines_segment_with_an_installed_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path / "site")!r})
import swiftmedsam, numpy
volume = numpy.random.default_rng(1).integers(0, 256, (3, 40, 64), numpy.uint8)
image = swiftmedsam.open_image(volume, swiftmedsam.load(threads=1), spacing_mm=(3, 2, 1),
modality="MR") labels = image.segment([[8, 6, 0, 46, 30, 2]]) print(swiftmedsam.__file__,
labels.shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == [
        str(tmp_path / "site" / "swiftmedsam" / "__init__.py"), "(3, 40, 64)\n"
    ]  # fmt: skip
