"""Which cases a contact sheet shows, and that it is drawn."""

import numpy as np
import pytest

from swiftmedsam import read_case
from swiftmedsam.evaluation.report.pictures import evenly
from swiftmedsam.evaluation.report.sheet import changes, main, of_each_modality, worst
from swiftmedsam.evaluation.score import CaseScore, ObjectScore
from tests.helpers import make_case_file


def scored(name, *dscs):
    objects = tuple(ObjectScore(dsc=dsc, nsd=0.0, area_256=9.0) for dsc in dscs)
    mean = float(np.mean(dscs))
    return CaseScore(name, name.split("_")[1], "d", len(dscs), mean, 0.0, False, objects)


BASE = [scored("2DBox_US_a", 0.9, 0.5), scored("2DBox_US_b", 0.6), scored("2DBox_CT_c", 0.2, 0.4)]
OTHER = [scored("2DBox_US_a", 0.8, 0.4), scored("2DBox_US_b", 0.6), scored("2DBox_CT_c", 0.3, 0.9)]


def test_the_worst_cases_come_with_their_worst_object():
    found = [(row.name, row.place) for row in worst(BASE, 2)]
    assert found == [("2DBox_CT_c", 0), ("2DBox_US_b", 0)]


def test_gains_come_before_losses_with_the_object_that_changed_most():
    found = [(row.title, row.name, row.place) for row in changes(BASE, OTHER, 10)]
    assert found == [("gain: 30 to 60", "2DBox_CT_c", 1), ("loss: 70 to 60", "2DBox_US_a", 0)]


def test_of_each_modality_the_worst_the_median_and_the_best_are_shown():
    found = [(row.title, row.name) for row in of_each_modality(BASE)]
    assert found[:3] == [(f"{word}: DSC 30", "2DBox_CT_c") for word in ("worst", "median", "best")]
    assert found[3][1] == "2DBox_US_b"
    assert found[5][1] == "2DBox_US_a"


def test_slices_go_from_the_first_to_the_last_of_the_box():
    assert [evenly(*ends, 5) for ends in ((3, 23), (7, 8))] == [[3, 8, 13, 18, 23], [7, 8]]


def test_the_sheet_is_drawn(inputs, tmp_path, capsys):
    for name in ("gts", "first", "other"):
        (tmp_path / name).mkdir()
    for name in ("2DBox_US_1.npz", "3DBox_MR_1.npz"):
        case = read_case(make_case_file(inputs, name))
        truth = np.zeros(case.label_shape, np.uint8)
        truth[..., 10:30, 10:30] = 1
        np.savez(tmp_path / "gts" / name, gts=truth, spacing=np.ones(3))
        np.savez(tmp_path / "first" / name, segs=np.roll(truth, 6, axis=-1))
        np.savez(tmp_path / "other" / name, segs=truth)
    words = [str(inputs), str(tmp_path / "gts"), str(tmp_path / "first")]
    for more in ([], ["--by-modality"], [str(tmp_path / "other")]):
        sheet = tmp_path / "sheet.png"
        assert main([*words, *more, "--out", str(sheet), "--processes", "1"]) == 0
        assert sheet.read_bytes().startswith(b"\x89PNG")
        sheet.unlink()
    assert capsys.readouterr().out.splitlines()[-1].startswith("gain: 70 to 100  ")
    (tmp_path / "first" / "2DBox_US_1.npz").unlink()  # a gain from nothing
    more = [str(tmp_path / "other"), "--out", str(sheet), "--processes", "1"]
    assert main([*words, *more]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("gain: 0 to 100  2DBox_US_1")


@pytest.mark.parametrize(
    ("out", "message"), [("no/sheet.png", "there is no folder"), ("sheet.xyz", "expected one of")]
)
def test_what_cannot_be_drawn_is_said_before_the_work(inputs, tmp_path, capsys, out, message):
    with pytest.raises(SystemExit):
        main([str(inputs), str(inputs), str(inputs), "--out", str(tmp_path / out)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("only", ["4D*"])
def test_no_case_is_one_line(inputs, tmp_path, capsys, only):
    (tmp_path / "gts").mkdir()
    words = [str(inputs), str(tmp_path / "gts"), str(inputs), "--out", "sheet.png"]
    assert main([*words, "--only", only]) == 1
    assert capsys.readouterr().err.count("\n") == 1
