"""Data sets that the weights were trained on, and others: groups, means, and the command."""

import json

import numpy as np
import pytest

from swiftmedsam.evaluation.__main__ import main as evaluate
from swiftmedsam.evaluation.breadth import NEVER, TRAINED, below, main, measure_breadth
from swiftmedsam.evaluation.datasets import Known
from swiftmedsam.evaluation.metrics import ObjectScore
from swiftmedsam.evaluation.score import summarise
from swiftmedsam.manifest import MANIFEST, MANIFEST_FORMAT
from tests.helpers.scores import image_labels, put_output, put_truth, row

# Nine cases of five data sets. DSC of the outputs and of the others, by case.
DSC = {
    "2DBox_US_A-1.npz": (0.5, 0.75),
    "2DBox_US_A-2.npz": (1.0, 0.75),
    "2DBox_X-Ray_B_x-1.npz": (0.25, 0.25),
    "2DBox_OCT_C-1.npz": (0.5, 1.0),
    "2DBox_OCT_D-new-1.npz": (0.75, 0.25),
    "2DBox_OCT_D-new-2.npz": (0.75, 0.75),
    "2DBox_OCT_D-new-3.npz": (0.75, 0.25),
    "2DBox_OCT_D-new-4.npz": (0.75, 0.75),
    "2DBox_OCT_D-new-5.npz": (0.75, 0.25),
}
KNOWN = {
    name: Known(dataset, trained, edition, {})
    for dataset, trained, edition, names in [
        ("US_A", True, 1, list(DSC)[:2]),
        ("XRay_B_x", True, 1, list(DSC)[2:3]),
        ("OCT_C", False, 1, list(DSC)[3:4]),
        ("OCT_D-new", False, 2, list(DSC)[4:]),
    ]
    for name in names
}
TRAINED_SETS = frozenset({"US_A", "XRay_B_x", "CT_elsewhere"})


def rows_of(which, nsd=0.5):
    return [row(name, dsc[which], nsd) for name, dsc in DSC.items()]


def measured(gts, **changes):
    return measure_breadth([rows_of(0), rows_of(1)], {**KNOWN, **changes}, TRAINED_SETS, gts)


def means(lines):
    return {each.name: (each.cases, each.dsc[0].mean, each.dsc[1].mean) for each in lines}


def test_each_group_is_a_mean_over_its_data_sets_and_each_group_counts_once(tmp_path):
    assert means(measured(tmp_path).averages) == {
        "all, 2 data sets trained on": (3, 0.5, 0.5),  # of 0.75 and 0.25, not of three cases
        "all, 2 data sets never seen": (6, 0.625, pytest.approx((1 + 0.45) / 2)),
        "all, mean of these two": (9, 0.5625, pytest.approx((0.5 + 0.725) / 2)),
        "all, 3 modalities": (9, pytest.approx((0.75 + 0.25 + 4.25 / 6) / 3),
                              pytest.approx((0.75 + 0.25 + 3.25 / 6) / 3)),
        # the cases of the first edition alone
        "edition 1, 2 data sets trained on": (3, 0.5, 0.5),
        "edition 1, 1 data set never seen": (1, 0.5, 1.0),
        "edition 1, mean of these two": (4, 0.5, 0.75),
        "edition 1, 3 modalities": (4, 0.5, pytest.approx(2 / 3)),
    }  # fmt: skip


def test_the_mean_of_the_modalities_is_that_of_python_m_evaluation(tmp_path):
    wanted = summarise(rows_of(0)).average
    found = measured(tmp_path).averages[3]
    assert found.name == "all, 3 modalities"
    assert (found.dsc[0].mean, found.dsc[0].low, found.dsc[0].high) == (
        wanted.dsc, *wanted.dsc_interval,
    )  # fmt: skip


def test_the_data_sets_stand_in_their_groups_and_small_ones_are_pooled_too(tmp_path):
    datasets = measured(tmp_path, **{
        "2DBox_US_A-2.npz": Known("US_E", True, 1, {}),
    }).datasets  # fmt: skip
    assert list(datasets) == [TRAINED, NEVER]
    assert means(datasets[TRAINED]) == {
        "US_A": (1, 0.5, 0.75),
        "XRay_B_x": (1, 0.25, 0.25),
    } | {  # US_E is in no list of sets trained on
        "(2 sets below 5 cases, trained on, pooled)": (2, 0.375, 0.5),
    }
    assert means(datasets[NEVER]) == {
        "US_E": (1, 1.0, 0.75),
        "OCT_C": (1, 0.5, 1.0),
        "OCT_D-new": (5, 0.75, pytest.approx(0.45)),  # not pooled: it has five cases
        "(2 sets below 5 cases, never seen, pooled)": (2, 0.75, 0.875),
    }


def test_a_difference_is_paired_by_case(tmp_path):
    """Where all cases differ by the same, the difference is certain, whatever their spread."""
    base = rows_of(0)
    other = [row(each.name, each.dsc - 0.125, each.nsd) for each in base][::-1]
    found = measure_breadth([base, other], KNOWN, TRAINED_SETS, tmp_path)
    for line in [*found.averages, *found.datasets[TRAINED], *found.modalities]:
        (difference,) = line.dsc_difference
        assert (difference.low, difference.mean, difference.high) == pytest.approx([0.125] * 3)
        assert line.nsd_difference[0].mean == 0
    assert below(found, 0) == []


def test_the_intervals_are_those_of_cases_drawn_within_their_data_set(tmp_path):
    scores = np.linspace(0.3, 0.9, 61)
    names = [[f"2DBox_US_{letter}-{i}.npz" for i in range(61)] for letter in "AB"]
    rows = [row(name, dsc) for group in names for name, dsc in zip(group, scores, strict=True)]
    known = {r.name: Known(f"US_{r.dataset}", None, 1, {}) for r in rows}
    found = measure_breadth([rows], known, frozenset({"US_A"}), tmp_path)
    error = scores.std() / np.sqrt(61)
    one, _, both, _ = (line.dsc[0] for line in found.averages)
    # 10 %: drawing 2000 times, the width has a noise of about 2 %
    assert one.high - one.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert both.high - both.low == pytest.approx(2 * 1.96 * error / 2**0.5, rel=0.1)


def test_data_sets_below_are_listed_worst_first_be_it_in_dsc_or_in_nsd(tmp_path):
    other = [
        row(each.name, DSC[each.name][1], 0.5 + (each.dataset == "B_x") / 4) for each in rows_of(0)
    ]
    found = measure_breadth([rows_of(0), other], KNOWN, TRAINED_SETS, tmp_path)
    assert [(group, each.name, each.dsc_difference[0].mean) for group, each in below(found, 0)] == [
        (NEVER, "OCT_C", -0.5),
        (TRAINED, "XRay_B_x", 0.0),  # -0.25 in NSD
        (TRAINED, "(2 sets below 5 cases, trained on, pooled)", 0.0),
    ]


def put_organs(gts):
    """Truth of three volumes: only the first has a pancreas, the third has no names."""
    for name, labels in [
        ("3DBox_CT_BTCVSABS-1.npz", (1, 3)),
        ("3DBox_CT_BTCVSABS-2.npz", (2,)),
        ("3DBox_CT_3Dircadb1-p-9.npz", (4,)),
    ]:
        truth = np.zeros((2, 3, 8), np.uint8)
        truth[0, 0, : len(labels)] = labels
        put_truth(gts, name, truth)


ORGANS = {
    "3DBox_CT_BTCVSABS-1.npz": Known("CT_BTCVSABS", True, 2, {1: "liver", 3: "pancreas"}),
    "3DBox_CT_BTCVSABS-2.npz": Known("CT_BTCVSABS", True, 2, {2: "liver"}),
    "3DBox_CT_3Dircadb1-p-9.npz": Known("CT_3Dircadb1", False, 2, {}),
    "3DBox_CT_Chest-1.npz": Known("CT_Chest", False, 2, {}),  # no abdomen: not opened
    "2DBox_CT_LiTSAnt-1-1.npz": Known("CT_LiTSAnt", True, 2, {}),  # no volume
}


def test_organs_are_told_by_the_names_of_their_labels_and_others_by_label_and_case(tmp_path):
    put_organs(tmp_path)
    objects = [[(0.5, 0.75), (0.25, 0.5)], [(1.0, 1.0)], [(0.75, 0.5)], [(1, 1)], [(1, 1)]]
    rows = [
        row(name, 0.5, by_object=[ObjectScore(9.0, *each) for each in of_case])
        for name, of_case in zip(ORGANS, objects, strict=True)
    ]
    found = measure_breadth([rows], ORGANS, frozenset(), tmp_path)
    assert {
        each.name: (each.cases, each.dsc[0].mean, each.nsd[0].mean) for each in found.organs
    } == {
        "CT_BTCVSABS: liver": (2, 0.75, 0.875),
        "CT_BTCVSABS: pancreas": (1, 0.25, 0.5),
        "CT_3Dircadb1: label 4 of p-9": (1, 0.75, 0.5),
    }
    assert [(each.name, each.cases) for each in found.abdomen] == [
        ("mean of these 3", 4), ("CT_BTCVSABS", 2), ("CT_3Dircadb1", 1), ("CT_LiTSAnt", 1),
    ]  # fmt: skip


# The command


@pytest.fixture
def case_folders(tmp_path):
    """Truth of three cases, an output that misses one, another that is worse in the first."""
    segs, other, gts = (tmp_path / name for name in ("segs", "other", "gts"))
    for folder in (segs, other, gts):
        folder.mkdir()
    for name in ("2DBox_US_A-1.npz", "2DBox_US_A-2.npz", "2DBox_X-Ray_B_x-1.npz"):
        put_truth(gts, name, image_labels(4))
        if name != "2DBox_US_A-2.npz":
            put_output(segs, name, image_labels(4))
        put_output(other, name, image_labels(4 if name == "2DBox_US_A-2.npz" else 1))
    sets = {
        "2DBox_US_A-1": {"set": "US_A", "trained": True, "edition": 1},
        "2DBox_US_A-2": {"set": "US_A", "trained": True, "edition": 1},
        "2DBox_X-Ray_B_x-1": {"set": "XRay_B_x", "trained": False, "edition": 2},
        "3DBox_CT_Elsewhere-1": {"set": "CT_Elsewhere", "trained": False, "edition": 2},
    }
    return segs, other, gts, put_sets(tmp_path, sets)


def put_sets(folder, content):
    path = folder / "sets.json"
    path.write_text(json.dumps(content))
    return path


def put_manifest(folder, **more):
    folder.mkdir()
    manifest = {"format": MANIFEST_FORMAT, "variant": "tiny", "models": {}, **more}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return str(folder)


def arguments(case_folders, *more):
    segs, _, gts, sets = case_folders
    return [str(segs), str(gts), "--sets", str(sets), "--processes", "1", *map(str, more)]


def test_the_command_prints_averages_data_sets_and_what_is_missing(case_folders, capsys):
    segs, _, _, sets = case_folders
    assert main(arguments(case_folders)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Trained on or never seen: 'trained' of {sets}",
        "",
        "Average                           Cases                  DSC %                  NSD %",
        "all, 1 data set trained on            2   50.00 [0.00, 100.00]   50.00 [0.00, 100.00]",
        "all, 1 data set never seen            1                 100.00                 100.00",
        "all, mean of these two                3  75.00 [50.00, 100.00]  75.00 [50.00, 100.00]",
        "all, 2 modalities                     3  75.00 [50.00, 100.00]  75.00 [50.00, 100.00]",
        "edition 1, 1 data set trained on      2   50.00 [0.00, 100.00]   50.00 [0.00, 100.00]",
        "edition 1, 1 modality                 2   50.00 [0.00, 100.00]   50.00 [0.00, 100.00]",
        "Each data set counts once. In brackets: 95% intervals, bootstrap over the cases of each "
        "data set",
        "",
        "Data set     Cases                 DSC %                 NSD %",
        "trained on:",
        "US_A             2  50.00 [0.00, 100.00]  50.00 [0.00, 100.00]",
        "never seen:",
        "XRay_B_x         1                100.00                100.00",
        "",
        f"1 of 3 outputs missing in {segs}, counted as 0:",
        "  2DBox_US_A-2.npz",
    ]


def test_the_command_compares_with_each_of_the_other_outputs(case_folders, tmp_path, capsys):
    segs, other, gts, _ = case_folders
    document = tmp_path / "breadth.json"
    more = ["--against", other, segs, "--json", document]
    assert main(arguments(case_folders, *more)) == 0
    printed = capsys.readouterr().out
    assert f"\n== {segs} minus {other} (other) ==\n" in printed
    first, second = printed.split(" (other) ==\n")[1:]
    lines = [line.split() for line in first.splitlines() if line.startswith("US_A ")]
    assert lines[0][:5] == ["US_A", "2", "50.00", "70.00", "-20.00"]
    assert lines[1][:5] == ["US_A", "trained", "on", "2", "-20.00"]
    assert "\nBelow " in first
    assert "\nBelow: no data set" in second
    content = json.loads(document.read_text())
    assert content["outputs"] == [str(path) for path in (segs, other, segs)]
    assert content["groups"]["trained_on"] == ["US_A"]
    assert content["datasets"][TRAINED][0]["dsc_difference"][0]["mean"] == pytest.approx(-0.2)


def test_scores_that_were_written_stand_for_their_folder(case_folders, tmp_path, capsys):
    segs, other, gts, _ = case_folders
    saved = tmp_path / "scores.json"
    assert evaluate([str(other), str(gts), "--json", str(saved), "--processes", "1"]) == 0
    capsys.readouterr()
    assert main(arguments(case_folders, "--against", other)) == 0
    of_folder = capsys.readouterr().out
    assert main(arguments(case_folders, "--against", saved)) == 0
    assert capsys.readouterr().out == of_folder.replace(str(other), str(saved))


@pytest.mark.parametrize("saved_first", [False, True])
def test_common_compares_the_cases_alone_that_all_have(case_folders, tmp_path, capsys, saved_first):
    segs, other, gts, _ = case_folders  # segs lacks the second case of US_A
    source = segs
    if saved_first:
        source = tmp_path / "scores.json"
        assert evaluate([str(segs), str(gts), "--json", str(source), "--processes", "1"]) == 0
        capsys.readouterr()
    words = [str(source), *arguments(case_folders)[1:], "--against", str(other), "--common"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 of 3 cases have an output everywhere\n")
    lines = [line.split() for line in printed.splitlines() if line.startswith("US_A ")]
    assert lines[0][1:3] == ["1", "100.00"]
    assert "missing" not in printed


def test_common_without_a_common_case_is_refused(case_folders, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert main(arguments(case_folders, "--against", tmp_path / "none", "--common")) == 1
    assert "no case has an output here and in all the others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "source", "group"),
    [
        (["XRay_B_x", "US_none"], "'trained_on' of {}, which names 2 data sets", "XRay_B_x"),
        ([], "'trained_on' of {}, which names 0 data sets", None),
        (None, "'trained' of {sets}, since {} has no 'trained_on'", "US_A"),
    ],
)
def test_a_manifest_says_what_the_weights_were_trained_on(
    case_folders, tmp_path, capsys, named, source, group
):
    weights = put_manifest(tmp_path / "w", **({} if named is None else {"trained_on": named}))
    assert main(arguments(case_folders, "--weights", weights)) == 0
    printed = capsys.readouterr().out
    source = source.format(tmp_path / "w" / MANIFEST, sets=case_folders[3])
    assert printed.splitlines()[0] == f"Trained on or never seen: {source}"
    if group is None:
        assert "trained on:" not in printed
        assert "No data set here is in the group 'trained on'" in printed
    else:
        assert f"\ntrained on:\n{group} " in printed


def sets_with(**changes):
    """Sets of the three cases in which one entry is another."""
    entries = {
        "2DBox_US_A-1": {"set": "US_A", "trained": True},
        "2DBox_US_A-2": {"set": "US_A", "trained": True},
        "2DBox_X-Ray_B_x-1": {"set": "XRay_B_x", "trained": False},
    }
    return {**entries, "2DBox_US_A-2": changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (["2DBox_US_A-1"], "should be a JSON object with an entry for each case"),
        (
            {"2DBox_US_A-1": {"set": "US_A", "trained": True}},
            "has no entry for 2 cases, such as 2D",
        ),
        (sets_with(trained=True), "'2DBox_US_A-2' should have 'set'"),
        (sets_with(set="US_A", trained="yes"), "'2DBox_US_A-2' should have 'set'"),
        (sets_with(set="US_A", trained=True, edition="2"), "'2DBox_US_A-2' should have 'set'"),
        (sets_with(set="US_A", trained=True, labels={"a": "b"}), "should have 'set'"),
        (sets_with(set="US_A", trained=False), "'trained' is both true and false for US_A"),
        (sets_with(set="US_A"), "'2DBox_US_A-2.npz' has no 'trained', and no manifest says it"),
    ],
)
def test_sets_that_do_not_say_what_is_needed_are_refused_in_one_line(
    case_folders, tmp_path, capsys, content, words
):
    path = put_sets(tmp_path, content)
    assert main(arguments(case_folders)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ") and words in line


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("US_A", "'trained_on' should be a list of data sets"),
        ([1], "'trained_on' should be a list"),
    ],
)
def test_a_manifest_whose_list_is_none_is_refused_in_one_line(
    case_folders, tmp_path, capsys, named, words
):
    weights = put_manifest(tmp_path / "w", trained_on=named)
    assert main(arguments(case_folders, "--weights", weights)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'w' / MANIFEST}: ") and words in line


def saved_scores(**changes):
    case = {"name": "2DBox_US_A-1.npz", "objects": 1, "dsc": 0.5, "nsd": 0.5, "missing": False,
            "by_object": []}  # fmt: skip
    return {"rules": {"spacing": "array order"}, "cases": [case], **changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"average": {}}, "is not a JSON of python -m swiftmedsam.evaluation --json"),
        (
            saved_scores(cases=[{"name": "2DBox_US_A-1.npz"}]),
            "is not a JSON of python -m swiftmedsam.evaluation",
        ),
        (saved_scores(rules={"spacing": "official"}), "scored with spacing in 'official'"),
        (saved_scores(), "lacks 2 of 3 cases, such as 2DBox_US_A-2.npz"),
    ],
)
def test_scores_that_do_not_fit_are_refused_in_one_line(
    case_folders, tmp_path, capsys, content, words
):
    saved = tmp_path / "scores.json"
    saved.write_text(json.dumps(content))
    assert main(arguments(case_folders, "--against", saved)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{saved}: ") and words in line
