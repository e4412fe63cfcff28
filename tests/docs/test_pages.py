"""What the pages of this repository point at."""

import re

import pytest

from tests.helpers import ROOT

PAGES = sorted(
    page for folder in (".", "app", "benchmarks", "docs", "train", "weights", "weights/v1",
                        "weights/v2") for page in (ROOT / folder).glob("*.md")
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_are_there(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    paths = [target for target in targets if not target.startswith(("http:", "https:"))]
    assert [path for path in paths if not (page.parent / path).exists()] == []


def test_the_readme_shows_demo_cases_and_the_report():
    text = (ROOT / "README.md").read_text()
    assert "](docs/demo.png)" in text and '<img src="docs/report.png"' in text
