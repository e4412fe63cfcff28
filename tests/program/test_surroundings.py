"""The same masks in any order and with any threads; odd machines work or are told why not."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from swiftmedsam import WeightsError, load, make_case
from swiftmedsam.manifest import MANIFEST, default_weights
from swiftmedsam.program.main import main
from tests.helpers import (
    HANGS,
    ROOT,
    dsc,
    fresh_logging,
    image_case,
    labels_of,
    make_case_file,
    read_labels,
    volume_case,
)
from tests.helpers.networks import runs_bf16

IMAGE, VOLUME = "2DBox_US_1.npz", "3DBox_MR_1.npz"
CASES = {
    name: make_case(arrays["imgs"], arrays["boxes"], modality="MR")
    for name, arrays in (("image", image_case()), ("volume", volume_case()))
}
ISAS = ("AVX2", "AVX512_CORE")
BORDER = 1e-3  # share of pixels
SIMILAR = 0.9  # DSC of masks in INT8 with those in f32, of a picture that is none


@pytest.fixture
def files(inputs):
    return [make_case_file(inputs, name) for name in (IMAGE, VOLUME)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(*arguments, env):
    """The program in a process with the environment `env`, and nothing else in it."""
    return subprocess.run(
        [sys.executable, "-m", "app", *map(str, arguments), "--threads", "1"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip


# Determinism


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=runs_bf16)])
def test_labels_do_not_depend_on_what_was_segmented_before(tiny_weights, precision):
    network = load(tiny_weights, precision=precision, threads=1)
    first = {name: labels_of(CASES[name], network) for name in CASES}
    assert all(labels.any() for labels in first.values())
    for name in [*reversed(CASES), *reversed(CASES)]:
        np.testing.assert_array_equal(labels_of(CASES[name], network), first[name])


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=runs_bf16)])
@pytest.mark.parametrize("name", CASES)
def test_labels_do_not_depend_on_the_number_of_threads(tiny_weights, precision, name):
    one, two = (load(tiny_weights, precision=precision, threads=n) for n in (1, 2))
    assert two.threads == 2
    np.testing.assert_array_equal(labels_of(CASES[name], two), labels_of(CASES[name], one))


@pytest.mark.parametrize("name", CASES)
def test_labels_of_the_shipped_network_in_int8_do_not_depend_on_threads_or_kept_models(
    name, tmp_path
):
    no_models = shutil.ignore_patterns("compiled")
    weights = shutil.copytree(default_weights(), tmp_path / "weights", ignore=no_models)
    one, two = (load(weights, precision="int8", threads=n) for n in (1, 2))
    wanted = labels_of(CASES[name], one)
    assert wanted.any()
    np.testing.assert_array_equal(labels_of(CASES[name], two), wanted)
    two.precompile()
    kept = load(weights, precision="int8", threads=2)
    np.testing.assert_array_equal(labels_of(CASES[name], kept), wanted)


def test_two_runs_write_the_same_bytes(files, inputs, tmp_path, tiny_weights):
    """Also when one run does each case alone."""
    for name in ("a", "b"):
        for only in ["*"] if name == "a" else [VOLUME, IMAGE]:
            arguments = [inputs, tmp_path / name, "--weights", tiny_weights, "--only", only]
            with fresh_logging():
                assert main([*map(str, arguments), "--quiet", "--threads", "1"]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == [IMAGE, VOLUME]


# Odd machines


@pytest.mark.parametrize(
    "env",
    [{}, {"TMPDIR": "/proc"}, {"HOME": "/nowhere", "LANG": "C", "LC_ALL": "C"}],
    ids=["nothing set", "temporary folder that takes nothing", "no home and no UTF-8"],
)
def test_no_home_and_no_temporary_folder_are_needed(files, inputs, tmp_path, tiny_weights, env):
    done = start(inputs, tmp_path / "outputs", "--weights", tiny_weights, env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path / "outputs")) == [IMAGE, VOLUME]


def test_a_clock_in_1970_changes_no_byte(files, inputs, tmp_path, tiny_weights, monkeypatch):
    """zip knows no year before 1980."""
    for name in ("now", "1970"):
        arguments = [inputs, tmp_path / name, "--weights", tiny_weights, "--quiet"]
        with fresh_logging():
            assert main([*map(str, arguments), "--threads", "1"]) == 0
        monkeypatch.setattr(time, "time", lambda: 0.0)
        monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(0))
    assert contents(tmp_path / "now") == contents(tmp_path / "1970")


@pytest.fixture(scope="module")
def by_vectors(tmp_path_factory):
    """How a run in f32 ends, and its labels, by what oneDNN may use.

    Of the shipped network: in one as narrow as the tests' OpenVINO 2026.4 crashes with AVX2.
    """
    folder = tmp_path_factory.mktemp("vectors")
    inputs = folder / "inputs"
    inputs.mkdir()
    make_case_file(inputs, IMAGE)

    @functools.cache
    def run(isa, precision="f32"):
        outputs = folder / f"{isa}_{precision}"
        env = {"ONEDNN_MAX_CPU_ISA": isa}
        done = start(inputs, outputs, "--quiet", "--precision", precision, env=env)
        return done, read_labels(outputs / IMAGE) if done.returncode == 0 else None

    return run


def test_the_default_runs_on_a_cpu_with_avx512_alone(by_vectors):
    """The challenge's own: INT8 and f32."""
    _, wanted = by_vectors("ALL")
    done, labels = by_vectors("AVX512_CORE", "auto")
    assert done.returncode == 0, done.stderr
    assert dsc(labels > 0, wanted > 0) > SIMILAR


@pytest.mark.parametrize("isa", ISAS)
def test_a_cpu_with_shorter_vectors_segments_the_same(by_vectors, isa):
    """Its sums are in another order: a border pixel may differ, here none does."""
    _, wanted = by_vectors("ALL")
    done, labels = by_vectors(isa)
    assert done.returncode == 0, done.stderr
    assert wanted.any()
    assert (labels != wanted).mean() < BORDER


@pytest.mark.parametrize(("isa", "precision"), [("SSE41", "f32"), ("AVX2", "bf16")])
def test_a_cpu_that_cannot_do_it_is_one_line(by_vectors, isa, precision):
    done, _ = by_vectors(isa, precision)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f".xml: OpenVINO cannot run it in {precision} on this CPU (" in done.stderr


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_model_that_openvino_does_not_take_is_one_line(tiny_weights, tmp_path, part):
    folder = shutil.copytree(tiny_weights, tmp_path / "weights")
    (folder / f"{part}.xml").write_text("no model")
    manifest = json.loads((folder / MANIFEST).read_text())
    sha256 = hashlib.sha256(b"no model").hexdigest()
    manifest["models"]["fp32"][part][f"{part}.xml"] = sha256
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=f"{part}.xml: OpenVINO cannot run it in f32") as caught:
        load(folder, precision="f32", threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["swiftmedsam.network", "swiftmedsam.convert.export"])
def test_openvino_does_not_report_its_import_and_leaves_home_alone(tmp_path, package):
    """Else it asks for www.google-analytics.com and writes HOME/intel, also with its converter."""
    code = (
        f"import sys, threading, {package}, openvino\n"
        "assert 'openvino.tools.ovc' not in sys.modules, 'it takes time'\n"
        "try: openvino.convert_model('no/such.onnx')\n"
        "except Exception as error: assert 'no/such.onnx' in str(error)\n"
        "assert 'openvino.tools.ovc' in sys.modules\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert len(threading.enumerate()) == 1"
    )
    env = {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_the_program_makes_no_connection(files, inputs, tmp_path, tiny_weights):
    """Seen from the kernel's side; skipped where strace is not installed or may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    log = tmp_path / "calls"
    command = ["strace", "-f", "-qq", "-e", "trace=%network", "-o", log]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    done = subprocess.run(
        [*command, sys.executable, "-m", "app", inputs, tmp_path / "outputs",
         "--weights", tiny_weights, "--threads", "1"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert log.read_text() == ""
