"""What the faces of the server share: the network, its worker, and the sessions that clients hold.

A client holds a session by a token that it cannot guess. It loses it when it releases it, when it
does nothing for too long, or when it does not say for a while that it is still there.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from swiftmedsam.case import CaseError
from swiftmedsam.display import DEFAULT_WINDOW, Window
from swiftmedsam.memory import SCAN_PROGRAM_BYTES
from swiftmedsam.result import Progress
from swiftmedsam.scans.session import OpenImage
from swiftmedsam.segment import NetworkLike
from swiftmedsam.server.files import Files
from swiftmedsam.server.session import Session
from swiftmedsam.server.temporary import Temporary
from swiftmedsam.server.worker import Abandoned, Worker

log = logging.getLogger(__name__)

NEIGHBOURS = 8  # slices on each side of the last one that are prepared while nobody asks
LEAST_TO_PREPARE = 32  # embeddings; where fewer fit, preparing would push out what is in use

PLANES = 3  # of a volume: each has embeddings of its own
EMBEDDINGS_SHARE = 3 / 4  # of the memory; the images themselves need the rest

T = TypeVar("T")


class Refused(Exception):  # noqa: N818 - the answer to a request
    """A request that is answered by an error: an HTTP status, and one line."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Limits:
    """What clients may take together."""

    memory: int  # bytes, of the whole process
    sessions: int = 4
    upload: int = 2 << 30  # bytes of a request
    idle_seconds: float = 600.0  # without a request that works; the session is then lost
    liveness_seconds: float = 60.0  # without any request, of clients that send heartbeats
    answer_seconds: float = 45.0  # for one answer of a client that waits a minute


@dataclass(eq=False)
class Held:
    """A session that a client holds, and what the client's face keeps of it."""

    token: str
    liveness: float | None  # seconds; None: it sends no heartbeats
    idle: float  # seconds
    used: float  # when it last worked, of `time.monotonic`
    seen: float  # when it last asked anything
    spare: float | None = None  # seconds unseen after which another client may take its place
    session: Session | None = None
    reserved: int = 0  # bytes that its image may come to need
    busy: int = 0  # requests that are being worked on
    sends: bool = False  # whether its client is sending an image or a mask
    state: Any = None  # of the face
    ended: Callable[[], None] | None = None  # called in the event loop when it is lost

    def expires(self) -> float:
        """When it is lost if its client does nothing, of `time.monotonic`."""
        ends = [self.used + self.idle]
        if self.liveness is not None:
            ends.append(self.seen + self.liveness)
        return min(ends)

    @property
    def opened(self) -> Session:
        """Its session.

        Raises:
            Refused: no image was opened yet.
        """
        if self.session is None:
            raise Refused(400, "no image was set")
        return self.session


class Hub:
    """The server's state. Its methods are called in the event loop, but for `prepare`."""

    def __init__(
        self, network: NetworkLike, limits: Limits, files: Files, *,
        modality: str = "", window: Window = DEFAULT_WINDOW, directions: str = "LPS",
        journals: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`modality` and `window` are those of all images, `directions` those of arrays.

        They are as of `open_image`.

        `journals` is the folder for objects that are not saved; None: they are lost if the server
        is killed.
        """
        self.journals = journals
        self.network, self.limits, self.files = network, limits, files
        self.modality, self.window, self.directions = modality, window, directions
        self.worker = Worker(self.prepare)
        self.temporary = Temporary()
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._files_received = 0  # at present
        self._upcoming: Iterator[tuple[OpenImage, int]] = iter(())  # slices to prepare

    # Tokens

    def claim(
        self, *, liveness: bool = False, idle_seconds: float | None = None,
        spare_seconds: float | None = None,
    ) -> Held:  # fmt: skip
        """Hold a session, which has no image yet.

        Args:
            liveness: the client sends heartbeats.
            idle_seconds: without work, after which it is lost; None: those of the limits.
            spare_seconds: without a word of the client, after which another client may take its
                place; None: nobody may.

        Raises:
            Refused: 503, all sessions are taken.
        """
        self.reap()
        if len(self._held) >= self.limits.sessions and not self._made_room():
            raise Refused(503, f"all {self.limits.sessions} sessions are in use; try again later")
        now = self._clock()
        held = Held(
            secrets.token_hex(16),
            self.limits.liveness_seconds if liveness else None,
            self.limits.idle_seconds if idle_seconds is None else idle_seconds,
            now,
            now,
            spare_seconds,
        )
        self._held[held.token] = held
        return held

    def held(self, token: str | None, *, works: bool = True) -> Held:
        """The session of a token. `works` is False for requests that only say "I am still there".

        Raises:
            Refused: 410, there is none, or not any more.
        """
        self.reap()
        held = self._held.get(token or "")
        if held is None:
            raise Refused(410, "the session is unknown or has expired")
        held.seen = self._clock()
        if works:
            held.used = held.seen
        return held

    def remaining(self, held: Held) -> float:
        """Seconds until a session is lost if its client only says that it is still there."""
        return max(0.0, held.used + held.idle - self._clock())

    def release(self, token: str | None) -> None:
        """Give a session back; an unknown token is ignored."""
        held = self._held.pop(token or "", None)
        if held is not None:
            self._drop(held)

    def reap(self) -> None:
        """Take sessions from clients that are gone."""
        now = self._clock()
        for held in [one for one in self._held.values() if not one.busy and one.expires() <= now]:
            log.info("a session expired")
            del self._held[held.token]
            self._drop(held)

    def _made_room(self) -> bool:
        """Take the place of the client that is silent for longest; False: nobody may lose it."""
        now = self._clock()
        spare = [
            one for one in self._held.values()
            if one.spare is not None and one.seen + one.spare <= now and not one.busy
        ]  # fmt: skip
        if not spare:
            return False
        self.release(min(spare, key=lambda one: one.seen).token)
        return True

    def _drop(self, held: Held) -> None:
        held.session = None
        held.reserved = 0
        held.state = None
        self._upcoming = iter(())
        if held.ended is not None:
            held.ended()

    # Work

    @contextlib.contextmanager
    def receiving_file(self) -> Iterator[None]:
        """To be used while a file or folder is received that will be opened.

        Raises:
            Refused: 503, as many are being received as there may be images; they take disk space.
        """
        if self._files_received >= self.limits.sessions:
            raise Refused(503, "other files are being sent; try again later")
        self._files_received += 1
        try:
            yield
        finally:
            self._files_received -= 1

    @contextlib.contextmanager
    def receiving(self, held: Held) -> Iterator[int]:
        """To be used while a client sends an image or a mask; gives the most bytes it may send.

        The session is not lost meanwhile.

        Raises:
            Refused: 409, the client is sending something else. Both would be in memory at once.
        """
        if held.sends:
            raise Refused(409, "this client is sending something already")
        held.sends = True
        held.busy += 1
        try:
            yield min(self.limits.upload, self.memory_for(held))
        finally:
            held.sends = False
            held.busy -= 1
            held.used = held.seen = self._clock()

    async def do(
        self,
        held: Held,
        call: Callable[[Progress], T],
        *,
        seconds: float | None = None,
        tell: Callable[[int, int], None] | None = None,
        prepares: bool = True,
    ) -> T:
        """What `call` returns, which is called in the worker; see `Worker.do`.

        After it the slices around the last one that was asked are prepared while nobody asks,
        unless `prepares` is false: a request that comes meanwhile has to wait for a slice.

        Raises:
            Refused: the server ends, or what was asked cannot be done (400).
        """
        held.busy += 1
        try:
            return await self.worker.do(call, seconds=seconds, tell=tell)
        except Abandoned:
            raise Refused(503, "the server is ending") from None
        except CaseError as error:
            raise Refused(400, str(error)) from None
        except MemoryError:
            raise Refused(413, "this needs more memory than there is") from None
        finally:
            held.busy -= 1
            held.used = held.seen = self._clock()
            self._upcoming = neighbours(held.session) if prepares else iter(())

    async def open(self, held: Held, opening: Callable[[int], OpenImage]) -> Session:
        """Open an image in a session, in place of the one that it has.

        Args:
            held: whose session.
            opening: called in the worker with the bytes that the process may use for it, as
                `memory_limit` of `open_image`.

        Raises:
            Refused: the image cannot be opened.
        """
        held.session = None  # its memory is free for the next one
        held.reserved = 0

        def opened(_: Progress) -> Session:
            session = Session(opening(self.memory_for(held)))
            held.reserved = session.image.reserved_bytes  # the next job may open another image
            return session

        session = await self.do(held, opened)
        if held.token not in self._held:
            raise Refused(410, "the session was released")
        held.session = session
        return session

    def memory_for(self, held: Held) -> int:
        """Bytes of the process that the image of a session may need, beside those of the others."""
        # a copy, made at once: this runs in the worker, while clients come and go
        taken = sum(one.reserved for one in list(self._held.values()) if one is not held)
        return max(0, self.limits.memory - taken)

    @property
    def embeddings_limit(self) -> int:
        """Bytes that a session's embeddings in one plane may take, so that all sessions fit."""
        free = max(0, self.limits.memory - SCAN_PROGRAM_BYTES)
        return int(EMBEDDINGS_SHARE * free) // (PLANES * self.limits.sessions)

    def prepare(self) -> bool:
        """Encode one slice beside the last one that was asked; False: there is none left."""
        image, index = next(self._upcoming, (None, 0))
        if image is not None:
            image.prepare(index)
        return image is not None

    # Begin and end

    def start(self) -> None:
        """Start the worker."""
        self.worker.start()

    def end(self) -> None:
        """Let the worker end: its requests are refused. It may be called by a signal handler."""
        self.worker.end()

    def close(self) -> None:
        """Take their sessions from all clients, after the worker has ended."""
        for token in list(self._held):
            self.release(token)
        self.temporary.close()


def neighbours(session: Session | None) -> Iterator[tuple[OpenImage, int]]:
    """The slices beside that of a session's last box, the nearest first."""
    if session is None or session.last_used is None or not session.is_volume:
        return
    axis, index = session.last_used
    image = session.planes.along(axis)
    if image.embeddings_kept < LEAST_TO_PREPARE:
        return
    for step in range(1, NEIGHBOURS + 1):
        for place in (index + step, index - step):
            if 0 <= place < session.shape[axis]:
                yield image, place
