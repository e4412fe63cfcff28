"""Batches of training, each a function of seed, process and step alone.

So a run that was killed and resumed sees what an undisturbed one would have seen, and any number of
worker processes prepares the same batches.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from train.augment import Augmentation, change_intensity
from train.data import BalancedSampler, Sample, Source, read_corpus
from train.features import read_cache
from train.options import Options
from train.prompts import draw_free_boxes, draw_prompts, draw_shifts

Batch = dict[str, Tensor]


class CorpusSource:
    """Pictures of a corpus, balanced over modalities, newly cropped and turned each time."""

    def __init__(self, folder: Path, augmentation: Augmentation) -> None:
        from train.framed import draw_picture  # needs OpenCV, which an accelerator machine lacks

        self._draw = draw_picture
        self._sampler = BalancedSampler(read_corpus(folder))
        self._augmentation = augmentation

    def draw(self, random: np.random.Generator) -> Sample:
        """Pixels and labels; no embedding."""
        return *self._draw(self._sampler, self._augmentation, random), None


class CacheSource:
    """Rows of a feature cache: geometry is fixed, the teacher's embedding comes with them."""

    def __init__(self, folder: Path, first: int) -> None:
        self._rows = read_cache(folder)
        self._first = first  # rows before it are held back

    def draw(self, random: np.random.Generator) -> Sample:
        """Pixels, labels and embedding (C, 64, 64)."""
        row = random.integers(self._first, len(self._rows["pixels"]))
        return tuple(self._rows[name][row] for name in ("pixels", "labels", "embedding"))


class Batches(Dataset[Batch]):
    """Batch `step` of a process: an item of a map-style data set, so any loader can fetch it."""

    def __init__(self, source: Source, options: Options, rank: int = 0) -> None:
        self._source, self._options, self._rank = source, options, rank

    def __len__(self) -> int:
        return self._options.steps

    def __getitem__(self, step: int) -> Batch:
        """Clean pixels and changed ones (B, 3, 256, 256), boxes (B, K, 4), targets (B, K, ...).

        And `free_boxes` (B, F, 4), that have no target; `shifts` (B, O, 4) for the first of them,
        which become pseudo-objects.
        """
        o = self._options
        random = np.random.default_rng([o.seed, self._rank, step])
        pixels, boxes, targets, free_boxes, shifts, embeddings = [], [], [], [], [], []
        while len(pixels) < o.batch_size:
            picture, labels, embedding = self._source.draw(random)
            drawn = draw_prompts(labels, o.boxes, random)
            if drawn is None:
                continue
            pixels.append(torch.from_numpy(np.array(picture)))
            boxes.append(drawn[0])
            targets.append(drawn[1])
            free_boxes.append(draw_free_boxes(pixels[-1], o.free_boxes, random))
            shifts.append(draw_shifts(o.pseudo_objects, random))
            if embedding is not None:
                embeddings.append(torch.from_numpy(embedding.astype(np.float32)))
        clean = torch.stack(pixels).float() / 255
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        batch = {
            "clean": clean,
            "pixels": change_intensity(clean, o.augmentation, generator),
            "boxes": torch.stack(boxes),
            "targets": torch.stack(targets),
            "free_boxes": torch.stack(free_boxes),
            "shifts": torch.stack(shifts),
        }
        if embeddings:
            batch["embedding"] = torch.stack(embeddings)
        return batch
