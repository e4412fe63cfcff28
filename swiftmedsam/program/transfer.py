"""The files of a case that lie in stores or on a DICOMweb server: fetched, and stored."""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from swiftmedsam import system
from swiftmedsam.messages import one_line, printable
from swiftmedsam.program.ahead import Files
from swiftmedsam.result import Clock
from swiftmedsam.store import dicomweb, remote
from swiftmedsam.store.remote import Remote
from swiftmedsam.store.retries import LOCAL_FAULTS, StoreError
from swiftmedsam.urls import MIRROR, Url, stored_at

LOCK = "lock-"  # how the names of files begin that processes lock which use a mirror
SPARE = 4  # times the inputs of two cases: what must be free on the disk to fetch one ahead


class NoRoomError(StoreError):
    """The disk of the local cache has no room for a case."""


@dataclass(frozen=True)
class Transfer:
    """The files of a case that lie elsewhere; this is `Job.files`."""

    name: str  # of the case, for messages
    mirror: Path
    limit: int | None  # bytes of its inputs
    inputs: tuple[Remote, ...]
    older: tuple[Remote, ...]  # outputs that are there: they might not be this program's
    outputs: tuple[Path, ...]  # in the mirror; the labels first
    series: tuple[dicomweb.Series, Path] | None = None  # on a server, and its folder in the mirror
    stale: Url | None = None  # labels that are there, if further files describe them

    @property
    def size(self) -> int | None:
        """Bytes of what is fetched; None if they are not known before."""
        sizes = [one.size for one in (*self.inputs, *self.older)]
        if self.series is not None or None in sizes:
            return None
        return sum(filter(None, sizes))

    def has_room_beside(self, other: Files) -> bool:
        """Whether its inputs may be here while the case of `other` runs.

        Then there is room enough for the outputs of that case, too.
        """
        if not self.inputs or not isinstance(other, Transfer):
            return False
        if self.size is None or other.size is None:
            return False
        both = self.size + other.size
        is_small = self.limit is None or both <= self.limit
        return is_small and SPARE * both <= shutil.disk_usage(self.mirror).free

    def fetch(self) -> None:
        """Bring the inputs into the mirror. If it fails, none is left.

        Raises:
            StoreError: a file cannot be fetched.
        """
        try:
            with self._named():
                hold(self.mirror)
                self._require_room()
                # a worker that died may have replaced some of the older ones already
                older = [now for one in self.older if (now := remote.look(one.url)) is not None]
                fetched = [*self.inputs, *older]
                paths = [one.url.below(self.mirror) for one in fetched]
                for path in paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                if fetched:
                    remote.fetch_all(fetched, paths, self.limit)
                if self.series is not None:
                    series, folder = self.series
                    folder.mkdir(parents=True, exist_ok=True)
                    dicomweb.fetch(series, folder, self.limit)
        except BaseException:
            self.remove()
            raise

    @contextlib.contextmanager
    def here(self, clock: Clock, *, fetched: bool = False) -> Iterator[None]:
        """Inside, the inputs are in the mirror; after it, the outputs are in the store.

        Neither is left in the mirror. If there is an exception, nothing is stored.

        Args:
            clock: measures the time to fetch and to store.
            fetched: the inputs are in the mirror already.

        Raises:
            StoreError: a file cannot be fetched or stored.
        """
        try:
            if not fetched:
                with clock.measure("read"):
                    self.fetch()
            with self._named():
                for path in self.outputs:
                    path.parent.mkdir(parents=True, exist_ok=True)
                yield
                with clock.measure("write"):
                    self._store()
        finally:
            self.remove()

    def _store(self) -> None:
        """Store the outputs; who sees the labels sees what describes them.

        Files that describe labels have their sha256. With those of another run they would not
        count as this program's, and no run would replace them.
        """
        if self.stale is not None:
            remote.remove(self.stale)
        for path in reversed(self.outputs):  # the labels last
            if (url := stored_at(path)) is not None:
                remote.store(path, url)
            elif self.series is not None:
                dicomweb.store(path, self.series[0])

    def remove(self) -> None:
        """Remove its files from the mirror."""
        fetched = [one.url.below(self.mirror) for one in (*self.inputs, *self.older)]
        for path in {*fetched, *self.outputs}:
            path.unlink(missing_ok=True)
        if self.series is not None:
            shutil.rmtree(self.series[1], ignore_errors=True)

    def around(self, step: Callable[[], None]) -> Callable[[], None]:
        """A function that does `step` while the files are here."""

        def wrapped() -> None:
            with self.here(Clock()):
                step()

        return wrapped

    def was_full(self, error: BaseException) -> bool:
        """Whether `fetch` failed since there was no room; later there may be."""
        cause: BaseException | None = error
        while cause is not None:
            is_local = isinstance(cause, OSError) and cause.errno in LOCAL_FAULTS
            if is_local or isinstance(cause, NoRoomError):
                return True
            cause = cause.__cause__
        return False

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Inside, exceptions of stores and of the cache become messages that name the case."""
        try:
            yield
        except StoreError as error:
            raise StoreError(f"{printable(self.name)}: {error}") from error
        except OSError as error:
            if error.errno in LOCAL_FAULTS and (self.outputs or self.inputs):
                raise StoreError(
                    f"{printable(self.name)}: the local cache {self.mirror.parent} is full "
                    f"({one_line(error)})"
                ) from error
            raise

    def _require_room(self) -> None:
        size = sum(one.size or 0 for one in (*self.inputs, *self.older))
        if self.limit is not None and size > self.limit:
            raise StoreError(
                f"has {size / 1e6:.1f} MB, the local cache may take {self.limit / 1e6:.1f} MB of a "
                "case (--cache-size)"
            )
        free = shutil.disk_usage(self.mirror).free
        if size > free:
            raise NoRoomError(
                f"has {size / 1e6:.1f} MB, the local cache {self.mirror.parent} has "
                f"{free / 1e6:.1f} MB left (--cache)"
            )


# The folder of a mirror


@functools.cache
def hold(mirror: Path) -> IO[bytes]:
    """Make a mirror, and let others know that it is in use, until the stream is closed."""
    mirror.parent.mkdir(parents=True, exist_ok=True)
    remove_unused_mirrors(mirror.parent)
    while True:
        mirror.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=LOCK, dir=mirror)
        stream = os.fdopen(handle, "wb")
        system.lock(stream)
        if Path(name).exists():
            return stream
        stream.close()  # another process removed it before it was locked


def remove_unused_mirrors(folder: Path) -> None:
    """Remove the mirrors in `folder` of processes that were killed."""
    for other in folder.glob(f"{MIRROR}*"):
        locks = list(other.glob(f"{LOCK}*"))
        with contextlib.suppress(OSError):  # one is in use
            if locks and all([system.remove_unused(lock) for lock in locks]):
                shutil.rmtree(other)
