"""One open image or volume and its objects: what every viewer shows, whatever it speaks.

    session = Session(open_image("scan.nii.gz", network))
    liver = session.new_object("liver")
    change = session.add_box(liver.number, ((20, 21), (60, 250), (110, 300)))
    change.box, change.mask     # where the object changed, and what it is there now

Voxels are (k, j, i), the order of the labels of `OpenImage`; boxes are half open. A box that is one
slice thick along some axis was drawn in that plane: the volume is then looked at in slices along
this axis. A thicker box is a bound in three dimensions. A picture is a volume of one slice.

How an object is made, step by step, of what the user gives:

- Boxes and masks of slices are *marks*. All marks along one axis are followed together
  (`OpenImage.extend`), so one more mark corrects what lies around it. What is found replaces what
  was found along this axis before.
- What was found along another axis or in thicker boxes, and what came from outside (`seed`),
  stays as it is.
- A negative box takes away what is found in it; if nothing of the object is found there, all of the
  object in it. If the object was followed along this axis, its slice becomes a mark, and the
  slices around it follow.

Changes are made by one thread at a time (`worker`). Others may read meanwhile.
"""

from collections.abc import Callable, Iterable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import BoolArray
from swiftmedsam.messages import printable
from swiftmedsam.result import Labels, Progress, label_dtype
from swiftmedsam.scans.scan import MAX_LABELS, Colour, Segment
from swiftmedsam.scans.session import OpenImage
from swiftmedsam.server.objects import Change, Drawn, Event, Mark, Marks, Object, Write, with_mark
from swiftmedsam.server.planes import Planes, SessionError
from swiftmedsam.server.region import (
    Box,
    around,
    hull_of,
    meet_of,
    parts_of,
    size_of,
    slice_box,
)

MOST_NAME = 200  # characters of an object's name


class Session:
    """An open image or volume, and its objects."""

    def __init__(self, image: OpenImage) -> None:
        """A session without objects, of an image whose boxes are in voxels."""
        self.planes = planes = Planes(image)
        self.image, self.shape, self.is_volume = image, planes.shape, planes.is_volume
        self.axis = planes.axis  # along which its slices were acquired
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
        one, whole = self[number], self.planes.checked(box)
        axis = self.planes.axis_of(box)
        if axis is None:
            return self._bounded(one, whole, positive=positive, progress=progress)
        self.last_used = axis, whole[axis][0]
        follow = extend and self.is_volume

        def found() -> BoolArray:
            return self.planes.in_slice(axis, whole, crops=not quick)

        take = self._added if positive else self._taken_away
        return take(one, axis, whole, found, follow, quick, progress)

    def refine(self, number: int) -> Change:
        """Ask the last box again, with crops, if it was `quick` and only its slice changed.

        To undo it is to undo the box.
        """
        one = self[number]
        drawn = one.drawn
        if drawn is None:
            return self[number].changed(None)
        axis, before, shown = drawn.axis, one.box, one.mask
        # asked before anything changes: if it fails, the box stays as it was answered
        exact = self.planes.in_slice(axis, drawn.box, crops=True)
        self.undo(number)
        take = self._added if drawn.positive else self._taken_away
        take(one, axis, drawn.box, lambda: exact, False, False, None)
        return one.since(before, shown)

    def extend(
        self, number: int, axis: int | None = None, progress: Progress | None = None
    ) -> Change:
        """Follow an object from all its marks along `axis`; None: the axis of the last box."""
        one = self[number]
        axis = self._followed_axis(one) if axis is None else axis
        if axis is None or not one.marks.get(axis):
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
            raise SessionError(f"there is no slice {index} along axis {axis} of {self.planes}")
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

    def correct(self, number: int, mask: npt.ArrayLike) -> Change:
        """Let an object be `mask` (K, J, I), which is the object, corrected by hand.

        Slices that were changed become marks: they are kept as they are, and others follow from
        them when the object is next followed. An object without marks is as after `seed`.

        Raises:
            SessionError: the mask has another shape, or there is no such object.
        """
        one, whole = self[number], np.asarray(mask) != 0
        axis = self._followed_axis(one)
        if axis is None or whole.shape != self.shape:
            return self.seed(number, mask)
        scope = hull_of(one.box, around(whole))
        if scope is None:
            return self._commit(one, [], one.marks)
        new, marks = whole[parts_of(scope)], one.marks
        others = tuple(other for other in range(3) if other != axis)
        differs = (new != one.content.at(scope)).any(axis=others)
        indices = (np.flatnonzero(differs) + scope[axis][0]).tolist()
        for index in indices:
            marks = with_mark(marks, axis, index, Mark(mask=whole.take(index, axis)))
        return self._commit(one, one.corrected(axis, scope, new, indices), marks)

    def forget(self, number: int) -> None:
        """Forget the steps of an object: it cannot be undone any more."""
        self[number].history.clear()

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
        part = self.planes.checked(box)
        with self._lock:
            chosen = [self[n] for n in (self.objects if numbers is None else numbers)]
            top = max((one.number for one in chosen), default=0)
            labels = np.zeros(size_of(part), label_dtype(top))
            for one in chosen if later_wins else reversed(chosen):
                inner = meet_of(one.box, part) if one.box else None
                if inner is not None:  # of hundreds of objects, few are in a small part
                    labels[parts_of(inner, part)][one.content.at(inner)] = one.number
        return labels

    # How changes are made

    def look_with(self, image: OpenImage) -> None:
        """Look at the same voxels in another window from now on; objects stay as they are."""
        self.image, self.planes = image, Planes(image)

    def _followed_axis(self, one: Object) -> int | None:
        """The axis of the last box if the object has marks along it, else one that has, or None."""
        if not self.is_volume or not one.marks:
            return None
        last = self.last_used[0] if self.last_used else self.axis
        return last if last in one.marks else next(iter(one.marks))

    def _place(self, axis: int, box: Box) -> tuple[int, Box]:
        """Index and box of the slice that a box is in."""
        index = box[axis][0]
        return index, slice_box(self.shape, axis, index)

    def _bounded(
        self, one: Object, box: Box, *, positive: bool, progress: Progress | None
    ) -> Change:
        """Take a box that bounds an object in three dimensions."""
        found = self.planes.in_box(box, progress)[parts_of(box)]
        writes = one.added(box, found) if positive else one.without(box, one.hit(box, found, box))
        return self._commit(one, writes, one.marks)

    def _added(
        self, one: Object, axis: int, box: Box, found: Callable[[], BoolArray], follow: bool,
        quick: bool, progress: Progress | None,
    ) -> Change:  # fmt: skip
        """Add what a box marks that was drawn in a slice; `found` asks what it is there."""
        index, place = self._place(axis, box)
        known = one.marks.get(axis, {}).get(index)
        if known is not None and known.mask is not None:
            marks = with_mark(one.marks, axis, index, Mark(mask=known.mask | found()))
        else:
            boxes = known.boxes if known else ()
            marks = with_mark(one.marks, axis, index, Mark((*boxes, box)))
        if follow:
            return self._followed(one, axis, marks, place, progress)
        new = np.expand_dims(found(), axis)
        if known is not None:  # else it replaces what other slices led to
            new = new | one.found[axis].at(place)
        writes = one.found_anew(axis, place, new, own=place)
        return self._commit(one, writes, marks, drawn=Drawn(axis, box, True) if quick else None)

    def _taken_away(
        self, one: Object, axis: int, box: Box, found: Callable[[], BoolArray], follow: bool,
        quick: bool, progress: Progress | None,
    ) -> Change:  # fmt: skip
        """Take away what is found in a negative box that was drawn in a slice."""
        index, place = self._place(axis, box)
        drawn = Drawn(axis, box, False) if quick and not follow else None
        if follow and not one.marks.get(axis):
            whole = self.planes.from_box(axis, box, progress)
            scope = hull_of(around(whole), box) or box
            writes = one.without(scope, one.hit(scope, whole[parts_of(scope)], box))
            return self._commit(one, writes, one.marks)
        gone = one.hit(place, np.expand_dims(found(), axis), box)
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
        whole, told = self.planes.from_marks(axis, marks[axis], progress)
        warnings = tuple(f"{one.name}: it {line}" for line in told)
        former = one.found[axis].box if axis in one.found else None
        scope = hull_of(around(whole), former, place)
        if scope is None:
            return self._commit(one, [], marks, warnings=warnings)
        new = whole[parts_of(scope)]
        writes = one.found_anew(axis, scope, new, own=place, exact=exact)
        return self._commit(one, writes, marks, warnings=warnings)

    def _commit(
        self, one: Object, writes: Iterable[Write], marks: Marks, *,
        warnings: tuple[str, ...] = (), drawn: Drawn | None = None,
    ) -> Change:  # fmt: skip
        """Make a step of an object, and tell the listeners."""
        with self._lock:
            change = one.commit(writes, marks, warnings=warnings, drawn=drawn)
        self._tell(Event("changed", one, change))
        return change

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _name(text: str) -> str:
    """A name as one line without control characters, not too long."""
    return printable(" ".join(text.split()))[:MOST_NAME]
