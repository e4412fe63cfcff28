"""Labels of a case: all boxes of an image at once, the boxes of a volume slice by slice.

There are two modes (docs/decisions.md has their figures):

    best    every slice on its own, small boxes in crops; the given box is prompt and limit
    exact   LiteMedSAM's rules (docs/data.md): an image whole; in a volume each box is followed from
            its middle slice outwards, a slice's prompt being the box of the neighbour's mask

The original walks object by object and encodes a slice again for each; here all objects are walked
together, upwards and then downwards, so that a slice is encoded once and its boxes are decoded in
one call.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.case import Case, label_dtype
from app.frame import FloatArray, Frame
from app.views import choose_views

MODES = ("best", "exact")
DEFAULT_MODE = "best"
IMAGE_CROPS, VOLUME_CROPS = 16, 0  # most crops of a slice
DECODE_BATCH = 16  # boxes per call: bounds memory (some 30 MB a box); larger is no faster
EMBEDDINGS_KEPT = 256  # of 4 MiB each, so 1 GiB: slices that both directions of the walk visit

Labels = npt.NDArray[np.unsignedinteger]
Progress = Callable[[int, int], None]


class Encoder(Protocol):
    """What is needed of `app.network.Network`."""

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Embedding of pixels."""

    def decode(self, embedding: FloatArray, prompts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Logits and predicted IoU of prompts."""


class Clock:
    """Seconds spent, by name of the step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add the time inside the `with` to `step`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - began


def segment(
    case: Case,
    network: Encoder,
    *,
    mode: str = DEFAULT_MODE,
    max_crops: int | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Labels:
    """Labels (H, W) or (D, H, W) of a case: i + 1 where box i is, 0 elsewhere, later boxes on top.

    The dtype is the smallest that holds the number of boxes. `max_crops` bounds how many crops of a
    slice are enlarged for its small boxes (mode "best"; None: `IMAGE_CROPS` or `VOLUME_CROPS`).
    `progress` is called with slices done and slices in all.

    Raises:
        ValueError: `mode` is none of `MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"mode should be one of {', '.join(MODES)}, got '{mode}'")
    clock = clock or Clock()
    labels = np.zeros(case.label_shape, label_dtype(len(case.boxes)))
    if len(case.boxes) == 0:
        return labels
    progress = progress or (lambda done, total: None)
    if mode == "exact" and case.is_volume:
        _walk_volume(case, network, labels, clock, progress)
        return labels
    if mode == "exact":
        max_crops = 0
    elif max_crops is None:
        max_crops = VOLUME_CROPS if case.is_volume else IMAGE_CROPS
    _segment_views(case, network, labels, max_crops, clock, progress, clip=mode == "best")
    return labels


def _decode(
    network: Encoder, embedding: FloatArray, prompts: FloatArray, clock: Clock
) -> Iterator[FloatArray]:
    """Logits (256, 256) of each of `prompts` (N, 4), decoded in batches."""
    for start in range(0, len(prompts), DECODE_BATCH):
        with clock.measure("decode"):
            logits, _ = network.decode(embedding, prompts[start : start + DECODE_BATCH])
        yield from logits


def _segment_views(
    case: Case, network: Encoder, labels: Labels, max_crops: int, clock: Clock, progress: Progress,
    *, clip: bool,
) -> None:
    """Slices, or the image, each on its own, as `choose_views` shows them."""
    if case.is_volume:
        image, painted, boxes = case.image, labels, case.boxes[:, [0, 1, 3, 4]]
        z = np.arange(len(labels))[:, np.newaxis]
        crossing = (case.boxes[:, 2].astype(int) <= z) & (z <= case.boxes[:, 5].astype(int))
    else:  # a volume of one slice
        image, painted, boxes = case.image[np.newaxis], labels[np.newaxis], case.boxes
        crossing = np.ones((1, len(boxes)), np.bool_)
    height, width = painted.shape[1:]
    views = choose_views(boxes, height, width, max_crops)
    slices = np.flatnonzero(crossing.any(axis=1))
    for done, at in enumerate(slices, start=1):
        for view in views:
            which = view.which[crossing[at, view.which]]
            if which.size:
                part = at, view.rows, view.columns
                inside = boxes[which] - view.origin
                _segment_part(image[part], painted[part], which, inside, network, clock, clip=clip)
        progress(done, len(slices))


def _segment_part(
    image: npt.NDArray[np.uint8],
    labels: Labels,
    which: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float64],
    network: Encoder,
    clock: Clock,
    *,
    clip: bool,
) -> None:
    """Paint the boxes `which` (M,), `boxes` (M, 4) in pixels of the part, into its `labels`.

    With `clip` nothing is painted outside a box.
    """
    frame = Frame(*labels.shape)
    with clock.measure("encode"):
        embedding = network.encode(frame.pixels(image))
    all_logits = _decode(network, embedding, frame.prompts(boxes), clock)
    for i, box, logits in zip(which, boxes, all_logits, strict=True):
        inside = box_pixels(box) if clip else (slice(None), slice(None))
        target = labels[inside]
        # later boxes win, whichever part was painted first
        target[frame.mask(logits)[inside] & (target <= i)] = i + 1


class SliceEmbeddings:
    """Embeddings of a volume's slices, kept only while a second visit is to come."""

    def __init__(
        self, image: npt.NDArray[np.uint8], frame: Frame, network: Encoder, visits: dict[int, int]
    ) -> None:
        self._image, self._frame, self._network = image, frame, network
        self._visits = visits  # by slice: how often it will be asked for
        self._kept: dict[int, FloatArray] = {}

    def of(self, z: int, clock: Clock) -> FloatArray:
        """Embedding (1, C, 64, 64) of slice `z`; encoded on the first visit."""
        self._visits[z] -= 1
        embedding = self._kept.pop(z, None)
        if embedding is None:
            with clock.measure("encode"):
                embedding = self._network.encode(self._frame.pixels(self._image[z]))
        if self._visits[z] > 0:
            if len(self._kept) >= EMBEDDINGS_KEPT:
                # the way down meets the latest slices first, so the first one is wanted last
                del self._kept[next(iter(self._kept))]
            self._kept[z] = embedding
        return embedding


def box_pixels(box: npt.NDArray[np.float64]) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box (4,) touches, its ends inclusive."""
    x_min, y_min, x_max, y_max = box
    return (
        slice(math.floor(y_min), math.ceil(y_max) + 1),
        slice(math.floor(x_min), math.ceil(x_max) + 1),
    )


def middle_slices(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Slice (N,) at which the walk of each box (N, 6) starts, rounded down."""
    return ((boxes[:, 5] - boxes[:, 2]) / 2 + boxes[:, 2]).astype(np.int64)


def walk_plan(boxes: npt.NDArray[np.float64]) -> list[tuple[int, list[int]]]:
    """Slices in the order of the walk, each with the boxes (by index) that are decoded there.

    `boxes` is (N, 6), z inclusive. First upwards: every box from its middle slice to its last; then
    downwards: every box from the slice below its middle to its first. In each direction a box meets
    its slices in order, whatever the others do.
    """
    firsts, lasts = boxes[:, 2].astype(int), boxes[:, 5].astype(int)
    middles = middle_slices(boxes)
    plan = []
    for z in range(middles.min(), lasts.max() + 1):
        plan.append((z, np.flatnonzero((middles <= z) & (z <= lasts)).tolist()))
    for z in range(middles.max() - 1, firsts.min() - 1, -1):
        plan.append((z, np.flatnonzero((firsts <= z) & (z < middles)).tolist()))
    return [(z, which) for z, which in plan if which]


def _walk_volume(
    case: Case, network: Encoder, labels: Labels, clock: Clock, progress: Progress
) -> None:
    """Mode "exact"."""
    frame = Frame(*labels.shape[1:])
    plan = walk_plan(case.boxes)
    visits: dict[int, int] = defaultdict(int)
    for z, _ in plan:
        visits[z] += 1
    embeddings = SliceEmbeddings(case.image, frame, network, visits)

    given = frame.prompts(case.boxes[:, [0, 1, 3, 4]])  # (N, 4)
    middles = middle_slices(case.boxes)
    upwards = given.copy()  # the prompt of each box's next slice, by direction
    downwards = given.copy()
    for done, (z, which) in enumerate(plan, start=1):
        embedding = embeddings.of(z, clock)
        prompts = np.stack([(upwards if z >= middles[i] else downwards)[i] for i in which])
        for i, logits in zip(which, _decode(network, embedding, prompts, clock), strict=True):
            mask = frame.mask(logits)
            labels[z][mask & (labels[z] <= i)] = i + 1  # later boxes win, in whatever order
            prompt = frame.prompt_around(mask)
            following = given[i] if prompt is None else prompt
            if z >= middles[i]:
                upwards[i] = following
            if z <= middles[i]:
                downwards[i] = following
        progress(done, len(plan))
