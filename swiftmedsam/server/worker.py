"""The one thread that uses the network: requests wait in line, the event loop never does.

The network serves one caller at a time with all cores, so a second thread would gain nothing. While
nobody asks, the thread prepares what will be asked next (`idle`), a step at a time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

from swiftmedsam.extend import Enough
from swiftmedsam.result import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds without a request before anything is prepared. A step cannot be interrupted, and the next
# request often follows at once.
PATIENCE = 0.4


class Abandoned(Exception):  # noqa: N818 - nothing is wrong with the request
    """A job ended before it was done: nobody waits for it any more, or the server ends."""


@dataclass(eq=False)
class _Job:
    call: Callable[[Progress], Any]
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    deadline: float | None  # of `time.monotonic`
    tell: Callable[[int, int], None] | None
    ending: Event

    def progress(self, done: int, total: int) -> None:
        """Called by the job as it goes on; ends it by an exception.

        Raises:
            Abandoned: nobody waits for it, or the server ends.
            Enough: its time is up; it should return what it has.
        """
        if self.ending.is_set() or self.future.cancelled():
            raise Abandoned
        if self.tell is not None:
            self._later(self.tell, done, total)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Enough

    def run(self) -> None:
        if self.future.cancelled():
            return
        try:
            result = self.call(self.progress)
        except BaseException as error:  # noqa: BLE001 - the one who waits gets it
            self._later(self._fail, error)
        else:
            self._later(self._finish, result)

    def abandon(self) -> None:
        """Let the one who waits know that there will be no result."""
        self._later(self._fail, Abandoned())

    def _finish(self, result: object) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def _later(self, call: Callable[..., None], *arguments: object) -> None:
        """Call it in the event loop, if this still runs."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *arguments)


class Worker:
    """A thread that does one job after the other."""

    def __init__(self, idle: Callable[[], bool] | None = None) -> None:
        """`idle` does one short step of preparation, and returns whether there may be another."""
        self._idle = idle
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._ending = Event()
        self._running: _Job | None = None
        self._thread = Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def do(
        self,
        call: Callable[[Progress], T],
        *,
        seconds: float | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> T:
        """What `call` returns or raises; it is called in the thread, and gets a progress function.

        If this is cancelled, the job ends at its next call of the progress function.

        Args:
            call: the job.
            seconds: from now on; after them the job is told that it is enough (`extend.Enough`).
            tell: called in the event loop, with the steps done and all steps.

        Raises:
            Abandoned: the server ends.
        """
        if self._ending.is_set():
            raise Abandoned
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else time.monotonic() + seconds
        job = _Job(call, loop.create_future(), loop, deadline, tell, self._ending)
        self._jobs.put(job)
        if self._ending.is_set():  # the thread may have ended before it saw the job
            job.abandon()
        result: T = await job.future
        return result

    def end(self) -> None:
        """Abandon the running job and all that wait; this returns at once.

        The thread ends when the running job calls its progress function.
        """
        self._ending.set()
        running = self._running
        if running is not None:
            running.abandon()
        self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, but not longer than this."""
        self._thread.join(seconds)

    def _run(self) -> None:
        may_prepare, patience = True, PATIENCE
        while True:
            try:
                job = self._jobs.get(timeout=patience if may_prepare else None)
            except Empty:
                may_prepare, patience = self._prepared(), 0.0
                continue
            patience = PATIENCE
            if job is None or self._ending.is_set():
                break
            self._running = job
            if self._ending.is_set():  # `end` may have come before it was the running one
                break
            job.run()
            self._running = job = None  # it would keep its result, which may be an image
            may_prepare = True
        while True:  # for those that still wait
            if job is not None:
                job.abandon()
            try:
                job = self._jobs.get(block=False)
            except Empty:
                return

    def _prepared(self) -> bool:
        """Do a step of preparation; return whether there may be another."""
        if self._idle is None or self._ending.is_set():
            return False
        try:
            return self._idle()
        except Exception:  # nobody asked for it, so nobody needs to know
            log.debug("could not prepare", exc_info=True)
            return False
