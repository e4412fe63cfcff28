"""Options and fixtures of all tests.

It imports pytest alone: each fixture imports what it needs, so that tests of numpy alone do not
wait for torch. Makers that are no fixtures are in `tests.helpers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from swiftmedsam import Network
    from swiftmedsam.torch_model import SwiftMedSAM


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=5, metavar="N", help="how often test_kill kills the program"
    )
    parser.addoption(
        "--renew-masks", action="store_true", help="store the masks of test_golden anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    # OpenVINO's own converter calls it; nothing in this repository could call something newer.
    config.addinivalue_line(
        "filterwarnings", "ignore:`torch.jit.trace(_method)?` is deprecated:DeprecationWarning"
    )


@pytest.fixture(scope="session")
def tiny_model() -> SwiftMedSAM:
    from tests.helpers.torch_model import make_tiny_model

    return make_tiny_model()


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model: SwiftMedSAM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from swiftmedsam.torch_model import save_model

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_model(tiny_model, path)
    return path


@pytest.fixture(scope="session")
def parity_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cases with 5 images and 3 middle slices: exactly as many as `verify` asks for."""
    import numpy as np

    from tests.helpers import image_case, make_case_file

    folder = tmp_path_factory.mktemp("parity")
    image = image_case()["imgs"]
    for i in range(5):
        make_case_file(folder, f"2DBox_Endoscopy_{i}.npz", imgs=np.roll(image, 5 * i, axis=1))
    make_case_file(folder, "3DBox_MR_0.npz")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(
    tiny_checkpoint: Path, parity_cases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from swiftmedsam.convert.__main__ import convert

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    convert(tiny_checkpoint, "tiny", folder, "fp32", parity_cases)
    return folder


@pytest.fixture(scope="session")
def tiny_weights_fp16(
    tiny_checkpoint: Path,
    tiny_weights: Path,
    parity_cases: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from swiftmedsam.convert.__main__ import convert
    from tests.helpers.networks import models_of

    folder = tmp_path_factory.mktemp("weights_fp16") / "tiny"
    with pytest.MonkeyPatch.context() as patch:  # exported once is enough, it takes seconds
        patch.setattr("swiftmedsam.convert.__main__.export", lambda model: models_of(tiny_weights))
        convert(tiny_checkpoint, "tiny", folder, "fp16", parity_cases)
    return folder


@pytest.fixture(scope="session")
def v2_weights(parity_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of v2, made of its checkpoint."""
    from swiftmedsam.convert.__main__ import convert
    from swiftmedsam.manifest import WEIGHTS

    folder = tmp_path_factory.mktemp("v2") / "v2"
    convert(WEIGHTS / "v2" / "v2.safetensors", "v2", folder, "fp16", parity_cases)
    return folder


@pytest.fixture(scope="session")
def tiny_network(tiny_weights: Path) -> Network:
    """As the program loads it: in the precision that suits this machine."""
    from swiftmedsam import load

    return load(tiny_weights, threads=1)


@pytest.fixture(scope="session")
def exact_network(tiny_weights: Path) -> Network:
    from swiftmedsam import load

    return load(tiny_weights, precision="f32", threads=1)


@pytest.fixture(autouse=True)
def same_logging():
    """Commands set levels of logging; the next test finds those from before."""
    from tests.helpers import same_levels

    with same_levels():
        yield


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "new" / "outputs"


@pytest.fixture
def program(inputs, outputs, tiny_weights, capsys):
    """Run main on the two folders; return exit status and the lines it wrote to stderr."""
    from swiftmedsam.program.main import main
    from tests.helpers import fresh_logging

    def run(*options, inputs=inputs, outputs=outputs):
        folders = [str(folder) for folder in (inputs, outputs) if folder is not None]
        arguments = [*folders, "--weights", str(tiny_weights), "--threads", "1"]
        with fresh_logging():
            status = main([*arguments, *options])
        out, err = capsys.readouterr()
        assert out == ""
        return status, err.splitlines()

    return run


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder
