"""Which slices of a DICOM series are one volume.

A series may hold several volumes: phases, echoes, b-values, magnitude and phase. What tells them
apart are tags, never instance numbers or the names of files:

1. Slices that differ in a tag of `OF_A_VOLUME` (echo time, b-value, image type, ...) are never one
   volume, wherever they lie.
2. Where several slices then lie at one position, a tag of `OF_A_TIME` counts if it has the same
   values at every position, or at least at half of them and at each once.
3. Times that differ from slice to slice count if all slices of one volume were acquired before all
   of the next, or if they are the steps of a cycle (trigger times, evenly spaced).

Where no tag does so, or two tags contradict each other, nothing is guessed: the error names them.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from swiftmedsam.messages import printable
from swiftmedsam.scans.dicom.slices import (
    CLOCKS,
    DAY,
    OF_A_TIME,
    OF_A_VOLUME,
    SLICE_VECTOR,
    Mark,
    Slice,
)
from swiftmedsam.scans.dicom.stack import SAME_POSITION_MM, levels, require_one_kind
from swiftmedsam.scans.scan import Float64Array, ScanError, SeveralError, choose_volume

log = logging.getLogger(__name__)

KINDS = (*OF_A_VOLUME, "SamplesPerPixel")
NOT_NAMED = ("Modality", "PatientID", "StudyInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
             "SamplesPerPixel")  # fmt: skip
# Tags that slices of one position are told apart by, and that seldom differ along a volume.
ODD_WITHIN = ("TemporalPosition", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel",
              "ProtocolName", "SeriesDescription", "ContrastBolusAgent")  # fmt: skip
CYCLE, IN_ORDER = "TriggerTime", ("TriggerTime", "FrameReferenceTime", *CLOCKS)
MOST_SPREAD = DAY / 2  # of times in one volume and the next: without a date, midnight turns them
EVEN_STEPS = 0.25  # part of a step by which the steps of a cycle may differ
LISTED = 8  # volumes in a message
SHOWN = 48  # characters of a value in a message

Parts = list[tuple[str, list[Slice]]]  # what each part is, and its slices


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices of one position each, or what is wrong with them."""

    slices: list[Slice]
    label: str  # by what tags they differ from those of other volumes
    fault: str = ""  # why they are no volume, if they are none


def choose(slices: Sequence[Slice], volume: int | None, name: str) -> list[Slice]:
    """The slices of the only volume, or of number `volume`; in no order.

    Raises:
        ScanError: there are several and none is chosen (the message says what each is), or no tag
            tells the slices of a position apart.
    """
    volumes = _volumes(slices, name)
    if volume is None and len(volumes) > 1:
        listed = [
            f"{number} ({one.label}, {_counted(len(one.slices))})"
            for number, one in enumerate(volumes[:LISTED])
        ]
        more = [f"{len(volumes) - LISTED} more"] if len(volumes) > LISTED else []
        found = f"has {len(volumes)} volumes"
        if _at_one_position(slices):
            found = f"all {len(slices)} slices are at the same position"
        raise SeveralError(
            f"{name}: {found}, --volume should name one of 0..{len(volumes) - 1}: "
            f"{'; '.join(listed + more)}", f"{name}: {found}",
        )  # fmt: skip
    if len(volumes) == 1 and volumes[0].fault:
        volume = 0  # whichever was asked for
    chosen = volumes[choose_volume(len(volumes), volume, name)]
    if chosen.fault:
        raise ScanError(chosen.fault)
    _warn_of_mixture(chosen.slices, name)
    return chosen.slices


def _warn_of_mixture(slices: Sequence[Slice], name: str) -> None:
    """Say where slices that each have a place of their own may be of two volumes all the same."""
    for tag in ODD_WITHIN:
        values = sorted({one.marks.get(tag) for one in slices}, key=_rank)
        if len(values) > 1:
            more = f" and {len(values) - 2} more" if len(values) > 2 else ""
            log.warning(
                "%s: the slices of the volume differ in %s, %s%s: they may be of several volumes",
                name, _shown(tag, values[0]), _shown(tag, values[1]), more,
            )  # fmt: skip


def _counted(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def _at_one_position(slices: Sequence[Slice]) -> bool:
    positions = [one.position for one in slices if one.position is not None]
    return len(positions) == len(slices) and bool(
        np.ptp(np.array(positions), axis=0).max() <= SAME_POSITION_MM
    )


def _volumes(slices: Sequence[Slice], name: str) -> list[Volume]:
    kinds = _by_kind(slices)
    found = []
    for label, part in kinds:
        try:
            require_one_kind(part, name)
            found += [
                Volume(volume, ", ".join(filter(None, (label, more))))
                for more, volume in _by_time(part, name)
            ]
        except ScanError as error:
            found.append(Volume(part, label, str(error)))
    return found


def _by_kind(slices: Sequence[Slice]) -> Parts:
    """Slices by the tags that never differ within a volume, in the order of their values."""
    differing = [tag for tag in KINDS if len({one.marks.get(tag) for one in slices}) > 1]
    parts: dict[tuple[Mark | None, ...], list[Slice]] = {}
    for one in slices:
        parts.setdefault(tuple(one.marks.get(tag) for tag in differing), []).append(one)
    return [
        (", ".join(map(_shown, differing, values)), parts[values])
        for values in sorted(parts, key=lambda values: [_rank(value) for value in values])
    ]


def _rank(value: Mark | None) -> tuple[int, tuple[float, ...], str]:
    """What sorts values: none first, then numbers, then texts."""
    if value is None:
        return 0, (), ""
    if isinstance(value, str):
        return 2, (), value
    return 1, value if isinstance(value, tuple) else (value,), ""


def _shown(tag: str, value: Mark | None) -> str:
    """A tag and its value, for a message."""
    if value is None:
        return f"no {tag}"
    if isinstance(value, str):
        return f"{tag} {printable(value[:SHOWN])}"
    if tag in CLOCKS and isinstance(value, float):
        seconds = value % DAY
        return f"{tag} {seconds // 3600:02.0f}{seconds // 60 % 60:02.0f}{seconds % 60:05.2f}"
    numbers = value if isinstance(value, tuple) else (value,)
    return f"{tag} {' '.join(f'{number:.10g}' for number in numbers)}"


def _by_time(slices: list[Slice], name: str) -> Parts:
    """Slices of one position each, in the order of the tags that tell them apart.

    Raises:
        ScanError: no tag does, or two tags say different things.
    """
    groups = [[one for one, _ in level] for level in levels(slices, name)]
    if max(map(len, groups)) == 1:
        return [("", slices)]
    found = list(_partitions(groups))
    if not found:
        raise ScanError(f"{name}: {_tie(groups, slices)}")
    whole = [(tag, parts) for tag, parts in found if _is_whole(parts, len(groups))]
    for tag, parts in whole[1:]:
        if _members(parts) != _members(whole[0][1]):
            raise ScanError(
                f"{name}: several slices lie at each position, and {whole[0][0]} and {tag} say "
                "different things of which belong together"
            )
    _, parts = (whole or found)[0]
    return [
        (", ".join(filter(None, (label, more))), volume)
        for label, part in parts
        for more, volume in _by_time(part, name)
    ]


def _is_whole(parts: Parts, count: int) -> bool:
    """Whether every part has one slice at each of `count` positions."""
    return all(len(part) == count for _, part in parts)


def _members(parts: Parts) -> set[frozenset[int]]:
    return {frozenset(map(id, part)) for _, part in parts}


def _partitions(groups: list[list[Slice]]) -> Iterator[tuple[str, Parts]]:
    """Each tag that tells slices of a position apart, and the parts that it makes of them."""
    slices = [one for group in groups for one in group]
    tags = dict.fromkeys((*OF_A_TIME, *(tag for one in slices for tag in one.marks), *CLOCKS))
    for tag in tags:
        if tag not in KINDS and (parts := _of_values(tag, groups)):
            yield tag, parts
    for tag in IN_ORDER:
        if parts := _of_order(tag, groups):
            yield tag, parts


def _of_values(tag: str, groups: list[list[Slice]]) -> Parts:
    """Parts of one value of a tag each; none where its values are no pattern.

    They are one where each position has the same values equally often, and where each value is
    at half of the positions at least and at none of them twice.
    """
    counts = [Counter(one.marks.get(tag) for one in group) for group in groups]
    total = sum(counts, Counter[Mark | None]())
    same = all(count == counts[0] for count in counts)
    once = all(max(count.values()) == 1 for count in counts)
    half = min(total.values()) * 2 >= len(groups)
    if len(total) < 2 or not (same or (once and half)):
        return []
    return [
        (_shown(tag, value),
         [one for group in groups for one in group if one.marks.get(tag) == value])
        for value in sorted(total, key=_rank)
    ]  # fmt: skip


def _of_order(tag: str, groups: list[list[Slice]]) -> Parts:
    """Parts of the first, second, ... slice in time at every position; none where that is unsure.

    It is sure where parts follow each other, and where trigger times are evenly spaced.
    """
    if len({len(group) for group in groups}) > 1:
        return []
    values = [[one.marks.get(tag) for one in group] for group in groups]
    if not all(isinstance(value, float) for row in values for value in row):
        return []
    times = np.array(values, np.float64)  # (positions, slices at each)
    ranked = np.sort(times, axis=1)
    steps = np.diff(ranked, axis=1)
    if (steps <= 0).any() or (tag in CLOCKS and np.ptp(times) > MOST_SPREAD):
        return []
    follow = bool((ranked[:, :-1].max(axis=0) < ranked[:, 1:].min(axis=0)).all())
    if not follow and not (tag == CYCLE and _are_steps_of_a_cycle(ranked, steps)):
        return []
    order = np.argsort(times, axis=1)
    return [
        (_shown(tag, float(ranked[:, rank].min())),
         [group[at] for group, at in zip(groups, order[:, rank], strict=True)])
        for rank in range(times.shape[1])
    ]  # fmt: skip


def _are_steps_of_a_cycle(ranked: Float64Array, steps: Float64Array) -> bool:
    """Whether times (positions, slices) are evenly spaced at each position, from about one start.

    Heart beats differ in length, so the steps of one position may be longer than those of another.
    """
    if steps.shape[1] < 2:  # any two times are evenly spaced
        return False
    usual = np.median(steps, axis=1, keepdims=True)
    even = np.abs(steps - usual) <= EVEN_STEPS * usual
    return bool(even.all() and np.ptp(ranked[:, 0]) < usual.min() and usual.max() < 2 * usual.min())


def _tie(groups: list[list[Slice]], slices: Sequence[Slice]) -> str:
    """Why slices are no volumes where no tag tells them apart."""
    counts = sorted({len(group) for group in groups})
    if len(counts) > 1:
        more = [group for group in groups if len(group) > counts[0]]
        names = " and ".join(printable(one.path.name) for one in more[0][:2])
        return (
            f"slices are doubled at {len(more)} of {len(groups)} positions, expected one each; "
            f"the first are {names}"
        )
    tags = [tag for tag in dict.fromkeys(tag for one in slices for tag in one.marks)
            if tag not in NOT_NAMED]  # fmt: skip
    same = [tag for tag in tags if len({one.marks.get(tag) for one in slices}) == 1]
    differ = [tag for tag in tags if tag not in same]
    said = [f"{', '.join(same)} are the same in all"] if same else []
    said += [f"{', '.join(differ)} differ without a pattern"] if differ else []
    said += ["" if said else "times, trigger and echo times, b-values and image types are missing"]
    found = f"{counts[0]} slices lie at each of {len(groups)} positions"
    if len(groups) == 1:
        found = f"all {counts[0]} slices are at the same position"
    return f"{found}, and no tag says which belong together: {'; '.join(filter(None, said))}"


def choose_frames(slices: Sequence[Slice], volume: int | None, name: str) -> list[Slice]:
    """Frames of one file that say no position: those of one volume, in order.

    Frames in time are no slices of a volume: each is an image. Nuclear medicine numbers its slices
    (SliceVector); frames of the same other numbers (time slots, energies) are a volume.

    Raises:
        ScanError: there are several and none is chosen, or slices are missing.
    """
    if any(SLICE_VECTOR not in one.marks for one in slices):
        if volume is None and len(slices) > 1:
            found = (
                f"{name}: {len(slices)} frames say no position, so they are images and no slices "
                "of a volume"
            )
            message = f"{found}, --volume should name one of 0..{len(slices) - 1}"
            raise SeveralError(message, found)
        return [slices[choose_volume(len(slices), volume, name)]]
    others = [tag for tag in slices[0].marks if tag.endswith("Vector") and tag != SLICE_VECTOR]
    parts: dict[tuple[Mark | None, ...], list[Slice]] = {}
    for one in slices:
        parts.setdefault(tuple(one.marks.get(tag) for tag in others), []).append(one)
    which = choose_volume(len(parts), volume, name)
    chosen = parts[sorted(parts, key=lambda values: [_rank(value) for value in values])[which]]
    chosen = sorted(chosen, key=lambda one: _rank(one.marks[SLICE_VECTOR]))
    numbers = [one.marks[SLICE_VECTOR] for one in chosen]
    if numbers != [float(number) for number in range(1, len(chosen) + 1)]:
        raise ScanError(f"{name}: SliceVector should be 1 to {len(chosen)} in a volume, is not")
    return chosen
