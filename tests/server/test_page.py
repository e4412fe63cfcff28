"""The page in a real browser, on the real server: draw, extend, correct, save, as a person would.

The tests find an object on the screen by its brightness, as a person does, and read what was saved
with other readers than ours.
"""

import csv
import json
import re

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from tests.helpers import ROOT, dsc
from tests.helpers.dicom import series
from tests.helpers.page import Client, launch
from tests.helpers.scans import RAS_OF_LPS, rotation
from tests.helpers.server import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

expect = sync_api.expect
LONG = 240_000  # milliseconds after which a page is given up; no test asks how long it takes
SHAPE = 22, 70, 90  # k, j, i
MIDDLE, RADII = (10, 30, 38), (6, 13, 17)  # of the object, in k, j, i: it is no ball
NUCLEI = ROOT / "examples" / "inputs" / "2DBox_Microscope_nuclei.npz"


def object_mask():
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    places = zip((k, j, i), MIDDLE, RADII, strict=True)
    return sum(((axis - middle) / radius) ** 2 for axis, middle, radius in places) <= 1


def volume():
    """(K, J, I), with one bright object off the middle."""
    rng = np.random.default_rng(3)
    grey = cv2.GaussianBlur(rng.normal(0, 30, SHAPE).astype(np.float32).reshape(-1, 90), (0, 0), 1)
    return (300 + grey.reshape(SHAPE) + 500 * object_mask()).astype(np.int16)


AFFINES = {
    # j runs to the front, k to the feet
    "flipped": np.array([[-1.0, 0, 0, 40], [0, 1, 0, -30], [0, 0, -1, 20], [0, 0, 0, 1]]),
    "oblique": rotation(0.35, 0.2) @ np.diag([1.0, -1, 1.5, 1]),
    # i runs to the back, j to the head, k to the left
    "anisotropic": np.array([[0, 0, -2.5, 9], [-0.8, 0, 0, 7], [0, 1.6, 0, 3], [0, 0, 0, 1]]),
}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("page")
    for name, affine in AFFINES.items():
        nibabel.save(nibabel.Nifti1Image(volume().T, affine), base / f"{name}.nii.gz")
    hounsfield = (volume().astype(np.float32) - 300) / 5  # 0 and 100
    hounsfield[:, :8] = -1000  # air
    nibabel.save(nibabel.Nifti1Image(hounsfield.T.astype(np.int16), np.diag([-1.0, -1, 2, 1])),
                 base / "ct.nii.gz")  # fmt: skip
    series(base / "series", volume().T, np.diag([-1.0, -1, 2, 1]) , SeriesNumber=3,
           Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")  # fmt: skip
    with np.load(NUCLEI) as archive:
        cv2.imwrite(str(base / "nuclei.png"), archive["imgs"][..., ::-1])
    return base


@pytest.fixture(scope="module")
def server(folder):
    with serving(
        "--root", folder, "--threads", "2", "--quiet", "--sessions", "32", "--no-journal"
    ) as running:
        yield running


@pytest.fixture
def open_page(browser, server):
    """A function that opens the page with a file; in the end nothing was complained of."""
    contexts, complaints, foreign = [], [], []

    def open_with(file=None, *, refused="", **options):
        given = {"viewport": {"width": 1280, "height": 720}, **options}
        context = browser.new_context(accept_downloads=True, **given)
        contexts.append(context)
        context.set_default_timeout(LONG)
        expect.set_options(timeout=LONG)
        page = context.new_page()
        page.on("console", lambda one: None if refused and refused in one.text
                else complaints.append(one.text))  # fmt: skip
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda one: foreign.append(one.url) if not is_own(one.url) else None)
        page.goto(server.url + "/")
        if file is not None:
            page.get_by_role("button", name="Browse…").click()
            page.get_by_role("button", name=file, exact=True).click()
            if file.endswith("/"):
                page.get_by_role("button", name="Open this folder").click()
            expect(page.locator("#title")).to_have_text(file.rstrip("/"))
            idle(page)
        return page

    def is_own(url):
        return url.startswith((server.url + "/", "data:", "blob:"))

    yield open_with
    for context in contexts:
        for page in context.pages:
            page.close()
        context.close()
    assert complaints == []
    assert foreign == []


# What a person sees and does


def idle(page):
    """Wait until no change is under way and all visible slices are on the screen."""
    expect(page.locator("#views")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".view:visible .picture:not([data-slice])")).to_have_count(0)


def view(page, plane):
    return page.locator(f".view[data-plane={plane}]")


def bright_on_screen(page, plane):
    """The bright object in a view: left, top, right, bottom, in pixels of the browser's window."""
    canvas = view(page, plane).locator(".picture")
    place = canvas.bounding_box()
    pixels = cv2.imdecode(np.frombuffer(canvas.screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
    scale = pixels.shape[1] / place["width"]
    bright = cv2.morphologyEx((pixels > 190).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5)))
    _, _, found, _ = cv2.connectedComponentsWithStats(bright)
    left, top, width, height, _ = found[1 + found[1:, 4].argmax()]
    x, y = place["x"] + left / scale, place["y"] + top / scale
    return x, y, x + width / scale, y + height / scale


def drag(page, x0, y0, x1, y1, **more):
    page.mouse.move(x0, y0)
    page.mouse.down(**more)
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=3)
    page.mouse.move(x1, y1, steps=3)
    page.mouse.up(**more)


def draw_around(page, plane, margin=6):
    """Drag a box around the bright object."""
    left, top, right, bottom = bright_on_screen(page, plane)
    drag(page, left - margin, top - margin, right + margin, bottom + margin)
    idle(page)
    return left, top, right, bottom


def message(page):
    return page.locator("#message").inner_text()


def voxel_at(page, x, y):
    """Voxel (i, j, k) and mm in RAS that the page names for a place."""
    page.mouse.move(x, y)
    words = page.locator("#readout").inner_text()
    i, j, k = map(int, re.search(r"i (\d+)  j (\d+)  k (\d+)", words).groups())
    ends = re.search(r"([RL]) ([\d.]+)  ([AP]) ([\d.]+)  ([SI]) ([\d.]+) mm", words).groups()
    mm = [float(b) * (1 if a in "RAS" else -1) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    return (i, j, k), mm


def saved(page, suffix, tmp_path):
    """Save as a download; return the paths of the files, the labels first."""
    page.locator("#save").click()
    page.locator("#format").select_option(suffix)
    paths = []
    page.on("download", keep := lambda one: paths.append(one))
    page.get_by_role("button", name="Download").click()
    expect(page.locator("#saved li").first).to_be_visible()
    count = page.locator("#saved li").count()
    while len(paths) < count:
        page.wait_for_timeout(50)
    page.remove_listener("download", keep)
    page.locator("#save-dialog").get_by_role("button", name="Close").click()
    made = []
    for one in paths:
        made.append(tmp_path / one.suggested_filename)
        one.save_as(made[-1])
    return made


# Tests


@pytest.mark.parametrize("name", AFFINES)
def test_a_drawn_object_lies_where_it_was_seen_in_every_saved_format(open_page, name, tmp_path):
    page = open_page(f"{name}.nii.gz")
    plane = page.locator(".view").first.get_attribute("data-plane")
    left, top, right, bottom = draw_around(page, plane)
    assert "box of" in message(page)
    # what the page says of the place, by nibabel's own arithmetic
    (i, j, k), mm = voxel_at(page, (left + right) / 2, (top + bottom) / 2)
    affine = AFFINES[name]
    np.testing.assert_allclose(mm, nibabel.affines.apply_affine(affine, (i, j, k)), atol=0.051)
    shown = nibabel.aff2axcodes(affine)
    across = next(a for a, code in enumerate(shown) if code in PLANE_CODES[plane])
    assert all(abs(found - middle) <= 2 for axis, (found, middle) in
               enumerate(zip((i, j, k), MIDDLE[::-1], strict=True)) if axis != across)  # fmt: skip

    page.keyboard.press("x")
    idle(page)
    assert re.fullmatch(r"1: \d+ slices", message(page))
    # a part is erased, that is undone, and something is added far from it
    page.keyboard.press("e")
    drag(page, (left + right) / 2, (top + bottom) / 2, (left + right) / 2 + 9, (top + bottom) / 2)
    idle(page)
    size = page.locator("#objects output").inner_text()
    page.keyboard.press("Control+z")
    idle(page)
    assert page.locator("#objects output").inner_text() != size
    page.keyboard.press("p")
    away = right + 30, bottom + 20
    drag(page, *away, away[0] + 4, away[1])
    idle(page)
    (i, j, k), _ = voxel_at(page, *away)

    truth = object_mask().T
    (labels, names), (segmentation,), (meta, _) = (
        saved(page, suffix, tmp_path) for suffix in (".nii.gz", ".seg.nrrd", ".mha")
    )
    image = nibabel.load(labels)
    found = np.asarray(image.dataobj)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert found[i, j, k] == 1
    assert dsc(found == 1, truth) > 0.8
    entry = json.loads(names.read_text())["labels"][0]
    assert entry["name"] == "1"
    for path in (segmentation, meta):
        other = sitk.ReadImage(path)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(other).T, found)
        at = np.array(other.TransformIndexToPhysicalPoint((i, j, k)))
        np.testing.assert_allclose(
            RAS_OF_LPS[:3, :3] @ at, nibabel.affines.apply_affine(affine, (i, j, k)), atol=1e-3
        )
    assert sitk.ReadImage(segmentation).GetMetaData("Segment0_Name") == "1"
    (table,) = saved(page, ".csv", tmp_path)
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert int(row["voxels"]) == (found == 1).sum()


PLANE_CODES = {"axial": "SI", "coronal": "AP", "sagittal": "LR"}


def test_a_dicom_series_is_saved_as_dicom(open_page, tmp_path):
    page = open_page("series/")
    draw_around(page, "axial")
    page.keyboard.press("x")
    idle(page)
    page.keyboard.press("F2")
    page.keyboard.type("kidney")
    page.keyboard.press("Enter")
    idle(page)
    (path,) = saved(page, ".dcm", tmp_path)
    dataset = pydicom.dcmread(path)
    assert dataset.SegmentSequence[0].SegmentLabel == "kidney"
    truth = object_mask()
    frames = np.atleast_3d(dataset.pixel_array).reshape(-1, *SHAPE[1:])
    places = [
        float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    found = np.zeros(SHAPE, bool)
    for frame, z in zip(frames, places, strict=True):
        found[round(z / 2)] = frame
    assert dsc(found, truth) > 0.8


def test_a_box_in_another_plane_gives_the_same_object(open_page, tmp_path):
    page = open_page("flipped.nii.gz")
    page.keyboard.press("2")  # the second plane alone
    expect(view(page, "axial")).to_be_hidden()
    plane = page.locator(".view:visible").get_attribute("data-plane")
    slider = page.locator(".view:visible input[type=range]")
    draw_around(page, plane)
    page.keyboard.press("x")
    idle(page)
    assert slider.get_attribute("aria-valuetext").endswith(" mm")
    found = np.asarray(nibabel.load(saved(page, ".nii.gz", tmp_path)[0]).dataobj)
    assert dsc(found == 1, object_mask().T) > 0.75


def test_a_picture_takes_many_boxes_each_an_object_of_its_own(open_page, tmp_path):
    page = open_page("nuclei.png")
    with np.load(NUCLEI) as archive:
        boxes = archive["boxes"][:6]
    canvas = page.locator(".picture")
    place = canvas.bounding_box()
    zoom = min(place["width"] / 256, place["height"] / 256)
    x0 = place["x"] + place["width"] / 2 - 128 * zoom
    y0 = place["y"] + place["height"] / 2 - 128 * zoom
    for left, top, right, bottom in boxes.tolist():
        drag(page, x0 + (left + 0.5) * zoom, y0 + (top + 0.5) * zoom,
             x0 + (right + 0.5) * zoom, y0 + (bottom + 0.5) * zoom)  # fmt: skip
    idle(page)
    assert page.locator("#objects li").count() == 6
    assert page.locator("#extend").is_hidden()
    page.keyboard.press("u")
    idle(page)
    labels, *beside = saved(page, ".png", tmp_path)
    found = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    assert {path.name for path in beside} == {"nuclei_labels.labels.json",
                                              "nuclei_labels_overlay.png"}  # fmt: skip
    assert set(np.unique(found)) == {0, 1, 2, 3, 4, 5}
    for value, (left, top, right, bottom) in enumerate(boxes[:5].tolist(), start=1):
        rows, columns = np.nonzero(found == value)
        assert left <= columns.min() and columns.max() <= right
        assert top <= rows.min() and rows.max() <= bottom


def test_everything_can_be_done_by_keys(open_page, server, tmp_path):
    page = open_page("flipped.nii.gz")
    page.keyboard.press("1")
    left, top, right, bottom = bright_on_screen(page, "axial")
    corners = [voxel_at(page, x, y)[0] for x, y in ((left - 5, top - 5), (right + 5, bottom + 5))]
    page.mouse.move(5, 5)
    # the cursor begins in the middle of the slice; columns run with i, rows against j
    (i0, j0, _), (i1, j1, _) = corners
    step_to(page, i0 - SHAPE[2] // 2, (SHAPE[1] - 1 - j0) - SHAPE[1] // 2)
    page.keyboard.press("Enter")
    step_to(page, i1 - i0, j0 - j1)
    page.keyboard.press("Enter")
    idle(page)
    assert "box of" in message(page)
    page.keyboard.press("PageUp")
    page.keyboard.press("End")
    page.keyboard.press("x")
    idle(page)
    page.keyboard.press("F2")
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    idle(page)
    page.keyboard.press("s")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    words = page.locator("#keys").inner_text()
    assert "extend through the slices" in words and "Esc" in words
    page.keyboard.press("Escape")
    found = np.asarray(nibabel.load(saved(page, ".nii.gz", tmp_path)[0]).dataobj)
    assert dsc(found == 1, object_mask().T) > 0.75


def step_to(page, columns, rows):
    """Move the cursor: by ten with Shift, and by one."""
    for count, keys in ((columns, ("ArrowLeft", "ArrowRight")), (rows, ("ArrowUp", "ArrowDown"))):
        key = keys[count > 0]
        for _ in range(abs(count) // 10):
            page.keyboard.press(f"Shift+{key}")
        for _ in range(abs(count) % 10):
            page.keyboard.press(key)


def test_an_uploaded_file_is_segmented_and_gone_on_with_later(open_page, folder, tmp_path):
    page = open_page()
    page.keyboard.press("o")
    page.locator("#file").set_input_files(folder / "flipped.nii.gz")
    expect(page.locator("#title")).to_have_text("flipped.nii.gz")
    idle(page)
    draw_around(page, "axial")
    page.locator("#objects [type=text]").fill("mine")
    page.keyboard.press("Enter")
    idle(page)
    assert page.locator("#there").is_hidden()
    (path,) = saved(page, ".seg.nrrd", tmp_path)
    size = page.locator("#objects output").inner_text()

    again = open_page("flipped.nii.gz")
    again.keyboard.press("o")
    again.locator("#as-labels").check()
    again.locator("#file").set_input_files(path)
    expect(again.locator("#message")).to_have_text("1 objects came from the label map.")
    names = [one.input_value() for one in again.locator("#objects [type=text]").all()]
    assert names == ["1", "mine"]
    assert again.locator("#objects output").all_inner_texts() == ["empty", size]


def test_a_broken_file_is_one_line_and_the_page_goes_on(open_page, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing of the kind")
    page = open_page("flipped.nii.gz", refused="a status of 400")  # Chromium tells of each
    page.keyboard.press("o")
    page.locator("#file").set_input_files(tmp_path / "broken.nii.gz")
    expect(page.locator("#open-error")).to_contain_text("broken.nii.gz: ")
    page.keyboard.press("Escape")
    draw_around(page, "axial")
    assert "box of" in message(page)


def test_the_window_of_a_ct_changes_what_is_shown_and_what_the_network_sees(open_page):
    page = open_page("ct.nii.gz")
    expect(page.locator("#preset")).to_have_value("soft")
    before = view(page, "axial").locator(".picture").screenshot()
    page.keyboard.press("w")
    expect(page.locator("#preset")).to_have_value("lung")
    expect(page.locator("#see")).to_be_visible()
    page.wait_for_timeout(500)
    assert view(page, "axial").locator(".picture").screenshot() != before
    page.locator("#see").click()
    expect(page.locator("#message")).to_contain_text("The network sees level -600, width 1500 HU")
    expect(page.locator("#see")).to_be_hidden()
    x, y = 200, 300
    drag(page, x, y, x + 40, y, button="right")
    assert float(page.locator("#width").input_value()) > 1500


def test_extending_can_be_stopped_and_the_page_stays_usable(open_page):
    page = open_page("oblique.nii.gz")
    plane = page.locator(".view").first.get_attribute("data-plane")
    draw_around(page, plane)
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    idle(page)
    page.keyboard.press("u")
    idle(page)
    assert "Undone" in message(page)


def test_earlier_objects_are_overwritten_only_if_that_is_asked(open_page):
    page = open_page("flipped.nii.gz")
    left, top, right, bottom = draw_around(page, "axial")
    first = page.locator("#objects output").first.inner_text()
    page.keyboard.press("n")
    page.keyboard.press("p")
    middle = (left + right) / 2, (top + bottom) / 2
    drag(page, *middle, middle[0] + 10, middle[1])
    idle(page)
    page.mouse.move(*middle)
    expect(page.locator("#readout")).to_contain_text("mm   1")
    page.get_by_label("later objects overwrite").check()
    for step in range(LONG // 200):
        page.mouse.move(middle[0] + step % 2, middle[1])
        if "mm   2" in page.locator("#readout").inner_text():
            break
        page.wait_for_timeout(200)
    expect(page.locator("#readout")).to_contain_text("mm   2")
    assert page.locator("#objects output").first.inner_text() == first


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_and_nothing_is_cut_off_on_a_small_screen(open_page, scheme):
    page = open_page("flipped.nii.gz", color_scheme=scheme)
    ink, paper = page.evaluate(
        "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
    )
    ink, paper = (sum(map(int, colour[4:-1].split(","))) / (3 * 255) for colour in (ink, paper))
    assert (ink < 0.2 and paper > 0.9) if scheme == "light" else (ink > 0.85 and paper < 0.2)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 1280
    assert page.evaluate("document.scrollingElement.scrollHeight") <= 720
    for name in ("Box", "Erase", "Fit", "Save…", "Extend", "Next object"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
        assert box["y"] >= 0 and box["y"] + box["height"] <= 720


def test_fingers_draw_with_one_and_zoom_with_two(open_page):
    page = open_page(
        "flipped.nii.gz", viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True
    )
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 820
    for button in page.locator("#tools button").all():
        assert button.bounding_box()["height"] >= 43
    left, top, right, bottom = bright_on_screen(page, "axial")
    touch = page.context.new_cdp_session(page)

    def touches(kind, *places):
        points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    middle = (left + right) / 2, (top + bottom) / 2
    touches("touchStart", (left - 6, top - 6))
    touches("touchMove", middle)
    touches("touchMove", (right + 6, bottom + 6))
    touches("touchEnd")
    idle(page)
    assert "box of" in message(page)
    count = page.locator("#objects output").inner_text()
    touches("touchStart", (middle[0] - 20, middle[1]))
    touches("touchStart", (middle[0] - 20, middle[1]), (middle[0] + 20, middle[1]))
    for apart in (30, 40, 50, 60):
        touches("touchMove", (middle[0] - apart, middle[1]), (middle[0] + apart, middle[1]))
    touches("touchEnd")
    page.wait_for_timeout(300)
    now = bright_on_screen(page, "axial")
    assert now[2] - now[0] > 1.8 * (right - left)
    assert page.locator("#objects output").inner_text() == count  # two fingers draw nothing


def test_a_page_that_is_loaded_again_has_its_objects(open_page):
    page = open_page("flipped.nii.gz")
    draw_around(page, "axial")
    size = page.locator("#objects output").inner_text()
    page.reload()
    expect(page.locator("#objects output")).to_have_text(size)
    expect(page.locator("#title")).to_have_text("flipped.nii.gz")


def test_the_pages_scripts_are_small(server):
    client, size = Client(server), 0
    for path in (ROOT / "swiftmedsam" / "server" / "page").iterdir():
        assert client.ask("GET", f"/page/{path.name}")[0] == 200
        size += path.stat().st_size
    assert size < 90_000
