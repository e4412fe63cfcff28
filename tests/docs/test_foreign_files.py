"""docs/foreign_files.md is what the program says of files that others ship."""

from scripts.foreign_files import DATA, page
from tests.helpers import ROOT


def rows(text):
    """The rows of its tables, without what libraries say in brackets: it varies with them."""
    return [line.partition(" (")[0] for line in text.splitlines() if line.startswith("| `")]


def test_the_page_of_foreign_files_is_up_to_date():
    text = page()
    for folder in ("charset_files", "nicom", "gifti"):
        assert f"{folder}/" in text
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(DATA)
    assert rows(text) == rows((ROOT / "docs" / "foreign_files.md").read_text())
    assert str(ROOT) not in text
    assert "site-packages" not in text
