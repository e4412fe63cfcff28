"""Files of boxes as people and their programs write them: read right, or refused in one line."""

import codecs
import json
import re

import numpy as np
import pytest

from swiftmedsam.scans.boxes.drawn import Meaning, on_grid
from swiftmedsam.scans.boxes.files import read_boxes
from swiftmedsam.scans.boxes.tables import KINDS
from swiftmedsam.scans.scan import PICTURE_AFFINE, ScanError
from tests.helpers.boxes import VOXEL, picture_scan, placed, roi, scan, written
from tests.helpers.scans import ALIGNED, scan_of

HEAD = "file,name,x_min,y_min,x_max,y_max\n"
ROW = "a.png,disc,3,4,10,12\n"
DISC = [("disc", (3, 4, 0), (10, 12, 0))]
SEMICOLONS = (HEAD + ROW).replace(",", ";")
POINT_FIVE = SEMICOLONS.replace("3;4;10;12", "2,5;3,5;10,25;12,0")


def raised_by(path, meaning=VOXEL):
    with pytest.raises(ScanError) as raised:
        read_boxes(path, meaning)
    message = str(raised.value)
    assert message.startswith(f"{path.name}: ") and "\n" not in message
    return message.removeprefix(f"{path.name}: ")


def bytes_in(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


# --- tables


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ROW,
        HEAD + ROW + ",,,,,\n,,,,,\n\n   \n",
        HEAD + "\n" + ROW,
        "\n" + HEAD + ROW,
        "sep=;\n" + SEMICOLONS,
        '"sep=;"\r\n' + SEMICOLONS.replace("\n", "\r\n"),
        "sep=\t\n" + SEMICOLONS.replace(";", "\t"),
        "SEP=,\r" + (HEAD + ROW).replace("\n", "\r"),
        POINT_FIVE,
        POINT_FIVE.replace(";", "\t"),
        "file, name, x_min, y_min, x_max, y_max\n" + 'a.png, "disc", 3, "4", 10, 12\n',
        HEAD.replace("\n", ",\n") + ROW.replace("\n", ",\n"),  # a last column without a name
        HEAD + ROW.replace("\n", ",,\n"),  # cells beyond the header that are empty
        HEAD + "a.png,disc,3.0,4e0,+10,12.\n",
        "X Max;Y-Max;xmin;YMIN;Class;File Name\n10;12;3;4;disc;a.png\n",
        "image_id,class_name,x_min,y_min,x_max,y_max\na.png,disc,3,4,10,12\n",
        "filename,image_id,name,xmin,ymin,xmax,ymax,units\na.png,7,disc,3,4,10,12,Pixels\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,64,40,disc,3,4,10,12\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,,0,disc,3,4,10,12\n",
        HEAD.replace("y_max", "y_max,z_min,z_max") + ROW.replace("\n", ",,\n"),
        json.dumps([{"file": "a.png", "name": "disc", "box": [3, 4, 10, 12]}]),
        json.dumps({"image": "a.png", "label": "disc", "boxes": [{"box": [3, "4", 10.0, 12]}]}),
        json.dumps([{"file": "a.png", "name": "disc", "X Min": 3, "y_min": 4, "x_max": 10,
                     "y_max": "12", "z_min": None, "z_max": ""}]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_may_be_written_in_many_ways(text, encoding, tmp_path):
    path = bytes_in(tmp_path, "boxes.txt", text.encode(encoding))
    entries = read_boxes(path, VOXEL)
    assert [(one.file, one.table) for one in entries] == [("a.png", path)]
    assert placed(entries, picture_scan()) == DISC


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.63 0.42 0.32 0.43\n", f"not a table, nor JSON; {KINDS}"),  # YOLO
        ("<annotation><filename>a.png</filename></annotation>", f"not a table, nor JSON; {KINDS}"),
        ("a.png,disc,3,4,10,12\n", f"not a table, nor JSON; {KINDS}"),  # no header
        ("# Markups fiducial file version = 4.11\n1,2,3,4\n", f"not a table, nor JSON; {KINDS}"),
        ("image,x,y,w,h\na.png,3,4,10,12\n",
         "expected columns x_min, y_min, x_max, y_max, found image, x, y, w, h"),
        ("x_min,y_min,z_min,x_max,y_max\n1,2,3,4,5\n",
         "expected columns x_min, y_min, z_min, x_max, y_max, z_max, found x_min, y_min, z_min"),
        (HEAD, "expected boxes, found none"),
        (HEAD + ",,,,,\n", "expected boxes, found none"),
        (HEAD.replace("x_min", "x_min,xmin") + "a.png,disc,3,5,4,10,12\n",
         "columns 'x_min' and 'xmin' mean the same, expected one of them"),
        (HEAD.replace("name", "x_min") + "a.png,9,3,4,10,12\n",
         "columns 'x_min' and 'x_min' mean the same"),
        (HEAD.replace("name", "image") + "a.png,b.png,3,4,10,12\n",
         "columns 'file' and 'image' mean the same"),
        (HEAD.replace("file", "label") + ROW, "columns 'label' and 'name' mean the same"),
        (HEAD + "a.png,disc,3,4,10,\n", "line 2: y_max is empty, expected x_min, y_min, x_max"),
        (HEAD + "a.png,disc,3,4\n", "line 2: x_max is empty"),
        (HEAD + "\n\n" + "a.png,disc,3,4,10,12,9\n", "line 4 has more columns than the first"),
        ("sep=;\n" + SEMICOLONS + "a.png;disc;3;x;10;12\n",
         'line 4: y_min should be a number, got "x"'),
        (HEAD + ROW + ',disc,3,4,10,12\n', "line 3: file is empty, and other rows have one"),
        (HEAD + ',disc,3,4,10,12\n' + ROW, "line 2: file is empty, and other rows have one"),
        ("name,x_min,y_min,x_max,y_max\na.png,3,4,10,12\n",
         "line 2: the name 'a.png' is that of a file; expected a column file"),
        (HEAD + 'a.png,"disc,3,4,10,12\n', "line 2 cannot be split into cells, a quote may"),
        (HEAD + 'a.png,"di"sc,3,4,10,12\n', "line 2 cannot be split into cells"),
        (HEAD + f"a.png,{'x' * 200_000},3,4,10,12\n", "line 2 cannot be split into cells"),
        (HEAD + "a.png,disc,nan,4,10,12\n", 'line 2: x_min should be a number, got "nan"'),
        (HEAD + "a.png,disc,-inf,4,10,12\n", 'line 2: x_min should be a number, got "-inf"'),
        (HEAD + "a.png,disc,1e999,4,10,12\n", 'line 2: x_min should be a number, got "1e999"'),
        (HEAD + "a.png,disc,1_0,4,10,12\n", 'line 2: x_min should be a number, got "1_0"'),
        (HEAD + 'a.png,disc,"3,5",4,10,12\n', 'line 2: x_min should be a number, got "3,5"'),
        (HEAD + "a.png,disc,10,4,3,12\n", "line 2: box 'disc' has a minimum above its maximum"),
        (HEAD + "a.png,disc,0.1,0.2,0.55,0.9\n",
         "line 2: numbers of 0 to 1 are fractions of a size, expected voxels"),
        (HEAD + "a.png,disc,-0.01,0,1.002,1\n", "line 2: numbers of 0 to 1 are fractions"),
        (HEAD + "a.png,No finding,0,0,1,1\n", "line 2: numbers of 0 to 1 are fractions"),
        (SEMICOLONS.replace(";10;", ";1,024;"),
         "line 2: x_max is 1,024, which could be a fraction or thousands"),
        (SEMICOLONS.replace(";10;", ";1.024,5;"), 'line 2: x_max should be a number, got "1.0'),
        ("filename,width,height,xmin,ymin,xmax,ymax\na.png,64.5,40,3,4,10,12\n",
         "line 2: width and height should be whole numbers, got 64.5 and 40"),
        ("filename,width,height,xmin,ymin,xmax,ymax\na.png,wide,40,3,4,10,12\n",
         'line 2: width should be a number, got "wide"'),
    ],
)  # fmt: skip
def test_what_is_no_table_of_boxes_is_one_line(text, message, tmp_path):
    assert raised_by(written(tmp_path, "boxes.csv", text)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Hüfte.png".encode("cp1252"), f"expected text in UTF-8, found other bytes; {KINDS}"),
        ((HEAD + ROW).encode("utf-16-le"), f"expected text in UTF-8, found other bytes; {KINDS}"),
        (b"PK\x03\x04\x14\0\x06\0", f"expected text in UTF-8, found other bytes; {KINDS}"),
        (codecs.BOM_UTF16_LE + b"abc", f"expected text in UTF-8, found other bytes; {KINDS}"),
        (b"", "expected boxes, found none"),
    ],
)
def test_bytes_that_are_no_text_are_one_line(content, message, tmp_path):
    assert raised_by(bytes_in(tmp_path, "boxes.csv", content)) == message


def test_a_scan_is_no_file_of_boxes(tmp_path):
    message = "expected a file of boxes, found a scan (--boxes-from takes label maps)"
    assert raised_by(bytes_in(tmp_path, "a.nii.gz", b"")) == message


def test_what_of_a_table_is_not_used_is_said(tmp_path, caplog):
    table = "# by Anna\n" + HEAD.replace("\n", ",score,,slice\n") + ROW.replace("\n", ",1,,7\n")
    path = written(tmp_path, "a.csv", table + "#b.png,disc,3,4,10,12,1,,7\n")
    assert placed(read_boxes(path, VOXEL), picture_scan()) == DISC
    assert caplog.messages == [
        "a.csv: left out, since they begin with #: lines 1, 4",
        "a.csv: columns that are not used: 'score', 'slice'",
    ]
    caplog.clear()
    rows = {"by": "Anna", "boxes": [{"box": [3, 4, 10, 12], "name": "disc", "score": 1}]}
    assert placed(read_boxes(written(tmp_path, "a.json", rows), VOXEL), picture_scan()) == DISC
    assert caplog.messages == ["a.json: columns that are not used: 'by', 'score'"]


# --- JSON of any kind

MARKUP = roi((8, 6, 0), (46, 30, 3), ALIGNED)
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"image_id": 1, "bbox": [3, 4, 8, 9]}],
}
SHAPE = {"label": "disc", "shape_type": "rectangle", "points": [[3, 4], [11, 13]]}
LABELME = {"imagePath": "a.png", "shapes": [SHAPE]}


def markups(**changes):
    changed = {key: value for key, value in (MARKUP | changes).items() if value is not None}
    return {"markups": [changed]}


def coco(**changes):
    return COCO | {"annotations": [COCO["annotations"][0] | changes]}


def labelme(**changes):
    return LABELME | {"shapes": [SHAPE | changes]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"boxes": [], "boxes": []}', "key 'boxes' is there twice in one object"),
        ("[" * 100_000, "expected JSON, found numbers or lists that are too large"),
        ('[{"box": [' + "9" * 500 + ", 1, 2, 3]}]", "box 1: 'box' should be a number, got 999"),
        ('[{"box": [NaN, 1, 2, 3]}]', "box 1: 'box' should be a number, got NaN"),
        ({"boxes": {"a.png": [1, 2, 3, 4]}}, "'boxes' should be a list, got {"),
        ([[3, 4, 10, 12]], "box 1: expected an object with keys, found [3, 4, 10, 12]"),
        ([{"file": "a.png", "box": "1234"}], "box 1: 'box' should be a list, got \"1234\""),
        ([{"box": [True, 2, 3, 4]}], "box 1: 'box' should be a number, got true"),
        ([{"box": [1, 2, 3, [4]]}], "box 1: 'box' should be a number, got [4]"),
        ([{"box": [3, 4, 10, 12], "x_min": 5}], "box 1: has 'box' and columns of corners"),
        ([{"box": [3, 4, 10, 12], "file": ["a.png"]}], "box 1: file should be a text, got ["),
        ([{"x_min": 1, "y_min": 2, "x_max": 3}], "box 1: y_max is missing, expected x_min"),
        ({"file": "a.png", "boxes": [{"image": "b.png", "box": [3, 4, 10, 12]}]},
         "box 1: columns 'file' and 'image' mean the same"),
        ([{"file": "a.png", "box": [3, 4, 10, 12]}, {"box": [3, 4, 10, 12]}],
         "box 2: file is empty, and other rows have one"),
        ({"_via_img_metadata": {}}, f"not a kind of boxes that is known; {KINDS}"),
        ([{"id": 1, "annotations": []}], f"not a kind of boxes that is known; {KINDS}"),
        (None, f"not a kind of boxes that is known; {KINDS}"),
        (LABELME | {"boxes": []}, "keys 'shapes', 'boxes' are those of two kinds"),
        # 3D Slicer
        (markups(coordinateUnits=[]), "markup 1: 'coordinateUnits' should be mm or um, got []"),
        (markups(coordinateUnits=[["mm"]]), "markup 1: 'coordinateUnits' should be mm or um, got"),
        (markups(coordinateUnits=""), "markup 1: 'coordinateUnits' should be mm or um, got \"\""),
        (markups(coordinateUnits={"mm": 1}), "markup 1: 'coordinateUnits' should be mm or um, got"),
        (markups(coordinateSystem="IJK"), "markup 1: 'coordinateSystem' should be RAS or LPS, got"),
        (markups(coordinateSystem=["LPS"]), "markup 1: 'coordinateSystem' should be RAS or LPS"),
        (markups(roiType="Ellipsoid"), 'markup 1: expected a box ROI, found "Ellipsoid"'),
        (markups(type=None), "markup 1: key 'type' is missing"),
        (markups(center=None), "markup 1: key 'center' is missing"),
        (markups(center=[0, 0]), "markup 1: 'center' should be 3 numbers, got [0, 0]"),
        (markups(center=[0, 0, "nan"]), "markup 1: 'center' should be a number, got \"nan\""),
        (markups(center=[0, 0, 1e308]), "markup 1: 'center' should be a number, got 1e+308"),
        (markups(size=7), "markup 1: 'size' should be a list, got 7"),
        (markups(size=[0, 0, 0]), "markup 1: 'size' should be above 0, got [0, 0, 0], as of a ROI"),
        (markups(orientation=[0] * 9), "markup 1: 'orientation' should be 3 sides of length 1"),
        (markups(orientation=[1, 0, 0, 1, 0, 0, 0, 0, 1]), "markup 1: 'orientation' should be 3"),
        (markups(orientation=[1, 0, 0]), "markup 1: 'orientation' should be 9 numbers"),
        (markups(name=["liver"]), "markup 1: 'name' should be a text, got ["),
        ({"markups": {}}, "'markups' should be a list, got {}"),
        ({"markups": [[]]}, "markup 1: expected an object with keys, found []"),
        ({"markups": []}, "expected boxes, found none"),
        # COCO
        (coco(bbox=[]), "annotation 1: 'bbox' should be 4 numbers, got []"),
        (coco(bbox=[3, 4, -8, 9]), "annotation 1: 'bbox' should be x, y and a width and height ab"),
        (coco(bbox=[3, 4, float("nan"), 9]), "annotation 1: 'bbox' should be a number, got NaN"),
        (coco(bbox=[float("nan"), 4, 8, 9]), "annotation 1: 'bbox' should be a number, got NaN"),
        (coco(bbox=[10**400, 4, 8, 9]), "annotation 1: 'bbox' should be a number, got 1000"),
        (coco(bbox=[0.1, 0.2, 0.3, 0.4]), "annotation 1: numbers of 0 to 1 are fractions of a"),
        (coco(image_id=9), "annotation 1: 'image_id' 9 is none of the images"),
        (coco(image_id=[1]), "annotation 1: 'image_id' should be a text, got [1]"),
        (coco(attributes={"rotation": 30.0}), "annotation 1: is rotated, and no upright box"),
        (COCO | {"annotations": [{"image_id": 1, "segmentation": [[3, 4, 10, 4, 10, 12]]}]},
         "annotation 1: key 'bbox' is missing"),
        (COCO | {"images": COCO["images"] * 2}, "image 2: 'id' 1 is that of another image, too"),
        (COCO | {"images": [{"id": 1}]}, "image 1: key 'file_name' is missing"),
        (COCO | {"images": [{"id": 1, "file_name": "a.png", "width": "x", "height": 9}]},
         'image 1: width should be a number, got "x"'),
        (COCO | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
         "category 2: 'id' 1 is that of another category, too"),
        (COCO | {"categories": [{"name": "a"}]}, "category 1: key 'id' is missing"),
        (COCO | {"categories": {"1": "disc"}}, "'categories' should be a list, got {"),
        (COCO | {"annotations": []}, "expected boxes, found none"),
        # LabelMe
        (labelme(shape_type="circle"), "expected rectangles, found shape 1 (circle)"),
        (labelme(shape_type=None), "expected rectangles, found shape 1 (polygon)"),
        (labelme(points=[[3, 4]]), "shape 1: 'points' should be 2 or 4 corners, got 1"),
        (labelme(points=[]), "shape 1: 'points' should be 2 or 4 corners, got 0"),
        (labelme(points=[[3, 4], [10]]), "shape 1: 'points' should be 2 numbers, got [10]"),
        (labelme(points=[[3, 4], [3, 13]]), "shape 1: 'points' have no area between them"),
        (labelme(points=[[0.1, 0.2], [0.5, 0.9]]), "shape 1: numbers of 0 to 1 are fractions"),
        (labelme(points=[[6, 2], [12, 8], [8, 12], [2, 6]]), "shape 1: is rotated, and no upright"),
        (labelme(points=[[3, 4], [10, 4], [10, 4], [3, 12]]), "shape 1: is rotated, and no uprigh"),
        (LABELME | {"imagePath": None}, "'imagePath' should be a text, got null"),
        ({"shapes": [SHAPE]}, "key 'imagePath' is missing"),
        (LABELME | {"imageWidth": "x", "imageHeight": 9}, 'width should be a number, got "x"'),
        (LABELME | {"shapes": [{"shape_type": "rectangle"}]}, "shape 1: key 'label' is missing"),
    ],
)  # fmt: skip
def test_json_that_holds_no_box_is_one_line(content, message, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    found = raised_by(written(tmp_path, "boxes.json", text))
    assert found.startswith(message)
    assert not re.search(r"object at 0x|NoneType|'(str|list|int|dict)'", found)


@pytest.mark.parametrize("hidden", [{}, {"locked": True, "display": {"visibility": False}}])
@pytest.mark.parametrize("kind", [None, "Box", "BoundingBox"])
def test_a_roi_is_a_box_whatever_3d_slicer_shows_of_it(hidden, kind, tmp_path):
    path = written(tmp_path, "a.mrk.json", markups(roiType=kind, controlPoints=[], **hidden))
    assert placed(read_boxes(path, VOXEL), scan()) == [("a", (8, 6, 0), (46, 30, 3))]


def test_categories_without_a_name_and_crowds_are_said(tmp_path, caplog):
    content = COCO | {
        "categories": [{"id": 1, "name": "disc"}, {"id": 2}],
        "annotations": [
            {"image_id": "1", "category_id": category, "bbox": [3, 4, 8, 9], "iscrowd": crowd}
            for category, crowd in ((1, 0), (2, 0), (3, 0), (None, 0), (1, 1))
        ],
    }
    entries = read_boxes(written(tmp_path, "a.json", content), VOXEL)
    assert [one.box.name for one in entries] == ["disc", "category 2", "category 3", ""]
    assert caplog.messages == ["a.json: left out, being crowds of objects: annotation 5"]


@pytest.mark.parametrize(
    "points",
    [
        [[3, 4], [11, 13]],
        [[11, 4], [3, 13]],
        [[3, 4], [11, 4], [11, 13], [3, 13]],
        [[11, 13], [3, 13.02], [2.99, 4], [11, 4]],
    ],
)
def test_a_rectangle_of_labelme_has_two_or_four_corners_in_any_order(points, tmp_path):
    path = written(tmp_path, "a.json", labelme(points=points))
    assert placed(read_boxes(path, VOXEL), picture_scan()) == DISC


# --- the picture that was drawn on


def declared(kind, width, height):
    if kind == "table":
        return f"file,width,height,xmin,ymin,xmax,ymax\na.png,{width},{height},3,4,10,12\n"
    if kind == "rows":
        return [{"file": "a.png", "image_width": width, "image_height": height, "width": 7,
                 "box": [3, 4, 10, 12]}]  # fmt: skip
    if kind == "coco":
        return COCO | {"images": [COCO["images"][0] | {"width": width, "height": height}]}
    return LABELME | {"imageWidth": width, "imageHeight": height}


@pytest.mark.parametrize("kind", ["table", "rows", "coco", "labelme"])
def test_boxes_of_a_picture_of_another_size_are_refused(kind, tmp_path):
    def entry(width, height):
        (one,) = read_boxes(written(tmp_path, "boxes.json" if kind != "table" else "boxes.csv",
                                    declared(kind, width, height)), VOXEL)  # fmt: skip
        return one

    picture = scan_of(np.zeros((64, 40, 1), np.uint8), PICTURE_AFFINE, has_mm=False)
    for width, height in ((64, 40), (0, 0)):
        assert placed([entry(width, height)], picture)[0][1:] == DISC[0][1:]
    for width, height, more in ((640, 480, ""), (40, 64, ", as if it were turned"), (64, 41, "")):
        with pytest.raises(ScanError) as raised:
            on_grid(entry(width, height).box, picture, 1)
        assert str(raised.value).endswith(
            f" was drawn on {width} x {height} pixels, expected the 64 x 40 of this file{more}"
        )


def test_names_of_objects_are_one_line(tmp_path):
    table = HEAD + 'a.png,"left\nkidney\t ",3,4,10,12\n'
    for name, content in (("a.csv", table), ("a.json", labelme(label="left\nkidney \x1b"))):
        (entry,) = read_boxes(written(tmp_path, name, content), VOXEL)
        assert entry.box.name.replace(" \\x1b", "") == "left kidney"


def test_millimetres_may_be_small_and_have_decimal_commas(tmp_path):
    table = "units;space;x_min;y_min;z_min;x_max;y_max;z_max\nmm;ras;0,1;0,2;0,3;0,5;0,75;0,9\n"
    (entry,) = read_boxes(written(tmp_path, "a.csv", table), Meaning("voxel", "LPS"))
    np.testing.assert_allclose(entry.box.points.min(axis=0), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(entry.box.points.max(axis=0), [0.5, 0.75, 0.9])
