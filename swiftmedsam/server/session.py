"""One open image or volume and its objects: what every viewer shows, whatever it speaks.

    session = Session(open_image("scan.nii.gz", network))
    liver = session.new_object("liver")
    change = session.add_box(liver.number, ((20, 21), (60, 250), (110, 300)))
    change.box, change.mask     # where the object changed, and what it is there now

Voxels are (k, j, i), the order of the labels of `OpenImage`; boxes are half open. A box that is one
slice thick along some axis was drawn in that plane: the volume is then looked at in slices along
this axis. A thicker box is a bound in three dimensions. A picture is a volume of one slice.

How an object comes about from what the user gives, one after the other:

- Boxes and masks of slices are *marks*. All marks along one axis are followed together
  (`OpenImage.extend`), so one more mark corrects what lies around it. What is found replaces what
  was found along this axis before.
- What was found along another axis, in thicker boxes, or came from outside (`seed`) stays beside
  it.
- A negative box takes away what is found in it; if nothing of the object is found there, all of the
  object in it. If the object was followed along this axis, its slice becomes a mark, and the
  slices around it follow.

Changes are made by one thread at a time (`worker`). Others may read meanwhile.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import CaseError
from swiftmedsam.frame import BoolArray
from swiftmedsam.messages import printable, shortened
from swiftmedsam.result import Labels, Progress, Result, label_dtype
from swiftmedsam.scans.scan import MAX_LABELS, Colour, Segment
from swiftmedsam.scans.session import OpenImage
from swiftmedsam.server.objects import Change, Drawn, Event, Mark, Marks, Object, Write, with_mark
from swiftmedsam.server.region import (
    Box,
    Shape,
    around,
    hull_of,
    parts_of,
    size_of,
    slice_box,
)

MOST_NAME = 200  # characters of an object's name


class SessionError(CaseError):
    """A request that a session cannot fulfil; the message is one line."""


class Session:
    """An open image or volume, and its objects."""

    def __init__(self, image: OpenImage) -> None:
        """A session without objects, of an image whose boxes are in voxels."""
        self.image = image
        k, j, i = image.shape if len(image.shape) == 3 else (1, *image.shape)
        self.shape: Shape = (k, j, i)
        self.is_volume = image.is_volume  # or one slice
        # along which its slices were acquired
        self.axis = image.slice_axis if self.is_volume else self.shape.index(1)
        self._images = {self.axis: image}
        self.objects: dict[int, Object] = {}
        self.last_used: tuple[int, int] | None = None  # axis and index of the slice of the last box
        self._next = 1
        self._lock = Lock()  # held for an instant, never while the network works
        self._listeners: list[Callable[[Event], None]] = []

    # Objects

    def __getitem__(self, number: int) -> Object:
        """The object of that number.

        Raises:
            SessionError: there is none.
        """
        if number not in self.objects:
            raise SessionError(f"there is no object {number!r}")
        return self.objects[number]

    def new_object(self, name: str = "", colour: Colour | None = None) -> Object:
        """Begin an object; without a name it gets its number, without a colour one by its number.

        Raises:
            SessionError: there are as many objects as a label map can hold.
        """
        number = self._next
        if number > MAX_LABELS:
            raise SessionError(f"a session can have {MAX_LABELS} objects")
        self._next += 1
        named = _name(name) or str(number)
        made = Object(number, named, colour or Segment(number, named, (0,) * 3, (0,) * 3).colour)
        with self._lock:
            self.objects[number] = made
        self._tell(Event("new", made))
        return made

    def rename(self, number: int, name: str = "", colour: Colour | None = None) -> None:
        """Give an object another name, another colour, or both."""
        one = self[number]
        one.name, one.colour = _name(name) or one.name, colour or one.colour
        self._tell(Event("named", one))

    def remove(self, number: int) -> Change:
        """Remove an object, with its history."""
        one = self[number]
        box = one.box
        with self._lock:
            del self.objects[number]
        self._tell(Event("removed", one))
        return Change(number, box, np.zeros(size_of(box) if box else (0, 0, 0), np.bool_))

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` after each change, in the thread that made it."""
        self._listeners.append(listener)

    # Changes

    def add_box(
        self,
        number: int,
        box: Sequence[Sequence[int]],
        *,
        positive: bool = True,
        extend: bool = True,
        quick: bool = False,
        progress: Progress | None = None,
    ) -> Change:
        """Take a box for an object.

        Args:
            number: of the object.
            box: ((k0, k1), (j0, j1), (i0, i1)), half open, whole numbers; what lies outside the
                volume is cut off. One slice thick along an axis: it was drawn in this plane.
            positive: False: what is found in it does not belong to the object.
            extend: follow the object from the slice of a thin box through the volume; else only
                this slice changes. `extend` can be called later.
            quick: where only the slice changes, ask without crops, which small boxes need to be
                exact; `refine` makes up for it.
            progress: as of `OpenImage.extend`; if it raises `extend.Enough`, what was found until
                then counts.

        Raises:
            SessionError: the box is not a box, or lies outside; there is no such object.
        """
        one, whole = self[number], self._checked(box)
        axis = self._plane_of(whole)
        if axis is None:
            return self._bounded(one, whole, positive=positive, progress=progress)
        self.last_used = axis, whole[axis][0]
        follow = extend and self.is_volume
        if not positive:
            return self._taken_away(one, axis, whole, follow, quick, progress)
        index, place = self._place(axis, whole)
        known = one.marks.get(axis, {}).get(index)
        if known is not None and known.mask is not None:
            mask = known.mask | self._in_slice(axis, whole, crops=not quick)
            marks = with_mark(one.marks, axis, index, Mark(mask=mask))
        else:
            boxes = known.boxes if known else ()
            marks = with_mark(one.marks, axis, index, Mark((*boxes, whole)))
        if follow:
            return self._followed(one, axis, marks, place, progress)
        new = np.expand_dims(self._in_slice(axis, whole, crops=not quick), axis)
        if known is not None:  # else it replaces what other slices led to
            new |= one.found[axis].at(place)
        writes = one.found_anew(axis, place, new, own=place)
        return self._commit(one, writes, marks, drawn=Drawn(whole, True) if quick else None)

    def refine(self, number: int) -> Change:
        """Ask the last box again, with crops, if it was `quick` and only its slice changed.

        To undo it is to undo the box.
        """
        one = self[number]
        drawn = one.drawn
        if drawn is None:
            return self[number].changed(None)
        before, shown = one.box, one.mask
        self.undo(number)
        self.add_box(number, drawn.box, positive=drawn.positive, extend=False)
        return one.since(before, shown)

    def extend(
        self, number: int, axis: int | None = None, progress: Progress | None = None
    ) -> Change:
        """Follow an object from all its marks along `axis`; None: the axis of the last box."""
        one = self[number]
        if axis is None:
            axis = self.last_used[0] if self.last_used else self.axis
            if axis not in one.marks and one.marks:
                axis = next(iter(one.marks))
        if not self.is_volume or not one.marks.get(axis):
            return self[number].changed(None)
        return self._followed(one, axis, one.marks, None, progress)

    def set_slice(
        self,
        number: int,
        axis: int,
        index: int,
        mask: npt.ArrayLike,
        *,
        extend: bool = False,
        progress: Progress | None = None,
    ) -> Change:
        """Take a mask that was corrected by hand; it is kept as it is.

        Args:
            number: of the object.
            axis: across the slice: 0, 1 or 2 for k, j, i.
            index: of the slice.
            mask: of the slice, with the shape of the volume without `axis`.
            extend: let the other slices follow from it.
            progress: as of `add_box`.

        Raises:
            SessionError: there is no such slice or object, or the mask has another shape.
        """
        one = self[number]
        if not (0 <= axis <= 2 and 0 <= index < self.shape[axis]):
            raise SessionError(f"there is no slice {index} along axis {axis} of {self._words}")
        plane = np.asarray(mask) != 0
        wanted = tuple(np.delete(self.shape, axis).tolist())
        if plane.shape != wanted:
            raise SessionError(
                f"the mask of a slice along {'kji'[axis]} should have the shape {wanted}, "
                f"got {plane.shape}"
            )
        self.last_used = axis, index
        place = slice_box(self.shape, axis, index)
        exact = np.expand_dims(plane, axis)
        marks = with_mark(one.marks, axis, index, Mark(mask=plane))
        if extend and self.is_volume:
            return self._followed(one, axis, marks, place, progress, exact=exact)
        writes = one.found_anew(axis, place, exact, own=place, exact=exact)
        return self._commit(one, writes, marks)

    def seed(self, number: int, mask: npt.ArrayLike) -> Change:
        """Let an object be `mask` (K, J, I), whatever it was.

        Raises:
            SessionError: the mask has another shape, or there is no such object.
        """
        one, whole = self[number], np.asarray(mask)
        if whole.shape != self.shape:
            raise SessionError(f"the mask should have the shape {self.shape}, got {whole.shape}")
        return self._commit(one, one.become(whole != 0), {})

    def reset(self, number: int) -> Change:
        """Empty an object; that can be undone."""
        one = self[number]
        return self._commit(one, one.become(np.zeros(self.shape, np.bool_)), {})

    def undo(self, number: int) -> Change:
        """Take back the last step of an object; nothing changes if there is none."""
        one = self[number]
        with self._lock:
            change = one.undo()
        self._tell(Event("changed", one, change))
        return change

    # What there is

    def label_map(
        self, numbers: Iterable[int] | None = None, *, later_wins: bool = False
    ) -> Labels:
        """The numbers of objects by voxel, (K, J, I): see `labels_in`."""
        everything = tuple((0, length) for length in self.shape)
        return self.labels_in(everything, numbers, later_wins=later_wins)

    def labels_in(
        self,
        box: Sequence[Sequence[int]],
        numbers: Iterable[int] | None = None,
        *,
        later_wins: bool = False,
    ) -> Labels:
        """The numbers of objects in `box`; 0 where there is none.

        Where objects overlap, the earlier one counts, of `numbers` or of all; the later one if
        `later_wins`.
        """
        part = self._checked(box)
        with self._lock:
            chosen = [self[n] for n in (self.objects if numbers is None else numbers)]
            top = max((one.number for one in chosen), default=0)
            labels = np.zeros(size_of(part), label_dtype(top))
            for one in chosen if later_wins else reversed(chosen):
                if one.box is not None:
                    labels[one.content.at(part)] = one.number
        return labels

    # How changes are made

    @property
    def _words(self) -> str:
        return " x ".join(map(str, self.shape)) + " voxels"

    def _checked(self, box: Sequence[Sequence[int]]) -> Box:
        """A box cut to the volume."""
        try:
            ends = [(operator.index(start), operator.index(end)) for start, end in box]
        except (TypeError, ValueError):
            ends = []
        if len(ends) != 3 or any(start >= end for start, end in ends):
            raise SessionError(
                "a box should be three pairs of whole numbers, first and behind the last, got "
                f"{shortened(printable(str(box)))}"
            )
        k, j, i = (
            (max(0, start), min(end, length))
            for (start, end), length in zip(ends, self.shape, strict=True)
        )
        if any(start >= end for start, end in (k, j, i)):
            raise SessionError(f"the box {ends} lies outside the {self._words}")
        return k, j, i

    def _plane_of(self, box: Box) -> int | None:
        """The axis across the plane that a box was drawn in; None: it is thicker than a slice."""
        if not self.is_volume:
            return self.axis
        thin = [a for a in range(3) if size_of(box)[a] == 1 and self.shape[a] > 1]
        if not thin:
            return None
        return self.axis if self.axis in thin else thin[0]

    def image_along(self, axis: int) -> OpenImage:
        """The image in slices along `axis`; of a picture there is only one."""
        if axis not in self._images:
            self._images[axis] = self.image.along(axis)
        return self._images[axis]

    def _place(self, axis: int, box: Box) -> tuple[int, Box]:
        """Index and box of the slice that a box is in."""
        index = box[axis][0]
        return index, slice_box(self.shape, axis, index)

    def _corners(self, box: Box) -> list[int]:
        """First and last voxel, as `OpenImage` has them: i, j(, k), both inclusive."""
        own = box[::-1] if len(self.image.shape) == 3 else box[:0:-1]
        return [start for start, _ in own] + [end - 1 for _, end in own]

    def _labels(self, result: Result) -> BoolArray:
        """Where the labels (K, J, I) of a result are."""
        return np.asarray(result.labels.reshape(self.shape) != 0)

    def _in_slice(self, axis: int, box: Box, *, crops: bool) -> BoolArray:
        """What a box marks in its slice: (K, J, I) without `axis`."""
        result = self.image_along(axis).segment([self._corners(box)], crops=crops)
        index, _ = self._place(axis, box)
        return np.asarray(result.labels.reshape(self.shape).take(index, axis) != 0)

    def _bounded(
        self, one: Object, box: Box, *, positive: bool, progress: Progress | None
    ) -> Change:
        """Take a box that bounds an object in three dimensions."""
        found = self._labels(self.image.segment([self._corners(box)], progress))[parts_of(box)]
        writes = one.added(box, found) if positive else one.without(box, one.hit(box, found, box))
        return self._commit(one, writes, one.marks)

    def _taken_away(
        self, one: Object, axis: int, box: Box, follow: bool, quick: bool,
        progress: Progress | None,
    ) -> Change:  # fmt: skip
        """Take away what is found in a negative box that was drawn in a slice."""
        index, place = self._place(axis, box)
        drawn = Drawn(box, False) if quick and not follow else None
        if follow and not one.marks.get(axis):
            image = self.image_along(axis)
            whole = self._labels(image.segment([self._corners(box)], progress, extend=True))
            scope = hull_of(around(whole), box) or box
            writes = one.without(scope, one.hit(scope, whole[parts_of(scope)], box))
            return self._commit(one, writes, one.marks)
        found = np.expand_dims(self._in_slice(axis, box, crops=not quick), axis)
        gone = one.hit(place, found, box)
        if not one.marks.get(axis):
            return self._commit(one, one.without(place, gone), one.marks, drawn=drawn)
        kept = one.content.at(place) & ~gone
        marks = with_mark(one.marks, axis, index, Mark(mask=kept.squeeze(axis)))
        if follow:
            return self._followed(one, axis, marks, place, progress, exact=kept)
        writes = one.found_anew(axis, place, kept, own=place, exact=kept)
        return self._commit(one, writes, marks, drawn=drawn)

    def _followed(
        self,
        one: Object,
        axis: int,
        marks: Marks,
        place: Box | None,
        progress: Progress | None,
        exact: BoolArray | None = None,
    ) -> Change:
        """Follow the marks along `axis`; the last one is in the slice `place`."""
        own = marks[axis].items()
        boxes = [self._corners(box) for _, mark in own if mark.mask is None for box in mark.boxes]
        masks = {index: mark.mask for index, mark in own if mark.mask is not None}
        corners = np.array(boxes, np.float64).reshape(-1, 6)
        result = self.image_along(axis).extend(corners, masks, progress)
        whole = self._labels(result)
        former = one.found[axis].box if axis in one.found else None
        scope = hull_of(around(whole), former, place)
        if scope is None:
            return self._commit(one, [], marks, warnings=self._warnings(one, result))
        new = whole[parts_of(scope)]
        writes = one.found_anew(axis, scope, new, own=place, exact=exact)
        return self._commit(one, writes, marks, warnings=self._warnings(one, result))

    def _commit(
        self, one: Object, writes: Iterable[Write], marks: Marks, *,
        warnings: tuple[str, ...] = (), drawn: Drawn | None = None,
    ) -> Change:  # fmt: skip
        """Make a step of an object, and tell the listeners."""
        with self._lock:
            change = one.commit(writes, marks, warnings=warnings, drawn=drawn)
        self._tell(Event("changed", one, change))
        return change

    def _warnings(self, one: Object, result: Result) -> tuple[str, ...]:
        """The warnings of a result, in the name of the object."""
        start = f"{self.image.scan.name}: object 1 "
        return tuple(
            f"{one.name}: it {line.removeprefix(start)}"
            for line in result.warnings
            if line.startswith(start)
        )

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _name(text: str) -> str:
    """A name as one line without control characters, not too long."""
    return printable(" ".join(text.split()))[:MOST_NAME]
