"""What is drawn belongs to the slice that was on the screen, however slow the server is."""

import contextlib

import nibabel
import numpy as np
import pytest

from tests.helpers.page import launch
from tests.helpers.server import phantom, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

expect = sync_api.expect
LONG = 240_000  # milliseconds after which a page is given up
SHAPE = 12, 64, 64


@pytest.fixture
def page(tmp_path):
    """A page in one plane, with slice 7 of 12 on the screen."""
    path = tmp_path / "scan.nii.gz"
    volume = phantom(SHAPE, ((6, 32, 32), 10))
    nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([-1.0, -1, 2, 1])), path)
    with serving(path, "--threads", "2", "--quiet", "--no-journal") as server:
        with sync_api.sync_playwright() as playwright:
            browser = launch(playwright)
            made = browser.new_page(viewport={"width": 1000, "height": 700})
            made.set_default_timeout(LONG)
            expect.set_options(timeout=LONG)
            made.goto(server.url + "/")
            expect(made.locator("#title")).to_have_text("scan.nii.gz")
            made.keyboard.press("1")
            shows(made, 6)
            yield made
            browser.close()


def canvas(page):
    return page.locator(".view:visible .picture")


def shows(page, index):
    expect(canvas(page)).to_have_attribute("data-slice", str(index))


def drag(page, between=lambda: None):
    """Drag a box around the object in the middle."""
    place = canvas(page).bounding_box()
    x, y, side = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2, 130
    page.mouse.move(x - side, y - side)
    page.mouse.down()
    page.mouse.move(x, y, steps=3)
    between()
    page.mouse.move(x + side, y + side, steps=3)
    page.mouse.up()


def boxes_of(page):
    """The slices of boxes that are sent from now on."""
    sent = []
    page.on("request", lambda one: sent.append(one.post_data_json["index"])
            if one.url.endswith("/boxes") else None)  # fmt: skip
    return sent


def test_nothing_is_drawn_in_a_slice_that_is_not_on_the_screen(page):
    waiting, sent = [], boxes_of(page)
    page.route("**/slices/axial/*", lambda route: waiting.append(route))  # noqa: PLW0108
    for _ in range(3):  # slices that were not shown yet
        page.keyboard.press("PageUp")
    drag(page)
    expect(page.locator("#message")).to_have_text(
        "This slice is not on the screen yet: nothing was drawn."
    )
    assert sent == []
    page.unroute("**/slices/axial/*")
    for route in waiting:
        with contextlib.suppress(sync_api.Error):  # the page may have given it up
            route.continue_()
    shows(page, 9)
    drag(page)
    expect(page.locator("#views")).to_have_attribute("aria-busy", "false")
    assert sent == [9]


def test_the_slice_does_not_change_while_a_box_is_drawn(page):
    sent = boxes_of(page)
    drag(page, between=lambda: page.mouse.wheel(0, -300))
    expect(page.locator("#message")).to_contain_text("box of")
    shows(page, 6)
    page.mouse.wheel(0, -300)
    shows(page, 7)
    assert sent == [6]
