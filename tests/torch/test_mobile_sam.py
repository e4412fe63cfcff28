"""MobileSAM behind LiteMedSAM's network: what it is shown, and that no tensor is left over."""

import numpy as np
import pytest
import torch

from benchmarks.reference.mobile_sam import PIXEL_MEAN, PIXEL_STD, SIZE, load_mobile_sam, pixels_of
from swiftmedsam.torch_model import LITE, SwiftMedSAM, save_model


def test_the_longer_side_becomes_1024_and_the_rest_is_zero():
    image = np.full((100, 400, 3), 255, np.uint8)
    pixels, scale = pixels_of(image)
    assert pixels.shape == (1, 3, SIZE, SIZE)
    assert scale == SIZE / 400
    white = torch.from_numpy((255 - PIXEL_MEAN) / PIXEL_STD)
    torch.testing.assert_close(pixels[0, :, 255, 1023], white)
    assert not pixels[0, :, 256:].any()
    np.testing.assert_array_equal(pixels_of(image[:, :, 0])[0], pixels)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save_model(SwiftMedSAM(LITE), tmp_path / "lite.safetensors")  # its patches are single pixels
    with pytest.raises(RuntimeError, match="size mismatch for image_encoder.patch_embed"):
        load_mobile_sam(tmp_path / "lite.safetensors")
