"""The page in a browser: what a person sees and does, and a volume with one object to be found.

Whoever imports this needs playwright; `browser`, `scans`, `server` and `open_page` are fixtures of
tests/server/conftest.py.
"""

import contextlib
import re

import cv2
import nibabel
import numpy as np
from playwright.sync_api import expect

from tests.helpers import ROOT
from tests.helpers.dicom import series
from tests.helpers.scans import rotation

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


def make_scans(base):
    """Write scans of all kinds into a folder; return it."""
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


@contextlib.contextmanager
def pages_of(browser, server):
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

    try:
        yield open_with
    finally:
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
