"""Folders of outputs against folders of truth, and the command."""

import argparse
import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from swiftmedsam import frame, system
from swiftmedsam.evaluation.__main__ import main
from swiftmedsam.evaluation.compare import compare, compare_sizes
from swiftmedsam.evaluation.console import add_shared_options
from swiftmedsam.evaluation.metrics import INPUT_SIZE, ObjectScore
from swiftmedsam.evaluation.score import (
    LARGE_FROM_256,
    SMALL_BELOW_256,
    CaseScore,
    ScoreError,
    by_size,
    parse_name,
    score,
    summarise,
)
from swiftmedsam.modality import CASE_NAME, UNKNOWN, find_modality
from tests.helpers.scores import SPACING_XYZ, image_labels, put_output, put_truth, row


@pytest.fixture
def folders(tmp_path):
    segs, gts = tmp_path / "segs", tmp_path / "gts"
    segs.mkdir()
    gts.mkdir()
    return segs, gts


def volume_pair():
    """Truth and output: two voxels, of which the second is one slice too high."""
    truth, found = np.zeros((6, 8, 11), np.uint8), np.zeros((6, 8, 11), np.uint8)
    truth[1, 1, 1] = found[1, 1, 1] = 1
    truth[3, 6, 9] = found[4, 6, 9] = 1
    return truth, found


def small(dsc, nsd=0.5):
    return ObjectScore(100.0, dsc, nsd)


def large(dsc, nsd=0.5):
    return ObjectScore(5000.0, dsc, nsd)


def brief(group):
    return group.name, group.cases, group.missing, group.dsc, group.nsd


def put_four_cases(segs, gts):
    """One CT volume, two X-rays of which one is missing, one OCT without a data set."""
    truth, found = volume_pair()
    put_truth(gts, "3DBox_CT_Phantom-1.npz", truth)
    put_output(segs, "3DBox_CT_Phantom-1.npz", found)
    put_truth(gts, "2DBox_CXR_Lungs-1.npz", image_labels())
    put_output(segs, "2DBox_CXR_Lungs-1.npz", image_labels())
    put_truth(gts, "2DBox_X-Ray_Lungs-2.npz", image_labels())
    put_truth(gts, "2DBox_OCT_0003.npz", image_labels())
    put_output(segs, "2DBox_OCT_0003.npz", image_labels())


@pytest.mark.parametrize(
    ("name", "modality", "dataset"),
    [
        ("2DBox_X-Ray_COVID_lungs-ARDSSevere.npz", "X-Ray", "COVID_lungs"),
        ("2DBox_XRay_A-1.npz", "X-Ray", "A"),
        ("2DBox_CXR_A-1.npz", "X-Ray", "A"),
        ("3DBox_MR_ACDC-patient021.npz", "MR", "ACDC"),
        ("2DBox_Microscope_WBC-d1-021.npz", "Microscopy", "WBC"),
        ("2DBox_Microscopy_0008.npz", "Microscopy", ""),
        ("2DBox_Mamm_CDD-1.npz", "Mammography", "CDD"),
        ("2DBox_Mammography_CDD-1.npz", "Mammography", "CDD"),
        ("3DBox_CT_0566.npz", "CT", ""),
        ("2DBox_Thermography_0001.npz", "Thermography", ""),
        # as they are segmented
        ("3DBox_MRI_A-1.npz", "MR", "A"),
        ("3DBox_PT_A-1.npz", "PET", "A"),
        ("2DBox_Ultrasound_A-1.npz", "US", "A"),
        ("2DBox_Derm_A-1.npz", "Dermoscopy", "A"),
        ("2DBox_mg_A-1.npz", "Mammography", "A"),
        ("2DBox_US1.npz", "US1", ""),  # not US: what is before the next "_" is the modality
        ("2DBox_US.npz", "US", ""),
        ("2DBox_.npz", "unknown", ""),
    ],
)
def test_modality_and_data_set_come_from_the_file_name(name, modality, dataset):
    assert parse_name(name) == (modality, dataset)
    found = find_modality(CASE_NAME.fullmatch(name)["modality"])  # of which it is segmented
    assert modality == found.name or found is UNKNOWN


def test_a_file_name_that_is_no_case_is_an_error(folders):
    segs, gts = folders
    put_truth(gts, "CT_Phantom-1.npz", image_labels())
    with pytest.raises(ScoreError, match="CT_Phantom-1.npz"):
        score(segs, gts)


def test_each_truth_gives_a_row_and_a_missing_output_counts_as_0(folders):
    put_four_cases(*folders)
    assert [replace(row, by_object=()) for row in score(*folders)] == [
        CaseScore("2DBox_CXR_Lungs-1.npz", "X-Ray", "Lungs", 1, 1.0, 1.0, missing=False),
        CaseScore("2DBox_OCT_0003.npz", "OCT", "", 1, 1.0, 1.0, missing=False),
        CaseScore("2DBox_X-Ray_Lungs-2.npz", "X-Ray", "Lungs", 1, 0.0, 0.0, missing=True),
        CaseScore("3DBox_CT_Phantom-1.npz", "CT", "Phantom", 1, 0.5, 0.75, missing=False),
    ]


def test_the_official_order_of_spacing_gives_another_nsd(folders):
    put_four_cases(*folders)
    by_name = {row.name: row for row in score(*folders, official=True)}
    # 4 of 16 corners are a slice away: 3 mm in the order of the axes, 1 mm in the official one
    assert by_name["3DBox_CT_Phantom-1.npz"].nsd == 1.0
    assert by_name["3DBox_CT_Phantom-1.npz"].dsc == 0.5
    assert by_name["2DBox_OCT_0003.npz"].nsd == 1.0


def test_several_processes_give_the_same_rows_in_the_same_order(folders):
    put_four_cases(*folders)
    assert score(*folders, processes=2) == score(*folders)


def test_progress_is_told_case_by_case(folders):
    put_four_cases(*folders)
    seen = []
    score(*folders, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_only_leaves_out_what_does_not_match_in_both_folders(folders):
    segs, gts = folders
    put_four_cases(segs, gts)
    put_output(segs, "2DBox_OCT_without-truth.npz", image_labels())
    assert [r.name for r in score(segs, gts, only="3DBox_*")] == ["3DBox_CT_Phantom-1.npz"]


def test_an_output_of_another_shape_is_an_error_that_names_the_file(folders):
    segs, gts = folders
    put_truth(gts, "2DBox_US_A-1.npz", image_labels())
    put_output(segs, "2DBox_US_A-1.npz", image_labels().T)
    with pytest.raises(ScoreError, match=r"segs/2DBox_US_A-1.npz: 'segs' should be \(5, 8\)"):
        score(segs, gts)


def test_errors_of_a_worker_process_reach_the_caller(folders):
    segs, gts = folders
    for name in ("2DBox_US_A-1.npz", "2DBox_US_A-2.npz"):
        put_truth(gts, name, image_labels())
        put_output(segs, name, image_labels().T)
    with pytest.raises(ScoreError, match="2DBox_US_A-1.npz"):
        score(segs, gts, processes=2)


def test_an_output_without_a_truth_is_an_error_that_names_the_file(folders):
    put_four_cases(*folders)
    put_output(folders[0], "2DBox_US_A-1.npz", image_labels())
    with pytest.raises(ScoreError, match="2DBox_US_A-1.npz"):
        score(*folders)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": image_labels()}, "segs"),
        ({"segs": image_labels() + 0.5}, "whole numbers"),
        ({"segs": np.full((5, 8), np.nan)}, "whole numbers"),
        ({"segs": np.full((5, 8), "1")}, "whole numbers"),
        ({"segs": np.full((5, 8), None)}, "cannot be read"),
    ],
)
def test_an_output_without_labels_is_an_error_that_names_the_file(folders, arrays, words):
    segs, gts = folders
    put_truth(gts, "2DBox_US_A-1.npz", image_labels())
    np.savez(segs / "2DBox_US_A-1.npz", **arrays)
    with pytest.raises(ScoreError, match=f"segs/2DBox_US_A-1.npz: .*{words}"):
        score(segs, gts)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_broken_file_is_an_error_that_names_the_file(folders, keep):
    segs, gts = folders
    put_truth(gts, "2DBox_US_A-1.npz", image_labels())
    put_output(segs, "2DBox_US_A-1.npz", image_labels())
    path = segs / "2DBox_US_A-1.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ScoreError, match="segs/2DBox_US_A-1.npz"):
        score(segs, gts)


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("3DBox_CT_A-1.npz", {"gts": volume_pair()[0]}, "spacing"),
        ("3DBox_CT_A-1.npz", {"gts": image_labels(), "spacing": SPACING_XYZ}, r"\(D, H, W\)"),
        ("3DBox_CT_A-1.npz", {"gts": volume_pair()[0], "spacing": (1, 0, 1)}, "above 0"),
        ("2DBox_CT_A-1.npz", {"gts": volume_pair()[0]}, r"\(H, W\)"),
        ("2DBox_CT_A-1.npz", {"gts": image_labels().astype(np.int32) - 1}, "0..1048575"),
        ("2DBox_CT_A-1.npz", {"gts": image_labels() * np.int32(2**20)}, "0..1048575"),
    ],
)
def test_an_unusable_truth_is_an_error_that_names_the_file(folders, name, arrays, words):
    segs, gts = folders
    np.savez(gts / name, **arrays)
    put_output(segs, name, arrays["gts"])
    with pytest.raises(ScoreError, match=f"gts/{name}: .*{words}"):
        score(segs, gts)


def test_labels_of_more_than_two_bytes_are_scored(folders):
    segs, gts = folders
    labels = image_labels() * np.uint32(70_000)
    labels[4, 6:8] = 65_536  # 0 in uint16
    put_truth(gts, "2DBox_US_A-1.npz", labels)
    put_output(segs, "2DBox_US_A-1.npz", labels)
    put_truth(gts, "2DBox_US_A-2.npz", labels)
    put_output(segs, "2DBox_US_A-2.npz", labels.astype(np.uint16))
    assert [(row.objects, row.dsc) for row in score(segs, gts)] == [(2, 1), (2, 0)]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.float32])
def test_the_dtype_of_the_labels_is_free(folders, dtype):
    segs, gts = folders
    put_truth(gts, "2DBox_US_A-1.npz", image_labels().astype(dtype))
    put_output(segs, "2DBox_US_A-1.npz", image_labels().astype(dtype))
    (only,) = score(segs, gts)
    assert (only.dsc, only.nsd) == (1, 1)


def test_the_average_counts_each_modality_once():
    rows = [row("2DBox_OCT_A-1.npz", 1.0, 0.8)]
    rows += [row(f"2DBox_US_B-{i}.npz", 0.25, 0.5) for i in range(3)]
    rows += [row("2DBox_US_C-1.npz", 0.0, 0.0, missing=True), row("3DBox_CT_0001.npz", 0.5, 0.5)]
    summary = summarise(rows)
    assert [brief(group) for group in summary.modalities] == [
        ("CT", 1, 0, 0.5, 0.5),
        ("US", 4, 1, 0.1875, 0.375),
        ("OCT", 1, 0, 1.0, 0.8),
    ]
    assert [brief(group) for group in summary.datasets] == [
        ("US_B", 3, 0, 0.25, 0.5),
        ("US_C", 1, 1, 0.0, 0.0),
        ("OCT_A", 1, 0, 1.0, 0.8),
    ]
    assert summary.average.dsc == pytest.approx((0.5 + 0.1875 + 1) / 3)
    assert summary.average.nsd == pytest.approx((0.5 + 0.375 + 0.8) / 3)
    assert (summary.average.cases, summary.average.missing) == (6, 1)


def test_the_limits_of_the_sizes_are_cocos_in_our_frame():
    assert INPUT_SIZE == frame.INPUT_SIZE
    assert pytest.approx((12.8**2, 38.4**2)) == (SMALL_BELOW_256, LARGE_FROM_256)


@pytest.mark.parametrize(
    ("area_256", "size"),
    [(1, "small"), (163.8, "small"), (163.9, "medium"), (1474, "medium"), (1475, "large"),
     (65536, "large")],
)  # fmt: skip
def test_the_size_of_an_object_is_that_of_its_area_in_the_input(area_256, size):
    rows = [row("2DBox_US_A-1.npz", 1.0, by_object=[ObjectScore(area_256, 1.0, 1.0)])]
    assert [each.name for each in by_size(rows)] == [size]


def test_an_object_at_a_limit_is_of_the_larger_size():
    limits = [ObjectScore(SMALL_BELOW_256, 1, 1), ObjectScore(LARGE_FROM_256, 1, 1)]
    assert [s.name for s in by_size([row("2DBox_US_A-1.npz", 1, by_object=limits)])] == [
        "medium", "large",
    ]  # fmt: skip


def test_the_size_of_an_object_follows_from_its_truth(folders):
    segs, gts = folders
    labels = np.zeros((128, 64), np.uint8)  # 4 input pixels per pixel
    labels[10:16, 10:16] = 1  # 144 input pixels
    labels[30:37, 10:16] = 2  # 168
    labels[60:100, 10:20] = 3  # 1600
    put_truth(gts, "2DBox_US_A-1.npz", labels)  # its output is missing, its objects are not
    sizes = summarise(score(segs, gts)).sizes
    assert [(size.name, size.objects, size.missing) for size in sizes] == [
        ("small", 1, 1), ("medium", 1, 1), ("large", 1, 1),
    ]  # fmt: skip


def test_the_mean_of_a_size_counts_each_object_once():
    rows = [
        row("2DBox_US_A-1.npz", 0.0, by_object=[small(1.0, 1.0)] * 3 + [large(0.25, 0.75)]),
        row("2DBox_OCT_A-1.npz", 0.0, by_object=[small(0.0, 0.5)]),
        row("2DBox_OCT_A-2.npz", 0.0, by_object=[]),
    ]
    few, many = summarise(rows).sizes
    assert (few.name, few.cases, few.objects, few.dsc, few.nsd) == ("small", 2, 4, 0.75, 0.875)
    # a draw of two cases has both (0.75) or one of them twice (0 or 1)
    assert few.dsc_interval == (0, 1)
    assert (many.name, many.cases, many.objects, many.dsc) == ("large", 1, 1, 0.25)
    assert (many.dsc_interval, many.nsd_interval) == ((0.25, 0.25), (0.75, 0.75))


def test_cases_without_objects_have_no_size():
    empty = CaseScore("2DBox_US_A-1.npz", "US", "A", 0, 1.0, 1.0, missing=False)
    assert summarise([empty]).sizes == []


def test_the_intervals_of_means_are_about_two_standard_errors_wide():
    scores = np.linspace(0.3, 0.9, 61)
    rows = [row(f"2DBox_US_A-{i}.npz", dsc, 1 - dsc) for i, dsc in enumerate(scores)]
    rows += [row(f"2DBox_OCT_A-{i}.npz", dsc, 1 - dsc) for i, dsc in enumerate(scores)]
    error = scores.std() / np.sqrt(61)
    summary = summarise(rows)
    us, average = summary.modalities[0], summary.average
    # 10 %: drawing 2000 times, the width has a noise of about 2 %
    assert np.diff(us.dsc_interval) == pytest.approx(2 * 1.96 * error, rel=0.1)
    # the modalities are drawn each on its own, so that their mean is surer than either
    assert np.diff(average.dsc_interval) == pytest.approx(2 * 1.96 * error / 2**0.5, rel=0.1)
    assert us.dsc_interval[0] < us.dsc < us.dsc_interval[1]
    assert average.nsd_interval == pytest.approx([1 - end for end in average.dsc_interval[::-1]])


def test_a_comparison_by_size_is_of_objects_and_draws_cases():
    base = [
        row("2DBox_US_A-1.npz", 0.5, by_object=[small(0.5)] * 3 + [large(0.5)]),
        row("2DBox_OCT_A-1.npz", 0.5, by_object=[small(0.5)]),
    ]
    other = [
        row("2DBox_OCT_A-1.npz", 0.5, by_object=[small(0.25)]),
        row("2DBox_US_A-1.npz", 0.5, by_object=[small(0.75)] * 3 + [large(0.5)]),
    ]
    few, many = compare_sizes(base, other)
    assert (few.name, few.cases, few.objects, few.dsc.mean) == ("small", 2, 4, 0.125)
    assert (few.dsc.low, few.dsc.high, few.dsc.wins, few.dsc.losses) == (-0.25, 0.25, 1, 1)
    assert (many.name, many.objects, many.dsc.mean, many.dsc.wins) == ("large", 1, 0, 0)


def test_a_comparison_is_other_minus_base_case_by_case():
    base = [row(f"2DBox_US_A-{i}.npz", 0.5, 0.5) for i in range(4)]
    other = [row(f"2DBox_US_A-{i}.npz", dsc, 0.5) for i, dsc in enumerate((0.75, 0.75, 0.25, 0.5))]
    us, average = compare(base, other[::-1])  # paired by name, not by position
    assert (us.name, us.cases, us.dsc.mean) == ("US", 4, 0.0625)
    assert (us.dsc.wins, us.dsc.losses) == (2, 1)
    assert us.dsc.low < 0 < us.dsc.high
    assert (us.nsd.mean, us.nsd.low, us.nsd.high, us.nsd.wins, us.nsd.losses) == (0, 0, 0, 0, 0)
    assert (average.name, average.dsc.mean) == ("Average", 0.0625)


def test_the_interval_of_a_constant_difference_is_that_difference():
    names = [f"2DBox_US_A-{i}.npz" for i in range(5)]
    base, other = ([row(name, value) for name in names] for value in (0.5, 0.75))
    change = compare(base, other)[0].dsc
    assert (change.low, change.mean, change.high) == (0.25, 0.25, 0.25)


def test_the_difference_of_the_average_counts_each_modality_once():
    base = [row(f"2DBox_US_A-{i}.npz", 0.5) for i in range(3)] + [row("2DBox_OCT_A-1.npz", 0.5)]
    other = [row(f"2DBox_US_A-{i}.npz", 0.75) for i in range(3)] + [row("2DBox_OCT_A-1.npz", 0.25)]
    average = compare(base, other)[-1].dsc
    assert (average.mean, average.wins, average.losses) == (0, 3, 1)


def test_a_comparison_can_be_repeated():
    generator = np.random.default_rng(1)
    base, other = (
        [row(f"2DBox_US_A-{i}.npz", dsc) for i, dsc in enumerate(generator.random(9))]
        for _ in range(2)
    )
    assert compare(base, other) == compare(base, other)


def test_the_interval_is_about_two_standard_errors_wide():
    deltas = np.linspace(-0.2, 0.4, 61)
    base = [row(f"2DBox_US_A-{i}.npz", 0.5) for i in range(61)]
    other = [row(f"2DBox_US_A-{i}.npz", 0.5 + delta) for i, delta in enumerate(deltas)]
    change = compare(base, other)[0].dsc
    error = deltas.std() / np.sqrt(61)
    # 10 %: drawing 2000 times, the width has a noise of about 2 %
    assert change.high - change.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_the_command_prints_a_table_and_the_missing_outputs(folders, capsys):
    put_four_cases(*folders)
    segs, gts = map(str, folders)
    assert main([segs, gts, "--processes", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "Modality  Cases  Objects                    DSC %                    NSD %",
        "CT            1        1     50.00 [50.00, 50.00]     75.00 [75.00, 75.00]",
        "X-Ray         2        2     50.00 [0.00, 100.00]     50.00 [0.00, 100.00]",
        "OCT           1        1  100.00 [100.00, 100.00]  100.00 [100.00, 100.00]",
        "Average       4        4     66.67 [50.00, 83.33]     75.00 [58.33, 91.67]",
        "",
        "Size    Cases  Objects                 DSC %                 NSD %",
        "medium      1        1  50.00 [50.00, 50.00]  75.00 [75.00, 75.00]",
        "large       3        3  66.67 [0.00, 100.00]  66.67 [0.00, 100.00]",
        "Means over objects; by area in pixels of the 256 input: small below 164, "
        "medium below 1475",
        "In brackets: 95% intervals, bootstrap over cases",
        "",
        f"1 of 4 outputs missing in {segs}, counted as 0:",
        "  2DBox_X-Ray_Lungs-2.npz",
    ]
    assert printed.err == ""  # no counter, as this is no terminal


def test_the_command_with_official_uses_the_official_order(folders, capsys):
    put_four_cases(*folders)
    assert main([*map(str, folders), "--processes", "1", "--official"]) == 0
    ct = capsys.readouterr().out.splitlines()[1]
    assert ct.split() == [
        "CT",
        "1",
        "1",
        "50.00",
        "[50.00,",
        "50.00]",
        "100.00",
        "[100.00,",
        "100.00]",
    ]


def test_the_command_writes_rows_and_averages(folders, tmp_path, capsys):
    put_four_cases(*folders)
    table, document = tmp_path / "cases.csv", tmp_path / "scores.json"
    files = ["--csv", str(table), "--json", str(document)]
    assert main([*map(str, folders), "--processes", "1", *files]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == [r.name for r in score(*folders)]
    assert list(rows[0]) == ["name", "modality", "dataset", "objects", "dsc", "nsd", "missing"]
    assert rows[2]["missing"] == "True"
    assert (rows[3]["dataset"], float(rows[3]["nsd"])) == ("Phantom", 0.75)
    scores = json.loads(document.read_text())
    assert scores["average"]["nsd"] == 0.75
    assert [group["name"] for group in scores["datasets"]] == ["CT_Phantom", "X-Ray_Lungs"]
    assert scores["cases"][3]["dsc"] == 0.5
    assert scores["rules"]["spacing"] == "array order"
    assert scores["modalities"][1]["dsc_interval"] == [0, 1]
    assert [(size["name"], size["objects"]) for size in scores["sizes"]] == [
        ("medium", 1), ("large", 3),
    ]  # fmt: skip
    assert scores["cases"][1]["by_object"] == [{"area_256": 6 * 32**2, "dsc": 1, "nsd": 1}]


def test_the_command_compares_two_folders(folders, tmp_path, capsys):
    put_four_cases(*folders)
    segs, gts = folders
    other = tmp_path / "other"
    other.mkdir()
    document = tmp_path / "scores.json"
    put_output(other, "3DBox_CT_Phantom-1.npz", volume_pair()[0])
    put_output(other, "2DBox_X-Ray_Lungs-2.npz", image_labels())
    put_output(other, "2DBox_OCT_0003.npz", image_labels(columns=1))
    more = ["--compare", str(other), "--json", str(document), "--processes", "1"]
    assert main([str(segs), str(gts), *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"{other} minus {segs}, 95% intervals, wins/losses in cases")
    assert lines[start + 1 : start + 10] == [
        "Modality  Cases  Objects              DSC % points  w/l              NSD % points  w/l",
        "CT            1        1   +50.00 [+50.00, +50.00]  1/0   +25.00 [+25.00, +25.00]  1/0",
        "X-Ray         2        2  +0.00 [-100.00, +100.00]  1/1  +0.00 [-100.00, +100.00]  1/1",
        "OCT           1        1   -50.00 [-50.00, -50.00]  0/1      +0.00 [+0.00, +0.00]  0/0",
        "Average       4        4    +0.00 [-33.33, +33.33]  2/2    +8.33 [-25.00, +41.67]  2/1",
        "",
        "Size    Cases  Objects               DSC % points  w/l              NSD % points  w/l",
        "medium      1        1    +50.00 [+50.00, +50.00]  1/0   +25.00 [+25.00, +25.00]  1/0",
        "large       3        3  -16.67 [-100.00, +100.00]  1/2  +0.00 [-100.00, +100.00]  1/1",
    ]
    assert f"1 of 4 outputs missing in {other}, counted as 0:" in lines
    scores = json.loads(document.read_text())
    assert scores["differences"][0]["dsc"]["mean"] == 0.5
    assert scores["size_differences"][1]["dsc"]["losses"] == 2
    assert scores["other"]["average"]["missing"] == 1


@pytest.mark.parametrize("trouble", ["surplus", "no truth", "no folder", "no place for the csv"])
def test_the_command_says_what_is_wrong_in_one_line(folders, tmp_path, capsys, trouble):
    segs, gts = folders
    more = []
    if trouble != "no truth":
        put_four_cases(segs, gts)
    if trouble == "surplus":
        put_output(segs, "2DBox_US_A-1.npz", image_labels())
    if trouble == "no folder":
        segs = tmp_path / "nowhere"
    if trouble == "no place for the csv":
        more = ["--csv", str(tmp_path / "nowhere" / "cases.csv")]
    assert main([str(segs), str(gts), "--processes", "1", *more]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_there_are_as_many_processes_as_cpus_that_may_be_used(monkeypatch):
    """Not as many as the machine has."""
    monkeypatch.setattr(system, "CGROUP_QUOTAS", ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(41)))
    parser = argparse.ArgumentParser()
    add_shared_options(parser, "score")
    assert parser.parse_args([]).processes == 41


def test_the_command_refuses_0_processes(folders, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, folders), "--processes", "0"])
    assert "above 0" in capsys.readouterr().err
