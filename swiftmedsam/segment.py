"""Labels of a case: its boxes followed through the slices; an image is a volume of one slice.

A box is followed from its middle slice outwards. There are two modes (docs/decisions.md has their
figures), which differ in what a slice is asked with:

    best    three boxes, made of the given one and of the neighbour's mask (swiftmedsam.prompts):
    the mean
            of the answers, cut to the given box; small boxes in enlarged crops, too, images
            mirrored, too (swiftmedsam.views); of long objects not every slice
    exact   LiteMedSAM's rules (docs/data.md): the box of the neighbour's mask alone

The original walks object by object and encodes a slice again for each; here all objects are walked
together, upwards and then downwards, so that a slice is encoded once and its boxes are decoded
together.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import Case, label_dtype
from swiftmedsam.frame import (
    CELL,
    EMBEDDING_SIZE,
    Answer,
    FloatArray,
    Frame,
    Patch,
    Span,
    mask_of,
    strips,
)
from swiftmedsam.memory import FOLLOWED, LARGE_IMAGE, decode_batch, embeddings_kept, estimate_peak
from swiftmedsam.prompts import IN_PLANE, Exact, Follower, Found, Mask, Rules
from swiftmedsam.views import View, choose_views

MODES = ("best", "exact")
DEFAULT_MODE = "best"
IMAGE_CROPS, VOLUME_CROPS = 4, 2  # most crops of a slice
LEAST_ASKED = 15  # slices of a box, if it has as many: of more, each second or third will do
MOST_STEP = 3
SMALL_PROMPT = 1 / 4  # of a prompt with all cells: what one with few cells takes at least
CELL_STEP = 4  # sizes of decoded rectangles are multiples of it: each new one is prepared for
EMBEDDINGS_KEPT = 256  # at most, of 4 MiB: slices that both directions of the walk visit

Labels = npt.NDArray[np.unsignedinteger]
Progress = Callable[[int, int], None]
PredictedIou = dict[int, list[float]]  # by box (index): the network's own estimate in each slice


class Encoder(Protocol):
    """What is needed of `swiftmedsam.network.Network`."""

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
    step: int | None = None,
    memory_limit: int | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
    predicted_iou: PredictedIou | None = None,
) -> Labels:
    """Labels (H, W) or (D, H, W) of a case: i + 1 where box i is, 0 elsewhere.

    Where masks meet, the smaller box counts, of equal ones the later (mode "exact": the later).
    The dtype is the smallest that holds the number of boxes. `max_crops` bounds how many crops of a
    slice are enlarged for small boxes (mode "best"; None: `IMAGE_CROPS` or `VOLUME_CROPS`). Small
    boxes that share a crop change each other's masks a little; with 0 no box does. Of a box's
    slices every `step`-th is asked, masks between are interpolated (None: every one in mode
    "exact", else `slice_step`).
    Within `memory_limit` (bytes) it is quicker with more memory, 2 GB at most; labels are the same,
    bit by bit.
    `progress` is called after each answer with views of slices done and in all; one that the walk
    meets upwards and downwards counts twice. `predicted_iou`, an empty dict, is filled.

    Raises:
        ValueError: `mode` is none of `MODES`, or `step` is below 1.
    """
    if mode not in MODES:
        raise ValueError(f"mode should be one of {', '.join(MODES)}, got '{mode}'")
    if step is not None and step < 1:
        raise ValueError(f"step should be 1 or more, got {step}")
    labels = np.zeros(case.label_shape, label_dtype(len(case.boxes)))
    if len(case.boxes) == 0:
        return labels
    if case.is_volume:
        image, painted, boxes = case.image, labels, case.boxes
    else:
        image, painted = case.image[np.newaxis], labels[np.newaxis]
        boxes = np.insert(case.boxes, [2, 4], 0, axis=1)  # slice 0
    best = mode == "best"
    if not best:
        max_crops = 0
    elif max_crops is None:
        max_crops = VOLUME_CROPS if case.is_volume else IMAGE_CROPS
    height, width = painted.shape[1:]
    peak = estimate_peak(case.image.shape, case.image.dtype, len(boxes), is_volume=case.is_volume)
    kept = embeddings_kept(peak, memory_limit, EMBEDDINGS_KEPT)
    views = choose_views(
        boxes[:, IN_PLANE], height, width, max_crops, mirror=best and not case.is_volume,
        slices=boxes[:, [2, 5]],
    )  # fmt: skip
    if step is None and best:
        steps = [slice_step(box[2], box[5]) for box in boxes.tolist()]
    else:
        steps = [1 if step is None else step] * len(boxes)
    walk = Walk(painted, boxes, views, steps, Follower(image) if best else Exact())
    slices = Slices(image, network, walk.visits, kept, clock or Clock())
    ious = {} if predicted_iou is None else predicted_iou
    done = 0
    for view_done in walk.paint(slices, ious):
        done += view_done
        if progress:
            progress(done, walk.steps)
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


def batches(spans: Sequence[Span], prompts: Sequence[FloatArray], most: int) -> Iterator[slice]:
    """Boxes to decode in one call: as many in a row as take what `most` whole prompts would.

    `spans` are the cells that are wanted of each, `prompts` (P, 4) its own. All rectangles of a
    call are as large as its largest, so a large one ends a row of small ones.
    """
    start, height, width, count = 0, 0, 0, 0
    for i, ((rows, columns), own) in enumerate(zip(spans, prompts, strict=True)):
        height = max(height, rows.stop - rows.start)
        width = max(width, columns.stop - columns.start)
        count += len(own)
        share = max(SMALL_PROMPT, height * width / EMBEDDING_SIZE**2)
        if i > start and share * count > most:
            yield slice(start, i)
            start, count = i, len(own)
            height, width = rows.stop - rows.start, columns.stop - columns.start
    yield slice(start, len(spans))


class Slices:
    """A case's slices as the network sees them, asked about boxes.

    An embedding is kept only while another visit to what it shows is to come.
    """

    def __init__(
        self, image: npt.NDArray[np.uint8], network: Encoder,
        visits: Counter[tuple[Frame, int]], most_kept: int, clock: Clock,
    ) -> None:  # fmt: skip
        """`visits`, by frame and slice: how often `ask` will be called with them.

        `most_kept` embeddings, 1 or more, wait for their next visit at a time.
        """
        self._image, self._network, self._clock = image, network, clock
        self._visits, self._most_kept = visits, most_kept
        self._kept: dict[tuple[Frame, int], FloatArray] = {}

    def ask(
        self, frame: Frame, z: int, prompts: Sequence[FloatArray], limits: Sequence[Span]
    ) -> Iterator[tuple[Answer, float]]:
        """What is where in slice `z` as `frame` shows it, for each box, and predicted IoU.

        Logits, of the cells that the box's limits need, and IoU are the means of those of the box's
        `prompts` (P, 4). Boxes are decoded in batches; an answer does not depend on the others.
        """
        embedding = self._embedding(frame, z)
        spans = [frame.cells(within) for within in limits]
        for boxes in batches(spans, prompts, decode_batch(self._image.nbytes)):
            batch = prompts[boxes]
            cells, corners = rectangles(spans[boxes])
            counts = [len(p) for p in batch]
            with self._clock.measure("decode"):
                logits, iou = self._network.decode(
                    embedding, np.concatenate(batch), cells.repeat(counts, axis=0)
                )
            ends = np.cumsum(counts)[:-1]
            parts = np.split(logits, ends), np.split(iou, ends), corners, spans[boxes]
            for its, sure, corner, span in zip(*parts, strict=True):
                # The rectangle is as large as the largest of the batch: without what is beyond
                # the box's own cells, an answer would tell of the boxes it was asked with.
                first = span[0].start * CELL, span[1].start * CELL
                rows, columns = (
                    slice(start - shift, cells.stop * CELL - shift)
                    for start, shift, cells in zip(first, corner, span, strict=True)
                )
                own = its[:, rows, columns].mean(axis=0)
                yield Answer(frame, own, first), float(sure.mean())

    def _embedding(self, frame: Frame, z: int) -> FloatArray:
        key = frame, z
        self._visits[key] -= 1
        embedding = self._kept.pop(key, None)
        if embedding is None:
            with self._clock.measure("encode"):
                embedding = self._network.encode(frame.pixels(self._image[z]))
                if self._image.nbytes > LARGE_IMAGE:  # nor the encoder's buffers
                    self._network.release_encoder()
        if self._visits[key] > 0:
            if len(self._kept) >= self._most_kept:
                # the way down meets the latest slices first, so the first one is wanted last
                del self._kept[next(iter(self._kept))]
            self._kept[key] = embedding
        return embedding


def middle_slices(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Slice (N,) at which the walk of each box (N, 6) starts, rounded down."""
    return ((boxes[:, 5] - boxes[:, 2]) / 2 + boxes[:, 2]).astype(np.int64)


def slice_step(first: float, last: float) -> int:
    """Every how many slices a box from `first` to `last` is asked in mode "best"."""
    return max(1, min(MOST_STEP, int(last - first + 1) // LEAST_ASKED))


def asked_slices(first: int, last: int, middle: int, step: int) -> list[int]:
    """Slices of a box that are asked: its ends, its middle, and of those between every `step`-th.

    Those between are the same for all boxes of one step, so that few are encoded.
    """
    return sorted({first, middle, last, *range(-(-first // step) * step, last, step)})


def walk_plan(
    boxes: npt.NDArray[np.float64], steps: Sequence[int] | None = None
) -> list[tuple[int, list[int]]]:
    """Slices in the order of the walk, each with the boxes (by index) that are asked there.

    `boxes` is (N, 6), z inclusive; of box i every `steps[i]`-th slice is asked. First upwards:
    every box from its middle slice to its last; then downwards: every box from below its middle to
    its first. In each direction a box meets its slices in order, whatever the others do. Of more
    than `FOLLOWED` boxes in a volume as many are walked at a time, those whose middles are near
    each other together: what a slice tells its neighbours waits in memory.
    """
    middles = middle_slices(boxes)
    several = bool((boxes[:, 2] < boxes[:, 5]).any())
    group = FOLLOWED if several else max(1, len(boxes))
    order = np.argsort(middles, kind="stable")
    walked: list[tuple[int, list[int]]] = []
    for start in range(0, len(boxes), group):
        upwards: dict[int, list[int]] = defaultdict(list)
        downwards: dict[int, list[int]] = defaultdict(list)
        for i in sorted(order[start : start + group].tolist()):
            first, last = boxes[i, [2, 5]].astype(int).tolist()
            middle = int(middles[i])
            for z in asked_slices(first, last, middle, steps[i] if steps else 1):
                (upwards if z >= middle else downwards)[z].append(i)
        walked += [*sorted(upwards.items()), *sorted(downwards.items(), reverse=True)]
    return walked


def interpolated(
    before: Found | None, z: int, answers: Sequence[Answer]
) -> Iterator[tuple[int, list[Answer]]]:
    """Slices between `z` and the one asked before, with answers mixed of both's."""
    if before is None:
        return
    for between in range(min(z, before.z) + 1, max(z, before.z)):
        share = (between - before.z) / (z - before.z)
        yield (
            between,
            [
                *(replace(answer, weight=answer.weight * (1 - share)) for answer in before.answers),
                *(replace(answer, weight=answer.weight * share) for answer in answers),
            ],
        )


class Walk:
    """The boxes of a case, followed together through its slices."""

    def __init__(
        self, labels: Labels, boxes: npt.NDArray[np.float64], views: Sequence[View],
        steps: Sequence[int], rules: Rules,
    ) -> None:  # fmt: skip
        """Boxes (N, 6), each shown as its view says; `labels` (D, H, W) are to be painted.

        Of box i every `steps[i]`-th slice is asked, those between are interpolated.
        """
        self._labels, self._boxes, self._views, self._rules = labels, boxes, views, rules
        self._limits = [rules.limits(box, *labels.shape[1:]) for box in boxes[:, IN_PLANE]]
        self._ranks = np.zeros(len(boxes) + 1, labels.dtype)  # of labels; 0 is below them all
        self._ranks[1:] = rules.ranks(boxes) + 1
        self._middles = middle_slices(boxes)
        self._every = steps
        self._plan = walk_plan(boxes, steps)
        asked = [(z, view) for z, which in self._plan for view in self._by_view(which)]
        self.steps = len(asked)
        self.visits = Counter((frame, z) for z, view in asked for frame, _ in view)

    def paint(self, slices: Slices, ious: PredictedIou) -> Iterator[bool]:
        """Paint the labels and fill `ious`, box by box: whether a view of a slice is done by it.

        Of those there are `steps`.
        """
        upwards: dict[int, Found] = {}  # in the neighbouring slice that was asked, by box
        downwards: dict[int, Found] = {}
        for z, crossing in self._plan:
            for view, which in self._by_view(crossing).items():
                near = [
                    (upwards if z >= self._middles[i] else downwards).pop(i, None) for i in which
                ]
                answered = self._ask(slices, z, view, which, near)
                for i, before, (answers, carried, iou) in zip(which, near, answered, strict=True):
                    ious.setdefault(i, []).append(iou)
                    found = self._paint_box(z, i, before, answers, carried)
                    if found and z >= self._middles[i]:
                        upwards[i] = found
                    if found and self._boxes[i, 2] < z <= self._middles[i]:
                        downwards[i] = found
                    yield i == which[-1]

    def _paint_box(
        self, z: int, i: int, before: Found | None, answers: list[Answer],
        carried: list[Mask | None],
    ) -> Found | None:  # fmt: skip
        """Paint box `i` in slice `z`, and between it and the one before; what goes on from here."""
        first, last = self._boxes[i, [2, 5]]
        if first == last:  # no neighbour to ask
            # the mask of a large image, as float32 and more than once, takes gigabytes
            for part in strips(self._limits[i]):
                self._paint_patch(z, i, mask_of(answers, part))
            return None
        patch = mask_of(answers, self._limits[i])
        self._paint_patch(z, i, patch)
        for between, mixed in interpolated(before, z, answers):
            self._paint_patch(between, i, mask_of(mixed, self._limits[i]))
        if not (self._middles[i] <= z < last or first < z <= self._middles[i]):
            return None
        found = self._rules.found(z, self._boxes[i], answers, patch, carried)
        return replace(found, answers=answers) if self._every[i] > 1 else found

    def _paint_patch(self, z: int, i: int, patch: Patch) -> None:
        target = self._labels[z, patch.rows, patch.columns]
        mask = patch.mask
        painted = mask & (target > 0)
        if painted.any():  # seldom, and few: looking up every pixel would take long
            mask = mask.copy()
            mask[painted] = self._ranks[target[painted]] <= self._ranks[i + 1]
        target[mask] = i + 1

    def _ask(
        self, slices: Slices, z: int, view: View, which: list[int],
        neighbours: Sequence[Found | None],
    ) -> Iterator[tuple[list[Answer], list[Mask | None], float]]:  # fmt: skip
        """Of each box, by frame: weighted answers, masks carried to `z`; and mean IoU."""
        limits = [self._limits[i] for i in which]
        asked, answered = [], []
        for frame, _ in view:
            asked.append(self._rules.prompts(frame, z, self._boxes[which], neighbours))
            prompts = [prompts for prompts, _ in asked[-1]]
            answered.append(slices.ask(frame, z, prompts, limits))
        weights = [weight for _, weight in view]
        by_box = zip(*asked, strict=True), zip(*answered, strict=True)
        for carried, answers in zip(*by_box, strict=True):
            weighted = list(zip(weights, answers, strict=True))
            yield (
                [replace(answer, weight=weight) for weight, (answer, _) in weighted],
                [mask for _, mask in carried],
                sum(weight * iou for weight, (_, iou) in weighted),
            )

    def _by_view(self, which: Sequence[int]) -> dict[View, list[int]]:
        """Boxes `which`, in their order, by what they are shown in."""
        groups: dict[View, list[int]] = {}
        for i in which:
            groups.setdefault(self._views[i], []).append(i)
        return groups


class _Callable(ModuleType):
    """This module, which can be called: `swiftmedsam.segment_case(case, network)` is
    `swiftmedsam.segment_case`.
    """

    def __call__(self, case: Case, network: Encoder, **options: Any) -> Labels:
        return segment(case, network, **options)


sys.modules[__name__].__class__ = _Callable
