"""What the pages of this repository point at."""

import re

import pytest

from tests.helpers import ROOT

FOLDERS = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
PAGES = sorted([*ROOT.glob("*.md"), *(page for one in FOLDERS for page in one.rglob("*.md"))])


def test_there_are_pages():
    assert {"README.md", "docs/inputs.md"} <= {str(path.relative_to(ROOT)) for path in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_are_there(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    paths = [target for target in targets if not target.startswith(("http:", "https:"))]
    assert [path for path in paths if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_test_files_that_a_page_names_are_there(page):
    names = re.findall(r"tests/[\w/]+\.py", page.read_text())
    assert [name for name in names if not (ROOT / name).is_file()] == []
