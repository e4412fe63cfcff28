"""The table of --stats, checked on paper: pixels of 1 x 2 mm, slices 3 mm apart."""

import csv

import numpy as np
import pytest

from swiftmedsam import make_case
from swiftmedsam.scans.orientation import choose_orientation
from swiftmedsam.scans.scan import PICTURE_AFFINE, Segment
from swiftmedsam.scans.stats import COLUMNS, longest_diameter, measure, table
from swiftmedsam.segment import segment
from tests.helpers import volume_case
from tests.helpers.boxes import BOXES, box_words
from tests.helpers.scans import AFFINES, scan_of

GRID = (6, 5, 4)
BLOCK = Segment(1, "block", (1, 1, 1), (3, 2, 2))  # 3 x 2 x 2 voxels
NOTHING = Segment(2, "nothing", (0, 0, 0), (1, 1, 1))


def labels():
    found = np.zeros(GRID, np.uint8)
    found[1:4, 1:3, 1:3] = 1
    return found


def rows_of(scan, labels):
    return measure(
        labels, scan, choose_orientation(scan), [BLOCK, NOTHING], {0: [0.5, 0.75], 1: [0.25]}
    )


@pytest.mark.parametrize("placed", AFFINES)
def test_an_object_of_a_volume_is_measured_in_mm(placed):
    values = np.zeros(GRID, np.int16)
    values[1:4, 1:3, 1] = 10
    values[1:4, 1:3, 2] = 30
    block, nothing = rows_of(scan_of(values, AFFINES[placed]), labels())
    assert list(block) == list(COLUMNS)
    assert block == {
        "scan": "scan.nii", "label": 1, "name": "block", "voxels": 12, "slices": 2,
        "volume_ml": "0.072",  # 12 of 6 mm3
        "area_mm2": "",
        "longest_diameter_mm": "5",  # 3 columns of 1 mm, 2 rows of 2 mm
        "intensity_mean": "20", "intensity_sd": "10", "intensity_unit": "",
        "predicted_iou_mean": "0.625",
    }  # fmt: skip
    assert (nothing["voxels"], nothing["slices"], nothing["volume_ml"]) == (0, 0, "0")
    block, _ = rows_of(scan_of(values, AFFINES[placed], unit="HU"), labels())
    assert (block["intensity_mean"], block["intensity_unit"]) == ("20", "HU")
    assert (nothing["longest_diameter_mm"], nothing["intensity_mean"]) == ("0", "")


def test_a_slice_has_an_area_and_a_picture_has_pixels():
    scan = scan_of(np.ones((6, 5, 1), np.uint8), AFFINES["aligned"])
    block, _ = rows_of(scan, labels()[:, :, 1:2])
    assert (block["voxels"], block["area_mm2"], block["volume_ml"]) == (6, "12", "")
    colour = np.full((6, 5, 1, 3), 90, np.uint8)
    picture = scan_of(colour, PICTURE_AFFINE, has_mm=False)
    block, _ = rows_of(picture, labels()[:, :, 1:2])
    assert (block["voxels"], block["area_mm2"], block["longest_diameter_mm"]) == (6, "", "")
    assert block["intensity_mean"] == "90"


def test_the_longest_diameter_is_that_of_all_pairs_of_corners():
    steps = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    assert longest_diameter(np.zeros((3, 3), bool), steps) == 0
    one = np.zeros((3, 3), bool)
    one[1, 1] = True
    assert longest_diameter(one, steps) == pytest.approx(5**0.5)
    generator = np.random.default_rng(3)
    for _ in range(20):
        mask = generator.random((9, 7)) > 0.8
        ends = [(2 * (y + dy), x + dx) for y, x in np.argwhere(mask)
                for dy in (0, 1) for dx in (0, 1)]  # fmt: skip
        wanted = max(np.hypot(a - c, b - d) for a, b in ends for c, d in ends)
        assert longest_diameter(mask, steps) == pytest.approx(wanted)


def test_a_table_survives_commas_and_quotes():
    row = dict.fromkeys(COLUMNS, "") | {"name": 'left, "upper"\nlobe'}
    (found,) = csv.DictReader(table([row]).decode().splitlines(keepends=True))
    assert found["name"] == row["name"]


def test_the_program_writes_a_row_an_object(program, tiny_network, volume, photo, mine):
    boxes = mine / "boxes.csv"
    boxes.write_text(
        "file,name,x_min,y_min,z_min,x_max,y_max,z_max\n"
        f"photo.png,disc,7,10,0,43,30,0\nscan.nii.gz,liver,{','.join(map(str, BOXES[0]))}\n"
    )
    file = mine / "out.csv"
    options = ["--boxes", str(boxes), "--stats", str(file)]
    assert program(*options, inputs=mine, outputs=mine / "out")[0] == 0
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["scan"], row["name"]) for row in rows] == [
        ("photo.png", "disc"), ("scan.nii.gz", "liver")
    ]  # fmt: skip
    case = make_case(volume_case()["imgs"], BOXES[:1], modality="MR")
    found = segment(case, tiny_network).predicted_iou
    assert len(found[0]) == 4  # slices
    assert float(rows[1]["predicted_iou_mean"]) == pytest.approx(np.mean(found[0]), rel=1e-5)
    assert float(rows[1]["volume_ml"]) == pytest.approx(int(rows[1]["voxels"]) * 6 / 1000)


def test_the_table_replaces_no_input(program, volume, mine):
    status, lines = program(
        *box_words(), "--stats", str(volume), inputs=volume, outputs=mine / "a.nii"
    )
    assert (status, lines[-1]) == (1, "scan.nii.gz: is an input, and is not overwritten")
