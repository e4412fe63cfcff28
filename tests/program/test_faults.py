"""Runs that are killed or stopped: no output is partial, lost or different."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from swiftmedsam import Network
from swiftmedsam.atomic import atomic_file, remove_partials
from swiftmedsam.program.main import main
from swiftmedsam.program.signals import Stopped, Stopper
from tests.helpers import (
    HANGS,
    IMAGE,
    ROOT,
    VOLUME,
    fresh_logging,
    make_case_file,
    names,
    read_labels,
)

# Opens a file as the program does, says so, and goes on living until its stdin is closed.
WRITER = """
import sys
from pathlib import Path
from swiftmedsam.atomic import atomic_file
with atomic_file(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("open", flush=True)
    sys.stdin.read()
"""


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
    with atomic_file(outputs / "other"):
        assert remove_partials(outputs) == 0
    assert names(outputs) == ["other"]


def test_a_file_that_is_swept_away_before_it_is_locked_is_made_anew(outputs, monkeypatch):
    real, swept = fcntl.flock, []

    def flock(handle, operation):
        if not swept:
            swept.extend(outputs.iterdir())
            swept[0].unlink()
        real(handle, operation)

    monkeypatch.setattr("swiftmedsam.system.fcntl.flock", flock)
    with atomic_file(outputs / "other") as stream:
        stream.write(b"whole")
    assert len(swept) == 1
    assert names(outputs) == ["other"]
    assert (outputs / "other").read_bytes() == b"whole"


def test_without_locks_files_are_written_and_none_is_removed(outputs, monkeypatch):
    def flock(handle, operation):
        raise OSError("no locks available")

    monkeypatch.setattr("swiftmedsam.system.fcntl.flock", flock)
    (outputs / ".segs-abcdefgh.partial").touch()
    with atomic_file(outputs / "other") as stream:
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


STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
both_signals = pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def signals_not_ignored():
    """A test runner started with `&` ignores SIGINT, and what it starts would as well."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def start(*arguments, command=(sys.executable, "-m", "app"), **more):
    return subprocess.Popen(
        [*command, *arguments, "--threads", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        **more,
    )  # fmt: skip


def long_volume(folder, name, slices=20_000):
    """A case that takes longer than any test waits, and costs little until it is stopped."""
    imgs = np.zeros((slices, 8, 8), np.uint8)
    imgs[:, 2:6, 2:6] = 200
    return make_case_file(folder, name, imgs=imgs, boxes=[[1, 1, 0, 6, 6, slices - 1]])


@both_signals
def test_a_signal_drops_the_running_case_and_says_so(
    inputs, outputs, tmp_path, tiny_weights, number
):
    make_case_file(inputs, IMAGE)
    (inputs / "2DBox_US_1.npz").write_bytes(b"no zip")
    long_volume(inputs, VOLUME)
    make_case_file(inputs, "3DBox_MR_2.npz")
    file = tmp_path / "failures.json"
    with start(inputs, outputs, "--weights", tiny_weights, "--failures", file) as process:
        lines = [process.stderr.readline() for _ in range(3)]
        assert lines[2].startswith("2DBox_US_1.npz: ")  # so the long case is next
        process.send_signal(number)
        _, rest = process.communicate(timeout=HANGS)
    assert process.returncode == STATUS[number], rest
    assert rest.startswith(f"stopped by {number.name}: 1 written, 0 skipped, 1 failed, ")
    assert rest.endswith(" s, 2 not done\n")
    assert rest.count("\n") == 1
    assert names(outputs) == [IMAGE]
    assert [entry["file"] for entry in json.loads(file.read_text())] == ["2DBox_US_1.npz"]


@both_signals
def test_a_signal_reaches_the_program_through_the_shells_of_the_container(
    inputs, outputs, tiny_weights, number
):
    """`/bin/bash -c "sh predict.sh ..."`: both shells become the program, whose id docker has."""
    long_volume(inputs, VOLUME)
    line = f"sh predict.sh {inputs} {outputs} --weights {tiny_weights} --threads 1"
    with start(
        command=("/bin/bash", "-c", line), env=os.environ | {"SWIFTMEDSAM_PYTHON": sys.executable}
    ) as process:
        assert process.stderr.readline().startswith("tiny, ")
        process.send_signal(number)
        _, rest = process.communicate(timeout=HANGS)
    assert process.returncode == STATUS[number], rest
    assert rest.startswith(f"stopped by {number.name}: 0 written, ")
    assert names(outputs) == []


@both_signals
def test_a_signal_ends_a_program_that_is_still_importing(tmp_path, number):
    """A package that imports for ever in place of one of the libraries."""
    (tmp_path / "cv2.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\nwhile 1: time.sleep(9)"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    with start(env=os.environ | {"PYTHONPATH": paths}) as process:
        assert process.stderr.readline() == "importing\n"
        process.send_signal(number)
        _, rest = process.communicate(timeout=HANGS)
    assert (process.returncode, rest) == (STATUS[number], "")


@both_signals
def test_what_a_signal_tears_apart_does_not_complain(capfd, number):
    class Torn:
        def __del__(self):
            raise AttributeError("_writing")

    def tear():
        torn = Torn()
        os.kill(os.getpid(), number)
        raise AssertionError(f"{torn} was not interrupted")

    former = sys.unraisablehook
    with Stopper() as stopper:
        with contextlib.suppress(Stopped), stopper.raising():
            tear()
        assert stopper.received == number
    assert sys.unraisablehook is former
    assert capfd.readouterr().err == ""


def signal_at(monkeypatch, place, name, number):
    """Send this process a signal when the function is called, as often as it is called."""
    real = getattr(place, name)

    def function(*arguments, **more):
        os.kill(os.getpid(), number)
        return real(*arguments, **more)

    monkeypatch.setattr(place, name, function)


STEPS = {
    "folder": (Path, "samefile"),
    "read": (np.lib.format, "read_magic"),
    "network": (Network, "encode"),
    "create": (os, "fdopen"),
    "write": (np.lib.format, "write_array"),
    "flush": (os, "fsync"),
    "rename": (Path, "replace"),
}


@both_signals
@pytest.mark.parametrize("step", STEPS)
def test_a_signal_leaves_nothing_partial_at_any_step(
    inputs, outputs, tiny_weights, monkeypatch, capsys, step, number
):
    make_case_file(inputs, IMAGE)
    before = [signal.getsignal(each) for each in STATUS]
    signal_at(monkeypatch, *STEPS[step], number)
    assert run(inputs, outputs, "--weights", tiny_weights, "--quiet") == STATUS[number]
    err = capsys.readouterr().err
    assert err.startswith(f"stopped by {number.name}: 0 written, 0 skipped, 0 failed, "), err
    assert err.count("\n") == 1
    assert names(outputs) == []
    assert [signal.getsignal(each) for each in STATUS] == before


def test_a_signal_at_the_very_end_changes_only_the_status(
    inputs, outputs, tmp_path, tiny_weights, monkeypatch
):
    """Once all cases are done nothing is interrupted: the failures are listed all the same."""
    make_case_file(inputs, IMAGE)
    signal_at(monkeypatch, json, "dumps", signal.SIGTERM)
    file = tmp_path / "failures.json"
    arguments = [inputs, outputs, "--weights", tiny_weights, "--failures", file]
    assert run(*arguments) == 143
    assert names(outputs) == [IMAGE]
    assert json.loads(file.read_text()) == []


def test_a_signal_whose_exception_was_lost_stops_at_the_next_slice(
    inputs, outputs, tiny_weights, monkeypatch
):
    make_case_file(inputs, VOLUME)
    encoded, real = [], Network.encode

    def encode(network, pixels):
        encoded.append(pixels)
        with contextlib.suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(network, pixels)

    monkeypatch.setattr(Network, "encode", encode)
    assert run(inputs, outputs, "--weights", tiny_weights) == 143
    assert len(encoded) == 1
    assert names(outputs) == []


def test_a_signal_that_was_ignored_stays_ignored_and_other_threads_set_none():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stopper():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
    statuses = []

    def elsewhere():
        with Stopper() as stopper:
            statuses.append(stopper.status)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert statuses == [None]


@pytest.fixture
def second_a_slice(monkeypatch):
    """A clock that only an inference of the encoder moves on, by a second."""
    now, real = [0], Network.encode

    def encode(network, pixels):
        now[0] += 1
        return real(network, pixels)

    monkeypatch.setattr(Network, "encode", encode)
    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("swiftmedsam.program.run.time", clock)
    monkeypatch.setattr("swiftmedsam.program.progress.time", clock)
    monkeypatch.setattr("swiftmedsam.program.jobs.time", clock)


def test_a_case_that_takes_too_long_is_one_line_and_the_next_goes_on(
    inputs, outputs, tmp_path, tiny_weights, second_a_slice, capsys
):
    make_case_file(inputs, IMAGE)  # one slice, so a second
    make_case_file(inputs, VOLUME)  # six, two of which are met twice
    make_case_file(inputs, "3DBox_MR_2.npz", boxes=[[8, 6, 0, 46, 30, 1]])
    file = tmp_path / "failures.json"
    options = ["--weights", tiny_weights, "--quiet", "--timeout", 2.5, "--failures", file]
    assert run(inputs, outputs, *options) == 1
    line = f"{VOLUME}: given up after 2 of 8 slices, --timeout is 2.5 s"
    assert capsys.readouterr().err == f"{line}\n"
    assert json.loads(file.read_text()) == [{"file": VOLUME, "message": line}]
    assert names(outputs) == [IMAGE, "3DBox_MR_2.npz"]


def test_a_case_whose_last_slice_is_done_is_written_however_long_it_took(
    inputs, outputs, tiny_weights, second_a_slice
):
    make_case_file(inputs, IMAGE, boxes=[[8, 6, 46, 30]])
    assert run(inputs, outputs, "--weights", tiny_weights, "--timeout", 0.5) == 0
    assert names(outputs) == [IMAGE]


def test_an_image_of_many_boxes_is_given_up_between_two(
    inputs, outputs, tiny_weights, second_a_slice, capsys, monkeypatch
):
    decoded, real = [], Network.decode
    monkeypatch.setattr(Network, "decode", lambda *args: decoded.append(args) or real(*args))
    make_case_file(inputs, IMAGE, boxes=[[8, 6, 70, 40]] * 40)
    assert run(inputs, outputs, "--weights", tiny_weights, "--timeout", 0.5, "--quiet") == 1
    assert "given up before its first slice was done" in capsys.readouterr().err
    assert len(decoded) < 5


def test_a_case_that_takes_too_long_to_read_is_not_begun(inputs, outputs, tiny_weights, capsys):
    long_volume(inputs, VOLUME)
    assert run(inputs, outputs, "--weights", tiny_weights, "--timeout", "1e-9") == 1
    assert f"{VOLUME}: given up before its first slice was done, " in capsys.readouterr().err
    assert names(outputs) == []


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_is_seconds_above_0(inputs, outputs, text, capsys):
    with pytest.raises(SystemExit) as caught:
        run(inputs, outputs, f"--timeout={text}")
    assert caught.value.code == 2
    assert f"expected seconds above 0, got '{text}'" in capsys.readouterr().err
