"""How the page is used, in a real browser: keys, fingers, window, errors, and a reload."""

import nibabel
import numpy as np
import pytest

from tests.helpers import ROOT, dsc
from tests.helpers.page import Client

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.helpers.browsing import (  # noqa: E402 - it needs playwright
    LONG,
    SHAPE,
    bright_on_screen,
    drag,
    draw_around,
    idle,
    message,
    object_mask,
    saved,
    view,
    voxel_at,
)

expect = sync_api.expect


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
