"""What a viewer does not say of a slice: each way of asking is its own way back."""

import nibabel
import numpy as np
import pytest

from benchmarks.ablation.orientation import KNOWN, SENT, SURER, TURNS, scan_rows, turned_rows
from swiftmedsam import make_case
from tests.helpers import BrightInBox, ellipse


@pytest.fixture
def truth():
    masks = np.zeros((5, 64, 96), np.uint8)
    masks[1:4] = ellipse(64, 96, (24, 60), (9, 16))
    return masks


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_is_its_own_way_back(name):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(TURNS[name](TURNS[name](array)), array)


def test_a_network_that_does_not_care_scores_the_same_in_all_ways(truth):
    case = make_case(200 * truth, np.zeros((0, 6)), is_volume=True, modality="MR", name="a")
    rows = list(turned_rows(case, truth, BrightInBox(), "MR_A"))
    assert [row.variant for row in rows] == [*TURNS, SURER]
    assert min(row.dsc for row in rows) > 0.95


class SeesTheUpperHalf(BrightInBox):
    def encode(self, pixels):
        embedding = super().encode(pixels)
        embedding[:, :, 85:] = 0  # of 171 rows
        return embedding


def test_a_network_that_cares_does_not(truth):
    case = make_case(200 * truth, np.zeros((0, 6)), is_volume=True, modality="MR", name="a")
    scores = {row.variant: row.dsc for row in turned_rows(case, truth, SeesTheUpperHalf(), "A")}
    assert scores["mirrored"] > 0.8
    assert scores["upside down"] < 0.5 and scores["turned by 180 degrees"] < 0.5


def test_a_scan_is_asked_as_a_file_and_as_slicer_sends_it(tmp_path, truth):
    """Stored upside down: the array alone shows it so, the file is put right."""
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for name, values in (("scan", 200 * truth), ("labels", truth)):
        image = nibabel.Nifti1Image(values.T.astype(np.int16), affine)
        nibabel.save(image, tmp_path / f"{name}.nii")
    paths = tmp_path / "scan.nii", tmp_path / "labels.nii"
    rows = {row.variant: row.dsc for row in scan_rows(*paths, "MR", BrightInBox())}
    assert rows.keys() == {KNOWN, SENT} and min(rows.values()) > 0.95
    rows = {row.variant: row.dsc for row in scan_rows(*paths, "MR", SeesTheUpperHalf())}
    assert rows[SENT] > 0.8 > 0.5 > rows[KNOWN]
