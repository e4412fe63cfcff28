"""What the page may ask of an open image: good requests and bad ones, saving, and going on."""

import json
from urllib.parse import quote, urlencode

import cv2
import nibabel
import numpy as np
import pytest

from tests.helpers.page import Client
from tests.helpers.page_requests import AFFINE, BALL, BOX, SHAPE, SHOWN, drawn
from tests.helpers.server import phantom, serving

# Slices


def test_a_slice_is_the_picture_that_the_network_sees(client, image):
    described, path = image
    (axial, *_) = described["planes"]
    assert (axial["name"], axial["size"], axial["flipped"]) == (
        "axial", [12, 40, 48], [False, True, False]
    )  # fmt: skip
    assert axial["mm"] == [3, 2, 1]
    content = client.fine("GET", f"{path}/slices/axial/6")
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    volume = phantom(SHAPE, BALL)
    raw = volume[6, ::-1].astype(float)
    assert shown.shape == (40, 48) and np.corrcoef(shown.ravel(), raw.ravel())[0, 1] > 0.98
    narrow = cv2.imdecode(
        np.frombuffer(client.fine("GET", f"{path}/slices/axial/6?window=100,20"), np.uint8), -1
    )
    np.testing.assert_array_equal(narrow == 255, shown >= 110)


@pytest.mark.parametrize(
    "rest",
    ["slices/axial/12", "slices/oblique/0", "slices/axial/0?window=1", "slices/axial/0?window=a,b",
     "slices/axial/0?window=nan,1", "slices/axial/0?window=0,0", "labels/axial/99", "saved/0",
     "slices/axial/99999999999999999999", f"slices/axial/{'9' * 5000}", f"saved/{'9' * 5000}",
     "saved/-1"],
)  # fmt: skip
def test_slices_that_are_not_there_are_refused(client, image, rest):
    assert client.refused("GET", f"{image[1]}/{rest}")[0] in (400, 404)


@pytest.mark.parametrize("window", [[40, 0], [40], "soft", [10**400, 9], [40, 10**400], None])
def test_a_window_is_a_level_and_a_width(client, image, window):
    assert client.refused("PATCH", image[1], {"window": window})[0] == 400


# Objects


def test_a_box_answers_with_the_mask_of_its_slice(client, image):
    _, path = image
    number, meta, content = drawn(client, path)
    patch = meta["patch"]
    labels = np.frombuffer(content, "<u2").reshape(patch["rows"], patch["columns"])
    truth = np.zeros(SHAPE[1:], bool)
    (_, j, i), radius = BALL
    rows, columns = np.ogrid[: SHAPE[1], : SHAPE[2]]
    truth[(rows - j) ** 2 + (columns - i) ** 2 <= radius**2] = True
    shown = np.zeros(SHAPE[1:], bool)
    shown[patch["row"] :, patch["column"] :][: patch["rows"], : patch["columns"]] = labels == number
    assert 2 * (shown & truth[::-1]).sum() / (shown.sum() + truth.sum()) > 0.85
    assert meta["object"]["marks"] == {"axial": [6], "coronal": [], "sagittal": []}
    assert meta["box"][0] == [6, 7]
    whole = np.frombuffer(client.fine("GET", f"{path}/labels/axial/6"), "<u2").reshape(40, 48)
    np.testing.assert_array_equal(whole == number, shown)


def test_brush_eraser_and_undo_change_what_they_touch(client, image):
    _, path = image
    number = client.fine("POST", f"{path}/objects", {})["number"]
    place = {"column": 3, "row": 4, "columns": 2, "rows": 3}
    strokes = f"{path}/objects/{number}/strokes?{urlencode({**SHOWN, **place})}"
    meta, _ = client.changed("POST", strokes, body=bytes([1, 0, 1, 1, 0, 1]))
    assert meta["object"]["voxels"] == 4
    assert meta["patch"] == {**place, **SHOWN}
    meta, content = client.changed("POST", f"{strokes}&erase=1", body=bytes([1, 0, 0, 0, 0, 0]))
    assert meta["object"]["voxels"] == 3 and content == bytes(2)
    assert client.changed("POST", f"{path}/undo", SHOWN)[0]["object"]["voxels"] == 4
    assert client.changed("POST", f"{path}/undo", SHOWN)[0]["object"]["voxels"] == 0
    assert client.changed("POST", f"{path}/undo", SHOWN)[0]["object"] is None


def test_an_object_is_extended_line_by_line_and_can_be_named_and_removed(client, image):
    _, path = image
    number, _, _ = drawn(client, path)
    one = f"{path}/objects/{number}"
    lines = client.fine("POST", f"{one}/extend", {"plane": "axial"}).splitlines()
    *steps, end = map(json.loads, lines)
    assert all(0 < step["done"] <= step["most"] == SHAPE[0] for step in steps)
    (k0, k1), _, _ = end["change"]["object"]["box"]
    assert abs(k0 - (BALL[0][0] - BALL[1] // 3)) <= 8 and k1 - k0 > 3
    renamed = client.fine("PATCH", one, {"name": " two\nlines ", "colour": [1, 2, 3]})
    assert (renamed["name"], renamed["colour"]) == ("two lines", [1, 2, 3])
    meta, _ = client.changed("DELETE", f"{one}?{urlencode(SHOWN)}")
    assert meta["removed"] == number and meta["box"] == end["change"]["object"]["box"]
    assert client.refused("DELETE", f"{one}?{urlencode(SHOWN)}")[0] == 400


BAD = [
    ("POST", "boxes", {}),
    ("POST", "boxes", {**SHOWN}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, 0, 5]}),
    ("POST", "boxes", {**SHOWN, "box": [5, 5, 2, 9]}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, 49, 5]}),
    ("POST", "boxes", {**SHOWN, "box": [-1, 0, 4, 5]}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, 1.5, 5]}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, True, 5]}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, 1, 5]}),  # a line
    ("POST", "boxes", {**SHOWN, "box": "0 0 5 5"}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, 5]}),
    ("POST", "boxes", {**SHOWN, "box": [0, 0, 1e400, 5]}),
    ("POST", "boxes", {"plane": "axial", "index": 12, "box": BOX}),
    ("POST", "boxes", {"plane": ["axial"], "index": 1, "box": BOX}),
    ("POST", "boxes", b"{"),
    ("POST", "boxes", b"[" * 100_000),
    ("POST", "boxes", b"\xff\xfe"),
    ("POST", "boxes", b'{"a": "' + b"a" * (1 << 21) + b'"}'),
    ("POST", "extend", {"plane": "axial"}),
    ("POST", "extend", {"plane": "x"}),
    ("POST", "refine", {}),
    ("PATCH", "", {"name": 7}),
    ("PATCH", "", {"colour": "red"}),
    ("PATCH", "", {"colour": [0, 0, 256]}),
    ("PATCH", "", {"colour": [0, 0]}),
    ("PATCH", "", [1]),
]


BAD_STROKES = [
    ({}, b""),
    ({"column": 0, "row": 0, "columns": 2, "rows": 2}, b"\1"),
    ({"column": 0, "row": 0, "columns": 2, "rows": 2}, bytes(5)),
    ({"column": 47, "row": 0, "columns": 2, "rows": 2}, bytes(4)),
    ({"column": 0, "row": 0, "columns": 10**8, "rows": 10**8}, b""),
    ({"column": "x", "row": 0, "columns": 1, "rows": 1}, b"\1"),
]


def test_bad_requests_are_one_line_each_and_the_image_stays_usable(client, image):
    _, path = image
    number = client.fine("POST", f"{path}/objects", {})["number"]
    for method, rest, asked in BAD:
        one = f"{path}/objects/{number}" + (f"/{rest}" if rest else "")
        if isinstance(asked, bytes):
            more = {"body": asked, "Content-Type": "application/json"}
        else:
            more = {"json_": asked}
        assert client.refused(method, one, **more)[0] in (400, 413), asked
    for query, body in BAD_STROKES:
        rest = urlencode({**SHOWN, **query})
        client.refused("POST", f"{path}/objects/{number}/strokes?{rest}", body=body)
        client.refused("POST", f"{path}/objects/99/strokes?{rest}", body=body)
    assert drawn(client, path)[1]["object"]["voxels"] > 50


def test_an_image_that_is_closed_is_gone(client, image):
    _, path = image
    client.fine("DELETE", path)
    for method, rest in [("GET", ""), ("POST", "/undo"), ("POST", "/alive"), ("DELETE", "")]:
        assert client.refused(method, path + rest)[0] == 404
    assert client.refused("GET", "/api/images/" + quote("../../etc/passwd", safe=""))[0] == 404


# Saving


def test_a_file_that_is_there_is_replaced_only_if_the_user_says_so(client, image, folder):
    _, path = image
    root = folder / "root"
    number, *_ = drawn(client, path)
    asked = {"objects": [number], "name": "mine.nii.gz"}
    try:
        assert client.fine("POST", f"{path}/save", asked)["files"][0]["name"] == "mine.nii.gz"
        saved = nibabel.load(root / "mine.nii.gz")
        assert set(np.unique(saved.dataobj)) == {0, 1}
        before = (root / "mine.nii.gz").read_bytes()
        assert client.refused("POST", f"{path}/save", asked)[0] == 409
        assert (root / "mine.nii.gz").read_bytes() == before
        client.fine("POST", f"{path}/save", {**asked, "replace": True})
        status, words = client.refused(
            "POST", f"{path}/save", {**asked, "name": "scan.nii.gz", "replace": True}
        )
        assert (status, words) == (400, "scan.nii.gz: is an input, and is not overwritten")
    finally:
        for made in root.glob("mine.*"):
            made.unlink()


NO_NAMES = [
    "../x.nii.gz", "/tmp/x.nii.gz", "inner/x.nii.gz", ".x.nii.gz", "a\\x.nii.gz", "a\n.nii.gz",
    "x.exe", "x", "..", "link.nii.gz", "a" * 300 + ".nii.gz", "\0.nii.gz", 7,
]  # fmt: skip


def test_a_name_that_is_a_path_or_no_format_is_refused(client, image, folder):
    _, path = image
    number, *_ = drawn(client, path)
    before = sorted(folder.rglob("*"))
    for name in NO_NAMES:
        asked = {"objects": [number], "name": name, "replace": True}
        assert client.refused("POST", f"{path}/save", asked)[0] == 400, name
    assert sorted(folder.rglob("*")) == before


def test_there_is_nothing_to_save_without_a_voxel_or_in_a_wrong_format(client, image):
    _, path = image
    number = client.fine("POST", f"{path}/objects", {})["number"]
    for objects, suffix in [([number], ".nii.gz"), ([], ".nii.gz"), ([99], ".nii.gz"), (7, ".nii")]:
        client.refused("POST", f"{path}/save", {"objects": objects, "format": suffix})
    number, *_ = drawn(client, path)
    for suffix in (".dcm", ".png", ".exe", "", None):
        client.refused("POST", f"{path}/save", {"objects": [number], "format": suffix})


def test_a_saved_label_map_is_gone_on_from_with_its_names(client, image, tmp_path):
    _, path = image
    numbers = []
    for name, row in [("left\u00e9", 2), ("right", 20)]:
        number = client.fine("POST", f"{path}/objects", {"name": name})["number"]
        query = urlencode({**SHOWN, "column": 1, "row": row, "columns": 5, "rows": 4})
        client.changed("POST", f"{path}/objects/{number}/strokes?{query}", body=bytes([1]) * 20)
        numbers.append(number)
    saved = client.fine("POST", f"{path}/save", {"objects": numbers, "format": ".seg.nrrd"})
    content = client.fine("GET", f"/api/{saved['files'][0]['path']}")
    added = client.fine("POST", f"{path}/labels?name=x.seg.nrrd", body=content)
    again = {one["number"]: one for one in added["objects"]}
    assert len(again) == 4 and len(added["added"]) == 2
    for old, new in zip(numbers, added["added"], strict=True):
        assert {**again[old], "number": new, "marks": again[new]["marks"]} == again[new]
    status, words = client.refused("POST", f"{path}/labels?name=x.nii.gz", body=b"none")
    assert status == 400 and words.startswith("x.nii.gz: ")
    other = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), AFFINE), other)
    _, words = client.refused("POST", f"{path}/labels?name=o.nii.gz", body=other.read_bytes())
    assert words == "o.nii.gz: expected the grid of scan.nii.gz, (48, 40, 12), got (3, 4, 5)"
    moved = tmp_path / "moved.nii.gz"
    affine = AFFINE.copy()
    affine[0, 3] = 5
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE[::-1], np.uint8), affine), moved)
    _, words = client.refused("POST", f"{path}/labels?name=m.nii.gz", body=moved.read_bytes())
    assert "lies elsewhere" in words


# The page itself


def test_the_page_runs_its_own_scripts_only(client):
    status, headers, content = client.ask("GET", "/")
    policy = dict(part.strip().split(" ", 1) for part in
                  headers["Content-Security-Policy"].split(";"))  # fmt: skip
    assert status == 200 and headers.get_content_type() == "text/html"
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"]
    assert policy["script-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert b"http://" not in content and b"https://" not in content and b"style=" not in content
    for name in ("main.js", "style.css"):
        assert client.ask("GET", f"/page/{name}")[0] == 200
    for name in ("..%2fapp.py", "page_api.py", "%2e%2e/hub.py", "", "x.js"):
        assert client.ask("GET", f"/page/{name}")[0] == 404


def test_another_origin_is_not_answered(client):
    asked = {"file": "named/0"}
    status, _ = client.refused("POST", "/api/images", asked, Origin="http://elsewhere.example")
    assert status == 403
    assert client.refused("GET", "/api/files", Host="elsewhere.example")[0] == 403


def test_objects_come_back_after_the_server_was_killed_until_they_are_saved(folder, tmp_path):
    words = folder / "named.nii.gz", "--threads", "1", "--quiet", "--journal", tmp_path / "journal"
    asked = {"file": "named/0"}

    def opened(client):
        described = client.fine("POST", "/api/images", asked)
        return described, f"/api/images/{described['id']}"

    with serving(*words) as server:
        client = Client(server)
        _, path = opened(client)
        number, meta, _ = drawn(client, path)
        server.process.kill()
    with serving(*words) as server:
        client = Client(server)
        described, path = opened(client)
        assert described["came_back"] == 1
        (one,) = described["objects"]
        assert {**one, "marks": None} == {
            **meta["object"], "marks": None, "refinable": False, "number": one["number"]
        }  # fmt: skip
        # another page with the same image has none of them, and does not write over them
        assert opened(client)[0]["objects"] == []
        asked_to_save = {"objects": [one["number"]], "format": ".nii.gz"}
        client.fine("POST", f"{path}/save", asked_to_save)
        client.fine("POST", f"{path}/saved")  # the browser has it
        server.process.kill()
    with serving(*words) as server:
        assert opened(Client(server))[0]["objects"] == []
