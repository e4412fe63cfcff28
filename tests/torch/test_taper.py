"""How large objects are in each slice of their box, of solids one can check on paper."""

import numpy as np
import pytest

from swiftmedsam.train.tools.taper import BINS, bin_means, main, object_sides
from tests.helpers import make_case_file


def solid(radii):
    """A volume (41, 80, 80) with a disc of that radius in each slice from the tenth on."""
    y, x = np.mgrid[:80, :80] - 40
    gts = np.zeros((41, 80, 80), np.uint8)
    for z, radius in enumerate(radii, start=10):
        gts[z] = x * x + y * y <= radius * radius
    return gts


def shares(lines):
    return [float(word) for word in lines[1].split()[1:]]


def test_a_cylinder_is_as_large_everywhere_and_a_cone_shrinks(tmp_path, capsys):
    found = {}
    for name, radii in (("cylinder", [30] * 21), ("cone", 30 - 3 * abs(np.arange(21) - 10))):
        (tmp_path / name).mkdir()
        make_case_file(tmp_path / name, f"CT_{name}.npz", imgs=solid(radii), gts=solid(radii))
        assert main(["--data", str(tmp_path / name)]) == 0
        found[name] = shares(capsys.readouterr().out.splitlines())
    assert found["cylinder"] == [1] * BINS
    assert np.all(np.diff(found["cone"]) < 0)
    # one pixel is left of 61 at the end, which is the slice 20/21 of the way from the middle
    assert found["cone"][-1] == pytest.approx(1 / 61, abs=0.01)


def test_a_flat_object_has_the_mean_of_both_sides():
    flat = {z: np.array([0, 0, width - 1, 19]) for z, width in enumerate((25, 100, 100, 100, 25))}
    wanted = [(0.8, 0.5), (0.4, 1.0), (0.0, 1.0), (0.4, 1.0), (0.8, 0.5)]
    np.testing.assert_allclose(object_sides(flat), wanted)
    means = bin_means(object_sides(flat))
    assert means[[0, 4, 8]].tolist() == [1.0, 1.0, 0.5]
    assert np.isnan(means[[1, 2, 3, 5, 6, 7, 9]]).all()


def test_a_corpus_without_volumes_is_one_line(corpus, capsys):
    assert main(["--data", str(corpus)]) == 1
    assert capsys.readouterr().err == f"{corpus}: no object in 5 slices or more\n"
