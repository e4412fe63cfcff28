"""A whole object from what the user marks in one slice, or in a few of them.

    object = [Given(z=20, boxes=[[110, 60, 300, 250]])]
    result = extend_objects(case, network, settings, objects=[object])

From the given slices on, the object is followed upwards and downwards (`follow`) until it has
ended (`has_ended`), another given slice is met, or a bound is reached. Between two given slices it
is followed from both of them, and the probabilities of both ways are averaged: each counts the
more, the nearer its given slice is. So one more box, or a corrected mask, changes the slices up to
the next given ones and no other. A given mask that is empty says that the object is not in that
slice: it is not followed into it or beyond.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from swiftmedsam.case import IN_PLANE, Boxes, Case, CaseError
from swiftmedsam.embeddings import Embeddings
from swiftmedsam.follow import Follower, Found, Given, Signs, patch_of
from swiftmedsam.frame import Patch, hull
from swiftmedsam.result import Clock, Labels, Progress, Result, label_dtype
from swiftmedsam.segment import NetworkLike, default_settings, embeddings_of, segment
from swiftmedsam.settings import Settings

log = logging.getLogger(__name__)


class Enough(Exception):  # noqa: N818 - no fault, but a wish
    """Raised by `progress`: to follow objects no further, and to return what was found so far."""


@dataclass
class Extent:
    """Where an object was found: its mask, and the network's estimate of it, by slice."""

    masks: dict[int, Patch] = field(default_factory=dict)
    predicted_iou: dict[int, float] = field(default_factory=dict)
    is_bounded: bool = False  # it went on where `Settings.extend_most` stopped it
    is_broken_off: bool = False  # `progress` wanted no more

    def add(self, found: Found) -> None:
        """Take what was found in a slice."""
        self.predicted_iou[found.z] = found.predicted_iou
        if found.area:
            self.masks[found.z] = found.patch

    @property
    def size(self) -> int:
        """Voxels of the box around it."""
        if not self.masks:
            return 0
        spans = [(patch.rows, patch.columns) for patch in self.masks.values()]
        rows, columns = spans[0]
        for span in spans:
            rows, columns = hull(rows, span[0]), hull(columns, span[1])
        depth = max(self.masks) - min(self.masks) + 1
        return int(depth * (rows.stop - rows.start) * (columns.stop - columns.start))


def has_ended(signs: Signs, settings: Settings) -> bool:
    """Whether a slice shows that the object is not there any more."""
    return (
        signs.area == 0
        or signs.area < settings.extend_least_area
        or signs.likeness < settings.extend_least_likeness
        or signs.agreement < settings.extend_least_agreement
        or signs.predicted_iou < settings.extend_least_iou
    )


def extended(
    given: Sequence[Given], follower: Follower, depth: int, settings: Settings,
    step: Callable[[], None] | None = None,
) -> Extent:  # fmt: skip
    """The object that `given` marks, of a volume of `depth` slices; one `given` a slice.

    `step` is called after each slice that is taken.
    """
    extent = Extent()

    def take(found: Found) -> None:
        extent.add(found)
        if step:
            step()

    try:
        _follow_all(given, follower, depth, settings, extent, take)
    except Enough:
        extent.is_broken_off = True
    return extent


def _follow_all(
    given: Sequence[Given], follower: Follower, depth: int, settings: Settings, extent: Extent,
    take: Callable[[Found], None],
) -> None:  # fmt: skip
    """Give each slice of the object to `take`, the given ones first."""
    known = [follower.given(one) for one in sorted(given, key=lambda one: one.z)]
    for one in known:
        take(one)
    for lower, upper in pairwise(known):
        if lower.area and upper.area:
            for found in _between(follower, lower, upper):
                take(found)
    for place, one in enumerate(known):
        above, below = known[place + 1 : place + 2], known[:place][-1:]
        for direction, beside, border in ((1, above, depth), (-1, below, -1)):
            if not one.area or any(other.area for other in beside):
                continue
            end = (beside[0].z if beside else border) - direction  # nothing is to be found behind
            last = one.z + direction * min(abs(end - one.z), settings.extend_most)
            reached = one.z
            for found in until_end(follower, one, last, settings):
                take(found)
                reached = found.z
            extent.is_bounded |= reached == last != end


def until_end(follower: Follower, first: Found, last: int, settings: Settings) -> Iterator[Found]:
    """What is found from the slice beside `first` on until the object has ended, up to `last`.

    Up to `Settings.extend_gap` slices in a row that look like the end are passed over. They count
    if the object is there again behind them.
    """
    if first.z == last:
        return
    doubtful: list[Found] = []
    for found, signs in follower.onward(first, last):
        doubtful.append(found)
        if not has_ended(signs, settings):
            yield from doubtful
            doubtful = []
        elif len(doubtful) > settings.extend_gap:
            return


def _between(follower: Follower, lower: Found, upper: Found) -> Iterator[Found]:
    """What both ways found between two given slices, each weighted by its nearness."""
    if upper.z - lower.z <= 1:
        return
    upwards = [found for found, _ in follower.onward(lower, upper.z - 1)]
    downwards = [found for found, _ in follower.onward(upper, lower.z + 1)]
    for up, down in zip(upwards, reversed(downwards), strict=True):
        share = (up.z - lower.z) / (upper.z - lower.z)
        iou = (1 - share) * up.predicted_iou + share * down.predicted_iou
        reached = [(one.patch.rows, one.patch.columns) for one in (up, down) if one.area]
        if reached:  # where neither found it, their mean cannot
            span = hull(reached[0][0], reached[-1][0]), hull(reached[0][1], reached[-1][1])
            mask = (1 - share) * up.probability(span) + share * down.probability(span) > 1 / 2
            yield Found(up.z, Patch(*span, mask), iou)


class SliceCounter:
    """Counts slices for `progress`: how many an object has is not known before its end."""

    def __init__(self, progress: Progress | None, objects: int, depth: int) -> None:
        """`objects` have `depth` slices each, at most."""
        self._progress, self._objects, self._depth = progress, objects, depth
        self._object, self._slices = 0, 0

    def __call__(self) -> None:
        """A slice is done."""
        self._slices = min(self._slices + 1, self._depth)
        self._tell()

    def next_object(self) -> None:
        """An object is done."""
        self._object, self._slices = self._object + 1, 0
        self._tell()

    def _tell(self) -> None:
        if self._progress:
            done = self._object * self._depth + self._slices
            self._progress(done, self._objects * self._depth)


def given_by_boxes(boxes: Boxes, objects: Sequence[int] | None = None) -> list[list[Given]]:
    """What boxes (N, 6), one slice thick each, say of their objects, slice by slice.

    `objects` has the number of each box's object, from 0; None: each box is an object of its own.

    Raises:
        ValueError: a box is thicker than one slice.
    """
    if (boxes[:, 2] != boxes[:, 5]).any():
        raise ValueError("a box that is extended should be one slice thick")
    numbers = np.arange(len(boxes)) if objects is None else np.asarray(objects, np.int64)
    found: list[list[Given]] = [[] for _ in range(int(numbers.max(initial=-1)) + 1)]
    for number, own in enumerate(found):
        of_object = boxes[numbers == number]
        for z in np.unique(of_object[:, 2]):
            in_slice = of_object[of_object[:, 2] == z]
            own.append(Given(int(z), in_slice[:, IN_PLANE]))
    return found


def extend_boxes(
    case: Case,
    network: NetworkLike,
    settings: Settings | None = None,
    *,
    objects: Sequence[int] | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    embeddings: Embeddings | None = None,
) -> Result:
    """Segment a case whose boxes are followed beyond their slice.

    A box that is thicker than one slice says where its object ends: it is segmented as `segment`
    does. Where objects overlap, the smaller one counts (`Settings.smaller_box_wins`).

    Args:
        case: as for `segment`; an image is segmented as it is there.
        network: the same.
        settings: the same.
        objects: by box, the number of its object, from 0 on without a gap; None: each box is an
            object of its own. Object i has the label i + 1. An object of several boxes should have
            boxes of one slice only.
        memory_limit: as for `segment`.
        progress: called after each slice of an object, with slices done and the most that there
            can be. If it raises `Enough`, the result has what was found until then, and says so.
        embeddings: as for `segment`.

    Raises:
        CaseError: an object has several boxes, and one of them is thicker than one slice.
    """
    if not case.is_volume or len(case.boxes) == 0:
        return segment(
            case, network, settings, memory_limit=memory_limit, progress=progress,
            embeddings=embeddings,
        )  # fmt: skip
    numbers = list(range(len(case.boxes))) if objects is None else list(objects)
    is_thick = case.boxes[:, 2] != case.boxes[:, 5]
    for i in np.flatnonzero(is_thick):
        if numbers.count(numbers[i]) > 1:
            raise CaseError(
                f"{case.name}: box {i + 1} is thicker than one slice, and not the only one of its "
                "object"
            )
    thin = np.flatnonzero(~is_thick)
    given = given_by_boxes(case.boxes[thin], [numbers[i] for i in thin])
    given += [[] for _ in range(max(numbers) + 1 - len(given))]
    bounded = {numbers[i]: case.boxes[i] for i in np.flatnonzero(is_thick)}
    return extend_objects(
        case, network, settings, given, bounded=bounded, memory_limit=memory_limit,
        progress=progress, embeddings=embeddings,
    )  # fmt: skip


def extend_objects(
    case: Case,
    network: NetworkLike,
    settings: Settings | None,
    objects: Sequence[Sequence[Given]],
    *,
    bounded: dict[int, Boxes] | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    embeddings: Embeddings | None = None,
) -> Result:
    """Segment the objects of a volume that are marked in single slices; object i has label i + 1.

    `bounded` has the box (6,) of each object that is to be segmented within it; such an object has
    no `Given`. The other arguments are those of `extend_boxes`; the case's own boxes do not count.
    """
    settings = settings or default_settings(network)
    clock, bounded = Clock(), bounded or {}
    depth = len(case.image)
    if embeddings is None:
        embeddings = embeddings_of(case, case.image, network, len(objects), memory_limit)
    step = SliceCounter(progress, len(objects), depth)
    warnings = list(case.warnings)
    extents = dict[int, Extent]()
    if bounded:
        inner = replace(case, boxes=np.stack(list(bounded.values())))
        result = segment(inner, network, settings, memory_limit=memory_limit, embeddings=embeddings)
        clock.add(result.seconds)
        for place, number in enumerate(bounded):
            extents[number] = _extent_of(result, place)
            step.next_object()
    follower = Follower(case.image, network, embeddings, settings, clock)
    for number, given in enumerate(objects):
        if number in bounded:
            continue
        extents[number] = extended(given, follower, depth, settings, step)
        if extents[number].is_broken_off:
            warnings.append(f"{case.name}: object {number + 1} was not followed to its ends")
            log.warning("%s", warnings[-1])
        with contextlib.suppress(Enough):  # it is told of in each object that is not complete
            step.next_object()
        if extents[number].is_bounded:
            warnings.append(
                f"{case.name}: object {number + 1} was followed no further than "
                f"{settings.extend_most} slices"
            )
            log.warning("%s", warnings[-1])
    every = [extents[number] for number in range(len(objects))]
    labels = painted(every, case.image.shape, settings)
    ious = {number: list(extents[number].predicted_iou.values()) for number in sorted(extents)}
    return Result(labels, ious, dict(clock.seconds), tuple(warnings))


def painted(extents: Sequence[Extent], shape: tuple[int, ...], settings: Settings) -> Labels:
    """Labels (D, H, W) of objects: i + 1 in object i. Where two overlap, the smaller one counts.

    Without `Settings.smaller_box_wins` the later one counts.
    """
    labels = np.zeros(shape, label_dtype(len(extents)))
    order = list(range(len(extents)))
    if settings.smaller_box_wins:
        order.sort(key=lambda number: -extents[number].size)
    for number in order:  # what is painted later counts
        for z, patch in extents[number].masks.items():
            labels[z, patch.rows, patch.columns][patch.mask] = number + 1
    return labels


def _extent_of(result: Result, place: int) -> Extent:
    """Where the label of box `place` is."""
    extent = Extent()
    mask = result.labels == place + 1
    for z in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        extent.masks[z] = patch_of(mask[z])
    extent.predicted_iou = dict(enumerate(result.predicted_iou[place]))
    return extent
