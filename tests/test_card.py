"""Scores in the tables of a document."""

import json

import pytest

from evaluation import card

DOCUMENT = """# Title
| modality | cases | old `exact` | new `best` |
|---|---|---|---|
| CT | 2 | 1.0 / 2.0 | 3.0 / 4.0 |
| US | 2 | 1.0 / 2.0 | 3.0 / 4.0 |
| **Average of modalities** | 4 | **1.0 / 2.0** | **3.0 / 4.0** |

text with a | in it

| data set | new `best` |
|---|---|
| US_A | ? |
| elsewhere | as it was |
"""


def group(name, dsc, nsd):
    return {"name": name, "dsc": dsc, "nsd": nsd}


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.json"
    modalities = [group("CT", 0.5, 0.25), group("US", 0.75, 0.8514), group("MR", 0.1, 0.1)]
    path.write_text(json.dumps({"modalities": modalities, "datasets": [group("US_A", 1, 0.5)]}))
    return path


def test_cells_of_the_column_become_scores_and_the_rest_stays(scores, tmp_path):
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT)
    assert card.main([str(document), f"new `best`={scores}"]) == 0
    wanted = DOCUMENT
    for old, new in (
        ("| CT | 2 | 1.0 / 2.0 | 3.0 / 4.0 |", "| CT | 2 | 1.0 / 2.0 | 50.0 / 25.0 |"),
        ("| US | 2 | 1.0 / 2.0 | 3.0 / 4.0 |", "| US | 2 | 1.0 / 2.0 | 75.0 / 85.1 |"),
        ("**3.0 / 4.0**", "**62.5 / 55.1**"),  # MR is not in the table
        ("| US_A | ? |", "| US_A | 100.0 / 50.0 |"),
    ):
        assert old in wanted
        wanted = wanted.replace(old, new)
    assert document.read_text() == wanted


@pytest.mark.parametrize(
    ("column", "content", "complaint"),
    [
        ("other", None, "README.md: no table has a column 'other'"),
        ("CT", None, "README.md: no table has a column 'CT'"),  # a row, no heading
        ("new `best`", '{"modalities": [{"name": "CT", "dsc": null}], "datasets": []}',
         "x.json: no scores of python -m evaluation --json"),
        ("new `best`", "not json", "x.json: no scores of python -m evaluation --json"),
        ("new `best`", "{}", "x.json: no scores of python -m evaluation --json"),
    ],
)
def test_what_cannot_be_put_in_is_one_line_and_changes_nothing(
    column, content, complaint, scores, tmp_path, capsys
):
    document, path = tmp_path / "README.md", tmp_path / "x.json"
    document.write_text(DOCUMENT)
    path.write_text(content or scores.read_text())
    assert card.main([str(document), f"{column}={path}"]) == 1
    assert capsys.readouterr().err == complaint + "\n"
    assert document.read_text() == DOCUMENT


def test_a_column_without_a_name_is_wrong_usage(scores, tmp_path):
    with pytest.raises(SystemExit):
        card.main([str(tmp_path / "README.md"), str(scores)])


def test_a_row_with_too_few_cells_is_told(scores, tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text("| data set | new |\n|---|---|\n| US_A |\n")
    assert card.main([str(document), f"new={scores}"]) == 1
    assert "README.md: a row of the table '| data set | new |'" in capsys.readouterr().err
