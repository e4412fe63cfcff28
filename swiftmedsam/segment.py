"""The loop: tracks boxes through the slices of a case. An image is a volume of one slice."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import Boxes, Case
from swiftmedsam.decoding import Decoder, decoded
from swiftmedsam.embeddings import Embeddings, Encoder, Key
from swiftmedsam.frame import Patch
from swiftmedsam.masks import Answer, Painter, interpolated
from swiftmedsam.memory import decode_batch, embeddings_kept, estimate_peak
from swiftmedsam.prompts import BoxPrompts, Prompter, Prompts, Track
from swiftmedsam.result import Clock, Labels, PredictedIou, Progress, Result, label_dtype
from swiftmedsam.schedule import Step, middle_slices, schedule, steps_of, visits
from swiftmedsam.settings import BEST, Settings
from swiftmedsam.views import choose_views

EMBEDDINGS_KEPT = 256  # at most, of 4 MiB each: for slices that are used again


class NetworkLike(Encoder, Decoder, Protocol):
    """The part of `network.Network` that is used; it may have default `settings`."""


def segment(
    case: Case,
    network: NetworkLike,
    settings: Settings | None = None,
    *,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    embeddings: Embeddings | None = None,
    prompter: Prompter | None = None,
) -> Result:
    """Segment a case.

    Args:
        case: from `read_case` or `make_case`.
        network: from `load`.
        settings: how boxes become masks; None: those of the network's weights, else `BEST`.
        memory_limit: bytes that this process may use; None: up to 2 GB to save time, more only if
            the case needs it. The labels do not depend on it, bit by bit.
        progress: called after each box of each decoded slice, with the number of steps done and of
            all steps. An exception that it raises ends the segmentation.
        embeddings: a cache for this case's slices, to use and to fill; None: a new one.
        prompter: chooses the prompts in place of `settings.prompts`.

    Small boxes that share a crop change each other's masks a little. Otherwise a mask does not
    depend on the other boxes.
    """
    settings = settings or default_settings(network)
    clock, ious = Clock(), PredictedIou()
    labels = np.zeros(case.label_shape, label_dtype(len(case.boxes)))
    if len(case.boxes) > 0:
        work = prepare(case, labels, network, settings, clock, memory_limit, embeddings, prompter)
        for number, step in enumerate(work.steps):
            for i, iou in work.segmented(step):
                ious.setdefault(i, []).append(iou)
                if progress:
                    progress(number + (i == step.boxes[-1]), len(work.steps))
    return Result(labels, ious, dict(clock.seconds), case.warnings)


def default_settings(network: NetworkLike) -> Settings:
    """The settings of the network's weights, else `BEST`."""
    settings: Settings = getattr(network, "settings", BEST)
    return settings


def embeddings_of(
    case: Case, image: npt.NDArray[np.uint8], network: NetworkLike, boxes: int,
    memory_limit: int | None, upcoming: Counter[Key] | None = None,
) -> Embeddings:  # fmt: skip
    """An empty cache for the slices `image` of a case with so many boxes, within the limit."""
    shape, dtype = case.image.shape, case.image.dtype
    peak = estimate_peak(shape, dtype, boxes, is_volume=case.is_volume)
    most = embeddings_kept(peak, memory_limit, EMBEDDINGS_KEPT)
    return Embeddings(image, network, most, upcoming)


def prepare(
    case: Case, labels: Labels, network: NetworkLike, settings: Settings,
    clock: Clock, memory_limit: int | None, embeddings: Embeddings | None,
    prompter: Prompter | None,
) -> "Work":  # fmt: skip
    """Prepare the work of a case, which will paint into `labels`."""
    if case.is_volume:
        image, painted, boxes = case.image, labels, case.boxes
    else:
        image, painted = case.image[np.newaxis], labels[np.newaxis]
        boxes = np.insert(case.boxes, [2, 4], 0, axis=1)  # slice 0
    height, width = painted.shape[1:]
    views = choose_views(boxes, height, width, settings, is_volume=case.is_volume)
    strides = steps_of(boxes, settings)
    steps = schedule(boxes, views, strides)
    if embeddings is None:
        embeddings = embeddings_of(case, image, network, len(boxes), memory_limit, visits(steps))
    return Work(
        boxes=boxes,
        strides=strides,
        steps=steps,
        embeddings=embeddings,
        decoder=network,
        prompter=prompter or Prompts(image, settings),
        painter=Painter(painted, boxes, settings),
        batch=decode_batch(image.nbytes),
        clock=clock,
    )


@dataclass
class Work:
    """The work of a case: its boxes and steps, and the state between two steps."""

    boxes: Boxes  # (N, 6)
    strides: Sequence[int]  # by box: 1 if every slice is decoded, 2 if every second, and so on
    steps: list[Step]
    embeddings: Embeddings
    decoder: Decoder
    prompter: Prompter
    painter: Painter
    batch: int  # prompts with all cells in one call of the decoder
    clock: Clock
    # The tracks of the last decoded slice, by box: upwards and downwards from the middle.
    upwards: dict[int, Track] = field(default_factory=dict)
    downwards: dict[int, Track] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the slice at which each box begins."""
        self._middles = middle_slices(self.boxes)

    def segmented(self, step: Step) -> Iterator[tuple[int, float]]:
        """Paint the boxes of a step one by one; yield each box with its predicted IoU."""
        tracks = [self._track_before(step.z, i) for i in step.boxes]
        answered = self._answered(step, tracks)
        for i, track, (chosen, answers, iou) in zip(step.boxes, tracks, answered, strict=True):
            self._paint(step.z, i, track, chosen, answers)
            yield i, iou

    def _track_before(self, z: int, i: int) -> Track | None:
        """Take the track of box `i` from its previous decoded slice; None at its first slice."""
        return (self.upwards if z >= self._middles[i] else self.downwards).pop(i, None)

    def _answered(
        self, step: Step, tracks: Sequence[Track | None]
    ) -> Iterator[tuple[list[BoxPrompts], list[Answer], float]]:
        """For each box: its prompts and its weighted answers, by frame; and its predicted IoU."""
        limits = [self.painter.limits[i] for i in step.boxes]
        chosen: list[list[BoxPrompts]] = []
        answered = []
        for frame, _ in step.view:
            chosen.append(self.prompter.choose(frame, step.z, self.boxes[list(step.boxes)], tracks))
            prompts = [one.prompts for one in chosen[-1]]
            embedding = self.embeddings.get(frame, step.z, self.clock)
            answered.append(
                decoded(self.decoder, embedding, frame, prompts, limits, self.batch, self.clock)
            )
        weights = [weight for _, weight in step.view]
        for own, answers in zip(
            zip(*chosen, strict=True), zip(*answered, strict=True), strict=True
        ):
            weighted = list(zip(weights, answers, strict=True))
            yield (
                list(own),
                [replace(answer, weight=weight) for weight, (answer, _) in weighted],
                sum(weight * iou for weight, (_, iou) in weighted),
            )

    def _paint(
        self, z: int, i: int, track: Track | None, chosen: list[BoxPrompts], answers: list[Answer]
    ) -> None:
        """Paint box `i` in slice `z` and in the interpolated slices before it, and track it."""
        first, last = self.boxes[i, [2, 5]]
        if first == last:  # no slice follows: an image, or a box of one slice
            self.painter.paint_in_strips(z, i, answers)
            return
        patch = self.painter.paint(z, i, answers)
        if track is not None:
            for between, mixed in interpolated(track.z, track.answers, z, answers):
                self.painter.paint(between, i, mixed)
        self._keep_track(z, i, chosen, answers, patch)

    def _keep_track(
        self, z: int, i: int, chosen: list[BoxPrompts], answers: list[Answer], patch: Patch
    ) -> None:
        """Keep the track of box `i` for the next slice, upwards, downwards or both."""
        middle, first, last = self._middles[i], *self.boxes[i, [2, 5]]
        is_followed_up, is_followed_down = middle <= z < last, first < z <= middle
        if not (is_followed_up or is_followed_down):
            return
        track = self.prompter.track(z, self.boxes[i], answers, patch, chosen)
        if self.strides[i] > 1:
            track = replace(track, answers=answers)
        if z >= middle:
            self.upwards[i] = track
        if is_followed_down:
            self.downwards[i] = track
