"""An object of a session: its voxels, how a step changes them, and how it is taken back."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from swiftmedsam.frame import BoolArray
from swiftmedsam.scans.scan import Colour
from swiftmedsam.server.region import Box, Packed, Region, around, hull_of, parts_of, size_of

HISTORY = 64  # steps of an object that can be undone
NOWHERE: Box = ((0, 0), (0, 0), (0, 0))


@dataclass(frozen=True, eq=False)
class Mark:
    """What the user says of an object in one slice: boxes, or its whole mask."""

    boxes: tuple[Box, ...] = ()
    mask: BoolArray | None = None  # of the slice: (K, J, I) without its axis


Marks = Mapping[int, Mapping[int, Mark]]  # by axis, by slice
Write = tuple[Region, Box, BoolArray]  # new voxels of a region, in a box


def with_mark(marks: Marks, axis: int, index: int, mark: Mark) -> Marks:
    """Marks with one more, or another one in that slice."""
    return {**marks, axis: {**marks.get(axis, {}), index: mark}}


@dataclass(frozen=True)
class Drawn:
    """A box that was answered without crops, and can be refined."""

    axis: int  # across its slice
    box: Box
    positive: bool


@dataclass(frozen=True, eq=False)
class Change:
    """What a step changed of an object."""

    number: int
    box: Box | None  # around all voxels that changed; None: none did
    mask: BoolArray  # the object in this box, after the step; (0, 0, 0) if none changed
    warnings: tuple[str, ...] = ()  # one line each


@dataclass(frozen=True, eq=False)
class Before:
    """What an object was before a step: only what the step changed."""

    voxels: tuple[tuple[Region, Packed], ...]
    marks: Marks
    drawn: Drawn | None


@dataclass(eq=False)
class Object:
    """One object of a session. Only the session changes it."""

    number: int  # 1 or more; its value in the label map
    name: str
    colour: Colour
    content: Region = field(default_factory=Region)  # what it is
    base: Region = field(default_factory=Region)  # of it, what does not depend on marks
    found: dict[int, Region] = field(default_factory=dict)  # what marks gave, by their axis
    marks: Marks = field(default_factory=dict)
    drawn: Drawn | None = None  # the last step, if it can be refined
    history: deque[Before] = field(default_factory=lambda: deque(maxlen=HISTORY))

    @property
    def box(self) -> Box | None:
        """The smallest box around it; None if it is empty."""
        return self.content.box

    @property
    def mask(self) -> BoolArray:
        """Its voxels (K, J, I) in `box`; (0, 0, 0) if it is empty."""
        return self.content.at(self.box or NOWHERE)

    @property
    def nbytes(self) -> int:
        """The bytes of its voxels; what can be undone is not counted."""
        return sum(one.nbytes for one in (self.content, self.base, *self.found.values()))

    # Steps

    def commit(
        self, writes: Iterable[Write], marks: Marks, *,
        warnings: tuple[str, ...] = (), drawn: Drawn | None = None,
    ) -> Change:  # fmt: skip
        """Make a step."""
        former, changed = [], None
        for region, box, new in writes:
            old = region.at(box)
            differs = around(old != new, tuple(start for start, _ in box))
            if differs is None:
                continue
            inner = parts_of(differs, box)
            former.append((region, Packed.of(differs, old[inner])))
            region.put(differs, new[inner])
            if region is self.content:
                changed = differs
        self.history.append(Before(tuple(former), self.marks, self.drawn))
        self.marks, self.drawn = marks, drawn
        return self.changed(changed, warnings)

    def undo(self) -> Change:
        """Take back the last step; nothing changes if there is none."""
        changed = None
        if self.history:
            before = self.history.pop()
            for region, packed in reversed(before.voxels):
                region.put(packed.box, packed.mask())
                if region is self.content:
                    changed = hull_of(changed, packed.box)
            self.marks, self.drawn = before.marks, before.drawn
        return self.changed(changed)

    def changed(self, box: Box | None, warnings: tuple[str, ...] = ()) -> Change:
        """The change of a step that changed something in `box`."""
        return Change(self.number, box, self.content.at(box or NOWHERE), warnings)

    def since(self, box: Box | None, mask: BoolArray) -> Change:
        """What changed since it was `mask` in `box`."""
        scope = hull_of(box, self.box)
        if scope is None:
            return self.changed(None)
        was = np.zeros(size_of(scope), np.bool_)
        if box is not None:
            was[parts_of(box, scope)] = mask
        starts = tuple(start for start, _ in scope)
        return self.changed(around(was != self.content.at(scope), starts))

    # What a step writes

    def found_anew(
        self, axis: int, scope: Box, new: BoolArray, *, own: Box | None,
        exact: BoolArray | None = None,
    ) -> list[Write]:  # fmt: skip
        """What to write if `new`, in `scope`, is what was found along `axis`.

        What was taken away elsewhere stays away, but in the slice `own` all that was found belongs
        to the object. With `exact`, the slice is this mask.
        """
        found = self.found.setdefault(axis, Region())
        old, base, content = found.at(scope), self.base.at(scope), self.content.at(scope)
        content &= ~(old & ~new & ~base)
        content |= new & ~old
        if own is not None:
            inner = parts_of(own, scope)
            content[inner] |= new[inner]
            if exact is not None:
                content[inner] = exact
                base[inner] &= exact
        return [(found, scope, new), (self.base, scope, base), (self.content, scope, content)]

    def added(self, box: Box, mask: BoolArray) -> list[Write]:
        """What to write if `mask` belongs to it, whatever is marked."""
        regions = (self.content, self.base)
        return [(region, box, region.at(box) | mask) for region in regions]

    def hit(self, scope: Box, found: BoolArray, box: Box) -> BoolArray:
        """What a negative `box` takes away in `scope`, where the network found `found`.

        It is that, or else, if the object has nothing of it, all of the object in the box.
        """
        if (found & self.content.at(scope)).any():
            return found
        everything = np.zeros_like(found)
        everything[parts_of(box, scope)] = True
        return everything

    def without(self, scope: Box, gone: BoolArray) -> list[Write]:
        """What to write if `gone` does not belong to it."""
        regions = [self.content, self.base, *self.found.values()]
        return [(region, scope, region.at(scope) & ~gone) for region in regions]

    def corrected(
        self, axis: int, scope: Box, new: BoolArray, indices: Iterable[int]
    ) -> list[Write]:
        """What to write if it is `new` in `scope`, with corrected slices `indices` along `axis`."""
        found = self.found.setdefault(axis, Region())
        by_marks = found.at(scope)
        for index in indices:
            place = [slice(None)] * 3
            place[axis] = slice(index - scope[axis][0], index - scope[axis][0] + 1)
            by_marks[tuple(place)] = new[tuple(place)]
        writes = [(found, scope, by_marks), (self.content, scope, new)]
        for region in (self.base, *self.found.values()):
            if region is not found:
                writes.append((region, scope, region.at(scope) & new))
        return writes

    def become(self, mask: BoolArray) -> list[Write]:
        """What to write if it is `mask` (K, J, I) of the whole volume, and has no marks."""
        box, writes = around(mask), []
        for region in (self.content, self.base, *self.found.values()):
            is_found = region is not self.content and region is not self.base
            scope = hull_of(region.box, None if is_found else box)
            if scope is not None:
                new = np.zeros(size_of(scope), np.bool_) if is_found else mask[parts_of(scope)]
                writes.append((region, scope, new))
        return writes


@dataclass(frozen=True, eq=False)
class Event:
    """What listeners of a session are told."""

    kind: Literal["new", "changed", "named", "removed"]
    object: Object
    change: Change | None = None  # of kind "changed"
