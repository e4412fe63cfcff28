"""Tables 4 and 5 printed anew, with a program whose masks are right but for one case."""

import statistics
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from conftest import make_case_file

from evaluation import paper, runtime
from evaluation.measure import python_program
from evaluation.paper import main
from evaluation.published import COLUMNS, TABLE_4, TABLE_4_COLUMNS, TABLE_5
from evaluation.robustness import AppError

ROOT = Path(__file__).resolve().parent.parent
IN_TABLE_5, ULTRASOUND, OCT = "2DBox_Endoscopy_0086.npz", "2DBox_US_9.npz", "2DBox_OCT_1.npz"


@pytest.fixture
def folders(inputs, tmp_path):
    """Cases and truth; ultrasound is right in half of its pixels, the others in all."""
    gts = tmp_path / "gts"
    gts.mkdir()
    for name in (IN_TABLE_5, ULTRASOUND, OCT):
        shape = (480, 560) if name == IN_TABLE_5 else (48, 80)
        image = np.zeros((*shape, 3), np.uint8)
        make_case_file(inputs, name, imgs=image, boxes=[[7, 10, 43, 30]])
        truth = np.zeros(shape, np.uint8)
        truth[10:31, 7:44] = 1
        np.savez(gts / name, gts=truth)
    return inputs, gts


@pytest.fixture
def options(monkeypatch):
    """What the program, which is made up, was started with."""
    seen = []

    def run_app(inputs, segs, words):
        seen.append(words)
        for path in inputs.glob(words[words.index("--only") + 1]):
            with np.load(inputs.parent / "gts" / path.name) as archive:
                labels = archive["gts"].copy()
            if path.name == ULTRASOUND:
                labels[:, 7:30] = 0  # 14 of 37 columns are left
            np.savez(segs / path.name, segs=labels)

    monkeypatch.setattr(paper, "run_app", run_app)
    copies = python_program(runtime.OURS, "sh -c 'cp {inputs}/* {outputs}'")
    monkeypatch.setattr(runtime, "app_program", lambda *words: seen.append(words[-1]) or copies)
    return seen


def test_the_published_averages_are_means_of_the_modalities_but_one():
    """Swift v2's DSC: 75.31 would be right with 68.38 for PET, where 63.38 is printed."""
    *modalities, average = TABLE_4.values()
    off = {}
    for column, name in enumerate(TABLE_4_COLUMNS):
        for metric in range(2):
            mean = statistics.mean(row[column][metric] for row in modalities)
            if abs(mean - average[column][metric]) > 0.01:
                off[name, metric] = mean
    assert off == {("Swift v2", 0): pytest.approx(75.31 - (68.38 - 63.38) / 9, abs=0.005)}


def lines_of(page, heading):
    """The table of a page whose heading begins so: a line's other cells by its first one."""
    _, _, rest = (ROOT / page).read_text().partition(f"\n| {heading} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip(" *") for cell in line[1:-1].split("|")] for line in lines)
    return {first: others for first, *others in cells}


def gain(base, other):
    """Other minus base, both "DSC / NSD"; as many digits as they have."""
    pairs = zip(base.split(" / "), other.split(" / "), strict=True)
    return " / ".join(f"{Decimal(b) - Decimal(a):+}" for a, b in pairs)


def test_published_figures_in_the_docs_are_those_of_the_tables():
    told = lines_of("docs/reproduction.md", "modality | paper, v1")
    for modality, row in TABLE_4.items():
        lite, *variants = (f"{dsc:.2f} / {nsd:.2f}" for dsc, nsd in row)
        if modality != "Average":  # v2's is no mean of its rows
            assert told[modality][:2] == [gain(lite, variant) for variant in variants]
    assert lines_of("docs/reproduction.md", "published | LiteMedSAM") == {
        name: [str(each or "-") for each in row.seconds] for name, row in TABLE_5.items()
    }


def test_our_figures_in_the_docs_are_those_of_the_cards():
    told = lines_of("docs/reproduction.md", "modality | paper, v1")
    v1, v2 = (lines_of(f"weights/{name}/README.md", "modality | cases") for name in ("v1", "v2"))
    told["Average of modalities"] = told.pop("mean of all eleven")
    assert told.keys() - v1.keys() == {"mean of these nine"}
    for modality, (_, lite, exact, *_) in v1.items():
        _, _, *gains, of_v1, of_v2 = told[modality]
        assert (gains[0], of_v1, of_v2) == (gain(lite, exact), exact, v2[modality][2])


def test_both_tables_have_published_figures_and_ours(folders, options, tmp_path, capsys):
    inputs, gts = folders
    words = [inputs, gts, "--out", tmp_path / "out", "--processes", 1, "--", "--mode", "exact"]
    assert main([str(word) for word in words]) == 0
    printed = "\n".join(" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert "\nUS 1 94.77 / 96.81 79.16 / 85.12 80.88 / 87.26 54.90 / " in printed
    assert "\nOCT 1 - - - 100.00 / 100.00\n" in printed
    assert "\n2DBox_Endoscopy_0086 480x560 1 6.1 2.7 2.6 0.6 - " in printed
    assert options == [["--only", "*", "--mode", "exact"], ["--mode", "exact"]]
    timed = (tmp_path / "out" / "timings.csv").read_text()
    assert IN_TABLE_5 in timed and ULTRASOUND not in timed


def test_without_cases_of_table_5_none_is_timed_and_that_is_said(
    folders, options, tmp_path, capsys
):
    inputs, gts = folders
    words = [inputs, gts, "--out", tmp_path / "out", "--processes", 1, "--only", "*_US_*"]
    assert main([str(word) for word in words]) == 0
    assert "No case of Table 5" in capsys.readouterr().out
    assert not (tmp_path / "out" / "timings.csv").exists()


def test_a_program_that_fails_ends_the_command(folders, tmp_path, monkeypatch, capsys):
    inputs, gts = folders

    def run_app(*_):
        raise AppError("python -m app ended with status 1")

    monkeypatch.setattr(paper, "run_app", run_app)
    assert main([str(inputs), str(gts), "--out", str(tmp_path / "out")]) == 1
    assert "ended with status 1" in capsys.readouterr().err


def test_rows_of_table_5_are_as_wide_as_its_heading():
    assert all(len(row.seconds) == len(COLUMNS) for row in TABLE_5.values())
