"""Other weights than the default run everywhere: challenge files, scans, server, fleet."""

import nibabel
import numpy as np
import pytest

from swiftmedsam.fleet.worker import Setup, Worker, agree
from swiftmedsam.program.main import main
from tests.helpers import dsc, ellipse, fresh_logging, make_case_file, volume_case
from tests.helpers.page import Client
from tests.helpers.page_requests import drawn, make_folder
from tests.helpers.server import serving

LEAST = 0.85  # DSC of a bright ellipse in a grey picture


@pytest.fixture
def run(v2_weights, capsys):
    """Run the program with v2; return the lines that it wrote to stderr."""

    def ask(*words):
        with fresh_logging():
            assert main([*map(str, words), "--weights", str(v2_weights), "--threads", "1"]) == 0
        return capsys.readouterr().err.splitlines()

    return ask


@pytest.mark.parametrize("mode", ["best", "litemedsam"])
def test_challenge_files(run, inputs, outputs, mode):
    make_case_file(inputs, "2DBox_US_a.npz")
    make_case_file(inputs, "3DBox_MR_b.npz")
    lines = run(inputs, outputs, "--mode", mode, "--precision", "f32")
    assert lines[0].startswith("v2, f32, 1 threads")
    labels = np.load(outputs / "2DBox_US_a.npz")["segs"]
    assert dsc(labels == 1, ellipse(48, 80, (20, 25), (10, 18))) >= LEAST
    assert set(np.unique(np.load(outputs / "3DBox_MR_b.npz")["segs"])) == {0, 1, 2, 3}


def test_scans(run, tmp_path):
    volume = volume_case()["imgs"].T
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, -1, 2, 1])), tmp_path / "scan.nii.gz")
    box = [*map(str, volume_case()["boxes"][0])]
    run(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", "--modality", "MR", "--box", *box)
    found = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert found.shape == volume.shape
    assert dsc(found[..., 1].T == 1, ellipse(40, 64, (17, 26), (9, 14))) >= LEAST


def test_the_server(v2_weights, tmp_path):
    folder = make_folder(tmp_path)
    with serving(
        "--root", folder / "root", "--weights", v2_weights, "--threads", "1", "--no-journal",
    ) as server:  # fmt: skip
        client = Client(server)
        image = client.fine("POST", "/api/images", {"file": "root/scan.nii.gz"})
        number, change, labels = drawn(client, f"/api/images/{image['id']}")
    assert change["object"]["number"] == number and labels


def test_a_worker_of_the_fleet(v2_weights, monkeypatch):
    monkeypatch.setattr("swiftmedsam.atomic._marked", "")  # restored afterwards
    agreement = agree(v2_weights, "f32")
    assert agreement.variant == "v2"
    with fresh_logging():
        assert Worker(Setup("name", v2_weights, 1, None, agreement)).ready().refusal == ""
