"""Segment images with MobileSAM: `python -m benchmarks.reference.mobile_sam INPUTS OUTPUTS`.

LiteMedSAM was trained from MobileSAM (Zhang et al., "Faster Segment Anything", 2023). MobileSAM was
not trained on medical images, but sees 1024 x 1024 pixels. Its network is that of LiteMedSAM after
a patch embedding that shrinks the sides to a quarter. Images only.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swiftmedsam import read_case, write_labels
from swiftmedsam.result import label_dtype
from swiftmedsam.torch_model import LITE, SwiftMedSAM
from swiftmedsam.torch_model.checkpoint import read_state_dict
from swiftmedsam.torch_model.tiny_vit import ConvNorm

LONGER_SIDE = 1024  # pixels of the longer side
SHRINK = 4  # from LONGER_SIDE to the 256 of the first stage of LiteMedSAM
BATCH = 16  # boxes
# SAM's normalisation (Kirillov et al., 2023, code: sam.py), RGB in 0..255.
PIXEL_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
PIXEL_STD = np.array([58.395, 57.12, 57.375], np.float32)
# The checkpoint also holds the head of a classifier.
UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")


def load_mobile_sam(checkpoint: Path) -> SwiftMedSAM:
    """Return MobileSAM with the weights of `checkpoint`; every tensor must be there and fit."""
    model = SwiftMedSAM(LITE)
    first = LITE.encoder_dims[0]
    model.image_encoder.patch_embed.seq = nn.Sequential(
        ConvNorm(3, first // 2, 3, stride=2), nn.GELU(), ConvNorm(first // 2, first, 3, stride=2)
    )
    state = read_state_dict(checkpoint)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith(UNUSED)})
    return model.eval().to(memory_format=torch.channels_last)


def pixels_of(image: np.ndarray) -> tuple[Tensor, float]:
    """Return the input (1, 3, 1024, 1024) of an image (H, W[, 3]), and the scale."""
    scale = LONGER_SIDE / max(image.shape[:2])
    colour = image if image.ndim == 3 else np.repeat(image[:, :, np.newaxis], 3, axis=2)
    height, width = (round(side * scale) for side in image.shape[:2])
    resized = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
    normal = (resized.astype(np.float32) - PIXEL_MEAN) / PIXEL_STD
    padded = np.zeros((LONGER_SIDE, LONGER_SIDE, 3), np.float32)
    padded[:height, :width] = normal
    return torch.from_numpy(padded).permute(2, 0, 1).unsqueeze(0), scale


def segment_image(model: SwiftMedSAM, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the labels (H, W) of an image and boxes (N, 4); the later box wins."""
    pixels, scale = pixels_of(image)
    # our prompt encoder uses (box + 0.5) / 256, that of SAM (box + 0.5) / 1024
    prompts = torch.from_numpy((boxes * scale + 0.5) / SHRINK - 0.5).float()
    labels = np.zeros(image.shape[:2], label_dtype(len(boxes)))
    height, width = (round(side * scale) for side in image.shape[:2])
    with torch.inference_mode():
        embedding = model.encode(pixels.contiguous(memory_format=torch.channels_last))
        for start in range(0, len(prompts), BATCH):
            logits, _ = model.decode(embedding, prompts[start : start + BATCH])
            for number, low in enumerate(logits, start=start + 1):
                large = F.interpolate(low[None, None], (LONGER_SIDE, LONGER_SIDE), mode="bilinear")
                inner = large[:, :, :height, :width]
                full = F.interpolate(inner, image.shape[:2], mode="bilinear")
                labels[(full[0, 0] > 0).numpy()] = number
    return labels


def main(argv: Sequence[str] | None = None) -> int:
    """Segment a folder's images; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.reference.mobile_sam")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("weights/checkpoints/mobile_sam.pt"),
        help="from python -m convert --fetch-mobile-sam (default %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    model = load_mobile_sam(options.checkpoint)
    options.outputs.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.inputs.glob("2DBox_*.npz")):
        case = read_case(path)
        write_labels(options.outputs / path.name, segment_image(model, case.image, case.boxes))
        print(path.name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
