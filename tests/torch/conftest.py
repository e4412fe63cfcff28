"""Fixtures of the tests of convert and train: a corpus and a cache of features."""

import copy

import numpy as np
import pytest

from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.data.stream import CorpusSource
from swiftmedsam.train.repair import features
from tests.helpers import ellipse, make_case_file, picture
from tests.helpers.torch_model import CACHE_PICTURES


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Two training files of the challenge: a large ellipse each, one in colour and one in grey."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, name in enumerate(("2DBox_Endoscopy_0.npz", "2DBox_US_1.npz")):
        mask = ellipse(90, 120, (50, 55 + 10 * i), (35, 45))
        image = picture(90, 120, mask, colour=i == 0)
        make_case_file(folder, name, imgs=image, gts=mask.astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def tiny_rows():
    """The arrays of a cache, in the widths of the tiny network."""
    widths = {"after_0": (8, 128, 128), "after_1": (8, 64, 64), "after_2": (16, 64, 64),
              "embedding": (32, 64, 64)}  # fmt: skip
    return features.INPUTS | {name: (np.float16, shape) for name, shape in widths.items()}


@pytest.fixture(scope="session")
def cache(tiny_model, corpus, tiny_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "ROWS", tiny_rows)
        source = CorpusSource(corpus, Augmentation(extent=0))
        features.write_cache(copy.deepcopy(tiny_model), source, folder, CACHE_PICTURES, seed=1)
    return folder
