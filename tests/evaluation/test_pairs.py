"""Whole programs in pairs: the order of the runs, the ratios, and what is refused."""

import sys

import pytest

from benchmarks.speed import pairs
from swiftmedsam.evaluation.timing.measure import ProgramRun, Said
from tests.helpers import make_case_file

# A program that copies its cases, after so many hundredths of a second; it notes its name.
COPYING = """
import shutil, sys, time
from pathlib import Path
name, hundredths, notes, inputs, outputs = sys.argv[1:]
time.sleep(int(hundredths) / 100)
with open(notes, "a") as file:
    file.write(name + " ")
for case in Path(inputs).glob("*.npz"):
    shutil.copy(case, outputs)
"""


def ran(seconds, peak=2_000_000):
    return ProgramRun(seconds, peak, 0, True, Said())


def test_ratios_are_of_pairs_and_apart_by_order():
    found = pairs.Pairs()
    found.add(ran(1.0), ran(2.0), ours_first=True)
    found.add(ran(2.0), ran(3.0), ours_first=True)
    found.add(ran(4.0), ran(2.0, 5_000_000), ours_first=False)
    assert found.cells(True) == "**1.75** (1.50 to 2.00) | 2"
    assert found.cells(False) == "**0.50** (0.50 to 0.50) | 1"
    assert pairs.seconds_and_memory(found.ours) == "2.00 | 2"
    assert pairs.seconds_and_memory(found.other) == "2.00 | 5"


@pytest.fixture
def copying(tmp_path):
    """The command of a program that takes so many hundredths of a second."""
    (tmp_path / "copying.py").write_text(COPYING)

    def command(name, hundredths):
        script, notes = tmp_path / "copying.py", tmp_path / "notes"
        return f"{name}={sys.executable} {script} {name} {hundredths} {notes}"

    return command


def test_runs_take_turns_in_both_orders_and_each_row_is_a_pair_of_programs(
    inputs, copying, tmp_path, capsys
):
    make_case_file(inputs, "2DBox_US_a.npz")
    words = ["--ours", copying("quick", 0), "--other", copying("slow", 40), "--pairs", "2"]
    assert pairs.main([str(inputs), *words]) == 0
    order = (tmp_path / "notes").read_text().split()
    assert order == ["quick", "slow"] + ["quick", "slow", "slow", "quick"] * 2
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert (row[0], row[1], row[4]) == ("2DBox_US_a", "quick", "slow")
    assert [row[8], row[10]] == ["2", "2"]
    assert float(row[5]) > 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--other", "slow"], "slow: expected NAME=COMMAND"),
        (["--other", "slow='"], "slow=': No closing quotation"),
        (["--only", "3D*"], "has no npz file that matches 3D*"),
        (["--other", "none=false"], "none failed on 2DBox_US_a.npz: exit status 1, no output"),
    ],
)
def test_what_cannot_be_measured_is_one_line(inputs, copying, capsys, change, message):
    make_case_file(inputs, "2DBox_US_a.npz")
    words = ["--ours", copying("quick", 0), "--other", copying("slow", 0), *change]
    assert pairs.main([str(inputs), *words]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
