"""Servers with scans to open, and a browser: for the tests of the page.

It imports pytest alone, as tests/conftest.py does.
"""

import pytest

# For tests that send the page's requests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder `root` with scans in it, and beside it what nobody may open."""
    from tests.helpers.page_requests import make_folder

    return make_folder(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def client(folder):
    """A client of a server that may open the files in `root`, and a named one."""
    from tests.helpers.page import Client
    from tests.helpers.server import serving

    with serving(
        folder / "named.nii.gz", "--root", folder / "root", "--threads", "1", "--quiet",
        "--max-upload", "3M", "--no-journal",
    ) as server:  # fmt: skip
        yield Client(server)


@pytest.fixture
def image(client):
    """A new image, and the path of its requests."""
    described = client.fine("POST", "/api/images", {"file": "root/scan.nii.gz"})
    yield described, f"/api/images/{described['id']}"
    client.ask("DELETE", f"/api/images/{described['id']}")


# For tests in a browser


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from tests.helpers.page import launch

    with sync_api.sync_playwright() as playwright:
        opened = launch(playwright)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of scans: volumes, a DICOM series, a picture."""
    from tests.helpers.browsing import make_scans

    return make_scans(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def server(scans):
    """A server that may open them."""
    from tests.helpers.server import serving

    words = "--threads", "2", "--quiet", "--sessions", "32", "--no-journal"
    with serving("--root", scans, *words) as running:
        yield running


@pytest.fixture
def open_page(browser, server):
    """A function that opens the page with a file; in the end nothing was complained of."""
    from tests.helpers.browsing import pages_of

    with pages_of(browser, server) as opening:
        yield opening
