"""Batches that the teacher has already seen, to train on them again.

The teacher's encoder takes longer than a step of a small student. What it says does not depend on
the changes of intensity, so a batch can return with other ones.
"""

import numpy as np
import torch

from swiftmedsam.train.data.augment import Augmentation, change_intensity
from swiftmedsam.train.data.stream import Batch

# Batches of 8 pictures take 20 MB each: an embedding is 2 MB in bfloat16.
KEPT = 256


COARSE = ("embedding", "answers")  # kept in bfloat16


class Replay:
    """The last `KEPT` batches with what the teacher said of them, in main memory."""

    def __init__(self, augmentation: Augmentation, seed: int, kept: int = KEPT) -> None:
        self._augmentation, self._kept = augmentation, kept
        self._random = np.random.default_rng(seed)
        self._batches: list[Batch] = []
        self._added = 0

    def add(self, batch: Batch) -> None:
        """Keep `batch`; if there are too many, in place of the oldest one."""
        small = {name: tensor.cpu() for name, tensor in batch.items() if name != "pixels"}
        small["clean"] = (small["clean"] * 255).round().to(torch.uint8)
        small["targets"] = small["targets"].to(torch.bool)
        small |= {name: small[name].to(torch.bfloat16) for name in COARSE if name in small}
        if len(self._batches) < self._kept:
            self._batches.append(small)
        else:
            self._batches[self._added % self._kept] = small
        self._added += 1

    def draw(self) -> Batch:
        """Return one of the batches, drawn at random, with other changes of intensity."""
        batch = dict(self._batches[self._random.integers(len(self._batches))])
        generator = torch.Generator().manual_seed(int(self._random.integers(2**62)))
        batch["clean"] = batch["clean"].float() / 255
        batch["pixels"] = change_intensity(batch["clean"], self._augmentation, generator)
        batch["targets"] = batch["targets"].float()
        return batch | {name: batch[name].float() for name in COARSE if name in batch}
