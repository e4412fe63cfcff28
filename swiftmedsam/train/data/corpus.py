"""Training pictures: the corpus' tar shards, or folders of the challenge's own training files.

A shard `<Modality>_<Dataset>.tar` holds pairs: KEY.webp or KEY.jpg (8-bit picture) and KEY.png
(label map of the same size). Shards of unlabelled pictures hold no label maps. A folder holds npz
with `imgs` and `gts`, 2D or 3D, whose names begin with `2DBox_<Modality>_` or `<Modality>_`. All
become `Picture`s. A picture is decoded when it is drawn, so a corpus takes little memory.
"""

import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

# Pixels (3, 256, 256) uint8; labels (256, 256), or (256, 256, P) with those of the volume's other
# slices behind; the teacher's embedding (C, 64, 64) if it is known.
Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]
MODALITY_POWER, DATASET_POWER = 0.25, 0.5  # of a count of pictures: the share in training
UNLABELLED_DATASET_POWER = 0.25  # the teacher answers, so few pictures cannot be learned by heart
MIN_OBJECT_AREA = 20  # pixels; smaller objects are noise of the annotation
PICTURE_KINDS, LABELS_KIND = ("webp", "jpg"), "png"


class CorpusError(ValueError):
    """A corpus that nothing can be learned from: which file, what is wrong, what is expected."""


class Source(Protocol):
    """Where framed pictures come from."""

    def draw(self, random: np.random.Generator) -> Sample:
        """One of them, with labels."""

    def draw_unlabelled(self, random: np.random.Generator) -> np.ndarray:
        """Pixels (3, 256, 256) uint8 of a picture that has no labels."""


class Picture(Protocol):
    """One slice with its label map."""

    modality: str
    dataset: str
    key: str  # of a slice: the volume's, "__z", the slice's number

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
        """Return the image (H, W) or (H, W, 3), RGB, and the labels (H, W); 0 if unlabelled."""


def _decode(data: bytes) -> npt.NDArray[np.integer]:
    """Array (H, W) or (H, W, 3), RGB, of an encoded picture; 16 bit are kept."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class ShardPicture:
    """Members of a tar file, found by offset and size: a picture and perhaps its label map."""

    modality: str
    dataset: str
    key: str
    path: Path
    image_span: tuple[int, int]
    labels_span: tuple[int, int] | None

    def _member(self, span: tuple[int, int]) -> npt.NDArray[np.integer]:
        offset, size = span
        with self.path.open("rb") as file:
            file.seek(offset)
            return _decode(file.read(size))

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
        """Return the image (H, W) or (H, W, 3), RGB, and the labels (H, W); 0 if unlabelled."""
        image = self._member(self.image_span).astype(np.uint8)
        if self.labels_span is None:
            return image, np.zeros(image.shape[:2], np.uint8)
        return image, self._member(self.labels_span)


@dataclass(frozen=True)
class NpzPicture:
    """A slice of a challenge training file; `z` is None for a 2D image."""

    modality: str
    dataset: str
    key: str
    path: Path
    z: int | None

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
        """Return the image (H, W) or (H, W, 3), RGB, and the labels (H, W)."""
        with np.load(self.path, allow_pickle=False) as file:
            image, labels = file["imgs"], file["gts"]
        if self.z is not None:
            image, labels = image[self.z], labels[self.z]
        return image.astype(np.uint8), labels


def _shard(path: Path, *, labelled: bool) -> Iterator[ShardPicture]:
    modality = path.stem.split("_")[0]
    spans: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, kind = member.name.rpartition(".")
            spans[key][kind] = (member.offset_data, member.size)
    for key, found in sorted(spans.items()):
        image = next((found[kind] for kind in PICTURE_KINDS if kind in found), None)
        labels = found.get(LABELS_KIND)
        if image is None or (labelled and labels is None):
            there, missing = sorted(found)[0], LABELS_KIND if image else PICTURE_KINDS[0]
            raise CorpusError(f"{path}: {key}.{there} has no {key}.{missing}")
        yield ShardPicture(modality, path.stem, key, path, image, labels)


def _npz(path: Path) -> Iterator[NpzPicture]:
    modality = re.sub(r"^[23]DBox_", "", path.stem).split("_")[0]
    dataset = path.parent.name
    with np.load(path, allow_pickle=False) as file:
        labels = file["gts"]
    if labels.ndim == 2:
        yield NpzPicture(modality, dataset, path.stem, path, None)
    for z in np.flatnonzero(labels.any(axis=(1, 2))) if labels.ndim == 3 else ():
        yield NpzPicture(modality, dataset, f"{path.stem}__z{z:03d}", path, int(z))


def read_corpus(folder: Path, *, labelled: bool = True) -> list[Picture]:
    """Every picture of the shards and npz files below `folder`, in a fixed order.

    `labelled` pictures need a label map each; without it, label maps are not needed, and npz files
    are not read.

    Raises:
        CorpusError: the folder holds none, or a shard has a picture without labels or labels
            without a picture.
    """
    pictures: list[Picture] = []
    for path in sorted(folder.rglob("*.tar")):
        pictures.extend(_shard(path, labelled=labelled))
    if labelled:
        for path in sorted(folder.rglob("*.npz")):
            pictures.extend(_npz(path))
    if not pictures:
        what = "no .tar shard and no .npz file with 'imgs' and 'gts'" if labelled else "no shard"
        raise CorpusError(f"{folder}: {what}")
    return pictures


def counts(pictures: list[Picture]) -> dict[str, int]:
    """Number of pictures of each data set, in the order of `pictures`."""
    return dict(Counter(picture.dataset for picture in pictures))


def volume_of(picture: Picture) -> tuple[str, str]:
    """Data set and key of the volume that a picture is a slice of; of an image its own."""
    return picture.dataset, re.sub(r"__z\d+$", "", picture.key)


class BalancedSampler:
    """Draws modality, then data set, then picture: MR is half of the corpus.

    A modality's share is its count to the power of `modality_power`, a data set's share of it its
    count to `dataset_power`; 0 is evenly. Evenly, two of three endoscopies come from 34 pictures,
    which a long run would learn by heart.
    """

    def __init__(
        self,
        pictures: list[Picture],
        *,
        modality_power: float = MODALITY_POWER,
        dataset_power: float = DATASET_POWER,
    ) -> None:
        tree: dict[str, dict[str, list[Picture]]] = defaultdict(lambda: defaultdict(list))
        self._volumes: dict[tuple[str, str], list[Picture]] = defaultdict(list)
        for picture in pictures:
            tree[picture.modality][picture.dataset].append(picture)
            self._volumes[volume_of(picture)].append(picture)
        self._datasets: list[list[Picture]] = []
        shares = []
        for modality in tree.values():
            counts = np.array([len(pictures) for pictures in modality.values()])
            within = counts**dataset_power
            shares.extend(counts.sum() ** modality_power * within / within.sum())
            self._datasets.extend(modality.values())
        self._shares = np.array(shares) / np.sum(shares)

    def draw(self, random: np.random.Generator) -> Picture:
        """One picture."""
        pictures = self._datasets[random.choice(len(self._datasets), p=self._shares)]
        return pictures[random.integers(len(pictures))]

    def other_slices(
        self, picture: Picture, most: int, random: np.random.Generator
    ) -> list[Picture]:
        """Up to `most` slices of the volume that `picture` is a slice of, itself not among them."""
        others = [other for other in self._volumes[volume_of(picture)] if other is not picture]
        chosen = random.permutation(len(others))[:most]
        return [others[i] for i in chosen]


def tight_box(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The tight box (4,) x_min, y_min, x_max, y_max of a mask (H, W) that is not empty."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max(), y.max()])


def own_plane(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """The slice's own label map (H, W) of (H, W) or, with other slices' behind, (H, W, P)."""
    return labels.reshape(*labels.shape[:2], -1)[:, :, 0]


def objects_of(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """The labels of a map that are large enough to learn from."""
    ids, areas = np.unique(labels, return_counts=True)
    return ids[(ids != 0) & (areas >= MIN_OBJECT_AREA)]
