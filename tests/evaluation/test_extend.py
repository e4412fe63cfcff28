"""The table of extended objects: how boxes are drawn, and what counts as an end and a leak."""

import csv

import numpy as np
import pytest

from benchmarks.ablation import extend
from benchmarks.ablation.extend import Row, loosened, marked
from tests.helpers import BrightInBox, ellipse, make_case_file

DEPTH = 12


def row(first, last, found_first, found_last, depth=DEPTH, variant="extended", dsc=0.5, **more):
    values = {"case": "3DBox_MR_1", "modality": "MR", "dataset": "MR_A", "label": 1} | more
    return Row(
        variant, depth=depth, first=first, last=last, found_first=found_first,
        found_last=found_last, dsc=dsc, **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("slices", "ends"),
    [
        ((3, 8, 3, 8), [0, 0]),
        ((3, 8, 5, 11), [3, 2]),
        ((0, 8, 0, 7), [1]),  # it is cut by the volume's first slice
        ((3, 11, 1, 11), [2]),
        ((0, 11, 4, 6), []),
        ((3, 8, -1, -1), []),  # nothing was found
    ],
)
def test_ends_count_where_the_truth_ends_inside_the_volume(slices, ends):
    assert row(*slices).ends == ends


def test_leaks_count_where_there_is_room():
    assert row(3, 6, 1, 7).could_leak and row(3, 6, 1, 7).leaks  # 7 slices of 4
    assert row(3, 6, 2, 7).could_leak and not row(3, 6, 2, 7).leaks  # 6 are not more than 1.5 times
    assert not row(2, 9, 0, 11).could_leak  # 12 are 1.5 times 8
    assert not row(0, 11, 0, 11).could_leak


def test_the_box_is_that_of_the_middle_slice_moved_outward_and_always_the_same():
    truth = np.zeros((DEPTH, 128, 128), bool)
    truth[2:9] = ellipse(128, 128, (60, 40), (10, 15))
    truth[5] = False  # the middle one: the nearest that has the object counts
    given, first, last = marked(truth, "case/1")
    assert (given.z, first, last) == (4, 2, 8)
    moved = (given.boxes[0] - [25, 50, 55, 70]) * [-1, -1, 1, 1]
    assert ((moved >= 0) & (moved <= 2.5)).all()  # 5 pixels of 256 in a slice of 128
    assert (marked(truth, "case/1")[0].boxes == given.boxes).all()
    others = {marked(truth, f"case/{i}")[0].boxes.tobytes() for i in range(9)}
    assert len(others) > 5
    border = np.zeros((64, 64), bool)
    border[:, :] = True
    assert loosened(border, np.random.default_rng(0)).tolist() == [0, 0, 63, 63]


def test_the_tables_on_paper():
    names = (extend.BOX_3D, extend.EVERY, extend.KNOWN, "extended", "until half its size")
    rows = [row(3, 6, 3, 6, variant=name, dsc=0.8) for name in names[:3]]
    rows += [row(3, 6, 1, 7, dsc=0.4), row(3, 6, 4, 5, variant=names[4], dsc=0.2)]
    lines = extend.table(rows).splitlines()
    assert "| extended | 1 | 40.0 | 0.50 | 1.5 | 100% | 2 | 1 of 1 |" in lines
    assert "| MR_A | 1 | 40.0 | 0.50 | 1.5 | 100% | 2 | 1 of 1 | 80.0 | 80.0 | 20.0 |" in lines
    assert lines[-1].startswith("| **MR** | 1 | 40.0 | 0.50 |")


def test_the_command_measures_volumes(inputs, tmp_path, monkeypatch, capsys):
    """The network finds what is bright: the object of the middle box is found exactly."""
    truth = np.zeros((DEPTH, 64, 64), np.uint8)
    for z in range(3, 8):
        truth[z][ellipse(64, 64, (30, 28 + z), (9, 12))] = 1
    boxes = np.array([[18, 15, 3, 50, 45, 7]])
    make_case_file(inputs, "3DBox_MR_1.npz", imgs=200 * truth, boxes=boxes)
    make_case_file(inputs, "2DBox_US_1.npz")
    truths = tmp_path / "gts"
    truths.mkdir()
    np.savez(truths / "3DBox_MR_1.npz", gts=truth)
    network = BrightInBox()
    network.variant, network.precision, network.threads = "toy", "f32", 1
    monkeypatch.setattr(extend, "load", lambda *_, **__: network)
    table = tmp_path / "rows.csv"
    variants = ["best", "bound: extend_most=1", "no crops: volume_crops=0"]
    assert extend.main([str(inputs), str(truths), *variants, "--csv", str(table)]) == 0
    assert sorted(network.encoded.values()) == [1] * 5 + [2]  # of 2 slices around it, all black
    printed = capsys.readouterr().out
    assert printed.startswith("toy, f32, 1 threads\n\n| variant | objects | DSC |")
    with table.open() as stream:
        rows = {one["variant"]: one for one in csv.DictReader(stream)}
    found = {name: (one["found_first"], one["found_last"]) for name, one in rows.items()}
    assert found["3D box"] == found["box in every slice"] == found["best"] == ("3", "7")
    assert found["ends known"] == ("3", "7")
    assert found["bound"] == ("4", "6")
    assert float(rows["best"]["dsc"]) > 0.95
    assert extend.main([str(truths), str(truths), "--only", "2D*"]) == 1
