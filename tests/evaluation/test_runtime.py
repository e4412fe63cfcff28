"""Timing of made-up programs and of a made-up engine; the two real programs on tiny networks."""

import csv
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reference import baseline
from swiftmedsam import read_case
from swiftmedsam.evaluation.published import OTHER_MACHINES
from swiftmedsam.evaluation.report.__main__ import read_timings
from swiftmedsam.evaluation.timing import runtime
from swiftmedsam.evaluation.timing.measure import (
    CONTAINER_PEAK,
    PARTS,
    Program,
    ProgramRun,
    RunError,
    Said,
    app_program,
    nothing_program,
    python_program,
    run,
)
from swiftmedsam.evaluation.timing.runtime import main
from swiftmedsam.settings import LITEMEDSAM
from swiftmedsam.torch_model import TINY
from tests.helpers import labels_of, make_case_file, read_labels

IMAGE, STAND_IN = "2DBox_US_A-1.npz", "2DBox_X-Ray_0053-made.npz"
LINE = "{name}  48x80x3  2 boxes  1.50 s (read 0.10, encode 1.00, decode 0.20, write 0.05)"
COPIES = f"""
import pathlib, shutil, sys
inputs, outputs = map(pathlib.Path, sys.argv[1:3])
print("v2, f32, 2 threads")
for path in inputs.iterdir():
    shutil.copy(path, outputs)
    print("{LINE}".format(name=path.name), file=sys.stderr)
"""
ENGINE = f"""#!/bin/sh
echo "$*" >> "$0.log"
for word; do
    case $word in
        *:/workspace/inputs/) inputs=${{word%%:*}} ;;
        *:/workspace/outputs/) outputs=${{word%%:*}} ;;
    esac
done
[ "$word" = true ] && exit 0
cp "$inputs"/* "$outputs"
echo "{LINE.format(name="a.npz")}"
echo "peak_bytes 5000000"
"""


def make_stand_in(folder, boxes=34):
    image = np.zeros((320, 640, 3), np.uint8)
    return make_case_file(folder, STAND_IN, imgs=image, boxes=[[2, 3, 10, 12]] * boxes)


@pytest.fixture
def copies(tmp_path):
    """A command that copies its inputs and says the line of the program about each."""
    path = tmp_path / "copies.py"
    path.write_text(COPIES)
    return shlex.join(["python", str(path)])


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "engine"
    path.write_text(ENGINE)
    path.chmod(0o755)
    return path


@pytest.fixture
def ours(monkeypatch, copies):
    """The copying command in place of `python -m app`."""
    fake = python_program(runtime.OURS, copies)
    monkeypatch.setattr(runtime, "app_program", lambda *_: fake)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_split_by_what_the_program_says(inputs, copies):
    path = make_case_file(inputs, IMAGE)
    done = run(python_program("copies", copies), path)
    assert done.ok and done.status == 0 and done.said.ran_as == "v2, f32, 2 threads"
    assert done.split == pytest.approx({
        "start": done.seconds - 1.5, "read": 0.1, "encode": 1, "decode": 0.2, "write": 0.05,
        "rest": 0.15,
    })  # fmt: skip
    assert tuple(done.split) == PARTS
    assert sum(done.split.values()) == pytest.approx(done.seconds)


def test_seconds_are_from_start_to_end_of_the_process():
    done = run(Program("sleeps", ("sleep", "0.4")), None)
    assert done.seconds >= 0.4
    assert done.split == {}


def test_memory_is_the_peak_of_the_process_and_of_its_children_not_ours():
    held = np.ones(300_000_000, np.uint8)  # of this process, which the other one must not have
    assert run(nothing_program(None, ""), None).peak_bytes < 50e6 < len(held)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytearray(2 * 10**8)'])"
    assert 2e8 < run(Program("holds", ("python", "-c", code)), None).peak_bytes < 2.9e8


def test_a_program_that_writes_nothing_or_ends_otherwise_has_failed(inputs):
    path = make_case_file(inputs, IMAGE)
    silent = run(Program("silent", ("true",)), path)
    assert silent.status == 0 and not silent.written and not silent.ok
    words = ("sh", "-c", "cp {inputs}/* {outputs}; echo out of luck; exit 3")
    failing = run(Program("failing", words), path)
    assert failing.written and failing.status == 3 and not failing.ok
    assert failing.said.last_words == "out of luck"
    killed = run(Program("killed", ("sh", "-c", "kill -9 $$")), path)
    assert killed.status == -9


def test_folders_are_added_where_the_command_does_not_name_them(tmp_path):
    added = python_program("a", "python -m mine --fast 'a b'").command(Path("in"), Path("out"))
    assert added == [sys.executable, "-m", "mine", "--fast", "a b", "in", "out"]
    named = python_program("b", "mine --to {outputs} {inputs}/x").command(Path("in"), Path("out"))
    assert named == ["mine", "--to", "out", "in/x"]


def test_a_command_that_is_not_there_is_an_error_that_names_it():
    with pytest.raises(RunError, match="gone: there is no command no-such-command"):
        run(Program("gone", ("no-such-command",)), None)


def test_an_engine_gets_the_challenges_command_and_says_its_own_peak(inputs, engine):
    path = make_case_file(inputs, IMAGE)
    done = run(app_program("ours", str(engine), "team", ["--mode", "litemedsam"]), path)
    assert done.ok and done.peak_bytes == 5_000_000 and done.said.seconds == 1.5
    assert done.said.last_words == LINE.format(name="a.npz")
    words = Path(f"{engine}.log").read_text()
    assert words.startswith("container run -m 8G --rm -v /")
    assert ":/workspace/outputs/ team /bin/bash -c sh predict.sh --mode litemedsam;" in words
    assert run(nothing_program(str(engine), "team"), None).status == 0
    assert Path(f"{engine}.log").read_text().splitlines()[-1].endswith("team /bin/bash -c true")


@pytest.mark.parametrize("status", [0, 3])
def test_asking_for_the_peak_changes_no_exit_status(tmp_path, status):
    (tmp_path / "predict.sh").write_text(f"exit {status}\n")
    command = ["bash", "-c", f"sh predict.sh; {CONTAINER_PEAK}"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == status


def test_programs_run_in_turns_and_every_run_is_a_row(inputs, tmp_path, ours, copies):
    make_case_file(inputs, IMAGE)
    make_stand_in(inputs)
    out = tmp_path / "timings.csv"
    words = [inputs, "--out", out, "--repeats", 2, "--program", f"other={copies}"]
    assert main([str(word) for word in words]) == 0
    order = [(row["file"], row["repeat"], row["program"]) for row in rows(out)]
    assert order[:-5] == [
        (name, repeat, program)
        for name in (IMAGE, STAND_IN)
        for repeat in ("1", "2")
        for program in ("swiftmedsam", "other")
    ]
    assert order[-5:] == [("-", str(i), "nothing") for i in range(1, 6)]
    for row in rows(out)[:-5]:
        assert row["exit"] == "0" and row["encode"] == "1.000" and int(row["peak_bytes"]) > 1e6
        assert row["ran_as"] == "v2, f32, 2 threads"


def test_the_report_reads_the_seconds_of_the_first_program(tmp_path):
    table = tmp_path / "timings.csv"
    table.write_text(
        ",".join(runtime.CSV_COLUMNS) + "\n"
        f"swiftmedsam,{IMAGE},1,2.0,,,,,,,,0,\nother,{IMAGE},1,50,,,,,,,,0,\n"
        f"swiftmedsam,{IMAGE},2,4.0,,,,,,,,0,\nswiftmedsam,{IMAGE},3,99,,,,,,,,no output,\n"
        "nothing,-,1,0.1,,,,,,,,0,\n"
    )
    assert read_timings(table) == {IMAGE: 3.0}


def test_a_slow_program_is_not_repeated(inputs, tmp_path, ours, monkeypatch):
    make_case_file(inputs, IMAGE)
    takes = {"swiftmedsam": 1.0, "slow": 30.0, "nothing": 0.0}
    monkeypatch.setattr(
        runtime, "run", lambda program, case: ProgramRun(takes[program.name], None, 0, True, Said())
    )
    out = tmp_path / "timings.csv"
    words = ["--repeats", "3", "--once-above", "29.9", "--program", "slow=true"]
    assert main([str(inputs), "--out", str(out), *words]) == 0
    assert [row["program"] for row in rows(out)][:-5] == [
        "swiftmedsam", "slow", "swiftmedsam", "swiftmedsam"
    ]  # fmt: skip


def test_tables_have_medians_ratios_and_the_published_column(inputs, tmp_path, ours, capsys):
    make_case_file(inputs, IMAGE)
    make_stand_in(inputs)
    slow = "sh -c 'sleep 1; cp {inputs}/* {outputs}'"
    words = ["--repeats", "1", "--program", f"slow={slow}"]
    out, picture = tmp_path / "t.csv", tmp_path / "t.png"
    assert main([str(inputs), "--out", str(out), "--plot", str(picture), *words]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    seconds = {r["program"]: float(r["seconds"]) for r in rows(out) if r["file"] == IMAGE}
    assert ["swiftmedsam:", "v2,", "f32,", "2", "threads;", "python"] in [li[:6] for li in lines]
    (own,) = [li for li in lines if li[:4] == ["2DBox_US_A-1", "48x80", "2", "swiftmedsam"]]
    assert own[8:13] == ["0.10", "1.00", "0.20", "0.05", "0.15"] and own[-1] == "1.00"
    (other,) = [li for li in lines if li[:4] == ["2DBox_US_A-1", "48x80", "2", "slow"]]
    assert float(other[5]) >= 1 and other[7:13] == ["-"] * 6
    assert float(other[-1]) == pytest.approx(seconds["slow"] / seconds["swiftmedsam"], rel=0.01)
    (row,) = [li for li in lines if li[:4] == ["2DBox_X-Ray_0053-made", "320x640", "34", "9.8"]]
    assert row[4:8] == ["9.3", "9.8", "1.8", "-"] and float(row[-1]) >= 1
    assert OTHER_MACHINES in printed and "A program that does nothing takes " in printed


def test_a_case_of_another_size_is_not_in_table_5(inputs, tmp_path, ours, capsys):
    make_stand_in(inputs, boxes=33)
    assert main([str(inputs), "--out", str(tmp_path / "t.csv"), "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "320x640" in printed and "Table 5" not in printed


def test_failed_runs_are_named_and_in_no_median(inputs, tmp_path, ours, capsys):
    make_case_file(inputs, IMAGE)
    out = tmp_path / "t.csv"
    words = ["--repeats", "1", "--program", "bad=sh -c 'echo no luck; exit 3'"]
    assert main([str(inputs), "--out", str(out), *words]) == 1
    said = capsys.readouterr()
    assert f"bad failed on {IMAGE}: exit status 3, no output: no luck" in said.err
    assert [line.split()[3] for line in said.out.splitlines() if line.startswith("2DBox")] == [
        "swiftmedsam"
    ]
    assert [row["exit"] for row in rows(out)][:2] == ["0", "3"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [(["--program", "only-a-name"], "no command"), (["--program", "=true"], "NAME=COMMAND"),
     (["--program", "a=sh 'x"], "quotation"), (["--program", "swiftmedsam=true"], "differ")],
)  # fmt: skip
def test_a_program_that_is_none_is_said_at_once(inputs, tmp_path, words, wrong, capsys):
    make_case_file(inputs, IMAGE)
    assert main([str(inputs), "--out", str(tmp_path / "t.csv"), *words]) == 1
    assert wrong in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


def test_no_case_is_an_error(inputs, tmp_path, capsys):
    assert main([str(inputs), "--out", str(tmp_path / "t.csv")]) == 1
    assert "has no npz file" in capsys.readouterr().err


def test_the_machine_is_described(monkeypatch):
    text = "model name\t: Xeon W-2133\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
    monkeypatch.setattr(runtime.Path, "read_text", lambda self: text)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert runtime.machine().startswith("Xeon W-2133; AVX2, AVX-512, VNNI; ")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "VNNI, of them used what AVX2 has; " in runtime.machine()


def test_the_real_program_says_what_is_looked_for(inputs, tiny_weights, tiny_network):
    path = make_case_file(inputs, IMAGE)
    options = ["--weights", str(tiny_weights), "--threads", "1"]
    done = run(app_program("ours", None, "", options), path)
    assert done.ok, done.said.last_words
    assert done.said.ran_as == f"tiny, {tiny_network.precision}, 1 threads"
    assert set(done.split) == set(PARTS) and 0 < done.said.seconds < done.seconds


def test_the_baseline_says_the_same_and_has_the_programs_masks(
    inputs, tmp_path, tiny_checkpoint, exact_network, monkeypatch, capsys
):
    """The organisers' rules in torch against the program in mode exact: one pixel may differ."""
    names = (IMAGE, "3DBox_MR_1.npz")
    for name in names:
        make_case_file(inputs, name)
    monkeypatch.setattr(baseline, "LITE", TINY)
    words = [inputs, tmp_path / "out", "--checkpoint", tiny_checkpoint]
    assert baseline.main([str(word) for word in words]) == 0
    printed = shlex.quote(capsys.readouterr().out)
    says = Program("says", ("sh", "-c", f"cp {{inputs}}/* {{outputs}}; echo {printed}"))
    done = run(says, inputs / IMAGE)
    assert set(done.split) == set(PARTS) and done.said.ran_as == "lite, f32, 1 threads"
    for name in names:
        labels = labels_of(read_case(inputs / name), exact_network, settings=LITEMEDSAM)
        theirs = read_labels(tmp_path / "out" / name)
        assert np.count_nonzero(labels) > 50
        assert np.count_nonzero(labels != theirs) <= 1, name
