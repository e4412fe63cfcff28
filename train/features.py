"""What the teacher computes, kept on disk: targets for block-wise repair.

A cache is a folder of memory-mapped arrays, one row a picture: the input as uint8 and, as float16,
the features after each encoder stage that a student shortens. About 10 MB a picture.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.frame import Frame
from swiftmedsam import SwiftMedSAM
from train.augment import Augmentation, crop_around, flip_and_turn
from train.data import BalancedSampler, objects_of, read_corpus

# Name of the array, shape of a row. `after_K` is the output of stage K, its patch merge included.
ROWS = {
    "after_0": (128, 128, 128),
    "after_1": (160, 64, 64),
    "after_2": (320, 64, 64),
    "embedding": (256, 64, 64),
}


def encoder_features(model: SwiftMedSAM, pixels: Tensor) -> dict[str, Tensor]:
    """Features by the names of `ROWS`, each (B, C, H, W), of `pixels` (B, 3, 256, 256)."""
    encoder = model.image_encoder
    features = {}
    x = encoder.patch_embed(pixels)
    for i, stage in enumerate(encoder.layers):
        x = stage(x)
        features[f"after_{i}"] = x
    features["embedding"] = encoder.neck(x)
    return {name: features[name] for name in ROWS}


def _pictures(corpus: Path, seed: int) -> Iterator[np.ndarray]:
    """Framed pixels (3, 256, 256) uint8 without end, geometry augmented."""
    sampler = BalancedSampler(read_corpus(corpus))
    random = np.random.default_rng(seed)
    options = Augmentation()
    while True:
        image, labels = sampler.draw(random).read()
        ids = objects_of(labels)
        if ids.size == 0:
            continue
        if random.random() < options.crop:
            image, labels = crop_around(image, labels, int(random.choice(ids)), random)
        image, labels = flip_and_turn(image, labels, options, random)
        pixels = Frame(*image.shape[:2]).pixels(image)[0]
        yield np.round(pixels * 255).astype(np.uint8)


def write_cache(teacher: SwiftMedSAM, corpus: Path, folder: Path, count: int, seed: int) -> None:
    """Make a cache of `count` pictures in `folder`; `folder/done` tells how many rows are filled."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "pixels": np.lib.format.open_memmap(
            folder / "pixels.npy", "w+", np.uint8, (count, 3, 256, 256)
        )
    }
    for name, shape in ROWS.items():
        arrays[name] = np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float16, (count, *shape)
        )
    teacher = teacher.to(memory_format=torch.channels_last)
    for row, pixels in zip(range(count), _pictures(corpus, seed), strict=False):
        arrays["pixels"][row] = pixels
        batch = torch.from_numpy(pixels).unsqueeze(0).float() / 255
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            features = encoder_features(teacher, batch.to(memory_format=torch.channels_last))
        for name, value in features.items():
            arrays[name][row] = value[0].float().numpy()
        (folder / "done").write_text(str(row + 1))


def read_cache(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a cache, memory-mapped, cut to the rows that are filled."""
    done = int((folder / "done").read_text())
    return {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")[:done] for name in ("pixels", *ROWS)
    }
