"""Fetches the files of the next case of a run while the present one is segmented."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from swiftmedsam.case import CaseError
from swiftmedsam.result import Clock


class Files(Protocol):
    """The files of a case that lie elsewhere, and those of it that are here."""

    def has_room_beside(self, other: Files) -> bool:
        """Whether its inputs may be here while the case of `other` runs."""

    def fetch(self) -> None:
        """Bring the inputs here. If it fails, none is left.

        Raises:
            CaseError: they cannot be fetched.
        """

    def here(self, clock: Clock, *, fetched: bool) -> contextlib.AbstractContextManager[None]:
        """Inside, the inputs are here; after it, the outputs are where they belong.

        `fetched`: the inputs are here already.
        """

    def remove(self) -> None:
        """Remove the files that are here."""

    def was_full(self, error: BaseException) -> bool:
        """Whether `fetch` failed since there was no room; later there may be."""


class Ahead:
    """The case that is fetched ahead: at most one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: tuple[Files, Future[None]] | None = None

    def begin(self, files: Files | None, beside: Files | None) -> None:
        """Begin to fetch the inputs of a case while that of `beside` runs, if there is room."""
        if files is None or beside is None or not files.has_room_beside(beside):
            return
        self._pending = files, self._pool.submit(files.fetch)

    def take(self, files: Files) -> bool:
        """Wait for the inputs of a case; return whether they are here, else fetch them.

        Raises:
            CaseError: they cannot be fetched.
        """
        if self._pending is None or self._pending[0] is not files:
            self._drop()
            return False
        future = self._pending[1]
        try:
            future.result()  # a signal ends this, too
        except (CaseError, OSError) as error:
            if not files.was_full(error):
                raise
            return False
        finally:
            if future.done():
                self._pending = None
        return True

    def _drop(self) -> None:
        """Do without what is fetched: another run has done the case meanwhile."""
        if self._pending is not None:
            files, future = self._pending
            self._pending = None
            future.cancel()
            future.add_done_callback(lambda _: files.remove())

    def close(self) -> None:
        """Fetch no more; what is being fetched is not waited for."""
        self._drop()
        self._pool.shutdown(wait=False, cancel_futures=True)
