"""Finds the volumes of a DICOM series.

A series may hold several volumes: phases, echoes, b-values, magnitude and phase. Tags tell them
apart, never instance numbers or file names:

1. Slices that differ in a tag of `OF_A_VOLUME` (echo time, b-value, image type, ...) never belong
   to one volume.
2. If several of the remaining slices lie at one position, a tag of `OF_A_TIME` separates them if it
   has the same values at every position; or if each value is at half of the positions or more, and
   at none twice.
3. Times that differ from slice to slice separate volumes if all slices of one volume were acquired
   before all slices of the next; or if they are the steps of a cycle (trigger times, evenly
   spaced).

If no tag separates them, or two tags contradict each other, nothing is guessed: the error names the
tags.
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
# Tags that separate slices at one position, and that seldom differ within a volume.
ODD_WITHIN = ("TemporalPosition", "InversionTime", "FlipAngle", "KVP", "ConvolutionKernel",
              "ProtocolName", "SeriesDescription", "ContrastBolusAgent")  # fmt: skip
CYCLE, IN_ORDER = "TriggerTime", ("TriggerTime", "FrameReferenceTime", *CLOCKS)
MOST_SPREAD = DAY / 2  # of all times: without a date, midnight would exchange their order
EVEN_STEPS = 0.25  # tolerance of the steps of a cycle, as a part of a step
LISTED = 8  # volumes in a message
SHOWN = 48  # characters of a value in a message

Parts = list[tuple[str, list[Slice]]]  # for each part, its description and its slices


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices with one position each; or slices that are no volume, with the fault."""

    slices: list[Slice]
    label: str  # the tags that differ from those of other volumes
    fault: str = ""  # the reason why the slices are no volume; "" if they are one


def choose(slices: Sequence[Slice], volume: int | None, name: str) -> list[Slice]:
    """The slices of the only volume, or of volume number `volume`; they are not sorted.

    Raises:
        ScanError: there are several volumes and none is chosen (the message lists them), or no tag
            separates slices at one position.
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
        volume = 0  # the message about the fault is more useful than one about the number
    chosen = volumes[choose_volume(len(volumes), volume, name)]
    if chosen.fault:
        raise ScanError(chosen.fault)
    _warn_of_mixture(chosen.slices, name)
    return chosen.slices


def _warn_of_mixture(slices: Sequence[Slice], name: str) -> None:
    """Warn if slices may belong to several volumes, although each has its own position."""
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
    """Group slices by the tags that never differ within a volume, in the order of their values."""
    differing = [tag for tag in KINDS if len({one.marks.get(tag) for one in slices}) > 1]
    parts: dict[tuple[Mark | None, ...], list[Slice]] = {}
    for one in slices:
        parts.setdefault(tuple(one.marks.get(tag) for tag in differing), []).append(one)
    return [
        (", ".join(map(_shown, differing, values)), parts[values])
        for values in sorted(parts, key=lambda values: [_rank(value) for value in values])
    ]


def _rank(value: Mark | None) -> tuple[int, tuple[float, ...], str]:
    """A sort key for values: None first, then numbers, then texts."""
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
    """Group slices to volumes with one slice per position, in the order of the separating tags.

    Raises:
        ScanError: no tag separates them, or two tags contradict each other.
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
    """Each tag that separates slices at one position, with its parts."""
    slices = [one for group in groups for one in group]
    tags = dict.fromkeys((*OF_A_TIME, *(tag for one in slices for tag in one.marks), *CLOCKS))
    for tag in tags:
        if tag not in KINDS and (parts := _of_values(tag, groups)):
            yield tag, parts
    for tag in IN_ORDER:
        if parts := _of_order(tag, groups):
            yield tag, parts


def _of_values(tag: str, groups: list[list[Slice]]) -> Parts:
    """One part for each value of a tag; [] if its values have no pattern.

    They have a pattern if each position has the same values equally often; or if each value is at
    half of the positions or more, and at none twice.
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
    """Parts of the first, second, ... slice in time at every position; [] if they are not certain.

    They are certain if each part ends before the next begins, or if trigger times are evenly
    spaced.
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
    """Whether times (positions, slices) are evenly spaced at each position, with similar starts.

    Heart beats differ in length, so steps may differ between positions.
    """
    if steps.shape[1] < 2:  # any two times are evenly spaced
        return False
    usual = np.median(steps, axis=1, keepdims=True)
    even = np.abs(steps - usual) <= EVEN_STEPS * usual
    return bool(even.all() and np.ptp(ranked[:, 0]) < usual.min() and usual.max() < 2 * usual.min())


def _tie(groups: list[list[Slice]], slices: Sequence[Slice]) -> str:
    """The message for slices that no tag separates."""
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
    facts = [f"{', '.join(same)} are the same in all"] if same else []
    facts += [f"{', '.join(differ)} differ without a pattern"] if differ else []
    if not facts:
        facts = ["times, trigger and echo times, b-values and image types are missing"]
    found = f"{counts[0]} slices lie at each of {len(groups)} positions"
    if len(groups) == 1:
        found = f"all {counts[0]} slices are at the same position"
    return f"{found}, and no tag says which belong together: {'; '.join(facts)}"


def choose_frames(slices: Sequence[Slice], volume: int | None, name: str) -> list[Slice]:
    """Choose a volume of the frames of one file that have no positions; in order.

    Frames in time are images, not slices of a volume. Nuclear medicine numbers its slices
    (SliceVector): frames that have all other numbers (time slots, energies) in common are a volume.

    Raises:
        ScanError: there are several volumes and none is chosen, or slices are missing.
    """
    if any(SLICE_VECTOR not in one.marks for one in slices):
        if volume is None and len(slices) > 1:
            found = (
                f"{name}: {len(slices)} frames have no position, so they are images, not slices "
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
