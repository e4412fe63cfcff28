"""A cache of the teacher's features on disk: the targets of the repair.

A cache is a folder of memory-mapped arrays with one row for each picture: the input as uint8, its
label map, and, as float16, the features after each encoder stage that a student shortens. A row
takes about 10 MB.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.torch_model.architecture import INPUT_SIZE
from swiftmedsam.train.data.corpus import Source
from swiftmedsam.train.machine.precision import cpu_autocast

# Name of the array, type and shape of a row.
INPUTS = {
    "pixels": (np.uint8, (3, INPUT_SIZE, INPUT_SIZE)),
    "labels": (np.uint16, (INPUT_SIZE, INPUT_SIZE)),
}
FEATURES = {  # `after_K` is the output of stage K, after its patch merge
    "after_0": (np.float16, (128, 128, 128)),
    "after_1": (np.float16, (160, 64, 64)),
    "after_2": (np.float16, (320, 64, 64)),
    "embedding": (np.float16, (256, 64, 64)),
}
ROWS = INPUTS | FEATURES


def encoder_features(model: SwiftMedSAM, pixels: Tensor) -> dict[str, Tensor]:
    """Return the features (B, C, H, W) of `pixels` (B, 3, 256, 256), named as in `FEATURES`."""
    encoder = model.image_encoder
    features = {}
    x = encoder.patch_embed(pixels)
    for i, stage in enumerate(encoder.layers):
        x = stage(x)
        features[f"after_{i}"] = x
    features["embedding"] = encoder.neck(x)
    return {name: features[name] for name in FEATURES}


def write_cache(teacher: SwiftMedSAM, source: Source, folder: Path, count: int, seed: int) -> None:
    """Make a cache of `count` pictures in `folder`. The file `done` holds the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count, *shape))
        for name, (dtype, shape) in ROWS.items()
    }
    teacher = teacher.to(memory_format=torch.channels_last)
    random = np.random.default_rng(seed)
    for row in range(count):
        pixels, labels, _ = source.draw(random)
        arrays["pixels"][row], arrays["labels"][row] = pixels, labels
        batch = torch.from_numpy(pixels).unsqueeze(0).float() / 255
        with torch.inference_mode(), cpu_autocast():
            features = encoder_features(teacher, batch.to(memory_format=torch.channels_last))
        for name, value in features.items():
            arrays[name][row] = value[0].float().numpy()
        (folder / "done").write_text(str(row + 1))


def read_cache(folder: Path) -> dict[str, np.ndarray]:
    """Return the memory-mapped arrays of a cache, cut to the rows that are filled."""
    done = int((folder / "done").read_text())
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:done] for name in ROWS}
