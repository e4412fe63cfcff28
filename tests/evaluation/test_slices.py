"""Slices of volumes as images, with the true boxes of their objects."""

import numpy as np
import pytest

from swiftmedsam import read_case
from swiftmedsam.evaluation.score import score
from swiftmedsam.evaluation.slices import main
from tests.helpers import make_case_file

NAME = "3DBox_CT_A-1.npz"


@pytest.fixture
def folders(tmp_path):
    """A volume of six slices. Object 2 is in slices 1 to 4, object 5 in slices 2 and 3."""
    inputs, gts = tmp_path / "inputs", tmp_path / "gts"
    inputs.mkdir()
    gts.mkdir()
    volume = np.arange(6 * 40 * 64, dtype=np.int64).reshape(6, 40, 64) % 251
    make_case_file(inputs, NAME, imgs=volume.astype(np.uint8), boxes=[[0, 0, 0, 9, 9, 5]])
    labels = np.zeros((6, 40, 64), np.uint8)
    labels[1:5, 3:9, 10:21] = 2
    labels[2:4, 30:32, 50:53] = 5
    np.savez(gts / NAME, gts=labels, spacing=[1.0, 1.0, 1.0])
    return inputs, gts, tmp_path / "out"


def run(*words):
    return main([*map(str, words)])


def test_each_slice_with_objects_is_a_case_with_their_true_boxes(folders, capsys):
    inputs, gts, out = folders
    assert run(*folders, "--every", 1) == 0
    assert capsys.readouterr().out == f"{out}: 4 slices of 1 volumes\n"
    names = [f"2DBox_CT_A-1_z00{z}.npz" for z in (1, 2, 3, 4)]
    for folder in ("inputs", "gts"):
        assert sorted(path.name for path in (out / folder).iterdir()) == names
    volume = read_case(inputs / NAME).image
    for z, name in enumerate(names, start=1):
        case = read_case(out / "inputs" / name)
        boxes = [[10, 3, 20, 8], [50, 30, 52, 31]]
        np.testing.assert_array_equal(case.boxes, boxes if z in {2, 3} else boxes[:1])
        np.testing.assert_array_equal(case.image, np.stack([volume[z]] * 3, axis=2))
        with np.load(out / "gts" / name) as archive:
            truth = archive["gts"]
        assert np.count_nonzero(truth == 1) == 6 * 11
        assert np.count_nonzero(truth == 2) == (2 * 3 if z in {2, 3} else 0)


def test_perfect_masks_of_the_slices_have_a_perfect_score(folders, tmp_path):
    _, _, out = folders
    assert run(*folders) == 0  # every second slice
    segs = tmp_path / "segs"
    segs.mkdir()
    for path in (out / "gts").iterdir():
        with np.load(path) as archive:
            np.savez(segs / path.name, segs=archive["gts"])
    rows = list(score(segs, out / "gts"))
    assert len(rows) == 2
    assert {float(row.dsc) for row in rows} == {1.0}


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("no input", f"{NAME}: has no input of this name"),
        ("another shape", f"{NAME}: the truth has shape (5, 40, 64), the input (6, 40, 64)"),
        ("an image", "2DBox_US_1.npz: is not a volume, 3DBox_*.npz"),
    ],
)
def test_what_cannot_be_cut_is_one_line(folders, capsys, fault, line):
    inputs, gts, _ = folders
    if fault == "no input":
        (inputs / NAME).unlink()
    elif fault == "another shape":
        np.savez(gts / NAME, gts=np.ones((5, 40, 64), np.uint8), spacing=[1.0, 1.0, 1.0])
    else:
        np.savez(gts / "2DBox_US_1.npz", gts=np.ones((9, 9), np.uint8))
    only = ["--only", "*"] if fault == "an image" else []
    assert run(*folders, *only) == 1
    assert capsys.readouterr().err.strip() == line
