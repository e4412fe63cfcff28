"""INT8 on CPUs that have no VNNI: sums are of 16 bits, and must not saturate."""

import os
import subprocess
import sys

import numpy as np
import pytest

from swiftmedsam.cpu import cpu_flags
from swiftmedsam.manifest import default_weights
from tests.helpers import ROOT, dsc

# Of these cases' masks, INT8 against f32; with VNNI and without. What quantization costs on real
# truth is in the card.
MIN_DSC = 0.97
IMAGES = "2DBox_[MU]*.npz"  # ultrasound, MR, microscopy


def labels_of(folder, precision, most=None):
    """Labels of the demo images by file name, by a program that may use `most` of the CPU."""
    environment = os.environ | ({"ONEDNN_MAX_CPU_ISA": most} if most else {})
    words = ["--precision", precision, "--only", IMAGES]
    run = subprocess.run(
        [sys.executable, "-m", "app", "examples/inputs", str(folder), *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{default_weights().name}, {precision}" in run.stderr
    return {path.name: np.load(path)["segs"] for path in folder.glob("*.npz")}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    return labels_of(tmp_path_factory.mktemp("f32"), "f32")


@pytest.mark.skipif("avx512bw" not in cpu_flags(), reason="INT8 is the default nowhere else")
@pytest.mark.parametrize("most", ["AVX512_CORE", None])
def test_int8_gives_the_masks_of_f32_with_vnni_and_without(tmp_path, wanted, most):
    found = labels_of(tmp_path, "int8", most)
    assert len(wanted) == 3
    for name, labels in wanted.items():
        ids = np.unique(labels[labels > 0])
        scores = [dsc(found[name] == i, labels == i) for i in ids]
        assert np.mean(scores) >= MIN_DSC, name
