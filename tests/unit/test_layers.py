"""Who may import whom; what `import app` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, make_case_file

TOOLS = {"convert", "train", "evaluation", "benchmarks", "fuzz"}
OURS = {"app", "swiftmedsam", *TOOLS}
HEAVY = {"torch", "pandas", "matplotlib", "scipy", "tqdm"}
# Of requirements-scans.txt.
EXTRAS = {"nibabel", "SimpleITK", "pydicom", "gdcm", "imagecodecs", "highdicom"}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def modules_after(statement: str) -> set[str]:
    """Modules in memory after `statement` in a fresh process."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after `statement` in a fresh process."""
    return {name.split(".")[0] for name in modules_after(statement)}


def test_the_program_loads_nothing_heavy_and_nothing_else_of_ours():
    loaded = loaded_by("import swiftmedsam.program.main")
    assert "openvino" in loaded  # else this test looks at the wrong process
    assert not loaded & (HEAVY | EXTRAS | OURS - {"app"})


def test_a_run_on_npz_loads_nothing_for_scans(inputs, tiny_weights):
    """Neither a library nor our own code, but the options themselves."""
    make_case_file(inputs, "2DBox_US_1.npz")
    arguments = [str(inputs), str(inputs / "out"), "--weights", str(tiny_weights), "--quiet"]
    code = f"from swiftmedsam.program.main import main; assert main({arguments}) == 0"
    assert (loaded := modules_after(code))
    assert (inputs / "out" / "2DBox_US_1.npz").is_file()
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | EXTRAS)
    assert {name for name in loaded if name.startswith("swiftmedsam.scans")} == {
        "swiftmedsam.scans", "swiftmedsam.program.scan_options"
    }  # fmt: skip


def test_pictures_need_no_library_beyond_the_containers():
    assert not loaded_by("import swiftmedsam.program.scan_jobs") & (HEAVY | EXTRAS)


def test_the_network_in_torch_knows_nothing_of_images_and_openvino():
    loaded = loaded_by("import swiftmedsam")
    assert "torch" in loaded
    assert not loaded & ({"cv2", "openvino"} | OURS - {"swiftmedsam"})


@pytest.mark.parametrize("package", ["app", "swiftmedsam"])
def test_the_lower_layers_import_nothing_else_of_ours(package):
    assert files(package)
    for path in files(package):
        assert not imports(path) & (OURS - {package}), path


@pytest.mark.parametrize("package", sorted(OURS))
def test_tools_are_imported_by_nothing_but_themselves(package):
    for path in files(package):
        assert not imports(path) & (TOOLS - {package}), path


def test_only_one_file_of_the_program_names_openvino():
    assert [path.name for path in files("app") if "openvino" in imports(path)] == ["network.py"]


@pytest.mark.parametrize(
    ("missing", "needed"),
    [
        ("cv2", "swiftmedsam.train.__main__"),
        ("openvino", "swiftmedsam.train.__main__, swiftmedsam.train.data.framed"),
    ],
)
def test_an_accelerator_machine_may_lack_opencv_for_a_cache_and_openvino_for_all(missing, needed):
    code = f"import sys; sys.modules['{missing}'] = None; import {needed}"
    assert "lightning_fabric" in loaded_by(code)
