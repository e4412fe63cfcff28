"""`python -m benchmarks.speed.serving`: each of its figures is of what it says."""

import re

import nibabel
import numpy as np
import pytest

from benchmarks.speed import serving
from tests.helpers.server import serving as served


@pytest.fixture
def small(monkeypatch):
    """The same work in few slices, and without the pauses of a person."""
    for name, value in {"OPENED_SLICES": 8, "MOST_REST": 0.1, "PAUSE": 0.1}.items():
        monkeypatch.setattr(serving, name, value)


def printed(capsys):
    """Milliseconds by what was done, and the rows that have a target."""
    out = capsys.readouterr().out
    rows = re.findall(r"^(.+?) +([\d.]+) ms(  target \d+ ms)?$", out, re.MULTILINE)
    return {name: float(ms) for name, ms, _ in rows}, {name for name, _, target in rows if target}


def test_boxes_strokes_and_opening_are_measured_on_a_server_of_its_own(small, capsys):
    assert serving.main(["--rounds", "1", "--precision", "f32"]) == 0
    took, aimed = printed(capsys)
    rows = {*serving.ENCODED, serving.FILE_OPENED, serving.STROKE_AFTER, serving.STROKE_LATER}
    assert aimed == rows
    assert took.keys() == rows | {"volume sent and opened", "encoder alone"}
    assert min(took.values()) > 0


def test_the_page_itself_can_be_timed_in_a_browser(small, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from tests.helpers.page import launch

    with sync_api.sync_playwright() as playwright:
        launch(playwright).close()  # skips, or fails in CI, where there is no browser
    path = tmp_path / serving.FILE
    nibabel.save(nibabel.Nifti1Image(serving.volume(8).T, np.diag([-1, -1, 2, 1])), path)
    seconds = {serving.ON_SCREEN: []}
    with served(path, "--threads", "1", "--quiet", "--no-journal", "--sessions", "1") as server:
        serving.opening_on_screen(server.url, 2, seconds)  # the first image is closed in between
    assert len(seconds[serving.ON_SCREEN]) == 2
    assert min(seconds[serving.ON_SCREEN]) > 0


def test_a_stroke_is_timed_until_its_labels_are_there(tmp_path):
    path = tmp_path / serving.FILE
    nibabel.save(nibabel.Nifti1Image(serving.volume(3).T, np.diag([-1, -1, 2, 1])), path)
    with served(path, "--threads", "1", "--quiet", "--no-journal") as server:
        page = serving.Page(server.url)
        image, plane, index = page.open()
        assert page.stroke(image, plane, index, serving.STROKE) > 0
        labels, _ = page.ask("GET", f"{image}/labels/{plane}/{index}")
        found = np.frombuffer(labels, "<u2").reshape(serving.SIDE, serving.SIDE)
        rows, columns = np.nonzero(found)
        first, place = (rows[0], columns[0]), serving.STROKE
        assert first == (place["row"], place["column"])
        assert len(rows) == place["rows"] * place["columns"]
        with pytest.raises(RuntimeError, match="slice should be one of"):
            page.stroke(image, plane, 99, place)
        page.close()
