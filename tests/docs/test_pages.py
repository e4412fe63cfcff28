"""What the pages of this repository point at."""

import re

import numpy as np
import pytest
from PIL import Image

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


def test_the_animated_picture_is_small_and_short():
    with Image.open(ROOT / "docs" / "page.webp") as picture:
        assert picture.width <= 800
        frames, seconds = [], 0.0
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB"), np.int16))
            seconds += picture.info["duration"] / 1000
    assert 2 <= seconds <= 4
    assert (ROOT / "docs" / "page.webp").stat().st_size < 400_000
    blue = [(frame[..., 2] - frame[..., 0] > 60).sum() for frame in frames]  # buttons, and masks
    assert blue[-1] > blue[0] + 5000
