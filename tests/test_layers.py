"""Who may import whom; what `import app` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = {"convert", "train", "evaluation", "benchmarks", "fuzz"}
OURS = {"app", "swiftmedsam", *TOOLS}
HEAVY = {"torch", "pandas", "matplotlib", "scipy", "nibabel", "SimpleITK", "tqdm"}


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


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after `statement` in a fresh process."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_program_loads_nothing_heavy_and_nothing_else_of_ours():
    loaded = loaded_by("import app, app.__main__")
    assert "openvino" in loaded  # else this test looks at the wrong process
    assert not loaded & (HEAVY | OURS - {"app"})


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


def test_training_on_a_cache_needs_no_opencv():
    """An accelerator machine may have torch and numpy only."""
    code = "import sys; sys.modules['cv2'] = None; import train.__main__"
    assert "lightning_fabric" in loaded_by(code)
