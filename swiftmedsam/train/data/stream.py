"""The batches of a training run. Each depends on seed, process and step only.

A run that was killed and resumed therefore sees the same batches as an undisturbed run, and any
number of worker processes prepares the same batches.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from swiftmedsam.train.data.augment import Augmentation, change_intensity
from swiftmedsam.train.data.corpus import (
    UNLABELLED_DATASET_POWER,
    BalancedSampler,
    CorpusError,
    Sample,
    Source,
    counts,
    read_corpus,
)
from swiftmedsam.train.data.framed import (
    draw_picture,
    draw_unlabelled_picture,
    draw_upright,
)
from swiftmedsam.train.data.prompts import draw_free_boxes, draw_prompts, draw_shifts
from swiftmedsam.train.options import Options
from swiftmedsam.train.repair.features import read_cache

Batch = dict[str, Tensor]


class CorpusSource:
    """Draws pictures of a corpus, balanced over modalities, each time cropped and turned anew.

    `labelled` and `unlabelled` are the pictures of the corpus; `unlabelled` may be empty.
    `favoured` has factors of how often they are drawn, by modality or data set. `second_for` has
    the modalities and data sets of the pictures for a second teacher.

    Raises:
        CorpusError: `favoured` or `second_for` has a name that is neither a modality nor a data set
            of the pictures.
    """

    def __init__(
        self,
        folder: Path,
        augmentation: Augmentation,
        unlabelled: Sequence[Path] = (),
        favoured: Mapping[str, float] | None = None,
        second_for: Collection[str] = (),
    ) -> None:
        self.labelled = read_corpus(folder)
        self.unlabelled = [p for more in unlabelled for p in read_corpus(more, labelled=False)]
        every = [*self.labelled, *self.unlabelled]
        names = {name for picture in every for name in (picture.modality, picture.dataset)}
        for wanted, purpose in (
            (favoured or (), "to be favoured"), (second_for, "for the second teacher"),
        ):  # fmt: skip
            if unknown := sorted(set(wanted) - names):
                raise CorpusError(f"{unknown[0]!r} is {purpose}: no such modality or data set")
        self._sampler = BalancedSampler(self.labelled, favoured=favoured)
        self._unlabelled_sampler = BalancedSampler(
            self.unlabelled, dataset_power=UNLABELLED_DATASET_POWER, favoured=favoured
        )
        self._second_sampler = BalancedSampler(
            [picture for picture in every if {picture.modality, picture.dataset} & {*second_for}],
            favoured=favoured,
        )
        self._augmentation = augmentation

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets with labels."""
        return list(counts(self.labelled))

    def draw(self, random: np.random.Generator) -> Sample:
        """Draw a picture with labels; without embedding."""
        return *draw_picture(self._sampler, self._augmentation, random), None

    def draw_unlabelled(self, random: np.random.Generator) -> np.ndarray:
        """Draw a picture without labels; return its pixels (3, 256, 256) uint8.

        Raises:
            CorpusError: no folder of unlabelled pictures was given.
        """
        if not self.unlabelled:
            raise CorpusError("unlabelled pictures are needed, but no folder of them is given")
        return draw_unlabelled_picture(self._unlabelled_sampler, self._augmentation, random)

    def draw_second(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a picture for the second teacher, as it is; return pixels and labels, framed.

        Pixels are (3, 256, 256) uint8, labels (256, 256), all 0 where the picture has none.
        """
        return draw_upright(self._second_sampler, random)


class CacheSource:
    """Draws rows of a feature cache, with the teacher's embedding; their geometry is fixed."""

    def __init__(self, folder: Path, first: int) -> None:
        self._rows = read_cache(folder)
        self._first = first  # the rows before are held back

    def draw(self, random: np.random.Generator) -> Sample:
        """Draw a picture with labels and embedding (C, 64, 64)."""
        row = random.integers(self._first, len(self._rows["pixels"]))
        return tuple(self._rows[name][row] for name in ("pixels", "labels", "embedding"))

    def draw_unlabelled(self, random: np.random.Generator) -> np.ndarray:
        """Raise an error: a cache holds labelled pictures only.

        Raises:
            CorpusError: always.
        """
        raise CorpusError("a cache has no unlabelled pictures: train without --cached")

    def draw_second(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Raise an error: a cache has the embeddings of one teacher.

        Raises:
            CorpusError: always.
        """
        raise CorpusError("a cache has no pictures for a second teacher: train without --cached")


def _stack(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Stack `tensors`, each of `shape`; there may be none."""
    return torch.stack(tensors) if tensors else torch.zeros(0, *shape)


class Batches(Dataset[Batch]):
    """All batches of a process, as a map-style data set: item `step` is the batch of that step."""

    def __init__(self, source: Source, options: Options, rank: int = 0) -> None:
        self._source, self._options, self._rank = source, options, rank

    def __len__(self) -> int:
        return self._options.steps

    def __getitem__(self, step: int) -> Batch:
        """Make a batch of B pictures, of which the last L have labels.

        Pixels are (B, 3, 256, 256), once as drawn and once with changed intensities. The labelled
        pictures have boxes (L, K, 4) with targets (L, K, 256, 256). All pictures have `free_boxes`
        (B, F, 4) without targets; the first O of them become pseudo-objects, by `shifts` (B, O, 4).
        In the first `second` pictures the other free boxes are drawn around labelled objects, if
        any.
        """
        o = self._options
        random = np.random.default_rng([o.seed, self._rank, step])
        pixels, boxes, targets, free_boxes, shifts, embeddings = [], [], [], [], [], []
        seconds = []  # boxes of labelled objects in the pictures for the second teacher, or None
        for _ in range(o.second):
            picture, labels = self._source.draw_second(random)
            pixels.append(torch.from_numpy(picture))
            seconds.append(draw_prompts(labels, o.free_boxes, random))
        while len(pixels) < o.unlabelled:
            pixels.append(torch.from_numpy(self._source.draw_unlabelled(random)))
        while len(pixels) < o.batch_size:
            picture, labels, embedding = self._source.draw(random)
            drawn = draw_prompts(labels, o.boxes, random)
            if drawn is None:
                continue
            pixels.append(torch.from_numpy(np.array(picture)))
            boxes.append(drawn[0])
            targets.append(drawn[1])
            if embedding is not None:
                embeddings.append(torch.from_numpy(embedding.astype(np.float32)))
        for i, picture in enumerate(pixels):
            of_objects = seconds[i] if i < len(seconds) else None
            free = draw_free_boxes(picture, o.free_boxes, random)
            if of_objects is not None:
                free[o.pseudo_objects :] = of_objects[0][o.pseudo_objects :]
            free_boxes.append(free)
            shifts.append(draw_shifts(o.pseudo_objects, random))
        clean = torch.stack(pixels).float() / 255
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        batch = {
            "clean": clean,
            "pixels": change_intensity(clean, o.augmentation, generator),
            "boxes": _stack(boxes, (o.boxes, 4)),
            "targets": _stack(targets, (o.boxes, *clean.shape[2:])),
            "free_boxes": torch.stack(free_boxes),
            "shifts": torch.stack(shifts),
        }
        if embeddings:
            batch["embedding"] = torch.stack(embeddings)
        return batch
