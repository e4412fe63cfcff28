"""The rules of this folder of tests: what a test module may import."""

import ast
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.imports import imported

TESTS = ROOT / "tests"
MODULES = sorted(TESTS.rglob("*.py"))
HEAVY = {
    "nibabel", "openvino", "pandas", "PIL", "pydicom", "scipy", "SimpleITK", "torch",
}  # fmt: skip


def loaded_by(*modules):
    """Top-level packages in memory after an import of modules in a fresh process."""
    code = f"import sys, {', '.join(modules)}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_what_modules_share_stands_in_the_helpers(path):
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] != "conftest" and not parts[0].startswith("test_"), name
        assert parts[0] != "tests" or parts[1] == "helpers", name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_hypothesis_is_taken_with_its_profile(path):
    """A test that is defined before the profile is loaded has other examples and a deadline."""
    if path != TESTS / "helpers" / "generated.py":
        own = {name for name in imported(path) if name.partition(".")[0] == "hypothesis"}
        assert not {name for name in own if not name.startswith("hypothesis.extra.")}
        assert not own or any("helpers.generated" in name for name in imported(path))


def test_conftest_and_the_common_helpers_load_nothing_heavy():
    loaded = loaded_by("tests.conftest", "tests.helpers")
    assert "pytest" in loaded
    assert not loaded & (HEAVY | {"cv2", "hypothesis", "swiftmedsam"})


def test_the_unit_tests_load_numpy_and_opencv_but_nothing_heavy():
    names = [f"tests.unit.{path.stem}" for path in sorted((TESTS / "unit").glob("*.py"))]
    loaded = loaded_by(*names)
    assert {"numpy", "cv2", "hypothesis"} < loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("path", sorted((TESTS / "unit").glob("*.py")), ids=lambda path: path.name)
def test_a_unit_test_imports_nothing_heavy_inside_a_function_either(path):
    assert not {name.partition(".")[0] for name in imported(path)} & HEAVY
    fixtures = {"tiny_model", "tiny_weights", "tiny_network", "exact_network", "program"}
    arguments = {
        node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.arg)
    }
    assert not arguments & fixtures  # they load torch
