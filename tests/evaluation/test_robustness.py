"""Boxes moved by hand, and the command on a program whose masks are its boxes."""

import subprocess
import sys

import numpy as np
import pytest

from swiftmedsam.evaluation import robustness
from swiftmedsam.evaluation.prompts import moved_boxes, write_moved
from swiftmedsam.evaluation.robustness import AppError, main, run_app
from swiftmedsam.frame import Frame
from swiftmedsam.masks import box_pixels
from tests.helpers import ROOT, make_case_file, read_labels

IMAGE, CORNER = "2DBox_US_A-1.npz", "2DBox_OCT_A-1.npz"


def moved(box, move_256, height, width):
    (row,) = moved_boxes(np.array([box], np.float64), move_256, height, width)
    return row.tolist()


@pytest.mark.parametrize(
    ("move_256", "expected"),
    [
        (0, [40, 60, 80, 90]),
        (5, [30, 50, 90, 100]),  # the longer side is 512: 2 pixels per pixel of the input
        (-5, [50, 70, 70, 80]),
        (-7, [54, 74, 66, 76]),
        (-8, [56, 75, 64, 75]),  # in y the sides would have passed each other
        (-20, [60, 75, 60, 75]),
        (25, [0, 10, 130, 140]),  # x ends at the border
        (40, [0, 0, 160, 170]),
        (200, [0, 0, 480, 300]),
    ],
)
def test_each_side_moves_by_pixels_of_the_input(move_256, expected):
    assert moved([40, 60, 80, 90], move_256, 300, 512)[:2] == expected[:2]
    assert moved([40, 60, 80, 90], move_256, 300, 512)[2:] == expected[2:]


def test_the_frame_is_that_of_the_longer_side_whichever_it_is():
    assert moved([40, 60, 80, 90], 5, 512, 300) == [30, 50, 90, 100]
    assert moved([40, 60, 80, 90], 5, 100, 100) == pytest.approx(
        [40 - 5 / 2.56, 60 - 5 / 2.56, 80 + 5 / 2.56, 90 + 5 / 2.56]
    )


@pytest.mark.parametrize(("height", "width"), [(120, 200), (200, 120)])
def test_moved_boxes_end_at_height_and_width(height, width):
    assert moved([3, 4, width - 3, height - 2], 20, height, width) == [0, 0, width, height]


def test_a_box_that_ends_at_the_border_is_left_there_when_not_moved():
    assert moved([0, 0, 200, 120], 0, 120, 200) == [0, 0, 200, 120]


def test_z_is_left_as_it_is():
    assert moved([40, 60, 3, 80, 90, 7], 5, 512, 512) == [30, 50, 3, 90, 100, 7]
    assert moved([40, 60, 3, 80, 90, 7], -20, 512, 512) == [60, 75, 3, 60, 75, 7]


@pytest.mark.parametrize("longer", [28, 100, 128, 511, 1024])
def test_in_the_input_the_prompt_moves_by_that_many_pixels(longer):
    box = np.array([[0.4, 0.3, 0.7, 0.5]]) * longer
    frame = Frame(longer, longer)
    change = frame.prompts(moved_boxes(box, 10, longer, longer)) - frame.prompts(box)
    assert change.tolist() == [[-10, -10, 10, 10]]


def test_the_boxes_given_are_not_changed():
    boxes = np.array([[40.0, 60, 80, 90]])
    moved_boxes(boxes, 5, 300, 512)
    assert boxes.tolist() == [[40, 60, 80, 90]]


@pytest.mark.parametrize("name", ["2DBox_Endoscopy_1.npz", "3DBox_MR_1.npz"])
def test_a_moved_case_has_the_image_as_it_was(tmp_path, name):
    path = make_case_file(tmp_path, name)
    (tmp_path / "moved").mkdir()
    write_moved(path, tmp_path / "moved", 5)
    with np.load(path) as old, np.load(tmp_path / "moved" / name) as new:
        assert new["imgs"].dtype == old["imgs"].dtype
        assert np.array_equal(new["imgs"], old["imgs"])
        # (D, 40, 64) and (48, 80, 3): the depth and the colours are no sides
        step = 5 * (64 if name.startswith("3") else 80) / 256
        assert new["boxes"][0, 0] == old["boxes"][0, 0] - step


def test_a_case_without_boxes_stays_one(tmp_path):
    path = make_case_file(tmp_path, IMAGE, boxes=np.zeros((0, 4)))
    (tmp_path / "moved").mkdir()
    write_moved(path, tmp_path / "moved", 5)
    with np.load(tmp_path / "moved" / IMAGE) as new:
        assert new["boxes"].shape == (0, 4)


@pytest.fixture
def folders(tmp_path):
    """Two images whose truth fills the box: 800 pixels inside, 5000 in a corner."""
    inputs, gts = tmp_path / "inputs", tmp_path / "gts"
    inputs.mkdir()
    gts.mkdir()
    for name, shape, box in (
        (IMAGE, (64, 128), [30, 20, 69, 39]),
        (CORNER, (256, 256), [0, 0, 99, 49]),
    ):
        truth = np.zeros(shape, np.uint8)
        truth[box_pixels(np.array(box))] = 1
        make_case_file(inputs, name, imgs=np.zeros(shape, np.uint8), boxes=np.array([box]))
        make_case_file(gts, name, imgs=None, boxes=None, gts=truth)
    return inputs, gts


@pytest.fixture
def boxes_as_masks(monkeypatch):
    """The program replaced by one that fills the boxes; the options it got."""
    seen = []

    def fill(inputs, outputs, options):
        seen.append(list(options))
        for path in sorted(inputs.glob("*.npz")):
            with np.load(path) as case:
                labels = np.zeros(case["imgs"].shape, np.uint8)
                labels[box_pixels(case["boxes"][0])] = 1
            np.savez(outputs / path.name, segs=labels)

    monkeypatch.setattr(robustness, "run_app", fill)
    return seen


def command(folders, out, *more):
    return main([*map(str, folders), "--out", str(out), "--processes", "1", *more])


def test_the_command_prints_dsc_by_modality_and_move(folders, tmp_path, boxes_as_masks, capsys):
    assert command(folders, tmp_path / "out", "--moves", "10", "0", "-10") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Modality  Cases    -10       0    +10",
        # US: 5 pixels a side make 40 x 20 into 30 x 10 and 50 x 30: 600 / 1100, 1600 / 2300
        "US            1  54.55  100.00  69.57",
        # OCT: 10 pixels, outward two sides only: 80 x 30 and 110 x 60: 4800 / 7400, 10000 / 11600
        "OCT           1  64.86  100.00  86.21",
        "Average       2  59.71  100.00  77.89",
        "DSC in %, by how far the sides of the boxes were moved outward, in input pixels",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["+10", "-10", "0"]
    assert np.count_nonzero(read_labels(tmp_path / "out" / "+10" / IMAGE)) == 50 * 30


def test_words_behind_two_dashes_go_to_the_program(folders, tmp_path, boxes_as_masks):
    words = ["--moves", "0", "5", "--", "--weights", "x", "--window", "-600,1500"]
    assert command(folders, tmp_path / "out", *words) == 0
    assert boxes_as_masks == [["--weights", "x", "--window", "-600,1500"]] * 2


def test_only_takes_some_cases(folders, tmp_path, boxes_as_masks, capsys):
    assert command(folders, tmp_path / "out", "--moves", "0", "--only", "*US*") == 0
    assert "OCT" not in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "0").iterdir()] == [IMAGE]


def test_a_truth_without_an_input_counts_as_0_and_is_told(
    folders, tmp_path, boxes_as_masks, capsys
):
    (folders[0] / CORNER).unlink()
    assert command(folders, tmp_path / "out", "--moves", "0") == 0
    printed = capsys.readouterr().out
    assert "Average       2   50.00" in printed
    assert "1 cases have a truth and no input, counted as 0" in printed


def test_an_input_without_a_truth_is_told_before_the_program_runs(
    folders, tmp_path, boxes_as_masks, capsys
):
    (folders[1] / CORNER).unlink()
    assert command(folders, tmp_path / "out") == 1
    assert f"no truth in {folders[1]} for {CORNER}" in capsys.readouterr().err
    assert boxes_as_masks == []


def test_the_curves_are_drawn(folders, tmp_path, boxes_as_masks):
    picture = tmp_path / "curves.png"
    assert command(folders, tmp_path / "out", "--plot", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_program_that_fails_ends_the_command(folders, tmp_path, capfd):
    assert command(folders, tmp_path / "out", "--", "--weights", str(tmp_path / "none")) == 1
    assert "python -m app ended with status 1" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("inputs-*"))
    with pytest.raises(AppError, match="status 2"):
        run_app(folders[0], tmp_path, ["--no-such-option"])


def test_the_program_runs_on_moved_cases(folders, tmp_path, tiny_weights, capfd):
    words = ["--moves", "0", "10", "--", "--weights", str(tiny_weights), "--quiet"]
    assert command(folders, tmp_path / "out", *words) == 0
    for move in ("0", "+10"):
        assert read_labels(tmp_path / "out" / move / IMAGE).shape == (64, 128)
    assert "Average" in capfd.readouterr().out


def test_matplotlib_is_loaded_for_a_picture_only():
    check = "import sys, swiftmedsam.evaluation.robustness; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
