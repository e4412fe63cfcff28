"""The organisers' metrics, transcribed, beside evaluation's JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reference.official_metrics import main
from swiftmedsam.evaluation.__main__ import main as evaluate

IMAGE, VOLUME, MISSING = "2DBox_US_1.npz", "3DBox_MR_1.npz", "2DBox_US_2.npz"


@pytest.fixture
def scored(tmp_path):
    """Arguments: outputs, truth, and their scores in both orders of spacing."""
    segs, gts = tmp_path / "segs", tmp_path / "gts"
    segs.mkdir()
    gts.mkdir()
    image, volume = np.zeros((9, 14), np.uint8), np.zeros((6, 8, 11), np.uint8)
    image[2:6, 3:11], volume[1:4, 2:6, 3:9], volume[0, 0, 0] = 1, 1, 2
    for name in (IMAGE, MISSING):
        np.savez(gts / name, gts=image)
    np.savez(gts / VOLUME, gts=volume, spacing=[1.0, 2.0, 3.0])
    np.savez(segs / IMAGE, segs=np.roll(image, 3, axis=1))
    np.savez(segs / VOLUME, segs=np.roll(volume, 1, axis=0) * (volume < 2))  # 2 is not found
    files = [tmp_path / "array.json", tmp_path / "official.json"]
    for file, words in zip(files, ([], ["--official"]), strict=True):
        words = [segs, gts, "--processes", 1, "--json", file, *words]
        assert evaluate([str(word) for word in words]) == 0
    return [str(path) for path in (segs, gts, *files)]


def test_evaluation_equals_the_organisers_metrics_in_both_orders_of_spacing(scored, capsys):
    array, official = (json.loads(Path(file).read_text()) for file in scored[2:])
    assert array["cases"][2]["nsd"] != official["cases"][2]["nsd"]  # else the order is not tested
    capsys.readouterr()
    assert main(scored) == 0
    printed = capsys.readouterr().out
    assert MISSING not in printed
    for file, order in zip(scored[2:], ("array order", "official"), strict=True):
        assert f"{file}, spacing {order}: 2 cases, DSC 0.0e+00, NSD 0.0e+00\n" in printed


@pytest.mark.parametrize("metric", ["dsc", "nsd"])
def test_a_score_that_is_off_by_more_than_a_millionth_is_told(scored, metric, capsys):
    *folders, _, file = scored
    document = json.loads(Path(file).read_text())
    document["cases"][2][metric] += 2e-6
    Path(file).write_text(json.dumps(document))
    assert main([*folders, file]) == 1
    assert f"{metric.upper()} 2.0e-06" in capsys.readouterr().out
