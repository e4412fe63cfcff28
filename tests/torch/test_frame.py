"""Masks of a slice's size beside those that the baseline's interpolation gives."""

import cv2
import numpy as np
import pytest
import torch

from swiftmedsam.frame import Frame
from swiftmedsam.masks import Answer, mask_of

# Both interpolate in float32 from positions rounded differently: a logit may change its sign only
# where it is 0 but for rounding.
MASK_DISAGREEMENT = 1e-3  # of the pixels
SHAPES = [(48, 80), (80, 48), (256, 256), (300, 200), (123, 457), (512, 511), (1000, 30), (31, 17)]


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_torchs_bilinear_interpolation(shape):
    frame = Frame(*shape)
    coarse = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    logits = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
    height, width = frame.inner
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(logits[None, None, :height, :width]), shape, mode="bilinear"
    )[0, 0]
    patch = mask_of([Answer(frame, logits, (0, 0))], frame.span)
    mask = np.zeros(shape, bool)
    mask[patch.rows, patch.columns] = patch.mask
    assert 0.2 < mask.mean() < 0.8
    assert (mask != (wanted > 0).numpy()).mean() <= MASK_DISAGREEMENT
