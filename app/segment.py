"""Labels of a case: its boxes followed through the slices; an image is a volume of one slice.

A box is followed from its middle slice outwards. There are two modes (docs/decisions.md has their
figures), which differ in what a slice is asked with:

    best    the given box, the box of the neighbour's mask and the box halfway: the mean of the
            three answers, cut to the given box; small boxes of images in enlarged crops
    exact   LiteMedSAM's rules (docs/data.md): the box of the neighbour's mask alone

The original walks object by object and encodes a slice again for each; here all objects are walked
together, upwards and then downwards, so that a slice is encoded once and its boxes are decoded in
one call.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.case import Case, label_dtype
from app.frame import CELL, EMBEDDING_SIZE, FloatArray, Frame, overlap
from app.memory import Plan, estimate_peak, plan
from app.views import choose_views

MODES = ("best", "exact")
DEFAULT_MODE = "best"
IMAGE_CROPS, VOLUME_CROPS = 16, 0  # most crops of a slice
DECODE_BATCH = 6  # prompts per call, at most: up to 30 MB each
CELL_STEP = 4  # sizes of decoded rectangles are multiples of it: each new one is prepared for
IN_PLANE = [0, 1, 3, 4]  # columns of a volume's boxes
EMBEDDINGS_KEPT = 256  # at most, of 4 MiB: slices that both directions of the walk visit
LARGE_IMAGE = 1 << 30  # bytes; beside one, the encoder's buffers are not kept for the next slice

Labels = npt.NDArray[np.unsignedinteger]
Span = tuple[slice, slice]  # rows and columns, of pixels or of cells
Progress = Callable[[int, int], None]
PredictedIou = dict[int, list[float]]  # by box (index): the network's own estimate in each slice


class Encoder(Protocol):
    """What is needed of `app.network.Network`."""

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Embedding of pixels."""

    def decode(
        self, embedding: FloatArray, prompts: FloatArray, cells: npt.NDArray[np.int32]
    ) -> tuple[FloatArray, FloatArray]:
        """Logits of prompts in rectangles of cells, and predicted IoU."""

    def release_encoder(self) -> None:
        """Give memory back that the next `encode` takes again."""


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
    memory_limit: int | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
    predicted_iou: PredictedIou | None = None,
) -> Labels:
    """Labels (H, W) or (D, H, W) of a case: i + 1 where box i is, 0 elsewhere, later boxes on top.

    The dtype is the smallest that holds the number of boxes. `max_crops` bounds how many crops of a
    slice are enlarged for its small boxes (mode "best"; None: `IMAGE_CROPS` or `VOLUME_CROPS`).
    Within `memory_limit` (bytes) it is quicker with more memory, 2 GB at most; labels are the same.
    `progress` is called with slices done and slices in all; one that the walk meets upwards and
    downwards counts twice. `predicted_iou`, an empty dict, is filled.

    Raises:
        ValueError: `mode` is none of `MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"mode should be one of {', '.join(MODES)}, got '{mode}'")
    labels = np.zeros(case.label_shape, label_dtype(len(case.boxes)))
    if len(case.boxes) == 0:
        return labels
    if case.is_volume:
        image, painted, boxes = case.image, labels, case.boxes
    else:
        image, painted = case.image[np.newaxis], labels[np.newaxis]
        boxes = np.insert(case.boxes, [2, 4], 0, axis=1)  # slice 0
    if mode == "exact":
        max_crops = 0
    elif max_crops is None:
        max_crops = VOLUME_CROPS if case.is_volume else IMAGE_CROPS
    height, width = painted.shape[1:]
    peak = estimate_peak(
        case.image.shape, case.image.dtype, len(boxes), is_volume=case.is_volume
    )
    means = plan(peak, memory_limit, Plan(DECODE_BATCH, EMBEDDINGS_KEPT))
    clock = clock or Clock()
    walks = [
        Walk(
            image[:, view.rows, view.columns], painted[:, view.rows, view.columns], view.which,
            boxes[view.which] - view.origin, mode, means,
        )
        for view in choose_views(boxes[:, IN_PLANE], height, width, max_crops)
    ]  # fmt: skip
    total = sum(len(walk.plan) for walk in walks)
    ious = {} if predicted_iou is None else predicted_iou
    steps = (step for walk in walks for step in walk.steps(network, clock, ious))
    for done, _ in enumerate(steps, start=1):
        if progress:
            progress(done, total)
    return labels


def rectangles(
    spans: Sequence[Span],
) -> tuple[npt.NDArray[np.int32], list[tuple[int, int]]]:
    """Cells (N, h, w) of rectangles of one size that hold one span each, and their corners.

    A corner (row, column) is that of the first cell's first input pixel.
    """
    firsts = np.array([[rows.start, columns.start] for rows, columns in spans])
    ends = np.array([[rows.stop, columns.stop] for rows, columns in spans])
    size = -(-(ends - firsts).max(axis=0) // CELL_STEP) * CELL_STEP
    firsts = np.minimum(firsts, EMBEDDING_SIZE - size)
    rows, columns = (firsts[:, [axis]] + np.arange(size[axis]) for axis in (0, 1))
    cells = rows[:, :, np.newaxis] * EMBEDDING_SIZE + columns[:, np.newaxis]
    return cells.astype(np.int32), [(row * CELL, column * CELL) for row, column in firsts.tolist()]


def _decode(
    network: Encoder,
    embedding: FloatArray,
    prompts: Sequence[FloatArray],
    spans: Sequence[Span],
    most: int,
    clock: Clock,
) -> Iterator[tuple[FloatArray, tuple[int, int], float]]:
    """Logits (h, w) of boxes in their spans, the input pixel they begin at, and predicted IoU.

    The pixel is (row, column). Logits and IoU of a box are the means of those of its `prompts`
    (P, 4); boxes are decoded in batches of `most` prompts, or of one box.
    """
    step = max(1, most // max(len(p) for p in prompts))
    for start in range(0, len(prompts), step):
        batch = prompts[start : start + step]
        cells, corners = rectangles(spans[start : start + step])
        counts = [len(p) for p in batch]
        with clock.measure("decode"):
            logits, iou = network.decode(
                embedding, np.concatenate(batch), cells.repeat(counts, axis=0)
            )
        ends = np.cumsum(counts)[:-1]
        parts = zip(np.split(logits, ends), np.split(iou, ends), corners, strict=True)
        for its, sure, corner in parts:
            yield its.mean(axis=0), corner, float(sure.mean())


class SliceEmbeddings:
    """Embeddings of a volume's slices, kept only while a second visit is to come."""

    def __init__(
        self, image: npt.NDArray[np.uint8], frame: Frame, network: Encoder,
        visits: dict[int, int], most: int,
    ) -> None:  # fmt: skip
        self._image, self._frame, self._network = image, frame, network
        self._visits = visits  # by slice: how often it will be asked for
        self._most = most  # that are kept
        self._kept: dict[int, FloatArray] = {}

    def of(self, z: int, clock: Clock) -> FloatArray:
        """Embedding of slice `z`; encoded on the first visit."""
        self._visits[z] -= 1
        embedding = self._kept.pop(z, None)
        if embedding is None:
            with clock.measure("encode"):
                embedding = self._network.encode(self._frame.pixels(self._image[z]))
                if self._image.nbytes > LARGE_IMAGE:
                    self._network.release_encoder()
        if self._visits[z] > 0 and self._most > 0:
            if len(self._kept) >= self._most:
                # the way down meets the latest slices first, so the first one is wanted last
                del self._kept[next(iter(self._kept))]
            self._kept[z] = embedding
        return embedding


def box_pixels(box: npt.NDArray[np.float64]) -> Span:
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


def _prompts(given: FloatArray, neighbour: FloatArray | None, mode: str) -> FloatArray:
    """Prompts (P, 4) of a slice from the given box (4,) and that of the neighbour's mask (4,)."""
    if neighbour is None:
        return given[np.newaxis]
    if mode == "exact":
        return neighbour[np.newaxis]
    return np.stack([given, (given + neighbour) / 2, neighbour])


class Walk:
    """Boxes that are followed together through one view of a case."""

    def __init__(
        self,
        image: npt.NDArray[np.uint8],
        labels: Labels,
        which: npt.NDArray[np.int64],
        boxes: npt.NDArray[np.float64],
        mode: str,
        means: Plan,
    ) -> None:
        """Boxes `which` (N,) of the case; `boxes` (N, 6) has them in pixels of the view.

        The view is `image` (D, H, W) or (D, H, W, 3), and `labels` (D, H, W) to be painted.
        """
        self._image, self._labels, self._which, self._boxes = image, labels, which, boxes
        self._mode, self._means = mode, means
        self.plan = walk_plan(boxes)

    def steps(self, network: Encoder, clock: Clock, ious: PredictedIou) -> Iterator[None]:
        """Paint the labels and fill `ious`; one step for each slice of the plan."""
        frame = Frame(*self._labels.shape[1:])
        visits = Counter(z for z, _ in self.plan)
        most = self._means.embeddings
        embeddings = SliceEmbeddings(self._image, frame, network, visits, most)
        given = frame.prompts(self._boxes[:, IN_PLANE])  # (N, 4)
        middles = middle_slices(self._boxes)
        upwards: list[FloatArray | None] = [None] * len(given)  # the boxes of neighbours' masks
        downwards = list(upwards)
        limits = [self._limits(i) for i in range(len(given))]
        spans = [frame.cells(*within) for within in limits]
        for z, crossing in self.plan:
            prompts = [
                _prompts(given[i], (upwards if z >= middles[i] else downwards)[i], self._mode)
                for i in crossing
            ]
            embedding = embeddings.of(z, clock)
            crossed = [spans[i] for i in crossing]
            answers = _decode(network, embedding, prompts, crossed, self._means.batch, clock)
            for i, (logits, corner, iou) in zip(crossing, answers, strict=True):
                ious.setdefault(int(self._which[i]), []).append(iou)
                number = self._which[i] + 1
                alone = self._boxes[i, 2] == self._boxes[i, 5]  # no neighbour to ask
                # the mask of a large image, as float32 and more than once, takes gigabytes
                for part in frame.strips(*limits[i]) if alone else [limits[i]]:
                    patch = frame.mask(logits, corner, part)
                    target = self._labels[z, patch.rows, patch.columns]
                    target[patch.mask & (target < number)] = number  # later boxes win, in any order
                if alone:
                    continue
                neighbour = frame.prompt_around(patch)
                if z >= middles[i]:
                    upwards[i] = neighbour
                if z <= middles[i]:
                    downwards[i] = neighbour
            yield

    def _limits(self, i: int) -> Span:
        """Rows and columns outside which a box's mask does not count."""
        height, width = self._labels.shape[1:]
        if self._mode == "exact":
            return slice(0, height), slice(0, width)
        rows, columns = box_pixels(self._boxes[i, IN_PLANE])
        return overlap(rows, slice(0, height)), overlap(columns, slice(0, width))
