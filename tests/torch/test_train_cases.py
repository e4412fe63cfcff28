"""Training pictures as cases of the program, to calibrate on."""

import numpy as np

from swiftmedsam.npz import read_case
from swiftmedsam.train.tools import cases


def test_some_pictures_become_cases_of_the_program_with_boxes_around_their_objects(
    corpus, tmp_path, capsys
):
    """Both pictures of the corpus, though more are asked for."""
    words = ["--data", str(corpus), "--out", str(tmp_path / "cases"), "--count", "5"]
    assert cases.main(words) == 0
    assert capsys.readouterr().out.endswith("cases: 2 cases\n")
    for path in sorted((tmp_path / "cases").iterdir()):
        case = read_case(path)
        (source,) = corpus.glob(f"*{path.stem.rpartition('-')[2]}.npz")
        with np.load(source) as archive:
            np.testing.assert_array_equal(case.image, archive["imgs"])
            y, x = np.nonzero(archive["gts"])
        np.testing.assert_array_equal(case.boxes, [[x.min(), y.min(), x.max(), y.max()]])


def test_no_pictures_make_no_cases(tmp_path, capsys):
    assert cases.main(["--data", str(tmp_path), "--out", str(tmp_path / "cases")]) == 1
    assert "no .tar shard and no .npz file" in capsys.readouterr().err
    assert not (tmp_path / "cases").exists()
