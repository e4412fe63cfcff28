"""List the systems for which the packages of the lock files have wheels.

    python scripts/platforms.py

It asks the package index of pip for the files of each version. Only files whose sha256 is in the
lock file count. It prints a table for each lock file. The exit status is 1 if the missing wheels
are not those of `MISSING`.
"""

import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename
from pip._internal.models.index import PyPI

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-scans.lock", "requirements-server.lock")
PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
SYSTEMS = {  # name: platform tags of wheels, and values for the markers of a lock file
    "Linux x86-64": (r"manylinux.*_x86_64", "linux", "x86_64"),
    "Linux aarch64": (r"manylinux.*_aarch64", "linux", "aarch64"),
    "macOS x86-64": (r"macosx_\d+_\d+_(x86_64|universal2)", "darwin", "x86_64"),
    "macOS aarch64": (r"macosx_\d+_\d+_(arm64|universal2)", "darwin", "arm64"),
    "Windows x86-64": (r"win_amd64", "win32", "AMD64"),
    "Windows aarch64": (r"win_arm64", "win32", "ARM64"),
}
ALL = "3.10 to 3.14"
# Known missing wheels: package, system, versions of Python.
MISSING = {
    ("openvino", "macOS x86-64", ALL),
    *(("pyjpegls", system, "3.14") for system in SYSTEMS if system != "Windows aarch64"),
    ("pyjpegls", "Windows aarch64", ALL),
    ("imagecodecs", "Windows aarch64", "3.10"),
    ("numpy", "Windows aarch64", "3.10 to 3.13"),
    ("opencv-python-headless", "Windows aarch64", ALL),
    ("openvino", "Windows aarch64", ALL),
    ("python-gdcm", "Windows aarch64", ALL),
    ("simpleitk", "Windows aarch64", ALL),
}
JSON = "application/vnd.pypi.simple.v1+json"


def entries(lock: Path) -> Iterator[tuple[Requirement, set[str]]]:
    """Yield each requirement of a lock file, with the hashes of its files."""
    for entry in re.split(r"^(?=[a-z])", lock.read_text(), flags=re.MULTILINE)[1:]:
        requirement = entry.partition("\\\n")[0]
        yield Requirement(requirement), set(re.findall(r"sha256:([0-9a-f]{64})", entry))


def tags_of(package: str, hashes: set[str]) -> list[frozenset[Tag]]:
    """Return the tags of the wheels of a package whose hash is one of `hashes`."""
    index = os.environ.get("PIP_INDEX_URL", PyPI.simple_url).rstrip("/")
    request = urllib.request.Request(f"{index}/{package}/", headers={"Accept": JSON})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    return [
        parse_wheel_filename(file["filename"])[3]
        for file in files
        if file["hashes"].get("sha256") in hashes and file["filename"].endswith(".whl")
    ]


def runs(tag: Tag, python: tuple[int, int], platform: str) -> bool:
    """Whether a wheel with this tag can be installed on this Python and platform."""
    if tag.platform != "any" and not re.fullmatch(platform, tag.platform):
        return False
    if tag.interpreter == "py3":
        return tag.abi == "none"
    interpreter = re.fullmatch(r"cp3(\d+)", tag.interpreter)
    if not interpreter:
        return False
    if tag.abi == "abi3":
        return int(interpreter[1]) <= python[1]
    return int(interpreter[1]) == python[1] and tag.abi in (tag.interpreter, "none")


def asked(requirement: Requirement, python: tuple[int, int], system: str) -> bool:
    """Whether the lock file requires this version on this Python and system."""
    _, platform, machine = SYSTEMS[system]
    version = "{}.{}".format(*python)
    surroundings = {
        "python_version": version, "python_full_version": f"{version}.0",
        "sys_platform": platform, "platform_machine": machine,
    }  # fmt: skip
    return requirement.marker is None or requirement.marker.evaluate(surroundings)


def words(pythons: list[tuple[int, int]]) -> str:
    """Return versions of Python as text, as a range if they are one."""
    if not pythons:
        return "none"
    first, last = pythons[0], pythons[-1]
    if len(pythons) > 2 and len(pythons) == last[1] - first[1] + 1:
        return f"3.{first[1]} to 3.{last[1]}"
    return ", ".join(f"3.{minor}" for _, minor in pythons)


def main() -> int:
    """Print the tables; return the exit status."""
    missing = set()
    for lock in LOCKS:
        print(f"\n{lock}\n\n| package | {' | '.join(SYSTEMS)} |\n|---|{'---|' * len(SYSTEMS)}")
        whole = {system: list(PYTHONS) for system in SYSTEMS}
        for requirement, hashes in entries(ROOT / lock):
            tags = tags_of(requirement.name, hashes)
            cells = []
            for system, (platform, *_) in SYSTEMS.items():
                here = [python for python in PYTHONS if asked(requirement, python, system)]
                found = [
                    python
                    for python in here
                    if any(runs(tag, python, platform) for wheel in tags for tag in wheel)
                ]
                lacking = [python for python in here if python not in found]
                whole[system] = [python for python in whole[system] if python not in lacking]
                if lacking:
                    missing.add((requirement.name, system, words(lacking)))
                cells.append(words(found) if here else "not asked")
            print(f"| {requirement.name} {requirement.specifier} | {' | '.join(cells)} |")
        print(f"| all of them | {' | '.join(words(whole[system]) for system in SYSTEMS)} |")
    for one in sorted(missing ^ MISSING):
        found = (
            "no wheel, and not in MISSING" if one in missing else "has a wheel, but is in MISSING"
        )
        print(f"{', '.join(one)}: {found}", file=sys.stderr)
    return int(missing != MISSING)


if __name__ == "__main__":
    sys.exit(main())
