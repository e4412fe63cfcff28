"""The report in a real browser: headless Chromium, driven by playwright.

Skipped where there is no browser: Debian has one as `chromium`, and `python -m playwright install
chromium` fetches another.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.report import HOSTILE, IMAGE, OTHER, SLICES, VOLUME, make_folders, write

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
WORST_FIRST = [OTHER, VOLUME, IMAGE, HOSTILE.replace("\n", "\\n")]
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        paths = [*filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path]
        found = [path for path in paths if Path(path).exists()]
        if not found:
            reason = f"no browser: neither {', '.join(NAMES)} nor playwright's own is here"
            if os.environ.get("REQUIRE_BROWSER"):  # .ci/run has installed it
                pytest.fail(reason)
            pytest.skip(reason)
        # no sandbox: root has none, and the page is our own
        opened = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The file of a page of four cases."""
    folders = make_folders(tmp_path_factory.mktemp("report"))
    write(folders)
    return folders[0].parent / "report.html"


@pytest.fixture
def open_page(browser, report):
    """A function that opens the page; in the end nothing was complained of and nothing fetched."""
    contexts, complaints, requests = [], [], []

    def open_with(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_with
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]


def names(page):
    """Files in the order of the table's visible rows."""
    rows = page.locator("#table tbody tr:visible th")
    return [row.get_attribute("data-value") for row in rows.all()]


def sections(page):
    """The visible sections' numbers, in their order."""
    return [each.get_attribute("id") for each in page.locator("section:visible").all()]


def heading(page, text):
    return page.locator("#table thead th", has_text=text)


def volume(page):
    return page.locator("section", has_text=VOLUME.removesuffix(".npz"))


def test_the_page_opens_with_the_worst_case_first(open_page):
    page = open_page()
    assert names(page) == WORST_FIRST
    assert sections(page) == [f"case-{number}" for number in range(1, 5)]
    pictures = page.locator("image").evaluate_all(
        "images => Promise.all(images.map(image => {"
        "  const copy = new Image(); copy.src = image.href.baseVal; return copy.decode()"
        "})).then(() => images.length)"
    )
    assert pictures == 4 + 3 + 6 + 2  # thumbnails, images, slices, planes: each can be decoded


def test_a_heading_sorts_and_sorts_back(open_page):
    page = open_page()
    button = heading(page, "Case").get_by_role("button")
    button.click()
    assert names(page) == sorted(WORST_FIRST)
    assert heading(page, "Case").get_attribute("aria-sort") == "ascending"
    assert sections(page) == ["case-4", "case-3", "case-1", "case-2"]
    button.click()
    assert names(page) == sorted(WORST_FIRST)[::-1]
    assert heading(page, "Case").get_attribute("aria-sort") == "descending"


def test_numbers_sort_as_numbers_with_the_keyboard_and_unknown_ones_stay_last(open_page):
    page = open_page()
    button = heading(page, "DSC %").get_by_role("button")
    button.press("Enter")
    assert names(page) == WORST_FIRST  # 0, 67, 100, not known
    button.press("Enter")
    assert names(page) == [IMAGE, VOLUME, OTHER, WORST_FIRST[3]]
    assert heading(page, "Case").get_attribute("aria-sort") is None


def test_the_filter_leaves_the_cases_of_a_modality(open_page):
    page = open_page()
    assert page.locator("#count").inner_text() == "4 of 4 cases"
    page.get_by_label("Modality").select_option("MR")
    assert names(page) == [VOLUME] and sections(page) == ["case-2"]
    assert page.locator("#count").inner_text() == "1 of 4 cases"
    heading(page, "Case").get_by_role("button").click()  # sorting brings none back
    assert names(page) == [VOLUME]
    page.get_by_label("Modality").select_option("")
    assert len(names(page)) == len(sections(page)) == 4


def test_the_slider_goes_through_the_slices(open_page):
    section = volume(open_page())
    slider = section.get_by_role("slider")
    captions = section.locator(".slices figcaption:visible")
    assert captions.all_inner_texts() == SLICES[3:4]  # the middle one
    slider.press("ArrowRight")
    assert captions.all_inner_texts() == SLICES[4:5]
    assert slider.get_attribute("aria-valuetext") == SLICES[4]
    slider.press("End")
    assert captions.all_inner_texts() == SLICES[5:]
    section.get_by_label("all slices").check()
    assert captions.all_inner_texts() == SLICES
    assert slider.is_disabled()


def test_lines_can_be_switched_off(open_page):
    page = open_page()
    lines = {layer: page.locator(f"#case-3 figure g.{layer}") for layer in ("mask", "truth", "box")}
    assert all(each.is_visible() for each in lines.values())
    page.get_by_label("mask, solid").uncheck()
    assert [layer for layer, each in lines.items() if not each.is_visible()] == ["mask"]


def test_without_script_there_is_a_montage_and_no_dead_control(open_page):
    page = open_page(java_script_enabled=False)
    assert names(page) == WORST_FIRST
    assert len(volume(page).locator(".slices figure:visible").all()) == 6
    assert not page.get_by_label("Modality").is_visible()
    assert page.get_by_role("slider").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(open_page, scheme):
    page = open_page(color_scheme=scheme)
    ink, paper = page.evaluate(
        "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
    )
    ink, paper = (sum(map(int, colour[4:-1].split(","))) / (3 * 255) for colour in (ink, paper))
    assert (ink < 0.2 and paper > 0.9) if scheme == "light" else (ink > 0.85 and paper < 0.2)


def test_a_phone_scrolls_up_and_down_only(open_page):
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    box = volume(page).locator(".slices figure:visible").bounding_box()
    assert box["width"] > 0.8 * PHONE["width"]
