"""An image that a page has open: its session, its planes, and what it shows of them.

Shown slices are counted as `planes` turns them. A part of a shown slice is
(rows, columns), both half open.
"""

import contextlib
import functools
import secrets
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.display import WINDOWS, Window
from swiftmedsam.extend import Enough
from swiftmedsam.messages import printable
from swiftmedsam.result import Progress
from swiftmedsam.scans.formats.by_suffix import stem_of
from swiftmedsam.scans.label_maps import objects_of
from swiftmedsam.scans.outputs import Outputs
from swiftmedsam.server.journal import Journal, restore
from swiftmedsam.server.objects import Change, Event, Object
from swiftmedsam.server.page_saving import TABLE, Drawn, drawn, formats_of, write_to
from swiftmedsam.server.planes import SessionError
from swiftmedsam.server.region import slice_box
from swiftmedsam.server.session import Session
from swiftmedsam.server.slices import Part, Plane, planes_of
from swiftmedsam.server.temporary import remove

MOST_STEPS = 1000  # changes whose order is kept for undo
LEAST_SIDE = 2  # pixels of a box in a volume; a thinner one lies in two planes, or in a line
BACKSLASH = "\\"  # in what stands for bytes of a name that are no text
PNG_EFFORT = 1  # of 9: the picture goes to this machine, mostly
WHOLE = Window(127.5, 255)  # of values 0..255


@dataclass(frozen=True, eq=False)
class Painted:
    """A change, and the labels of the shown slice where it changed them."""

    change: Change
    part: Part | None  # None: nothing changed in this slice
    labels: npt.NDArray[np.uint16]  # (rows, columns) of the part


class Opened:
    """An open image, as one page sees it. Changes are made by the worker's thread alone."""

    def __init__(
        self, session: Session, path: Path, folder: Path | None, window: Window, own: Path
    ) -> None:
        """Open `path` for a page.

        Args:
            session: of the file.
            path: of the file.
            folder: where results can be saved; None: nowhere.
            window: that the network sees, if it is a CT.
            own: a folder of its own, for downloads; `close` removes it.
        """
        self._tidy = weakref.finalize(self, remove, own)  # at the latest when Python ends
        self.id = secrets.token_urlsafe(9)
        self.session, self.folder, self._own = session, folder, own
        self.name = printable(path.name)
        self.stem = f"{printable(stem_of(path)).replace(BACKSLASH, '_')}_labels"
        self.saved: list[Path] = []  # for downloads
        self._changes = 0  # of objects, until now
        self._downloads: int | None = None  # the changes that a download of all objects has
        session.listen(self._count)
        self.journal: Journal | None = None
        self.came_back = 0  # objects that an earlier server left
        self.is_open_elsewhere = False  # so that its objects are not kept
        self.planes = {plane.name: plane for plane in planes_of(session.image.scan)}
        self.later_wins = False
        self._stops: set[threading.Event] = set()  # one for each extension that goes on
        self._steps: list[int] = []  # the objects that were changed, the last one last
        self._set_display()
        self.is_ct = self._shows(window)
        self.window = None if self.display.ndim == 4 else window if self.is_ct else WHOLE

    def close(self) -> None:
        """End what is under way, remove its files, and close its journal."""
        self.stop()
        self._tidy()
        if self.journal is not None:
            self.journal.close()

    def keep(self, journals: Path) -> None:
        """Bring back what an earlier server left, and keep what is not saved from now on.

        If the image is open in another page or another server, the journal belongs to that one,
        and this one has none.

        Raises:
            OSError: the journal cannot be read or written.
        """
        journal = Journal.of(self.session, journals)
        if not journal.claim():
            self.is_open_elsewhere = True
            return
        try:
            for kept in journal.kept:
                restore(self.session, kept)
            self.came_back = len(journal.kept)
            journal.follow(self.session)
        except BaseException:
            journal.close()
            raise
        self.journal = journal

    # What there is

    @property
    def presets(self) -> dict[str, list[float]]:
        """Named windows: level and width."""
        return {name: [one.level, one.width] for name, one in WINDOWS.items()} if self.is_ct else {}

    def described(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        scan, session = self.session.image.scan, self.session
        return {
            "id": self.id,
            "name": self.name,
            "stem": self.stem,
            "folder": printable(self.folder.name) or "/" if self.folder else None,
            "facts": self._facts(),
            "formats": formats_of(scan),
            "is_volume": session.is_volume,
            "is_ct": self.is_ct,
            "window": _window(self.window),
            "presets": self.presets,
            "affine": scan.affine.tolist() if scan.has_mm else None,
            "voxel_mm3": abs(float(np.linalg.det(scan.affine[:3, :3]))) if scan.has_mm else None,
            "pixel_mm2": self._pixel_mm2() if scan.has_mm else None,
            "planes": [
                {"name": one.name, "axes": one.axes, "flipped": one.flipped, "size": one.size,
                 "mm": one.mm} for one in self.planes.values()
            ],
            "later_wins": self.later_wins,
            "came_back": self.came_back,
            "is_open_elsewhere": self.is_open_elsewhere,
            "objects": [self.about(one) for one in list(session.objects.values())],
        }  # fmt: skip

    def about(self, one: Object) -> dict[str, Any]:
        """What the page needs to know of an object."""
        return {
            "number": one.number,
            "name": one.name,
            "colour": one.colour,
            "box": one.box,
            "voxels": int(np.count_nonzero(one.mask)),
            "refinable": one.drawn is not None,
            "marks": {
                plane.name: sorted(map(plane.index, one.marks.get(plane.axis, {})))
                for plane in self.planes.values()
            },
        }

    def plane(self, name: object, index: object) -> tuple[Plane, int]:
        """The plane of that name, and the checked number of a shown slice.

        Raises:
            SessionError: there is no such plane or slice.
        """
        plane = self.planes.get(name) if isinstance(name, str) else None
        if plane is None:
            raise SessionError(f"there is no such plane, expected one of {', '.join(self.planes)}")
        if not isinstance(index, int) or not 0 <= index < plane.size[0]:
            raise SessionError(f"slice should be one of 0..{plane.size[0] - 1}, {plane.name}")
        return plane, index

    def picture(self, plane: Plane, index: int, window: Window | None) -> bytes:
        """A PNG of a shown slice, as the network sees it; or in another window."""
        shown = plane.shown(self.display, index)
        if window is not None and self.window is not None and window != self.window:
            values = plane.shown(self.values, index) if self.is_ct else shown
            shown = stretched(values, window)
        if shown.ndim == 3:
            shown = shown[..., ::-1]  # OpenCV's order
        _, content = cv2.imencode(
            ".png", np.ascontiguousarray(shown), [cv2.IMWRITE_PNG_COMPRESSION, PNG_EFFORT]
        )
        return content.tobytes()

    def labels(self, plane: Plane, index: int, part: Part | None = None) -> npt.NDArray[np.uint16]:
        """Numbers of objects (rows, columns) of a shown slice, or of a part of it."""
        rows, columns = part or ((0, plane.size[1]), (0, plane.size[2]))
        found = self.session.labels_in(plane.box(index, rows, columns), later_wins=self.later_wins)
        return np.ascontiguousarray(plane.turned(found), "<u2")

    # Changes

    def box(self, number: int, plane: Plane, index: int, part: Part, *, positive: bool) -> Painted:
        """Take a box that was drawn in a shown slice: only this slice changes."""
        box = plane.box(index, *part)
        if self.session.is_volume and any(end - start < LEAST_SIDE for start, end in part):
            raise SessionError(f"a box should be at least {LEAST_SIDE} pixels wide and high")
        return self._painted(plane, index, number, lambda: self.session.add_box(
            number, box, positive=positive, extend=False, quick=True
        ))  # fmt: skip

    def refine(self, number: int, plane: Plane, index: int) -> Painted:
        """Ask the last box again, with crops."""
        return self._shown(plane, index, self.session.refine(number))

    def stroke(
        self, number: int, plane: Plane, index: int, part: Part,
        touched: npt.NDArray[np.bool_], *, erase: bool,
    ) -> Painted:  # fmt: skip
        """Add what a brush touched, or take it away; `touched` is (rows, columns) of the part."""
        one = self.session[number]
        whole = np.zeros(plane.size[1:], np.bool_)
        whole[slice(*part[0]), slice(*part[1])] = touched
        place = slice_box(self.session.shape, plane.axis, plane.index(index))
        old, brushed = one.content.at(place).take(0, plane.axis), plane.mask(whole)
        new = old & ~brushed if erase else old | brushed
        return self._painted(plane, index, number, lambda: self.session.set_slice(
            number, plane.axis, plane.index(index), new
        ))  # fmt: skip

    def stop(self) -> None:
        """End all extensions early; what they found until then counts."""
        for one in list(self._stops):
            one.set()

    @contextlib.contextmanager
    def stopping(self, stop: threading.Event) -> Iterator[None]:
        """Let the method `stop` set this event, too, which ends an extension early."""
        self._stops.add(stop)
        try:
            yield
        finally:
            self._stops.discard(stop)

    def extend(
        self, number: int, plane: Plane, progress: Progress, stop: threading.Event
    ) -> Change:
        """Follow an object from its marks in a plane; the event `stop` ends it early."""
        self.require_mark(number, plane)

        def step(done: int, most: int) -> None:
            progress(done, most)
            if stop.is_set():
                raise Enough

        return self._recorded(number, lambda: self.session.extend(number, plane.axis, step))

    def require_mark(self, number: int, plane: Plane) -> None:
        """Raise SessionError if there is no box or stroke in a plane to follow an object from."""
        one = self.session[number]
        if not one.marks.get(plane.axis):
            raise SessionError(
                f"'{one.name}' has no box or stroke in the {plane.name} plane to begin from"
            )

    def undo(self, plane: Plane, index: int) -> Painted | None:
        """Take back the last change of any object; None: there is none."""
        while self._steps:
            number = self._steps.pop()
            if number in self.session.objects and self.session[number].history:
                return self._shown(plane, index, self.session.undo(number))
        return None

    def remove(self, number: int, plane: Plane, index: int) -> Painted:
        """Remove an object."""
        return self._shown(plane, index, self.session.remove(number))

    def add_labels(self, path: Path, memory_limit: int | None) -> list[int]:
        """Add the objects of a label map, all or none; return their numbers.

        Raises:
            ScanError: it is no label map, or does not lie on the image's grid.
            SessionError: it has more objects than there is room for.
        """
        scan, added = self.session.image.scan, list[int]()
        try:
            for name, colour, mask in objects_of(path, scan, memory_limit=memory_limit):
                number = self.session.new_object(name, colour).number
                added.append(number)
                self._recorded(number, functools.partial(self.session.seed, number, mask.T))
        except BaseException:
            for number in added:
                self.session.remove(number)
            raise
        return added

    def see(self, window: Window) -> None:
        """Let the network see another window of a CT. Masks stay as they are."""
        if not self.is_ct:
            raise SessionError(f"{self.name}: is no CT in Hounsfield units, and has no window")
        self.session.look_with(self.session.image.windowed(window))
        self._set_display()
        self.window = window

    # Saving

    def save(self, suffix: str, numbers: list[int], place: Path | None) -> list[Path]:
        """Save objects; return the files that were written, the labels first.

        Args:
            suffix: of the format, for a download.
            numbers: of the objects.
            place: the file that the user named; None: it is for a download, and counts as saved
                when `received` is called.

        Raises:
            OSError: it cannot be written.
            CaseError: nothing is there to be saved, or the format does not fit.
        """
        known = [one["suffix"] for one in formats_of(self.session.image.scan)]
        if place is None and suffix not in known:
            raise SessionError(f"format should be one of {', '.join(known)}")
        what = drawn(self.session, numbers, later_wins=self.later_wins)
        written = self._written(what, suffix, place)
        is_whole = not what.left_out and len(what.segments) == sum(
            one.box is not None for one in self.session.objects.values()
        )
        is_whole = is_whole and not written[0].name.lower().endswith(TABLE)
        self._downloads = None
        if is_whole and place is None:
            self._downloads = self._changes
        elif is_whole and self.journal is not None:
            self.journal.saved()
        return written

    def received(self) -> None:
        """The user has the last download: objects that did not change since it are saved."""
        if self._downloads == self._changes and self.journal is not None:
            self.journal.saved()

    def _count(self, _: Event) -> None:
        self._changes += 1

    def _written(self, what: Drawn, suffix: str, place: Path | None) -> list[Path]:
        if place is not None:
            write_to(place, self.session, what)
            beside = Outputs(place).all()[1:] if place.suffix.lower() != TABLE else []
            return [place, *(path for path in beside if path.exists())]
        folder = Path(tempfile.mkdtemp(dir=self._own))
        path = folder / f"{self.stem}{suffix}"
        write_to(path, self.session, what)
        self.saved = sorted(folder.iterdir(), key=lambda one: (one != path, one.name))
        return self.saved

    # How

    def _set_display(self) -> None:
        shape, shown = self.session.shape, self.session.image.display
        colour = shown.shape[-1:] if shown.size > np.prod(shape) else ()
        self.display = shown.reshape(*shape, *colour)
        voxels = self.session.image.scan.voxels
        self.values = voxels.transpose(2, 1, 0, *range(3, voxels.ndim))

    def _shows(self, window: Window) -> bool:
        """Whether the display is this window of the values, so that they are Hounsfield units."""
        if self.display.ndim == 4 or self.display.shape != self.values.shape:
            return False
        plane = next(iter(self.planes.values()))
        index = plane.size[0] // 2
        shown = plane.shown(self.display, index).astype(np.int16)
        again = stretched(plane.shown(self.values, index), window).astype(np.int16)
        return self.values.dtype != np.uint8 and bool(np.abs(shown - again).max() <= 1)

    def _facts(self) -> str:
        scan = self.session.image.scan
        size = " x ".join(map(str, scan.grid if self.session.is_volume else scan.grid[:2]))
        if not scan.has_mm:
            return f"{size} {'voxels' if self.session.is_volume else 'pixels'}"
        return f"{size} voxels of {' x '.join(f'{mm:.3g}' for mm in scan.spacing_mm)} mm"

    def _pixel_mm2(self) -> float:
        plane = next(iter(self.planes.values()))
        steps = self.session.image.scan.affine[:3, [2 - plane.axes[1], 2 - plane.axes[2]]]
        return float(np.linalg.norm(np.cross(steps[:, 0], steps[:, 1])))

    def _recorded(self, number: int, change: Callable[[], Change]) -> Change:
        """Make a change, and note its object for `undo` if there is something to undo."""
        one = self.session[number]
        before = one.history[-1] if one.history else None
        made = change()
        if one.history and one.history[-1] is not before:
            self._steps = [*self._steps[1 - MOST_STEPS :], number]
        return made

    def _painted(
        self, plane: Plane, index: int, number: int, change: Callable[[], Change]
    ) -> Painted:
        return self._shown(plane, index, self._recorded(number, change))

    def _shown(self, plane: Plane, index: int, change: Change) -> Painted:
        part = plane.part(change.box, index) if change.box is not None else None
        if part is None:
            return Painted(change, None, np.zeros((0, 0), np.uint16))
        return Painted(change, part, self.labels(plane, index, part))


def stretched(values: npt.NDArray[Any], window: Window) -> npt.NDArray[np.uint8]:
    """Values as 0..255: black at the window's lower end, white at its upper end."""
    low = window.level - window.width / 2
    scaled = (np.nan_to_num(values.astype(np.float32), nan=low) - low) * (255 / window.width)
    return np.asarray(np.rint(scaled.clip(0, 255)), np.uint8)


def _window(window: Window | None) -> dict[str, float] | None:
    return None if window is None else {"level": window.level, "width": window.width}
