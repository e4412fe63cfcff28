"""Runs that are killed or stopped: no output is partial, lost or different."""

import os
import subprocess
import sys

import pytest
from conftest import make_case_file, read_labels
from test_cli import IMAGE, fresh_logging, names
from test_layers import ROOT

from app.__main__ import main
from app.case import remove_partials, whole_file

HANGS = 300  # seconds after which a process is given up; no test asks how long one takes

# Opens a file as the program does, says so, and goes on living until its stdin is closed.
WRITER = """
import sys
from pathlib import Path
from app.case import whole_file
with whole_file(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


@pytest.fixture
def writer(outputs):
    """Another process in the middle of writing `outputs/other`."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, outputs / "other"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"open\n"
        yield process
        process.kill()


def run(*arguments):
    with fresh_logging():
        return main([*map(str, arguments), "--threads", "1"])


def test_the_partial_file_of_a_killed_process_is_removed(outputs, writer):
    writer.kill()
    writer.wait(HANGS)
    assert len(names(outputs)) == 1
    assert remove_partials(outputs) == 1
    assert names(outputs) == []


def test_the_partial_file_of_a_living_process_is_left_and_becomes_whole(outputs, writer):
    partial = names(outputs)
    assert remove_partials(outputs) == 0
    assert names(outputs) == partial
    writer.communicate(timeout=HANGS)
    assert writer.returncode == 0
    assert names(outputs) == ["other"]
    assert (outputs / "other").read_bytes() == b"half"


def test_a_partial_file_of_this_process_is_left_as_well(outputs):
    with whole_file(outputs / "other"):
        assert remove_partials(outputs) == 0
    assert names(outputs) == ["other"]


def test_a_file_that_is_swept_away_before_it_is_locked_is_made_anew(outputs, monkeypatch):
    from app import case

    real, swept = case.fcntl.flock, []

    def flock(handle, operation):
        if not swept:
            swept.extend(outputs.iterdir())
            swept[0].unlink()
        real(handle, operation)

    monkeypatch.setattr(case.fcntl, "flock", flock)
    with whole_file(outputs / "other") as stream:
        stream.write(b"whole")
    assert len(swept) == 1
    assert names(outputs) == ["other"]
    assert (outputs / "other").read_bytes() == b"whole"


def test_without_locks_files_are_written_and_none_is_removed(outputs, monkeypatch):
    def flock(handle, operation):
        raise OSError("no locks available")

    monkeypatch.setattr("app.case.fcntl.flock", flock)
    (outputs / ".segs-abcdefgh.partial").touch()
    with whole_file(outputs / "other") as stream:
        stream.write(b"whole")
    assert remove_partials(outputs) == 0
    assert names(outputs) == [".segs-abcdefgh.partial", "other"]


def test_only_files_of_that_name_are_removed(outputs, tmp_path):
    """A link, a fifo and a folder are none of ours, and a fifo is not waited for."""
    (tmp_path / "elsewhere").touch()
    (outputs / ".segs-link.partial").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(outputs / ".segs-fifo.partial")
    (outputs / ".segs-folder.partial").mkdir()
    (outputs / "x.partial").touch()
    (outputs / "2DBox_US_1.npz").touch()
    before = names(outputs)
    (outputs / ".segs-file.partial").touch()
    assert remove_partials(outputs) == 1
    assert names(outputs) == before
    assert remove_partials(tmp_path / "missing") == 0


def test_a_run_begins_by_removing_them_from_outputs_and_never_from_inputs(
    inputs, outputs, tiny_weights, capsys
):
    make_case_file(inputs, IMAGE)
    partial = ".segs-abcdefgh.partial"
    for folder in (inputs, outputs):
        (folder / partial).touch()
    assert run(inputs, inputs, "--weights", tiny_weights) == 1  # refused
    assert names(inputs) == [partial, IMAGE]
    assert run(inputs, outputs, "--weights", tiny_weights) == 0
    assert "removed 1 partial files of a run that was killed\n" in capsys.readouterr().err
    assert names(inputs) == [partial, IMAGE]
    assert names(outputs) == [IMAGE]
    assert read_labels(outputs / IMAGE).any()
