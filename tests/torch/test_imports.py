"""What the code in torch loads, and on which machines it can."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT


def loaded_by(statement):
    """Modules in memory after a statement in a fresh process."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_network_in_torch_loads_nothing_of_images_and_openvino():
    loaded = loaded_by("import swiftmedsam.torch_model")
    assert "torch" in loaded
    assert not loaded & {"cv2", "openvino"}
    ours = {name for name in loaded if name.startswith("swiftmedsam.")}
    assert all(name.startswith("swiftmedsam.torch_model") for name in ours)


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
