"""Read the training pictures: tar shards, or the training files of the challenge.

A shard `<Modality>_<Dataset>.tar` holds pairs: KEY.webp or KEY.jpg (8-bit picture) and KEY.png
(label map of the same size). Shards of unlabelled pictures hold no label maps. The challenge's
files are npz with `imgs` and `gts`, 2D or 3D; their names begin with `2DBox_<Modality>_` or
`<Modality>_`. All become `Picture`s. A picture is decoded when it is drawn, so a corpus takes
little memory.
"""

import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

# Pixels (3, 256, 256) uint8; labels (256, 256), or (256, 256, P) where those after the first are of
# other slices of the volume; the teacher's embedding (C, 64, 64) or None.
Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]
# The share in training is the number of pictures to this power.
MODALITY_POWER, DATASET_POWER = 0.25, 0.5
# Lower: small data sets may be drawn more often, since their labels cannot be learned by heart.
UNLABELLED_DATASET_POWER = 0.25
MIN_OBJECT_AREA = 20  # pixels; smaller objects are errors of the annotation
PICTURE_KINDS, LABELS_KIND = ("webp", "jpg"), "png"


class CorpusError(ValueError):
    """A corpus that cannot be used. The message names the file, the fault, and what is expected."""


class Source(Protocol):
    """Where framed pictures come from."""

    def draw(self, random: np.random.Generator) -> Sample:
        """Draw a picture with labels."""

    def draw_unlabelled(self, random: np.random.Generator) -> np.ndarray:
        """Draw a picture without labels; return its pixels (3, 256, 256) uint8."""

    def draw_second(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a picture for a second teacher; return its pixels and its labels (256, 256)."""


class Picture(Protocol):
    """An image, or one slice of a volume, with its label map."""

    modality: str
    dataset: str
    key: str  # of a slice: key of the volume, "__z", number of the slice

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
        """Return the image (H, W) or (H, W, 3), RGB, and the labels (H, W); 0 if unlabelled."""


def _decode(data: bytes) -> npt.NDArray[np.integer]:
    """Decode a picture file to (H, W) or (H, W, 3), RGB; 16-bit values are kept."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class ShardPicture:
    """A picture of a tar file, and its label map if there is one, by offset and size."""

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
    """An image of a training file of the challenge, or its slice `z`; `z` is None for an image."""

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
    """Find all pictures in the shards and npz files below `folder`, in a fixed order.

    With `labelled`, each picture needs a label map. Without it, label maps are ignored, and npz
    files are not read.

    Raises:
        CorpusError: the folder holds no picture, or a shard has a picture without labels, or labels
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
    """Count the pictures of each data set, in the order of `pictures`."""
    return dict(Counter(picture.dataset for picture in pictures))


def volume_of(picture: Picture) -> tuple[str, str]:
    """Return data set and key of the volume of a slice; for an image, its own."""
    return picture.dataset, re.sub(r"__z\d+$", "", picture.key)


class BalancedSampler:
    """Draws a modality, then a data set of it, then a picture: half of the corpus is MR.

    The share of a modality is its number of pictures to `modality_power`; the share of a data set
    in its modality is its number of pictures to `dataset_power`. With a power of 0 all shares are
    equal. Two of three endoscopies would then come from 34 pictures, and a long run would learn
    them by heart. `favoured` has factors by name: of a modality's share, or of a data set's share
    in its modality.
    """

    def __init__(
        self,
        pictures: list[Picture],
        *,
        modality_power: float = MODALITY_POWER,
        dataset_power: float = DATASET_POWER,
        favoured: Mapping[str, float] | None = None,
    ) -> None:
        tree: dict[str, dict[str, list[Picture]]] = defaultdict(lambda: defaultdict(list))
        self._volumes: dict[tuple[str, str], list[Picture]] = defaultdict(list)
        for picture in pictures:
            tree[picture.modality][picture.dataset].append(picture)
            self._volumes[volume_of(picture)].append(picture)
        self._datasets: list[list[Picture]] = []
        shares = []
        factors = favoured or {}
        for name, modality in tree.items():
            counts = np.array([len(pictures) for pictures in modality.values()])
            within = counts**dataset_power * [factors.get(dataset, 1.0) for dataset in modality]
            share = counts.sum() ** modality_power * factors.get(name, 1.0)
            shares.extend(share * within / within.sum())
            self._datasets.extend(modality.values())
        self._shares = np.array(shares) / np.sum(shares)

    def draw(self, random: np.random.Generator) -> Picture:
        """One picture."""
        pictures = self._datasets[random.choice(len(self._datasets), p=self._shares)]
        return pictures[random.integers(len(pictures))]

    def other_slices(
        self, picture: Picture, most: int, random: np.random.Generator
    ) -> list[Picture]:
        """Draw up to `most` other slices of the volume of `picture`."""
        others = [other for other in self._volumes[volume_of(picture)] if other is not picture]
        chosen = random.permutation(len(others))[:most]
        return [others[i] for i in chosen]


def tight_box(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the tight box (4,), x_min, y_min, x_max, y_max, of a mask (H, W) that is not empty."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max(), y.max()])


def own_plane(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Return the label map (H, W) of the slice itself: the first of `labels` (H, W[, P])."""
    return labels.reshape(*labels.shape[:2], -1)[:, :, 0]


def objects_of(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Return the labels of the objects that are large enough to learn from."""
    ids, areas = np.unique(labels, return_counts=True)
    return ids[(ids != 0) & (areas >= MIN_OBJECT_AREA)]
