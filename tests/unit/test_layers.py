"""Which part of the repository may import which, and that an import has no effect but to load."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.imports import imported

# What each part of the library may import of the others; "core" is the files of swiftmedsam/.
MAY_IMPORT = {
    "core": set(),
    "scans": {"core"},
    "store": {"core"},
    "program": {"core", "scans", "store"},
    "server": {"core", "scans", "program"},
    "fleet": {"core", "program"},
    "torch_model": set(),
    "convert": {"core", "torch_model", "evaluation"},  # Dice
    "evaluation": {"core"},
    "train": {"convert", "core", "torch_model"},
}
# They name the parts above them: the exports, and the commands.
ENTRY_FILES = {"__init__.py", "__main__.py", "commands.py"}
ENTRY_POINTS = {"app", "convert"}  # folders of the repository that start what is in swiftmedsam/
TOOLS = {"benchmarks", "examples", "fuzz", "scripts"}
HEAVY = {"torch", "pandas", "matplotlib", "scipy", "tqdm"}
SERVER = {"anyio", "starlette", "uvicorn"}
SCANS = {"nibabel", "SimpleITK", "pydicom", "gdcm", "imagecodecs", "highdicom"}
STORE = {"fsspec", "s3fs", "aiohttp", "aiobotocore", "botocore", "gcsfs", "adlfs", "azure",
         "dicomweb_client", "requests"}  # fmt: skip
EXTRAS = SERVER | SCANS | STORE | {"ray"}
MAKE_WEIGHTS = tuple(
    f"swiftmedsam.{part}" for part in ("convert", "evaluation", "torch_model", "train")
)


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def parts(names: set[str]) -> set[str]:
    """The parts of the library that modules belong to."""
    seconds = {name.split(".")[1] for name in names if name.startswith("swiftmedsam.")}
    return {second if second in MAY_IMPORT else "core" for second in seconds}


def files_of(part: str) -> list[Path]:
    if part == "core":
        found = {path for path in (ROOT / "swiftmedsam").glob("*.py")}
        return sorted(path for path in found if path.name not in ENTRY_FILES)
    return sorted((ROOT / "swiftmedsam" / part).rglob("*.py"))


@functools.cache
def modules_after(statement: str) -> set[str]:
    """Modules in memory after `statement` in a fresh process."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


# Who imports whom


def test_the_table_names_every_part_of_the_library():
    folders = {path.parent.name for path in (ROOT / "swiftmedsam").glob("*/__init__.py")}
    assert folders == MAY_IMPORT.keys() - {"core"}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_of_the_library_imports_only_what_it_may(part):
    assert files_of(part)
    for path in files_of(part):
        assert parts(imported(path)) <= MAY_IMPORT[part] | {part}, path


def test_the_library_imports_neither_entry_points_nor_tools_nor_tests():
    for path in (ROOT / "swiftmedsam").rglob("*.py"):
        assert not top(imported(path)) & (ENTRY_POINTS | TOOLS | {"tests"}), path


@pytest.mark.parametrize("folder", sorted(ENTRY_POINTS | TOOLS))
def test_entry_points_are_imported_by_nobody(folder):
    assert (ROOT / folder).is_dir()
    for path in (ROOT / folder).rglob("*.py"):
        assert not top(imported(path)) & (ENTRY_POINTS | {"tests"}) - {folder}, path


def test_only_one_file_of_what_segments_names_openvino():
    files = [path for part in ("core", "scans", "store", "program") for path in files_of(part)]
    assert [path.name for path in files if "openvino" in top(imported(path))] == ["network.py"]


# What an import loads


def test_to_import_the_package_loads_nothing_else():
    loaded = modules_after("import swiftmedsam")
    assert "swiftmedsam" in loaded
    others = {name for name in loaded - modules_after("pass") if not name.startswith("swiftmedsam")}
    assert top(others) <= sys.stdlib_module_names


def test_to_segment_needs_openvino_only_where_a_network_is_loaded():
    loaded = top(modules_after("import swiftmedsam.segment"))
    assert {"numpy", "cv2"} <= loaded  # else this test looks at the wrong process
    assert not loaded & (HEAVY | EXTRAS | {"openvino"})


@pytest.mark.parametrize(
    "module", ["program.main", "program.run", "program.scan_jobs", "scans.session"]
)
def test_the_program_loads_nothing_that_makes_weights_and_no_extra(module):
    """Pictures, too, need no package beyond those of the container."""
    loaded = modules_after(f"import swiftmedsam.{module}")
    assert f"swiftmedsam.{module}" in loaded
    assert not top(loaded) & (HEAVY | EXTRAS)
    assert not [name for name in loaded if name.startswith(MAKE_WEIGHTS)]


# What an import does not change

EFFECTS = """
import logging, signal, sys

def state():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "logging": [(one.name, one.level, one.handlers) for one in loggers
                    if isinstance(one, logging.Logger) and (one.level or one.handlers)],
        "hooks": [sys.excepthook, sys.unraisablehook, sys.meta_path[:], sys.path_hooks[:]],
        "blocked": {name for name, module in sys.modules.items() if module is None},
        "path": sys.path[:],
    }

import cv2, numpy, openvino  # what they change is theirs
before = state()
for name in sys.argv[1:]:
    __import__(name)
after = state()
print(*(key for key in before if before[key] != after[key]))
"""


def changed_by_import(modules):
    words = [sys.executable, "-c", EFFECTS, *modules]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def library_modules():
    """All modules with which the program segments, and the package."""
    files = [path for part in ("core", "scans", "store", "program") for path in files_of(part)]
    names = (path.relative_to(ROOT).with_suffix("").parts for path in files)
    return ["swiftmedsam", *(".".join(name).removesuffix(".__init__") for name in names)]


def test_no_import_sets_signals_loggers_hooks_or_the_search_path():
    """The process of whoever imports the library is theirs."""
    modules = library_modules()
    assert {"swiftmedsam.case", "swiftmedsam.scans.scan", "swiftmedsam.program.main"} < {*modules}
    # "blocked": with OpenVINO, its package that reports each import to a server (network.py)
    assert changed_by_import(modules) == ["blocked"]
    without = [name for name in modules if name != "swiftmedsam.network"]
    light = [name for name in without if not name.startswith("swiftmedsam.program")]
    assert changed_by_import(light) == []
