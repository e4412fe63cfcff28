"""What `pip install` puts on a machine: a typed package with its network, a command and extras."""

import email
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from swiftmedsam import __version__
from swiftmedsam.extras import EXTRAS
from swiftmedsam.manifest import default_weights
from tests.helpers import ROOT

SOURCES = ("swiftmedsam", "weights", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE",
           "requirements.txt", *{file for files in EXTRAS.values() for file in files})  # fmt: skip
LARGEST = 40 << 20  # bytes: without checkpoints for torch, and without what was converted here
DEMO = ROOT / "examples" / "inputs" / "2DBox_US_bladder.npz"
NOWHERE = "http://127.0.0.1:9"  # a proxy that nobody runs
PIN = re.compile(r"^([\w-]+==[\w.]+)", re.MULTILINE)


def words_of(command, **options):
    """Run a command; return its exit status and what it wrote."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    return done.returncode, done.stdout + done.stderr


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
    status, said = words_of([sys.executable, "-c", code], cwd=copy)
    assert status == 0, said
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(
            archive.read(f"swiftmedsam-{__version__}.dist-info/METADATA")
        )


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An empty environment with the wheel and what its metadata asks for.

    Its packages are fetched first, which takes a network or a folder that pip is told to look in;
    then everything is installed from these files alone.
    """
    files, where = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("environment")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    fetch = [*pip, "download", "--quiet", "--only-binary=:all:", "--dest", files]
    status, said = words_of([*fetch, "-r", ROOT / "requirements.txt"])
    if status != 0:
        reason = f"pip could not fetch the packages: {said.strip().splitlines()[-1]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    venv.create(where, with_pip=False)
    python = where / "bin" / "python"
    install = [*pip, "--python", python, "install", "--quiet", "--no-compile", "--no-index"]
    status, said = words_of([*install, "--find-links", files, wheel])
    assert status == 0, said
    shutil.rmtree(files)  # 150 MB
    return where


@pytest.fixture(scope="module")
def offline():
    """Words before a command that keep it from the network, by the kernel where that is allowed."""
    unshare = ["unshare", "--net"]
    if shutil.which("unshare") and words_of([*unshare, "true"])[0] == 0:
        return unshare
    return ["env", *(f"{name}_proxy={NOWHERE}" for name in ("http", "https", "all"))]


@pytest.fixture
def command(installed, offline, tmp_path):
    """Run the installed `swiftmedsam` in an empty folder; return exit status and what it wrote."""
    own = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*words, program="swiftmedsam"):
        return words_of([*offline, installed / "bin" / program, *words], cwd=tmp_path, env=own)

    return run


def test_a_wheel_holds_every_module_the_types_and_the_default_network(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "swiftmedsam").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in names} == {"swiftmedsam"}
    network = {"manifest.json", "encoder.bin", "decoder.xml"}
    folder = f"swiftmedsam/weights/{default_weights().name}"
    assert {"swiftmedsam/py.typed", "swiftmedsam/weights/DEFAULT"} <= names
    assert {f"{folder}/{name}" for name in network} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".pth"))]
    weights = {name.split("/")[2] for name in names if name.startswith("swiftmedsam/weights/")}
    assert weights == {"DEFAULT", "README.md", default_weights().name}
    assert wheel.stat().st_size < LARGEST


def test_a_wheel_asks_for_three_packages_and_for_more_by_extras(wheel, metadata):
    assert metadata["Version"] == __version__
    asked = defaultdict(set)
    for line in metadata.get_all("Requires-Dist"):
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        asked[extra[1] if extra else ""].add(PIN.match(line)[1])
    assert {one.partition("==")[0] for one in asked[""]} == {
        "numpy", "opencv-python-headless", "openvino"
    }  # fmt: skip
    listed = {"": ("requirements.txt",), **EXTRAS}
    assert asked == {
        extra: set(PIN.findall("".join((ROOT / file).read_text() for file in files)))
        for extra, files in listed.items()
    }
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)


def test_a_checkout_needs_what_the_program_and_its_extras_need_and_no_pin_stands_twice():
    included = re.findall(r"^-r (\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert set(included) == {"requirements.txt", *(f for files in EXTRAS.values() for f in files)}
    files = ["requirements-dev.txt", *included]
    pins = [pin for file in files for pin in PIN.findall((ROOT / file).read_text())]
    assert len(pins) == len(set(pins))


def test_the_installed_command_segments_a_case_as_the_repository_does(command, tmp_path):
    status, said = command(DEMO, "out", "--threads", "1")
    assert status == 0, said
    here = [sys.executable, "-m", "app", DEMO, tmp_path / "here", "--threads", "1"]
    status, said = words_of(here, cwd=ROOT)
    assert status == 0, said
    with (
        np.load(tmp_path / "out" / DEMO.name) as one,
        np.load(tmp_path / "here" / DEMO.name) as two,
    ):
        assert one["segs"].any()
        np.testing.assert_array_equal(one["segs"], two["segs"])


def test_the_installed_library_segments_in_a_few_lines(command, installed):
    code = """
import numpy, swiftmedsam
volume = numpy.random.default_rng(1).integers(0, 256, (3, 40, 64), numpy.uint8)
network = swiftmedsam.load(threads=1)
image = swiftmedsam.open_image(volume, network, spacing_mm=(3, 2, 1), modality="MR")
labels = image.segment([[8, 6, 0, 46, 30, 2]]).labels
print(swiftmedsam.__file__, labels.shape)
"""
    status, said = command("-W", "error", "-c", code, program="python")
    assert status == 0, said
    place, shape = said.split(maxsplit=1)
    assert Path(place).is_relative_to(installed)
    assert shape.strip() == "(3, 40, 64)"


def test_the_installed_command_is_called_by_its_name_in_its_usage(command):
    status, said = command("--help")
    assert (status, said.partition(" [")[0]) == (0, "usage: swiftmedsam")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("convert", "torch"),
        ("evaluate", "scipy"),
        ("fleet", "ray"),
        ("train", "lightning_fabric"),
    ],
)
def test_a_command_says_which_extra_it_lacks(command, name, package):
    assert command(name) == (
        1,
        f"swiftmedsam {name}: needs {package}, which is not installed: "
        f"pip install 'swiftmedsam[{name}]'\n",
    )


def test_a_scan_says_which_extra_it_lacks(command, tmp_path):
    (tmp_path / "scan.nii.gz").touch()
    status, said = command("scan.nii.gz", "out", "--box", *"112334")
    assert status == 1
    assert (
        "scan.nii.gz: this kind of file needs nibabel, which is not installed: "
        "pip install 'swiftmedsam[scans]'\n"
    ) in said


def test_nothing_but_the_library_is_installed(command):
    """The repository's own folders are no packages of the machine."""
    for package in ("app", "convert", "train", "evaluation", "weights", "tests"):
        status, said = command("-c", f"import {package}", program="python")
        assert (status, said.splitlines()[-1]) == (
            1, f"ModuleNotFoundError: No module named '{package}'"
        )  # fmt: skip
