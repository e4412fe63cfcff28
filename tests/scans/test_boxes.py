"""Boxes from where people draw them: tables, 3D Slicer, COCO, LabelMe, label maps."""

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from swiftmedsam.scans.boxes.drawn import Entry, Meaning, on_grid
from swiftmedsam.scans.boxes.files import read_boxes
from swiftmedsam.scans.boxes.tables import KINDS
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.formats.slicer import declared
from swiftmedsam.scans.label_maps import boxes_around_labels, extents, read_labels
from swiftmedsam.scans.scan import ScanError
from tests.helpers.boxes import (
    GRID,
    LIVER,
    SPLEEN,
    VOXEL,
    label_map,
    layered,
    picture_scan,
    placed,
    roi,
    scan,
    slicer_file,
    written,
)
from tests.helpers.scans import AFFINES, ALIGNED, save

WANTED = [("liver", (8, 6, 0), (46, 30, 3)), ("spleen", (10, 8, 1), (48, 30, 4))]
CSV = """file,name,x_min,y_min,z_min,x_max,y_max,z_max
a.nii,liver,8,6,0,46,30,3
b.nii,spleen,10,8,1,48,30,4
"""
ROWS = [
    {"file": "a.nii", "name": "liver", "box": [8, 6, 0, 46, 30, 3]},
    {"File": "b.nii", "Label name": "spleen", "X min": 10, "Y min": 8, "Z min": 1,
     "X max": 48, "Y max": 30, "Z max": 4},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("boxes.csv", CSV),
        ("boxes.csv", "\ufeff" + CSV.replace(",", ";").replace("\n", "\r\n")),
        ("boxes.tsv", CSV.replace(",", "\t").replace("x_min", "X Min").replace("name", "Label")),
        ("boxes.json", ROWS),
        ("boxes.json", {"boxes": ROWS}),
    ],
)
def test_tables_have_their_columns_by_name(name, content, tmp_path):
    entries = read_boxes(written(tmp_path, name, content), VOXEL)
    assert [entry.file for entry in entries] == ["a.nii", "b.nii"]
    assert placed(entries, scan()) == WANTED


def test_the_order_of_columns_does_not_matter_and_a_file_may_be_missing(tmp_path):
    table = "z_max,x_max,y_max,z_min,y_min,x_min,note\n3,46,30,0,6,8,my first\n"
    (entry,) = read_boxes(written(tmp_path, "a.csv", table), VOXEL)
    assert (entry.file, entry.box.name) == (None, "")
    assert placed([entry], scan()) == [("", *WANTED[0][1:])]


def test_a_table_of_a_picture_has_four_corners(tmp_path):
    table = written(tmp_path, "a.csv", "name,x_min,y_min,x_max,y_max\ndisc,3,4,10,12\n")
    assert placed(read_boxes(table, VOXEL), picture_scan()) == [("disc", (3, 4, 0), (10, 12, 0))]


@pytest.mark.parametrize("meaning", [Meaning("mm", "LPS"), VOXEL])
def test_units_and_space_come_with_the_row_or_with_the_options(meaning, tmp_path):
    """x to the left from -30, y to the back from -40, z to the head from -50: 1, 2, 3 mm."""
    own = {} if meaning.units == "mm" else {"units": "mm", "space": "LPS"}
    row = {"name": "liver", "box": [8 - 30, 12 - 40, -50, 46 - 30, 60 - 40, 9 - 50], **own}
    entries = read_boxes(written(tmp_path, "a.json", [row]), meaning)
    assert placed(entries, scan()) == WANTED[:1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: expected boxes, found none"),
        ("a.csv", "x_min,y_min,x_max\n1,2,3\n",
         "a.csv: expected columns x_min, y_min, x_max, y_max, found x_min, y_min, x_max"),
        ("a.csv", CSV + "c.nii,x,1,2,3,4,five,6\n",
         'a.csv: line 4: y_max should be a number, got "five"'),
        ("a.csv", CSV + "c.nii,x,1,2,3,4,5\n", "a.csv: line 4: z_max is empty, expected x_min, y_"),
        ("a.csv", CSV + "c.nii,x,1,2,3,4,5,6,7\n", "a.csv: line 4 has more columns than the first"),
        ("a.csv", CSV + "c.nii,x,9,2,3,4,5,6\n",
         "a.csv: line 4: box 'x' has a minimum above its maximum: 9 2 3 4 5 6"),
        ("a.csv", 'x_min\n"1', "a.csv: expected columns x_min, y_min, x_max, y_max, found x_min"),
        ("a.json", "{", "a.json: expected JSON, found something else at line 1, column 2"),
        ("a.json", "7", f"a.json: not a kind of boxes that is known; {KINDS}"),
        ("a.json", [7], "a.json: box 1: expected an object with keys, found 7"),
        ("a.json", {"rows": []}, f"a.json: not a kind of boxes that is known; {KINDS}"),
        ("a.json", {"boxes": []}, "a.json: expected boxes, found none"),
        ("a.json", [{"box": [1, 2, 3]}],
         "a.json: box 1: a box should be 4 or 6 numbers, got 1 2 3"),
        ("a.json", [{"box": [1, 2, 3, 4], "units": "cm"}],
         'a.json: box 1: expected units voxel or mm and space RAS or LPS, got "cm" and null'),
        ("a.json", {"annotations": []}, "a.json: key 'images' is missing"),
        ("a.json", {"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]},
         "a.json: annotation 1: 'image_id' 1 is none of the images"),
        ("a.json", {"markups": [{"type": "Line"}]},
         'a.json: markup 1: expected a box ROI, found "Line"'),
        ("a.json", {"markups": [{"type": "ROI", "center": [0, 0, 0], "size": [1, 1, 0]}]},
         "a.json: markup 1: 'size' should be above 0, got [1, 1, 0], as of a ROI that is not plac"),
        ("a.json", {"markups": [{"type": "ROI", "center": [0, 0, 0], "coordinateUnits": "inch"}]},
         "a.json: markup 1: 'coordinateUnits' should be mm or um, got \"inch\""),
        ("a.json", {"markups": [{"type": "ROI", "center": [0, 0, 0], "insideOut": True}]},
         "a.json: markup 1: is inside out, and no box"),
    ],
)  # fmt: skip
def test_a_file_of_no_boxes_is_one_line(name, content, message, tmp_path):
    with pytest.raises(ScanError) as raised:
        read_boxes(written(tmp_path, name, content), VOXEL)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_missing_file_of_boxes_is_one_line(tmp_path):
    with pytest.raises(ScanError, match=r"^no.csv: boxes cannot be read \(No such file"):
        read_boxes(tmp_path / "no.csv", VOXEL)


# --- 3D Slicer


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_rois_of_3d_slicer_are_boxes_in_either_space(space, tmp_path, caplog):
    markups = [roi(*ends, ALIGNED, space, name=name) for name, *ends in WANTED]
    entries = read_boxes(written(tmp_path, "mine.mrk.json", {"markups": markups}), VOXEL)
    assert placed(entries, scan()) == WANTED
    assert [entry.file for entry in entries] == [None, None]
    assert not caplog.messages


def test_a_roi_without_a_name_has_that_of_its_file(tmp_path):
    one = {"markups": [roi(*WANTED[0][1:], ALIGNED)]}
    (entry,) = read_boxes(written(tmp_path, "Liver.mrk.json", one), VOXEL)
    assert entry.box.name == "Liver"
    two = {"markups": one["markups"] * 2}
    entries = read_boxes(written(tmp_path, "Liver.mrk.json", two), VOXEL)
    assert [entry.box.name for entry in entries] == ["Liver_1", "Liver_2"]


def test_units_of_3d_slicer_may_be_micrometres_and_codes(tmp_path):
    markup = roi(*WANTED[0][1:], ALIGNED, name="liver")
    for key in ("center", "size"):
        markup[key] = [1000 * number for number in markup[key]]
    markup["coordinateUnits"] = ["um", "UCUM", "micrometer"]
    path = written(tmp_path, "a.mrk.json", {"markups": [markup]})
    assert placed(read_boxes(path, VOXEL), scan()) == WANTED[:1]


def test_a_rotated_roi_is_its_extent_with_a_warning(tmp_path, caplog):
    """30 degrees about z; the columns of the matrix are the ROI's sides, row after row."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    markup = roi((0, 0, 0), (1, 1, 1), np.eye(4), "RAS")
    markup |= {"center": [20, 15, 3], "size": [20, 8, 2],
               "orientation": [c, -s, 0, s, c, 0, 0, 0, 1]}  # fmt: skip
    (entry,) = read_boxes(written(tmp_path, "a.mrk.json", {"markups": [markup]}), VOXEL)
    half_x, half_y = 10 * c + 4 * s, 10 * s + 4 * c
    low, high = entry.box.points.min(axis=0), entry.box.points.max(axis=0)
    np.testing.assert_allclose(low, [20 - half_x, 15 - half_y, 2])
    np.testing.assert_allclose(high, [20 + half_x, 15 + half_y, 4])
    assert placed([entry], scan(np.eye(4))) == [("a", (10, 7, 2), (30, 23, 4))]
    assert caplog.messages == ["scan.nii: box 'a' is rotated against the grid, its extent is taken"]
    caplog.clear()
    turned = np.eye(4)  # a grid that is rotated as the ROI is
    turned[:2, :2] = [[c, -s], [s, c]]
    turned[:3, 3] = [20, 15, 3] - turned[:3, :3] @ [20, 15, 3]
    assert placed([entry], scan(turned)) == [("a", (10, 11, 2), (30, 19, 4))]
    assert not caplog.messages


def test_axes_that_are_swapped_are_not_rotated(tmp_path, caplog):
    markup = roi((0, 0, 0), (1, 1, 1), np.eye(4), "RAS")
    markup |= {"center": [20, 15, 3], "size": [20, 8, 2],
               "orientation": [0, 0, 1, 1, 0, 0, 0, 1, 0]}  # fmt: skip
    (entry,) = read_boxes(written(tmp_path, "a.mrk.json", {"markups": [markup]}), VOXEL)
    sides = np.ptp(entry.box.points, axis=0)  # the ROI's x is y, its y is z, its z is x
    np.testing.assert_allclose(sides, [2, 20, 8])
    assert not caplog.messages


# --- pictures


def test_coco_counts_from_the_corner_of_the_picture(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 8, "category_id": 2, "bbox": [3, 4, 10, 12]},
            {"image_id": 7, "bbox": [0.4, 0, 63.6, 40]},
        ],
        "categories": [{"id": 2, "name": "nucleus"}],
    }
    entries = read_boxes(written(tmp_path, "a.json", content), VOXEL)
    assert [entry.file for entry in entries] == ["b.png", "a.png"]
    assert placed(entries, picture_scan()) == [
        ("nucleus", (3, 4, 0), (12, 15, 0)),  # 10 columns and 12 rows
        ("", (0, 0, 0), (63, 39, 0)),  # the whole picture
    ]


def test_labelme_has_rectangles_of_two_points_in_any_order(tmp_path, caplog):
    content = {
        "imagePath": "..\\pictures\\a.png",
        "shapes": [
            {"label": "disc", "shape_type": "rectangle", "points": [[13, 4], [3, 16]]},
            {"label": "cup", "shape_type": "polygon", "points": [[1, 1], [2, 3], [4, 5]]},
        ],
    }
    (entry,) = read_boxes(written(tmp_path, "a.json", content), VOXEL)
    assert entry.file == "..\\pictures\\a.png"
    assert placed([entry], picture_scan()) == [("disc", (3, 4, 0), (12, 15, 0))]
    assert caplog.messages == ["a.json: left out, being no rectangles: shape 2 (polygon)"]


# --- label maps


def test_boxes_around_labels_come_in_the_order_of_their_values(tmp_path):
    path = save(tmp_path / "labels.nii", label_map())
    drawn = boxes_around_labels(path, scan(), 0)
    assert [box.name for box in drawn] == ["label 2", "label 5"]
    segments = [on_grid(box, scan(), 1) for box in drawn]
    assert (segments[0].first, segments[0].last) == ((20, 10, 2), (29, 19, 4))
    assert (segments[1].first, segments[1].last) == ((8, 6, 0), (46, 30, 3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_extents_are_those_of_each_label_alone(order, monkeypatch):
    """Of maps that are larger than what is looked at together."""
    monkeypatch.setattr("swiftmedsam.scans.label_maps.CHUNK_VOXELS", 7)
    random = np.random.default_rng(1)
    for _ in range(100):
        shape = random.integers(1, 9, 3)
        painted = random.integers(0, 2000, shape) * (random.random(shape) < 0.3)
        labels = np.asarray(painted // 400, np.uint16, order=order)
        wanted = []
        for value in np.unique(labels[labels > 0]):
            places = np.argwhere(labels == value)
            wanted.append((value, places.min(axis=0).tolist(), places.max(axis=0).tolist()))
        found = [(value, first.tolist(), last.tolist()) for value, (first, last) in extents(labels)]
        assert found == wanted


def test_a_margin_ends_at_the_border(tmp_path, caplog):
    drawn = boxes_around_labels(save(tmp_path / "labels.nii", label_map()), scan(), 3)
    five = on_grid(drawn[1], scan(), 1)
    assert (five.first, five.last) == ((5, 3, 0), (49, 33, 5))
    assert not caplog.messages


@pytest.mark.parametrize("placed", AFFINES)
def test_labels_on_another_grid_are_laid_over_by_the_space_they_fill(placed, tmp_path):
    """A label map of half as many voxels, of which i and k run the other way."""
    affine = AFFINES[placed]
    flipped = affine @ np.array([[-1, 0, 0, 63], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]])
    halved = flipped @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    labels = np.zeros((32, 20, 3), np.uint8)
    labels[4:10, 3:8, 0:2] = 1
    path = save(tmp_path / "labels.nii", labels, halved)
    (drawn,) = boxes_around_labels(path, scan(affine), 0)
    found = on_grid(drawn, scan(affine), 1)
    assert (found.first, found.last) == ((63 - 19, 6, 5 - 3), (63 - 8, 15, 5))


def test_what_is_no_label_map_is_refused(tmp_path):
    for voxels, reason in (
        (np.zeros(GRID, np.uint8), r"expected labels 1..65535, found 0..0"),
        (np.full(GRID, -1, np.int16), r"expected labels 1..65535, found -1..-1"),
        (np.full(GRID, np.nan, np.float32), "expected a label map of whole numbers"),
        (np.full(GRID, 0.5, np.float32), "expected a label map of whole numbers"),
    ):
        path = save(tmp_path / "labels.nii", voxels)
        with pytest.raises(ScanError, match=f"^labels.nii: {reason}"):
            boxes_around_labels(path, scan(), 0)
    path = save(tmp_path / "labels.nii", label_map())
    with pytest.raises(ScanError, match=r"^labels.nii: expected the grid of scan.nii, \(64, 40, 1"):
        boxes_around_labels(path, picture_scan(), 0)
    assert read_scan(path).grid == GRID


def test_no_option_of_the_scan_is_offered_for_a_label_map_of_several_volumes(tmp_path):
    """--volume and --series choose of the scan."""
    path = save(tmp_path / "labels.nii", np.stack([label_map()] * 2, axis=-1))
    message = "^labels.nii: has 2 volumes, a label map should have one$"
    for read in (read_labels, lambda path: boxes_around_labels(path, scan(), 0)):
        with pytest.raises(ScanError, match=message):
            read(path)
    page = Image.fromarray(np.ones((4, 4), np.uint8))
    description = {270: "ImageJ=1.53\nimages=2\nchannels=2\n"}
    path = tmp_path / "labels.tif"
    page.save(path, save_all=True, append_images=[page], tiffinfo=description)
    with pytest.raises(ScanError, match="^labels.tif: has 2 volumes, a label map should have one$"):
        read_labels(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".mha"])
def test_a_label_map_that_is_no_file_is_one_line_whatever_its_kind(suffix, tmp_path):
    path = tmp_path / f"labels{suffix}"
    for read in (read_labels, lambda path: boxes_around_labels(path, scan(), 0)):
        with pytest.raises(ScanError, match=f"^{path.name}: expected a file, found none$"):
            read(path)
    path.mkdir()
    for read in (read_labels, lambda path: boxes_around_labels(path, scan(), 0)):
        with pytest.raises(ScanError, match=f"^{path.name}: expected DICOM images, .* found none$"):
            read(path)


# --- 3D Slicer's segmentations


def around(path, scan):
    boxes = boxes_around_labels(path, scan, 0)
    return [(*placed([Entry(box)], scan)[0], box.colour) for box in boxes]


def test_segments_of_3d_slicer_keep_their_names_colours_and_order(tmp_path, caplog):
    path = slicer_file(tmp_path / "a.seg.nrrd", LIVER, SPLEEN, LIVER | {"LabelValue": "9"})
    wanted = [
        ("liver, left lobe", (8, 6, 0), (46, 30, 3), (51, 102, 255)),
        ("spleen", (20, 10, 2), (29, 19, 4), (255, 0, 153)),
    ]
    assert around(path, scan()) == wanted
    assert caplog.messages == ["a.seg.nrrd: 'liver, left lobe' has no voxel, and is left out"]
    sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "b.nrrd"))  # by its header, not name
    assert around(tmp_path / "b.nrrd", scan()) == wanted


def test_a_segment_without_name_and_colour_is_a_label(tmp_path):
    bare = [{"LabelValue": "2"}, {"LabelValue": "5", "Name": " "}]
    found = boxes_around_labels(slicer_file(tmp_path / "a.seg.nrrd", *bare), scan(), 0)
    assert [(one.name, one.colour) for one in found] == [("label 2", None), ("label 5", None)]


def test_a_key_with_thousands_of_digits_is_no_segment():
    """int() refuses them."""
    fields = {f"Segment{'1' * 5000}_Name": "much", "Segment0_Name": "liver"}
    (found,) = declared(fields, 1, "a.seg.nrrd")
    assert found.name == "liver"


@pytest.mark.parametrize(
    ("liver", "spleen", "message"),
    [
        ({}, None, "layer 0 holds the value 2, which no segment has"),
        ({"Color": "0.5 1"}, {}, "'Segment0_Color' should be 3 numbers within 0..1, got '0.5 1'"),
        ({"Color": "0 0 nan"}, {}, "'Segment0_Color' should be 3 numbers within 0..1, got '0 0 na"),
        ({"Color": "255 0 0"}, {}, "'Segment0_Color' should be 3 numbers within 0..1, got '255 0"),
        ({"LabelValue": "two"}, {}, "'Segment0_LabelValue' should be 1 or more, got 'two'"),
        ({"LabelValue": "0"}, {}, "'Segment0_LabelValue' should be 1 or more, got '0'"),
        ({"LabelValue": None}, {}, "key 'Segment0_LabelValue' is missing, expected in each"),
        ({"LabelValue": "2"}, {},
         "'Segment1_LabelValue' should differ from that of 'liver, left lobe' in layer 0, got 2"),
    ],
)  # fmt: skip
def test_segments_that_contradict_each_other_are_one_line(liver, spleen, message, tmp_path):
    both = [LIVER | liver] if spleen is None else [LIVER | liver, SPLEEN | spleen]
    fields = [{key: value for key, value in one.items() if value is not None} for one in both]
    path = slicer_file(tmp_path / "a.seg.nrrd", *fields)
    with pytest.raises(ScanError) as raised:
        boxes_around_labels(path, scan(), 0)
    assert str(raised.value).startswith(f"a.seg.nrrd: {message}")
    assert "\n" not in str(raised.value)


def layers(count=3):
    """Voxels (I, J, K, layers): 1 in each, bounds that overlap from layer to layer."""
    voxels = np.zeros((*GRID, count), np.uint8)
    for number in range(count):
        voxels[8 + number : 47 - number, 6:31, 0 : 4 + number % 2, number] = 1
    return voxels


@pytest.mark.parametrize("count", [2, 3, 4])  # 3 and 4 bytes a voxel are colour elsewhere
@pytest.mark.parametrize("old", [False, True])
def test_segments_of_different_layers_may_overlap(old, count, tmp_path):
    segments = [layered(number, Color="0 1 0") for number in range(count)]
    if old:
        segments = [{"ID": one["ID"], "Name": one["Name"], "Color": "0 1 0"} for one in segments]
    path = slicer_file(tmp_path / "a.seg.nrrd", *segments, voxels=layers(count))
    assert around(path, scan()) == [
        (f"organ {number}", (8 + number, 6, 0), (46 - number, 30, 3 + number % 2), (0, 255, 0))
        for number in range(count)
    ]


def test_layers_are_read_as_3d_slicer_writes_them(tmp_path):
    """Layers are the first axis, one that is no space; a value belongs to its layer alone."""
    voxels = layers(2)
    voxels[0, 0, 5, 1] = 3
    header = """NRRD0004
type: uint8
dimension: 4
space: left-posterior-superior
sizes: 2 64 40 6
space directions: none (1,0,0) (0,2,0) (0,0,3)
kinds: list domain domain domain
encoding: raw
space origin: (-30,-40,-50)
Segment0_ID:=Segment_1
Segment0_Layer:=1
Segment0_LabelValue:=3
Segment0_Name:=tip
Segment1_ID:=Segment_2
Segment1_Layer:=1
Segment1_LabelValue:=1
Segment1_Name:=liver
Segment2_ID:=Segment_3
Segment2_Layer:=0
Segment2_LabelValue:=1
Segment2_Name:=whole

"""
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(header.encode() + np.moveaxis(voxels, 3, 0).tobytes("F"))
    assert [found[:3] for found in around(path, scan())] == [
        ("tip", (0, 0, 5), (0, 0, 5)),
        ("liver", (9, 6, 0), (45, 30, 4)),
        ("whole", (8, 6, 0), (46, 30, 3)),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([layered(0), layered(2)], "'Segment1_Layer' should be one of 0..1, got '2'"),
        ([layered(0), layered(1, Layer="-1")], "'Segment1_Layer' should be one of 0..1, got '-1'"),
        ([layered(0), layered(1, Layer="1.0")], "'Segment1_Layer' should be one of 0..1, got '1.0"),
        ([layered(0), layered(0)], "'Segment1_LabelValue' should differ from that of 'organ 0' in"),
        ([layered(0)], "layer 1 holds the value 1, which no segment has"),
        ([layered(0), {"Name": "x", "LabelValue": "1"}], "key 'Segment1_Layer' is missing, expect"),
        ([{"Name": "x", "LabelValue": "1"}], "key 'Segment0_Layer' is missing, expected in"),
        ([{"Name": "x"}] * 3, "'Segment2_Layer' should be one of 0..1, got '2'"),
    ],
)  # fmt: skip
def test_layers_that_are_not_certain_are_one_line(fields, message, tmp_path):
    path = slicer_file(tmp_path / "a.seg.nrrd", *fields, voxels=layers(2))
    with pytest.raises(ScanError) as raised:
        boxes_around_labels(path, scan(), 0)
    assert str(raised.value).startswith(f"a.seg.nrrd: {message}")


def test_layers_are_no_label_map_of_a_case(tmp_path):
    both = [layered(0), layered(1)]
    path = slicer_file(tmp_path / "a.seg.nrrd", *both, voxels=layers(2))
    with pytest.raises(ScanError, match=r"^a.seg.nrrd: expected one label per voxel, .* of 2 la"):
        read_labels(path)
