"""How time grows: cases that differ in one thing alone, and what a further one costs."""

import numpy as np
import pytest

from swiftmedsam.evaluation.timing import growth
from swiftmedsam.evaluation.timing.growth import OBJECTS, SLICES, cases, growth_table, main
from swiftmedsam.evaluation.timing.measure import ProgramRun, Said
from tests.helpers import make_case_file


@pytest.fixture
def small(inputs, monkeypatch):
    """Inputs with one volume of one box; cases of 8 slices made of it."""
    make_case_file(inputs, "3DBox_CT_1.npz", boxes=[[8, 6, 0, 46, 30, 3]])
    monkeypatch.setattr(growth, "SHAPE", (8, 60, 64))
    monkeypatch.setattr(growth, "SLICES", (2, 4))
    return inputs


def test_cases_differ_in_slices_or_in_objects(small):
    made = cases(small)
    assert sorted(made) == [(1, 2), (1, 4), (2, 4), (3, 4), (6, 4)]
    for (objects, slices), arrays in made.items():
        assert arrays["imgs"].shape == (8, 60, 64)
        assert arrays["boxes"].shape == (objects, 6)
        assert (arrays["boxes"][:, 5] - arrays["boxes"][:, 2] + 1).tolist() == [slices] * objects
    assert np.array_equal(made[1, 4]["imgs"], made[6, 4]["imgs"])
    assert len({tuple(box[:2]) for box in made[6, 4]["boxes"]}) == 6  # no two in one place


def test_the_table_has_the_cost_of_one_more():
    seconds = {(1, 10): 2.0, (1, 30): 5.0, (2, 30): 5.5, (5, 30): 6.0}
    lines = [line.split() for line in growth_table(seconds).splitlines()]
    assert lines[-4:] == [
        ["1", "10", "2.00", "-", "-"], ["1", "30", "5.00", "150", "-"],
        ["2", "30", "5.50", "-", "10.0"], ["5", "30", "6.00", "-", "5.0"],
    ]  # fmt: skip


def test_every_case_is_run_as_often_as_asked_for_with_the_programs_options(
    small, monkeypatch, capsys
):
    seen = []

    def run(program, case):
        seen.append((case.name, program.words))
        return ProgramRun(1.5, None, 0, True, Said(seconds=1.0))

    monkeypatch.setattr(growth, "run", run)
    assert main([str(small), "--repeats", "2", "--", "--mode", "litemedsam"]) == 0
    assert len(seen) == 2 * (len(OBJECTS) + len(SLICES) - 2)
    program = ("python", "-m", "app", "--mode", "litemedsam", "{inputs}", "{outputs}")
    assert {words for _, words in seen} == {program}
    assert " 1.00 " in capsys.readouterr().out


def test_a_run_that_fails_ends_the_command(small, monkeypatch, capsys):
    failed = ProgramRun(1.0, None, 1, False, Said(last_words="no weights here"))
    monkeypatch.setattr(growth, "run", lambda *_: failed)
    assert main([str(small)]) == 1
    assert "3DBox_CT_1x2.npz: no weights here" in capsys.readouterr().err
    assert main([str(small / "none")]) == 1
