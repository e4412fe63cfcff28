"""`.ci/budget.py`: what fails a container that takes too much, and what other programs do not."""

import importlib.util
import subprocess
import sys
import threading

import pytest

from tests.helpers import HANGS, ROOT

SPEC = importlib.util.spec_from_file_location("budget", ROOT / ".ci" / "budget.py")
budget = importlib.util.module_from_spec(SPEC)
sys.modules["budget"] = budget  # where dataclasses look for it
SPEC.loader.exec_module(budget)

UNITS = budget.Units(slice=0.3, imports=0.4)
IMAGE, VOLUME = "2DBox_US_bladder.npz", "3DBox_MR_abdomen.npz"


def usual(case):
    return budget.START * UNITS.imports + budget.SLICES[case] * UNITS.slice


def runs(case="", cpu=0.0, waiting=0.0, times=1):
    """Two runs of every case as usual; of `case` the first `times` take more by so much."""
    found = []
    for name in budget.SLICES:
        for turn in range(2):
            more = name == case and turn < times
            found.append(budget.Run(name, usual(name) + more * cpu, more * waiting, 99.0, 2**28))
    return found


def test_the_table_has_the_demo_cases():
    assert set(budget.SLICES) == {path.name for path in (ROOT / "examples/inputs").iterdir()}


def test_what_takes_as_much_as_ever_passes_however_long_it_takes():
    lines, wrong = budget.judge(runs(), UNITS)
    assert len(lines) == len(budget.SLICES)
    assert not wrong


def test_one_of_two_runs_may_be_disturbed():
    assert budget.judge(runs(VOLUME, cpu=30, waiting=3), UNITS)[1] == []


@pytest.mark.parametrize(
    ("case", "more", "said"),
    [(VOLUME, {"cpu": 40 * 0.3}, "more work"),  # everything is done twice
     (IMAGE, {"cpu": 1.0}, "more work"),  # a second is computed at the start
     (IMAGE, {"waiting": 0.5}, "waited 0.50 s")],  # it sleeps
)  # fmt: skip
def test_more_work_or_a_sleep_in_both_runs_fails(case, more, said):
    (wrong,) = budget.judge(runs(case, **more, times=2), UNITS)[1]
    assert wrong.startswith(case)
    assert said in wrong


def test_a_case_that_was_not_measured_fails():
    found = [run for run in runs() if run.case != IMAGE]
    assert budget.judge(found, UNITS)[1] == [
        f"{IMAGE}: expected the CPU seconds of its container, found none"
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_seconds_in_which_no_thread_could_run_are_counted(tmp_path, monkeypatch, version):
    """Until it computes, a process waits for its input; a cgroup is a folder here."""
    parent = tmp_path / "cpuacct" / "bar-1" if version == 1 else tmp_path / "bar-1"
    (parent / "container").mkdir(parents=True)
    if version == 1:
        (parent / "cpuacct.usage").write_text("2500000000\n")
    else:
        (parent / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    monkeypatch.setattr(budget, "CGROUPS", tmp_path)
    group = budget.Cgroup("bar-1")
    assert group.cpu() == 2.5
    code = "input()\nprint('begun', flush=True)\nwhile True: pass"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        tasks = "tasks" if version == 1 else "cgroup.threads"
        (parent / "container" / tasks).write_text(f"{process.pid}\n")
        ended = threading.Event()
        watcher = threading.Thread(target=group.watch, args=[ended])
        watcher.start()
        try:
            for _ in range(int(HANGS / budget.LOOK_EVERY)):
                if group.waiting > 0.1 or ended.wait(budget.LOOK_EVERY):
                    break
            waited = group.waiting
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "begun\n"
            before = group.waiting
            ended.wait(10 * budget.LOOK_EVERY)
            busy = group.waiting - before
        finally:
            ended.set()
            watcher.join()
            process.kill()
    assert waited > 0.1
    assert busy <= 2 * budget.LOOK_EVERY  # the last look before it began
