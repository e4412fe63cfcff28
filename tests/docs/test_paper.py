"""The figures that the paper publishes, and where the docs repeat them."""

import statistics
from decimal import Decimal

import pytest

from swiftmedsam.evaluation.published import COLUMNS, TABLE_4, TABLE_4_COLUMNS, TABLE_5
from tests.helpers import ROOT


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


def test_rows_of_table_5_are_as_wide_as_its_heading():
    assert all(len(row.seconds) == len(COLUMNS) for row in TABLE_5.values())
