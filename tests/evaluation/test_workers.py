"""`python -m benchmarks.limits.workers`: what it measures is of the runs that it names."""

import re
import subprocess
import sys
import time

import pytest

from benchmarks.limits import workers
from tests.helpers import make_shifted_cases

ROW = re.compile(r"^\| (\w+) \|" + r" ([\d.]+) \|" * 5 + "$", re.MULTILINE)


def test_each_way_segments_all_cases_and_the_table_says_so(
    inputs, tiny_weights, capsys, monkeypatch
):
    monkeypatch.setattr(workers, "EVERY", 0.01)  # these runs take less than a second
    make_shifted_cases(inputs, ["2DBox_US_0.npz", "2DBox_US_1.npz"])
    options = ["--only", "2D*", "--copies", "2", "--rounds", "1", "--ways", "one", "parts"]
    assert workers.main([str(inputs), *options, "--weights", str(tiny_weights)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("4 cases, ")
    assert out.splitlines()[-1] == "parts: 0 outputs differ from those of one"
    rows = {row[0]: [float(value) for value in row[1:]] for row in ROW.findall(out)}
    assert list(rows) == ["one", "parts"]
    for seconds, work, rate, _, megabytes in rows.values():
        assert 0 < work <= seconds
        assert rate > 0
        assert megabytes > 50
    assert rows["one"][3] == 1
    order = re.findall(r"^(\w+): Run", err, re.MULTILINE)
    assert order == ["one", "parts", "parts", "one"]


def test_the_memory_of_a_child_counts():
    taken = 50 << 20
    child = f"import sys; b = bytearray({taken}); print(flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        found = workers.descendants([process.pid])
        assert len(found) == 2
        assert workers.memory_of(found) > taken
        process.stdin.close()
        process.wait()
        time.sleep(0.1)
    assert workers.memory_of(found) == 0


def test_outputs_that_differ_or_are_missing_are_counted(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for name in ("same", "other", "missing"):
        (tmp_path / "a" / name).write_text(name)
    (tmp_path / "b" / "same").write_text("same")
    (tmp_path / "b" / "other").write_text("not the same")
    assert workers.differences(tmp_path / "a", tmp_path / "b") == 2


def test_a_folder_without_such_cases_is_wrong_usage(tmp_path, capsys):
    with pytest.raises(SystemExit):
        workers.main([str(tmp_path)])
    assert "no file like 3D*" in capsys.readouterr().err
