"""The page of made-up cases: what is on it, that it asks for nothing, and that it stays small."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from swiftmedsam.evaluation.report import page as page_module
from swiftmedsam.evaluation.report import pictures
from swiftmedsam.evaluation.report.__main__ import main, read_timings
from swiftmedsam.evaluation.report.page import box_plot, page, worst_first
from swiftmedsam.evaluation.report.pictures import encode, path_of, show, shrink
from swiftmedsam.evaluation.score import ScoreError
from tests.helpers import make_case_file
from tests.helpers.report import HOSTILE, IMAGE, OTHER, SLICES, VOLUME, make_folders, write

VOID = {"meta", "input", "image", "use", "path", "rect", "circle"}  # have no end tag here


class Page(HTMLParser):
    """The elements of a page, as (tag, attributes); tags that are not closed are an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag, **wanted):
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(attributes.get(key) == value for key, value in wanted.items())
        ]


@pytest.fixture
def folders(tmp_path):
    return make_folders(tmp_path)


def outlines(path):
    """The corners (K, 2) x, y of every contour of a path of relative steps."""
    contours = re.findall(r"M(\d+) (\d+)(?:l([-\d ]+)z|h0)", path)
    assert len(contours) == path.count("M")
    return [
        np.cumsum([[int(x), int(y)], *np.array(re.findall(r"-?\d+", steps), int).reshape(-1, 2)], 0)
        for x, y, steps in contours
    ]


def points(path):
    """All corners of all contours of a path, as a set of (x, y)."""
    return {(x, y) for corners in outlines(path) for x, y in corners.tolist()}


def test_there_is_a_row_and_a_section_per_case_worst_first(folders):
    read = Page(write(folders))
    rows = [a for a in read.all("tr") if "data-case" in a]
    assert [a["data-case"] for a in rows] == ["1", "2", "3", "4"]
    assert [a["id"] for a in read.all("section")] == [f"case-{i}" for i in range(1, 5)]
    names = [a["data-value"] for a in read.all("th", scope="row") if "data-value" in a]
    assert names[:3] == [OTHER, VOLUME, IMAGE]  # missing, half, right; without truth comes last
    assert len(names) == 4
    words = "".join(read.words)
    assert "DSC 66.7 %" in words and "DSC 100.0 %, NSD 100.0 %" in words
    assert words.count("no output") == 2  # in its row and in its section
    assert words.count("no truth") == 1


def test_every_link_leads_to_something_in_the_page(folders):
    read = Page(write(folders))
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in read.elements if tag in ("a", "use")]
    assert {link[1:] for link in links} <= set(ids)
    assert {link[0] for link in links} == {"#"}


def test_the_page_asks_for_nothing(folders):
    text = write(folders)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text.replace("; // ", ""))
    read = Page(text)
    for tag, attributes in read.elements:
        assert tag not in {"link", "iframe", "object", "base", "form"}
        assert "src" not in attributes
        if tag == "image":
            assert attributes["href"].startswith("data:image/webp;base64,")
    (policy,) = [a for a in read.all("meta") if "http-equiv" in a]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_a_file_name_is_never_markup(folders):
    text = write(folders)
    read = Page(text)
    assert not read.all("img") and not read.all("b")
    assert "<img" not in text and "\n.npz" not in text
    shown = HOSTILE.replace("\n", "\\n")
    assert [a for a in read.all("th") if a.get("data-value") == shown]
    modality = "<img src=x onerror=alert(1)>"
    assert read.all("option", value=modality) and read.all("section", **{"data-modality": modality})


def test_a_volume_has_its_slices_and_two_planes_and_an_image_one_picture(folders):
    read = Page(write(folders))
    labels = [a["aria-label"] for a in read.all("svg") if "viewbox" in a and "3DBox" in
              a.get("aria-label", "")]  # fmt: skip
    title = VOLUME.removesuffix(".npz")
    assert labels == [f"{title}, {name}" for name in SLICES] + [
        f"{title}, coronal plane, row 19", f"{title}, sagittal plane, column 29",
    ]  # fmt: skip
    assert len(read.all("svg", **{"aria-label": IMAGE.removesuffix(".npz")})) == 1


def test_controls_have_labels_and_numbers_say_what_they_sort_by(folders):
    read = Page(write(folders))
    assert {a["id"] for a in read.all("input")} == {"show-mask", "show-truth", "show-box"}
    assert len(read.all("label")) == len(read.all("input")) + len(read.all("select"))
    for cell in read.all("td"):
        if "data-value" in cell and cell.get("class") == "number":
            assert cell["data-value"] == "" or float(cell["data-value"]) >= 0


def test_without_truth_there_are_no_box_plots_but_all_cases(folders):
    inputs, segs, _ = folders
    out = inputs.parent / "plain.html"
    assert main([str(inputs), str(segs), "--out", str(out)]) == 0
    read = Page(out.read_text())
    assert len(read.all("section")) == 4
    assert not read.all("svg", **{"class": "plot"})
    assert not [a for a in read.all("path") if a.get("id", "").endswith("-truth")]


def test_contours_run_through_the_outermost_pixels_of_each_label_and_hole():
    labels = np.zeros((9, 12), np.uint8)
    labels[2:7, 1:6] = 1
    labels[4, 3] = 0  # a hole, whose contour is the ring of mask pixels around it
    labels[2:4, 6:9] = 2  # touches the first
    labels[8, 11] = 3  # one pixel
    corners = points(path_of(labels))
    assert corners >= {(1, 2), (5, 2), (5, 6), (1, 6), (6, 2), (8, 2), (8, 3), (6, 3), (11, 8)}
    assert all(labels[y, x] for x, y in corners)
    assert corners & {(3, 3), (2, 4), (4, 4), (3, 5)}
    assert path_of(np.zeros((4, 4), np.uint8)) == path_of(None) == ""


def test_contours_follow_a_round_mask_to_half_a_pixel_of_the_picture():
    y, x = np.ogrid[:400, :400]
    mask = ((y - 200) ** 2 + (x - 190) ** 2 <= 150**2).astype(np.uint8)
    few, many = points(path_of(mask, pixel=4)), points(path_of(mask))
    assert len(few) < len(many)
    drawn = np.zeros_like(mask)
    cv2.fillPoly(drawn, outlines(path_of(mask, pixel=4)), 1)
    off = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 5)
    assert (off[drawn == 1] <= 2.5).all()
    assert (drawn & mask).sum() > 0.97 * mask.sum()


def test_lines_of_a_plane_are_where_that_plane_cuts_the_volume(folders):
    inputs, segs, gts = folders
    shown = show(inputs / VOLUME, segs / VOLUME, gts / VOLUME)
    coronal, sagittal = shown.planes
    # found: z 0..1, y 6..25, x 8..46; truth the same in z 0..3
    assert points(coronal.mask) == {(8, 0), (46, 0), (46, 1), (8, 1)}
    assert points(sagittal.truth) == {(6, 0), (25, 0), (25, 3), (6, 3)}
    assert coronal.boxes[0] == (8, 0, 46, 3) and sagittal.boxes[2] == (10, 3, 32, 5)
    assert (coronal.width, coronal.height) == (64, 6) and coronal.aspect == 64 / (6 * 3)
    assert shown.slices[0].boxes == ((8, 6, 46, 30),) and len(shown.slices[3].boxes) == 3
    assert [bool(view.mask) for view in shown.slices] == [True, True, False, False, False, False]


def test_a_long_volume_is_shown_from_its_first_to_its_last_box_slice(tmp_path):
    image = np.zeros((50, 8, 8), np.uint8)
    path = make_case_file(tmp_path, VOLUME, imgs=image, boxes=[[1, 1, 10, 6, 6, 40]])
    names = [view.name for view in show(path, None, None).slices]
    assert len(names) == pictures.MAX_SLICES
    assert (names[0], names[-1]) == ("slice 10", "slice 40")


def test_the_worst_slices_of_a_long_volume_are_among_those_shown(tmp_path):
    image, truth = np.zeros((50, 8, 8), np.uint8), np.zeros((50, 8, 8), np.uint8)
    path = make_case_file(tmp_path, VOLUME, imgs=image, boxes=[[1, 1, 10, 6, 6, 40]])
    truth[10:46, 1:6, 1:7] = 1
    found = truth.copy()
    found[[19, 45]] = found[20, 3:] = 0  # 45 is in no box; of 20 two of five rows are left
    np.savez(tmp_path / "segs.npz", segs=found)
    np.savez(tmp_path / "3_gts.npz", gts=truth, spacing=[1.0, 1.0, 3.0])
    names = [view.name for view in show(path, tmp_path / "segs.npz", tmp_path / "3_gts.npz").slices]
    assert len(names) == pictures.MAX_SLICES
    expected = {10: "100.0", 19: "0.0", 20: "57.1", 40: "100.0", 45: "0.0"}
    assert {f"slice {z}, DSC {dsc} %" for z, dsc in expected.items()} < set(names)


def test_a_volume_without_boxes_is_shown_from_end_to_end(tmp_path):
    path = make_case_file(tmp_path, VOLUME, boxes=np.zeros((0, 6)))
    shown = show(path, None, None)
    assert [view.name for view in shown.slices] == [f"slice {z}" for z in range(6)]


@pytest.mark.parametrize("name", [IMAGE, VOLUME])
def test_even_noise_stays_within_the_bytes_of_a_case(tmp_path, name):
    generator = np.random.default_rng(1)
    shape = (14, 300, 300) if name == VOLUME else (900, 900, 3)
    labels = np.zeros(shape[:2] if name == IMAGE else shape, np.uint8)
    labels[..., 20:200, 20:200] = 1
    path = make_case_file(tmp_path, name, imgs=generator.integers(0, 256, shape, np.uint8))
    np.savez(tmp_path / "segs.npz", segs=labels)
    shown = show(path, tmp_path / "segs.npz", None)
    views = shown.slices + shown.planes
    size = len(shown.thumbnail) + sum(len(view.uri) + len(view.mask) for view in views)
    assert size <= pictures.CASE_BYTES


def test_two_hundred_cases_at_their_limit_stay_below_the_limit_of_the_page(folders):
    text = write(folders)
    pixels = sum(len(found) for found in re.findall(r'data:[^"]+|d="[^"]+', text))
    fixed = len(page([]))
    other = (len(text) - fixed - pixels) / 4  # bytes a case: rows, headings, labels
    cases = pictures.CASES_PER_PAGE
    # a volume has 12 slices and three times the labels of the average of these cases
    assert fixed + cases * (pictures.CASE_BYTES + 2 * other) < pictures.PAGE_BYTES


def test_many_contours_are_coarser():
    y, x = np.ogrid[:640, :640]
    cells = (((y % 32 - 16) ** 2 + (x % 32 - 16) ** 2) <= 15**2).astype(np.uint16)
    cells *= (1 + (x // 32) + 20 * (y // 32)).astype(np.uint16)
    assert cells.max() == 400
    assert 2 * len(path_of(cells)) > pictures.LINE_BYTES
    ((mask, truth),) = pictures.contours([(cells, cells)], [1.0])
    assert len(mask) + len(truth) <= pictures.LINE_BYTES
    assert mask.count("M") == truth.count("M") == 400
    assert pictures.contours([(cells[:60, :60], None)], [1.0]) == [(path_of(cells[:60, :60]), "")]


def test_pictures_are_of_the_best_quality_that_fits():
    picture = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
    sizes = [
        len(pictures.data_uri(shrink(picture, 64 // divisor), quality))
        for divisor, quality in pictures.QUALITIES
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]
    assert len(encode([picture], sizes[2])[0]) == sizes[2]
    assert len(encode([picture, picture], 2 * sizes[1])[1]) == sizes[1]
    assert len(encode([picture], 0)[0]) == sizes[-1]


def test_pictures_keep_their_colours_and_are_never_enlarged():
    red = np.zeros((30, 60, 3), np.uint8)
    red[..., 0] = 200
    assert shrink(red, 64) is red and shrink(red, 20).shape == (10, 20, 3)
    encoded = base64.b64decode(pictures.data_uri(red, 80).partition(",")[2])
    blue, _, back = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[15, 30]
    assert back > 180 and blue < 20


def test_a_box_plot_has_tukeys_whiskers():
    plot = box_plot([0.0, 0.6, 0.7, 0.8, 0.9])
    # 208 px are 1: quartiles 0.6 and 0.8, and 0.0 is more than 0.3 below
    assert 'aria-label="median 70.0, quartiles 60.0 and 80.0"' in plot
    assert "M130.8 14.0H130.8M172.4 14.0H193.2" in plot
    assert plot.count("<circle") == 5
    assert page_module.PLOT_WIDTH - 2 * page_module.PLOT_MARGIN == 208


def test_times_are_medians_of_the_challenges_own_command(tmp_path):
    table = tmp_path / "timings.csv"
    table.write_text(
        "mode,case,repeat,seconds,peak_bytes,exit\nengine-only,-,1,0.4,NA,0\n"
        f"organisers,{IMAGE},1,2.0,NA,0\norganisers,{IMAGE},2,3.0,NA,0\n"
        f"organisers,{IMAGE},3,9.0,NA,0\nhardened,{IMAGE},1,50,NA,0\n"
        f"organisers,{OTHER},1,0.1,NA,137\n"
    )
    assert read_timings(table) == {IMAGE: 3.0}


def test_times_are_shown_with_their_cases(folders, tmp_path):
    (tmp_path / "times.csv").write_text(f"file,seconds\n{VOLUME},4.126\n")
    words = "".join(Page(write(folders, "--timings", tmp_path / "times.csv")).words)
    assert words.count("4.13") == 2


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("file,time\na,1\n", "columns"), ("", "columns"), ("file,seconds\na,fast\n", "line 2"),
     ("file,seconds\na,1\na,nan\n", "line 3"), ("file,seconds\na\n", "line 2"),
     ("file,seconds\na,-1\n", "line 2")],
)  # fmt: skip
def test_a_table_without_times_is_an_error_that_names_the_file(tmp_path, text, wrong):
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(ScoreError, match=f"times.csv: .*{wrong}"):
        read_timings(tmp_path / "times.csv")


def test_an_output_of_another_shape_ends_the_command_and_leaves_no_page(folders, capsys):
    inputs, segs, _ = folders
    np.savez(segs / HOSTILE, segs=np.zeros((80, 48), np.uint8))
    out = inputs.parent / "none.html"
    assert main([str(inputs), str(segs), "--out", str(out)]) == 1
    assert "should be (48, 80) like the image, got (80, 48)" in capsys.readouterr().err
    assert not out.exists()


def test_an_output_without_a_case_ends_the_command(folders, capsys):
    inputs, segs, _ = folders
    np.savez(segs / "2DBox_US_C-9.npz", segs=np.zeros((48, 80), np.uint8))
    assert main([str(inputs), str(segs), "--out", str(inputs.parent / "x.html")]) == 1
    assert "2DBox_US_C-9.npz" in capsys.readouterr().err


def test_no_case_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path), "--out", str(tmp_path / "x.html")]) == 1
    assert "has no npz file" in capsys.readouterr().err


def test_the_order_is_missing_first_then_by_dsc_then_what_has_no_truth():
    def entry(name, dsc, missing=False):
        score = None if dsc is None else type("Score", (), {"dsc": dsc})()
        return page_module.Entry(name, "US", None, missing, score, None)

    cases = [entry("a", None), entry("b", 0.9), entry("c", 0.2), entry("d", None, missing=True)]
    assert [each.name for each in worst_first(cases)] == ["d", "c", "b", "a"]
