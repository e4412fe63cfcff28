"""`python -m app`: what is written, what is said, and the exit status."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from swiftmedsam import __version__, read_case
from swiftmedsam.program.main import main
from swiftmedsam.settings import MODES
from tests.helpers import (
    IMAGE,
    ROOT,
    VOLUME,
    fresh_logging,
    labels_of,
    make_case_file,
    names,
    read_labels,
)


def expected(path, network):
    return labels_of(read_case(path), network)


def test_good_cases_are_written_with_the_labels_of_segment(program, inputs, outputs, tiny_network):
    image, volume = make_case_file(inputs, IMAGE), make_case_file(inputs, VOLUME)
    status, lines = program()
    assert status == 0
    assert names(outputs) == [IMAGE, VOLUME]
    for path in (image, volume):
        labels = read_labels(outputs / path.name)
        assert labels.dtype == np.uint8
        assert labels.any()
        np.testing.assert_array_equal(labels, expected(path, tiny_network))
    assert lines[0] == f"tiny, {tiny_network.precision}, 1 threads"
    assert lines[1].startswith(f"{IMAGE}  48x80x3  2 boxes  ")
    assert lines[2].startswith(f"{VOLUME}  6x40x64  3 boxes  ")
    assert lines[3].startswith("2 written, 0 skipped, 0 failed, ")
    assert len(lines) == 4


START = """
import os, sys
import swiftmedsam.program.main as program
from swiftmedsam.manifest import WeightsError

def load(*words, wait, **more):
    print(wait, *(name for name in ("cv2", "swiftmedsam.segment") if name in sys.modules))
    raise WeightsError("no weights")

program.load = load
sys.exit(program.main(sys.argv[1:]))
"""


def test_the_network_begins_to_load_before_the_rest_is_imported(inputs, outputs):
    """Its loading is the longest part of a run with one image. Errors of inputs come first."""
    make_case_file(inputs, IMAGE)
    command = [sys.executable, "-c", START]
    done = subprocess.run([*command, inputs, outputs], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "False\n", "no weights\n")
    done = subprocess.run([*command, inputs, inputs], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "outputs would replace the inputs" in done.stderr
    assert "no weights" not in done.stderr


def test_one_file_can_be_the_input(program, inputs, outputs):
    """With the same labels as in its folder, and nothing else done."""
    path = make_case_file(inputs, IMAGE)
    make_case_file(inputs, VOLUME)
    assert program("--only", IMAGE)[0] == 0
    wanted = read_labels(outputs / IMAGE)
    (outputs / IMAGE).unlink()
    assert program(inputs=path)[0] == 0
    assert names(outputs) == [IMAGE]
    np.testing.assert_array_equal(read_labels(outputs / IMAGE), wanted)
    status, lines = program(inputs=path, outputs=inputs)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].endswith("outputs would replace the inputs of the same name")


def test_the_mode_is_passed_on(program, inputs, outputs, tiny_network):
    path = make_case_file(inputs, VOLUME)
    written = {}
    for mode, settings in MODES.items():
        assert program("--mode", mode)[0] == 0
        written[mode] = read_labels(outputs / VOLUME)
        wanted = labels_of(read_case(path), tiny_network, settings)
        np.testing.assert_array_equal(written[mode], wanted)
    assert not np.array_equal(written["best"], written["litemedsam"])
    np.testing.assert_array_equal(written["exact"], written["litemedsam"])  # its old name


def test_the_number_of_crops_is_passed_on(program, inputs, outputs, tiny_network):
    boxes = np.array([[5, 5, 9, 9], [60, 30, 66, 36]])  # of 80 pixels: small ones
    path = make_case_file(inputs, IMAGE, boxes=boxes)
    written = {}
    for crops in (0, 2):
        assert program("--crops", str(crops))[0] == 0
        written[crops] = read_labels(outputs / IMAGE)
        wanted = labels_of(read_case(path), tiny_network, crops=crops)
        np.testing.assert_array_equal(written[crops], wanted)
    assert not np.array_equal(written[0], written[2])
    with pytest.raises(SystemExit):
        program("--crops", "-1")


def test_the_step_is_passed_on(program, inputs, outputs, tiny_network):
    path = make_case_file(inputs, VOLUME, boxes=np.array([[5, 5, 0, 60, 40, 5]]))
    for step in (1, 3):
        assert program("--step", str(step))[0] == 0
        wanted = labels_of(read_case(path), tiny_network, step=step)
        np.testing.assert_array_equal(read_labels(outputs / VOLUME), wanted)
    with pytest.raises(SystemExit):
        program("--step", "0")


def test_a_bad_case_is_one_line_and_the_others_are_written_all_the_same(program, inputs, outputs):
    make_case_file(inputs, IMAGE)
    make_case_file(inputs, "2DBox_US_0.npz", boxes=None)
    (inputs / "2DBox_US_1.npz").write_bytes(b"no zip")
    (inputs / "2DBox_US_2.npz").mkdir()
    make_case_file(inputs, VOLUME)
    make_case_file(inputs, "another.npz")
    (inputs / "notes.txt").touch()
    (inputs / ".hidden").touch()
    status, lines = program("--quiet")
    assert status == 1
    assert names(outputs) == [IMAGE, VOLUME]
    starts = [
        "left alone (not [23]DBox_*.npz): another.npz, notes.txt",
        "2DBox_US_0.npz: key 'boxes' is missing, found ['imgs']",
        "2DBox_US_1.npz: not a readable npz file",
        "2DBox_US_2.npz: not a readable npz file",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_no_older_output_of_a_failed_case_stays(program, inputs, outputs):
    make_case_file(inputs, "2DBox_US_1.npz")
    make_case_file(inputs, "2DBox_US_2.npz")
    assert program()[0] == 0
    (inputs / "2DBox_US_1.npz").write_bytes(b"no zip")
    assert program("--skip-existing")[0] == 0
    assert len(names(outputs)) == 2
    assert program()[0] == 1
    assert names(outputs) == ["2DBox_US_2.npz"]


def test_the_failures_are_listed_in_a_file(program, inputs, tmp_path):
    """Next to the lines of the log; the list is empty when there was none."""
    file = tmp_path / "failures.json"
    make_case_file(inputs, IMAGE)
    make_case_file(inputs, "2DBox_US_0.npz", boxes=None)
    (inputs / "2DBox_US_1.npz").write_bytes(b"no zip")
    status, lines = program("--quiet", "--failures", str(file))
    assert status == 1
    assert json.loads(file.read_text()) == [
        {"file": f"2DBox_US_{i}.npz", "message": line} for i, line in enumerate(lines)
    ]
    assert program("--only", IMAGE, "--failures", str(file))[0] == 0
    assert json.loads(file.read_text()) == []


def test_failures_that_cannot_be_listed_are_told_before_the_work(
    program, inputs, outputs, tmp_path
):
    make_case_file(inputs, IMAGE)
    (tmp_path / "protected.json").touch(0o444)
    for name, why in (
        ("missing/failures.json", f"there is no folder {tmp_path / 'missing'}"),
        ("inputs", "there is a folder of that name"),
        ("protected.json", "there is a read-only file of that name"),
        (f"new/outputs/{IMAGE}", None),
        (f"inputs/{IMAGE}", None),
    ):
        file = tmp_path / name
        status, lines = program("--quiet", "--failures", str(file))
        assert (status, len(lines)) == (1, 1)
        if why is not None:
            assert lines[0] == f"{file}: cannot be written ({why})"
        assert names(outputs) == []
    assert names(inputs) == [IMAGE]


def test_other_files_are_no_failure(program, inputs):
    make_case_file(inputs, IMAGE)
    (inputs / "notes.txt").touch()
    status, lines = program()
    assert status == 0
    assert lines[-1].startswith("1 written, 0 skipped, 0 failed, ")


@pytest.mark.parametrize("pattern", ["", ".", "./"])
def test_a_pattern_of_no_name_is_wrong_usage(pattern, program, capsys):
    with pytest.raises(SystemExit) as stopped:
        program("--only", pattern)
    assert stopped.value.code == 2
    assert "--only: expected a pattern like '3D*', got" in capsys.readouterr().err


def test_what_has_no_stderr_works_all_the_same(program, inputs, outputs, monkeypatch):
    make_case_file(inputs, IMAGE)
    monkeypatch.setattr("sys.stderr", None)
    assert program()[0] == 0
    sys.stderr.close()
    assert names(outputs) == [IMAGE]


def test_only_files_that_match_are_segmented(program, inputs, outputs):
    for name in (IMAGE, VOLUME, "2DBox_US_1.npz"):
        make_case_file(inputs, name)
    assert program("--only", "2D*_1.npz")[0] == 0
    assert names(outputs) == [IMAGE, "2DBox_US_1.npz"]
    status, lines = program("--only", "4D*")
    assert status == 1
    assert len(lines) == 1


def test_outputs_are_kept_when_asked_and_replaced_otherwise(program, inputs, outputs, tiny_network):
    image, _ = make_case_file(inputs, IMAGE), make_case_file(inputs, VOLUME)
    outputs.mkdir(parents=True)
    (outputs / IMAGE).write_bytes(b"as it was")
    status, lines = program("--skip-existing")
    assert status == 0
    assert (outputs / IMAGE).read_bytes() == b"as it was"
    assert names(outputs) == [IMAGE, VOLUME]
    assert lines[-1].startswith("1 written, 1 skipped, 0 failed, ")
    assert program("--only", IMAGE)[0] == 0
    np.testing.assert_array_equal(read_labels(outputs / IMAGE), expected(image, tiny_network))


def test_quiet_says_nothing_when_all_is_well(program, inputs, outputs):
    make_case_file(inputs, IMAGE)
    assert program("--quiet") == (0, [])
    assert names(outputs) == [IMAGE]


def test_the_window_is_used_and_verbose_says_so(program, inputs, outputs, tiny_network):
    raw = np.tile(np.arange(-1000, 1000, 25, dtype=np.int16), (48, 1))
    path = make_case_file(inputs, "2DBox_CT_1.npz", imgs=raw)
    assert not any("Hounsfield" in line for line in program()[1])
    soft = read_labels(outputs / path.name)
    np.testing.assert_array_equal(soft, expected(path, tiny_network))
    lines = program("--window", "lung", "--verbose")[1]
    assert "2DBox_CT_1.npz: Hounsfield units, window -600/1500" in lines
    assert (read_labels(outputs / path.name) != soft).any()


@pytest.mark.parametrize("options", [["--window=-600,1500"], ["--window", "-600,1500"]])
def test_a_window_may_begin_with_a_minus(program, inputs, options):
    make_case_file(inputs, "2DBox_CT_1.npz", imgs=np.tile(np.arange(-1000, 1000, 25), (48, 1)))
    status, lines = program(*options, "--verbose")
    assert status == 0
    assert "2DBox_CT_1.npz: Hounsfield units, window -600/1500" in lines


def test_a_terminal_gets_a_bar_that_every_line_of_the_log_wipes_out(
    inputs, outputs, tiny_weights, monkeypatch
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    make_case_file(inputs, VOLUME)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with fresh_logging():
        assert main([str(inputs), str(outputs), "--weights", str(tiny_weights)]) == 0
    written = terminal.getvalue()
    *_, last_bar, line, summary = written.split("\r\033[K")
    assert last_bar == f"[{'#' * 24}] 1/1 {VOLUME} 8/8"  # two of 6 slices are met twice
    assert line.startswith(f"{VOLUME}  6x40x64  3 boxes  ")
    assert summary.startswith("1 written, ")


def test_an_output_that_cannot_be_written_is_one_line_and_a_failure(program, inputs, outputs):
    make_case_file(inputs, IMAGE)
    make_case_file(inputs, VOLUME)
    (outputs / IMAGE).mkdir(parents=True)
    status, lines = program("--quiet")
    assert (status, len(lines)) == (1, 1)
    assert names(outputs) == [IMAGE, VOLUME]


def test_a_folder_without_cases_is_a_failure(program, inputs, outputs, tmp_path):
    for folder, words in ((tmp_path / "missing", "No such file"), (inputs, "no file named 2DBox_")):
        status, lines = program(inputs=folder)
        assert (status, len(lines)) == (1, 1)
        assert words in lines[0]
        assert str(folder) in lines[0]
    assert not outputs.exists()


def test_weights_that_cannot_be_used_are_a_failure(program, inputs, tmp_path):
    make_case_file(inputs, IMAGE)
    status, lines = program("--weights", str(tmp_path / "none"))
    assert (status, len(lines)) == (1, 1)
    assert "no weights here" in lines[0]
    status, lines = program("--precision", "int8")
    assert (status, len(lines)) == (1, 1)
    assert "needs a model in int8" in lines[0]


def test_altered_weights_are_told_once_and_older_outputs_stay(
    program, inputs, outputs, tmp_path, tiny_weights
):
    """Also where nothing asks for the network: it loads while a case is read."""
    make_case_file(inputs, IMAGE)
    assert program()[0] == 0
    before = (outputs / IMAGE).read_bytes()
    altered = tmp_path / "altered"
    shutil.copytree(tiny_weights, altered)
    for path in altered.glob("decoder*.xml"):
        path.write_bytes(path.read_bytes() + b" ")
    for options in ([], ["--skip-existing"], ["--timeout", "9"]):
        status, lines = program("--weights", str(altered), *options)
        assert status == 1
        assert sum("sha256 is" in line for line in lines) == 1
        assert (outputs / IMAGE).read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ["--threads", "0"], ["--threads", "-1"], ["--threads", "two"], ["--precision", "fp64"],
        ["--window", "40"], ["--window", "40,0"], ["--skip-existing", "--overwrite"],
        ["--quiet", "--verbose"], ["--unknown"], ["a third folder"], ["--only", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_status_2(program, inputs, outputs, options, capsys):
    make_case_file(inputs, IMAGE)
    with pytest.raises(SystemExit) as caught:
        program(*options)
    assert caught.value.code == 2
    assert "usage: python -m app" in capsys.readouterr().err
    assert not outputs.exists()


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"SwiftMedSAM {__version__}\n"


def test_the_program_runs_as_a_process_of_its_own(inputs, outputs, tiny_weights, tiny_network):
    """With warnings as errors, into a folder that is not there, one bad file among good ones."""
    good = [make_case_file(inputs, IMAGE), make_case_file(inputs, VOLUME)]
    (inputs / "2DBox_US_1.npz").write_bytes(b"no zip")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "app", inputs, outputs, "--weights", tiny_weights,
         "--threads", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 5  # network, three files, sum; no progress bar where there is no terminal
    assert lines[-1].startswith("2 written, 0 skipped, 1 failed, ")
    for path in good:
        np.testing.assert_array_equal(
            read_labels(outputs / path.name), expected(path, tiny_network)
        )
