"""What the teacher computes, kept on disk: targets for block-wise repair.

A cache is a folder of memory-mapped arrays, one row a picture: the input as uint8, its label map,
and, as float16, the features after each encoder stage that a student shortens. About 10 MB a row.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from app.frame import INPUT_SIZE, Frame
from swiftmedsam import SwiftMedSAM
from train.augment import Augmentation, crop_around, flip_and_turn
from train.data import BalancedSampler, objects_of, read_corpus

# Name of the array, type and shape of a row.
INPUTS = {
    "pixels": (np.uint8, (3, INPUT_SIZE, INPUT_SIZE)),
    "labels": (np.uint16, (INPUT_SIZE, INPUT_SIZE)),
}
FEATURES = {  # `after_K` is the output of stage K, its patch merge included
    "after_0": (np.float16, (128, 128, 128)),
    "after_1": (np.float16, (160, 64, 64)),
    "after_2": (np.float16, (320, 64, 64)),
    "embedding": (np.float16, (256, 64, 64)),
}
ROWS = INPUTS | FEATURES


def encoder_features(model: SwiftMedSAM, pixels: Tensor) -> dict[str, Tensor]:
    """Features by the names of `FEATURES`, each (B, C, H, W), of `pixels` (B, 3, 256, 256)."""
    encoder = model.image_encoder
    features = {}
    x = encoder.patch_embed(pixels)
    for i, stage in enumerate(encoder.layers):
        x = stage(x)
        features[f"after_{i}"] = x
    features["embedding"] = encoder.neck(x)
    return {name: features[name] for name in FEATURES}


def frame_labels(labels: np.ndarray) -> np.ndarray:
    """Label map (H, W) in the frame of the input, (256, 256) uint16, 0 in the padding."""
    height, width = Frame(*labels.shape).inner
    framed = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint16)
    framed[:height, :width] = cv2.resize(
        labels.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return framed


def draw_picture(
    sampler: BalancedSampler, options: Augmentation, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Framed pixels (3, 256, 256) uint8 and labels (256, 256) of a picture, geometry augmented."""
    while True:
        image, labels = sampler.draw(random).read()
        ids = objects_of(labels)
        if ids.size:
            break
    if random.random() < options.crop:
        image, labels = crop_around(image, labels, int(random.choice(ids)), random)
    image, labels = flip_and_turn(image, labels, options, random)
    pixels = Frame(*image.shape[:2]).pixels(image)[0]
    return np.round(pixels * 255).astype(np.uint8), frame_labels(labels)


def write_cache(teacher: SwiftMedSAM, corpus: Path, folder: Path, count: int, seed: int) -> None:
    """Make a cache of `count` pictures in `folder`; its file `done` says how many are there."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count, *shape))
        for name, (dtype, shape) in ROWS.items()
    }
    teacher = teacher.to(memory_format=torch.channels_last)
    sampler, random = BalancedSampler(read_corpus(corpus)), np.random.default_rng(seed)
    for row in range(count):
        pixels, labels = draw_picture(sampler, Augmentation(), random)
        arrays["pixels"][row], arrays["labels"][row] = pixels, labels
        batch = torch.from_numpy(pixels).unsqueeze(0).float() / 255
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            features = encoder_features(teacher, batch.to(memory_format=torch.channels_last))
        for name, value in features.items():
            arrays[name][row] = value[0].float().numpy()
        (folder / "done").write_text(str(row + 1))


def read_cache(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a cache, memory-mapped, cut to the rows that are filled."""
    done = int((folder / "done").read_text())
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:done] for name in ROWS}
