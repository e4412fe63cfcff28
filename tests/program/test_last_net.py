"""One bad file never ends a batch, whatever it raises; it is one line, counted and listed."""

import ast
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from swiftmedsam import Network
from swiftmedsam.program import cases
from swiftmedsam.program import scan_jobs as command
from swiftmedsam.scans.formats.by_suffix import READERS
from tests.helpers import ROOT, image_case, make_case_file, names, volume_case

# Of the network there is a WeightsError, which ends a run: without a network nothing can be done.
KINDS = [
    IndexError("index 60 is out of bounds"), KeyError("x"), ZeroDivisionError(), RecursionError(),
    RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223"),
    AssertionError("line 1\nline 2"), cv2.error("OpenCV(4.13.0) error: (-215:Assertion failed)"),
]  # fmt: skip


def no_memory():
    error = cv2.error("OpenCV(4.13.0) error: (-4:Insufficient memory)")
    error.code = cv2.Error.StsNoMem
    return error


def failing_once(monkeypatch, place, name, error):
    """The first call fails, those that follow do not."""
    calls, real = [], getattr(place, name)

    def function(*arguments, **more):
        calls.append(name)
        if len(calls) == 1:
            raise error
        return real(*arguments, **more)

    monkeypatch.setattr(place, name, function)


def message_of(error):
    return f"an error that was not foreseen ({type(error).__name__}), --verbose shows where"


@pytest.mark.parametrize("error", KINDS, ids=lambda one: type(one).__name__)
def test_a_case_that_fails_in_no_way_anybody_foresaw_is_one_line(
    program, inputs, outputs, tmp_path, monkeypatch, error
):
    for name in ("2DBox_US_1.npz", "2DBox_US_2.npz"):
        make_case_file(inputs, name)
    outputs.mkdir(parents=True)
    (outputs / "2DBox_US_1.npz").write_bytes(b"of an earlier run")
    failing_once(monkeypatch, Network, "encode", error)
    file = tmp_path / "failures.json"
    status, lines = program("--failures", str(file))
    assert status == 1
    assert lines[1] == f"2DBox_US_1.npz: {message_of(error)}"
    assert lines[2].startswith("2DBox_US_2.npz  ")
    assert lines[3].startswith("1 written, 0 skipped, 1 failed, ")
    assert json.loads(file.read_text()) == [{"file": "2DBox_US_1.npz", "message": lines[1]}]
    assert names(outputs) == ["2DBox_US_2.npz"]


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate"), no_memory()])
def test_memory_that_runs_out_is_called_so(program, inputs, monkeypatch, error):
    make_case_file(inputs, "2DBox_US_1.npz")
    failing_once(monkeypatch, Network, "encode", error)
    assert program("--quiet") == (1, ["2DBox_US_1.npz: not enough memory"])


def test_verbose_shows_where_after_the_line(program, inputs, monkeypatch):
    make_case_file(inputs, "2DBox_US_1.npz")
    error = IndexError("index 60 is out of bounds")
    failing_once(monkeypatch, Network, "encode", error)
    status, lines = program("--verbose")
    first = lines.index(f"2DBox_US_1.npz: {message_of(error)}")
    assert status == 1
    assert lines[first + 2] == "Traceback (most recent call last):"
    assert "IndexError: index 60 is out of bounds" in lines
    failing_once(monkeypatch, Network, "encode", error)
    assert program("--quiet")[1] == [lines[first]]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("step", ["read", "place"])
def test_a_scan_that_fails_in_no_way_anybody_foresaw_does_not_hold_up_the_others(
    program, dry, step, mine, monkeypatch
):
    error = IndexError("tuple index out of range")
    rows = []
    for name in ("a.png", "b.png"):
        Image.fromarray(image_case()["imgs"]).save(mine / name)
        rows.append({"file": name, "box": [7, 10, 43, 30]})
    (mine / "boxes.json").write_text(json.dumps(rows))
    if step == "read":
        real = READERS[".png"]

        def read(path, *more):
            if path.name == "a.png":
                raise error
            return real(path, *more)

        monkeypatch.setitem(READERS, ".png", read)
    else:
        failing_once(monkeypatch, command, "choose_orientation", error)
    file = mine / "failures.json"
    words = ["--quiet", "--boxes", str(mine / "boxes.json"), "--failures", str(file), *dry]
    status, lines = program(*words, inputs=mine, outputs=mine / "out")
    assert (status, lines) == (1, [f"a.png: {message_of(error)}"])
    assert json.loads(file.read_text()) == [{"file": "a.png", "message": lines[0]}]
    assert {name.partition("_")[0] for name in names(mine / "out")} == {"b"}


def test_a_case_of_a_scan_that_fails_does_not_hold_up_the_others(tmp_path, monkeypatch, capsys):
    for folder in ("scans", "labels"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((48, 80), np.uint8)
    mask[10:31, 7:44] = 1
    for name in ("a.png", "b.png"):
        Image.fromarray(image_case()["imgs"]).save(tmp_path / "scans" / name)
        Image.fromarray(mask).save(tmp_path / "labels" / name)
    failing_once(monkeypatch, cases, "choose_orientation", IndexError())
    words = [str(tmp_path / folder) for folder in ("scans", "labels", "cases")]
    assert cases.main(["make", *words, "--modality", "US"]) == 1
    assert names(tmp_path / "cases") == ["2DBox_US_b.npz"]
    assert "Traceback" not in capsys.readouterr().err


def test_no_other_place_of_the_program_catches_everything():
    """But the network's, where a kept model that cannot be read is compiled anew."""
    library = ROOT / "swiftmedsam"
    files = [*library.glob("*.py")]
    files += [path for part in ("program", "scans") for path in (library / part).rglob("*.py")]
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) == "Exception"
            ):
                found.append(path.name)
    assert sorted(found) == ["jobs.py", "network.py"]


def test_threads_bind_opencv_too(program, inputs):
    make_case_file(inputs, "3DBox_MR_1.npz", **volume_case())
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        assert program("--quiet")[0] == 0  # which is run with --threads 1
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
