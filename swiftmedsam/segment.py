"""The loop: boxes are tracked through the slices of a case; an image is a volume of one slice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import Case
from swiftmedsam.decoding import Decoder, decoded
from swiftmedsam.embeddings import Embeddings, Encoder
from swiftmedsam.frame import Patch
from swiftmedsam.masks import Answer, Painter, interpolated
from swiftmedsam.memory import decode_batch, embeddings_kept, estimate_peak
from swiftmedsam.prompts import Asked, Prompter, Prompts, Track
from swiftmedsam.result import Clock, Labels, PredictedIou, Progress, Result, label_dtype
from swiftmedsam.schedule import Step, middle_slices, schedule, steps_of, visits
from swiftmedsam.settings import BEST, Settings
from swiftmedsam.views import choose_views

EMBEDDINGS_KEPT = 256  # at most, of 4 MiB: slices that are visited upwards and downwards

Boxes = npt.NDArray[np.float64]


class NetworkLike(Encoder, Decoder, Protocol):
    """What is needed of `network.Network`; with `settings`, if it has them, as the default."""


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
        case: what `read_case` or `make_case` returned.
        network: what `load` returned.
        settings: how boxes become masks; None: those of the network's weights, else `BEST`.
        memory_limit: bytes that may be used; None: 2 GB where that is faster. More memory makes it
            faster; the labels are the same, bit by bit.
        progress: called after each box of each decoded slice, with steps done and in all. What it
            raises ends the segmentation.
        embeddings: of this case's slices, to use and to fill; None: they last for this call.
        prompter: chooses the prompts in place of `settings.prompts`.

    Small boxes that share a crop change each other's masks a little; without crops no box does.
    """
    if settings is None:
        settings = getattr(network, "settings", BEST)
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


def prepare(
    case: Case, labels: Labels, network: NetworkLike, settings: Settings,
    clock: Clock, memory_limit: int | None, embeddings: Embeddings | None,
    prompter: Prompter | None,
) -> "Work":  # fmt: skip
    """The work of a case, whose `labels` it will paint."""
    if case.is_volume:
        image, painted, boxes = case.image, labels, case.boxes
    else:
        image, painted = case.image[np.newaxis], labels[np.newaxis]
        boxes = np.insert(case.boxes, [2, 4], 0, axis=1)  # slice 0
    height, width = painted.shape[1:]
    views = choose_views(boxes, height, width, settings, is_volume=case.is_volume)
    every = steps_of(boxes, settings)
    steps = schedule(boxes, views, every)
    if embeddings is None:
        peak = estimate_peak(
            case.image.shape, case.image.dtype, len(boxes), is_volume=case.is_volume
        )
        most = embeddings_kept(peak, memory_limit, EMBEDDINGS_KEPT)
        embeddings = Embeddings(image, network, most, visits(steps))
    return Work(
        boxes=boxes,
        every=every,
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
    """The boxes of a case on their way through its slices."""

    boxes: Boxes  # (N, 6)
    every: Sequence[int]  # by box: every which of its slices is decoded
    steps: list[Step]
    embeddings: Embeddings
    decoder: Decoder
    prompter: Prompter
    painter: Painter
    batch: int  # prompts with all cells in one call of the decoder
    clock: Clock
    # What the last decoded slice handed on, by box: upwards and downwards from the middle.
    upwards: dict[int, Track] = field(default_factory=dict)
    downwards: dict[int, Track] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Where each box begins."""
        self._middles = middle_slices(self.boxes)

    def segmented(self, step: Step) -> Iterator[tuple[int, float]]:
        """Paint the boxes of a step one by one; each with the network's own estimate of its IoU."""
        tracks = [self._track_before(step.z, i) for i in step.boxes]
        answered = self._answered(step, tracks)
        for i, track, (asked, answers, iou) in zip(step.boxes, tracks, answered, strict=True):
            self._paint(step.z, i, track, asked, answers)
            yield i, iou

    def _track_before(self, z: int, i: int) -> Track | None:
        """What the slice before `z` handed on, on the way of box `i`."""
        return (self.upwards if z >= self._middles[i] else self.downwards).pop(i, None)

    def _answered(
        self, step: Step, tracks: Sequence[Track | None]
    ) -> Iterator[tuple[list[Asked], list[Answer], float]]:
        """Of each box, by frame: what was asked, and weighted answers; and the mean IoU."""
        limits = [self.painter.limits[i] for i in step.boxes]
        asked: list[list[Asked]] = []
        answered = []
        for frame, _ in step.view:
            asked.append(self.prompter.ask(frame, step.z, self.boxes[list(step.boxes)], tracks))
            prompts = [one.prompts for one in asked[-1]]
            embedding = self.embeddings.get(frame, step.z, self.clock)
            answered.append(
                decoded(self.decoder, embedding, frame, prompts, limits, self.batch, self.clock)
            )
        weights = [weight for _, weight in step.view]
        for its, answers in zip(zip(*asked, strict=True), zip(*answered, strict=True), strict=True):
            weighted = list(zip(weights, answers, strict=True))
            yield (
                list(its),
                [replace(answer, weight=weight) for weight, (answer, _) in weighted],
                sum(weight * iou for weight, (_, iou) in weighted),
            )

    def _paint(
        self, z: int, i: int, track: Track | None, asked: list[Asked], answers: list[Answer]
    ) -> None:
        """Paint box `i` in slice `z`, and between it and the slice before; hand on what follows."""
        first, last = self.boxes[i, [2, 5]]
        if first == last:  # no slice follows, as in an image
            self.painter.paint_in_strips(z, i, answers)
            return
        patch = self.painter.paint(z, i, answers)
        if track is not None:
            for between, mixed in interpolated(track.z, track.answers, z, answers):
                self.painter.paint(between, i, mixed)
        self._hand_on(z, i, asked, answers, patch)

    def _hand_on(
        self, z: int, i: int, asked: list[Asked], answers: list[Answer], patch: Patch
    ) -> None:
        """Keep the track of box `i` for the slices that follow, upwards, downwards or both."""
        middle, first, last = self._middles[i], *self.boxes[i, [2, 5]]
        is_followed_up, is_followed_down = middle <= z < last, first < z <= middle
        if not (is_followed_up or is_followed_down):
            return
        track = self.prompter.track(z, self.boxes[i], answers, patch, asked)
        if self.every[i] > 1:
            track = replace(track, answers=answers)
        if z >= middle:
            self.upwards[i] = track
        if is_followed_down:
            self.downwards[i] = track
