"""A box belongs to exactly one scan: paths of tables against paths of scans."""

import unicodedata

import numpy as np
import pytest

from swiftmedsam.scans.boxes.drawn import Drawn, Entry
from swiftmedsam.scans.boxes.matching import boxes_for_scan, boxes_in_folder, parts_of
from swiftmedsam.scans.scan import ScanError

COMPOSED = unicodedata.normalize("NFC", "Hüfte.png")
DECOMPOSED = unicodedata.normalize("NFD", "Hüfte.png")


def entries(table, files):
    """A box for each path, called by its position; None is a row without a path."""
    box = np.zeros((2, 3))
    return [Entry(Drawn(str(i), box), file, table) for i, file in enumerate(files)]


def made(folder, files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found_for(scan, table, files):
    return "".join(box.name for box in boxes_for_scan(scan, entries(table, files)))


@pytest.mark.parametrize(
    ("scan", "files", "wanted"),
    [
        ("p2/scan.png", ["p1/scan.png", "p2/scan.png"], "1"),
        ("p2/scan.png", ["scan.png", "p2/scan.png"], "1"),
        ("p2/scan.png", ["p2/scan.png", None, "p1/scan.png", "p2/scan.png"], "013"),
        ("p2/scan.png", ["/data/p1/scan.png", "/data/p2/scan.png"], "1"),
        ("p2/scan.png", ["C:\\data\\p1\\scan.png", "C:\\data\\p2\\scan.png"], "1"),
        ("p2/scan.png", ["p2\\scan.png", "p2/./scan.png", "p1/../p2/scan.png"], "012"),
        ("p2/scan.png", ["scan.png", "p1/scan.png"], "0"),  # the latter says another folder
        ("p2/scan.png", ["images/scan.png", "images/other.png"], "0"),
        ("p2/scan.png", ["../../images/scan.png"], "0"),
        ("p2/scan.png", ["p1/p2/scan.png", "x/p2/other.png", "p1/scan.png"], "0"),
        ("a.png", ["A.PNG", "b.png", "a.png"], "2"),  # nearest in upper and lower case
        ("a.PNG", ["a.png"], "0"),
        ("a.png", ["a", "b"], "0"),  # image ids have no suffix
        ("a.png", ["a.png", "a"], "0"),
        ("a.nii.gz", ["images/a", "b"], "0"),
        (DECOMPOSED, [COMPOSED, "other.png"], "0"),
        (COMPOSED, [DECOMPOSED, "other.png"], "0"),
        (f"{DECOMPOSED}/scan.png", ["p1/scan.png", f"{COMPOSED}/scan.png"], "1"),
        ("a.png", [None, "b.png"], "0"),
    ],
)
def test_the_longest_common_end_of_the_paths_decides(scan, files, wanted, tmp_path):
    made(tmp_path, [f"scans/{scan}"])
    table = tmp_path / "elsewhere" / "boxes.csv"
    assert found_for(tmp_path / "scans" / scan, table, files) == wanted


@pytest.mark.parametrize(
    ("scan", "files", "message"),
    [
        ("scan.png", ["p1/scan.png", "p2/scan.png"],
         "boxes.csv: 'p1/scan.png' and 'p2/scan.png' are two files, and either could be "
         "'scans/scan.png'; expected boxes that name one"),
        ("p3/scan.png", ["x/p1/scan.png", "other.png", "x/p2/scan.png"],
         "boxes.csv: 'x/p1/scan.png' and 'x/p2/scan.png' are two files, and either could be "
         "'p3/scan.png'; expected boxes that name one"),
        ("a.png", ["A.png", "a.PNG"],
         "boxes.csv: 'A.png' and 'a.PNG' are two files, and either could be 'scans/a.png'"),
        ("a.png", ["3f2b1c9d-a.png"],
         "a.png: expected boxes for it, found those for '3f2b1c9d-a.png'"),
        ("a.png", [f"{i}.png" for i in range(7)],
         "a.png: expected boxes for it, found those for '0.png', '1.png', '2.png', '3.png', "
         "'4.png' and 2 more"),
        ("a.png", ["a.jpg", "aa.png", "a.png.txt", ".png", "", "..", "/", "x" * 5000, "a\0.png"],
         "a.png: expected boxes for it, found those for 'a.jpg', "),
    ],
)  # fmt: skip
def test_boxes_that_could_be_of_another_scan_are_refused(scan, files, message, tmp_path):
    made(tmp_path, [f"scans/{scan}"])
    with pytest.raises(ScanError) as raised:
        boxes_for_scan(tmp_path / "scans" / scan, entries(tmp_path / "boxes.csv", files))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_file_that_the_table_leads_to_is_that_file_alone(tmp_path):
    """The only row is of another patient, and that patient's scan is there."""
    made(tmp_path, ["p1/scan.png", "p2/scan.png"])
    table = tmp_path / "boxes.csv"
    with pytest.raises(ScanError, match=r"found those for 'p1/scan.png'"):
        boxes_for_scan(tmp_path / "p2" / "scan.png", entries(table, ["p1/scan.png"]))
    (tmp_path / "tables").mkdir()
    beside = tmp_path / "tables" / "boxes.csv"
    assert found_for(tmp_path / "p1" / "scan.png", beside, ["../p1/scan.png", "x/scan.png"]) == "0"


def test_a_name_that_could_be_two_files_is_refused(tmp_path):
    made(tmp_path, ["a.png", "a.nii.gz", "b.png"])
    with pytest.raises(ScanError, match=r"^boxes.csv: 'a' could be '.*/a.png' or '.*/a.nii.gz'; "):
        boxes_for_scan(tmp_path / "a.png", entries(tmp_path / "boxes.csv", ["a"]))
    assert found_for(tmp_path / "b.png", tmp_path / "boxes.csv", ["a", "b"]) == "1"


def test_a_name_of_a_file_beside_it_is_not_its_own(tmp_path):
    """On a file system where 'A.png' and 'a.png' are two files."""
    made(tmp_path, ["a.png", "A.png"])
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("upper and lower case are the same here")
    with pytest.raises(ScanError, match="found those for 'A.png'"):
        boxes_for_scan(tmp_path / "a.png", entries(tmp_path / "boxes.csv", ["A.png"]))


def test_two_tables_of_two_files_of_one_name_are_refused(tmp_path):
    made(tmp_path, ["a.png"])
    both = [
        *entries(tmp_path / "x.json", ["p1/a.png"]),
        *entries(tmp_path / "y.json", ["p2/a.png"]),
    ]
    with pytest.raises(ScanError, match=r"^x.json, y.json: 'p1/a.png' and 'p2/a.png' are two file"):
        boxes_for_scan(tmp_path / "a.png", both)
    alike = [*entries(tmp_path / "x.json", ["a.png"]), *entries(tmp_path / "y.json", ["./a.png"])]
    assert len(boxes_for_scan(tmp_path / "a.png", alike)) == 2


def test_what_is_not_used_and_what_is_not_sure_is_said(tmp_path, caplog):
    made(tmp_path, ["p2/scan.png"])
    table = tmp_path / "boxes.csv"
    files = ["a.png", "p1/b.png", "a.png", "p2/scan.png"]
    assert found_for(tmp_path / "p2" / "scan.png", table, files) == "3"
    assert caplog.messages == [
        "boxes.csv: boxes of other files are not used: 3 boxes (a.png, p1/b.png)"
    ]
    caplog.clear()
    assert found_for(tmp_path / "p2" / "scan.png", table, ["images/scan.png"]) == "0"
    assert caplog.messages == [
        "boxes.csv: only the ends of the paths agree: 'images/scan.png' is taken for 'p2/scan.png'"
    ]
    caplog.clear()
    assert found_for(tmp_path / "p2" / "scan.png", table, ["scan", None]) == "01"
    assert not caplog.messages


# --- folders


@pytest.mark.parametrize(
    ("scans", "files", "wanted"),
    [
        (["p1/scan.png", "p2/scan.png"], ["p1/scan.png", "p2/scan.png", "p1\\scan.png"],
         {"p1/scan.png": "02", "p2/scan.png": "1"}),
        (["a.png", "b.png"], ["/data/a.png", "images/b.png"], {"a.png": "0", "b.png": "1"}),
        (["a.png", "images/a.png"], ["a.png", "images/a.png"], {"a.png": "0", "images/a.png": "1"}),
        (["a.png", "p1/x.png"], ["scans/a.png", "/data/scans/p1/x.png"],
         {"a.png": "0", "p1/x.png": "1"}),
        (["a.png", "b.nii.gz"], ["a", "B.nii.gz"], {"a.png": "0", "b.nii.gz": "1"}),
        ([DECOMPOSED], [COMPOSED], {DECOMPOSED: "0"}),
        (["series1/0001.dcm"], ["series1"], {"series1": "0"}),
        (["scan.png"], ["x/scan.png", "scans/scan.png"], {"scan.png": "1"}),
        (["scan.png"], ["scan.png", "/data/scan.png"], {"scan.png": "0"}),
    ],
)  # fmt: skip
def test_each_scan_of_a_folder_has_its_own_boxes(scans, files, wanted, tmp_path):
    folder = tmp_path / "scans"
    made(folder, scans)
    found = boxes_in_folder(folder, entries(tmp_path / "tables" / "boxes.csv", files))
    assert {file: "".join(box.name for box in boxes) for file, boxes in found.items()} == wanted


@pytest.mark.parametrize(
    ("scans", "files", "message"),
    [
        (["p1/scan.png"], ["scan.png"], "is for scan.png, which is not in that folder"),
        (["a.png"], ["a.png", "b.png"], "is for b.png, which is not in that folder"),
        (["a.png"], ["../a.jpg"], "is for ../a.jpg, which is not in that folder"),
        (["a.png"], ["a.png", None], "should name its file, since this is a folder"),
        (["scan.png"], ["p1/scan.png", "p2/scan.png"], "are two files, and either could be 'scans"),
        (["a.png", "a.tif"], ["a"], "'a' could be 'scans/a.png' or 'scans/a.tif'"),
    ],
)  # fmt: skip
def test_a_row_that_fits_no_scan_of_a_folder_is_refused(scans, files, message, tmp_path):
    folder = tmp_path / "scans"
    made(folder, scans)
    with pytest.raises(ScanError, match=message):
        boxes_in_folder(folder, entries(tmp_path / "boxes.csv", files))


def test_rows_of_a_folder_beside_are_left_out_and_said_to_be(tmp_path, caplog):
    made(tmp_path, ["p1/scan.png", "p1/more.png", "p2/scan.png"])
    files = ["p1/scan.png", "p2/scan.png", "p1/more.png"]
    found = boxes_in_folder(tmp_path / "p2", entries(tmp_path / "boxes.csv", files))
    assert {file: boxes[0].name for file, boxes in found.items()} == {"scan.png": "1"}
    assert caplog.messages == [
        "boxes.csv: boxes of other files are not used: 2 boxes (p1/scan.png, p1/more.png)"
    ]


def test_paths_of_any_system_have_the_same_parts():
    wanted = ("data", "p1", "a.png")
    for path in ("data/p1/a.png", "/data//p1/./a.png", "data\\p1\\a.png", "../data/x/../p1/a.png"):
        assert parts_of(path) == wanted
    assert parts_of("C:\\data\\p1\\a.png")[-3:] == wanted
