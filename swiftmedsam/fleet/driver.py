"""The driver: gives cases to workers, and knows what a death means.

It has its own queue and does not import Ray, so that every fault can be tested with simulated
workers.

- A worker gets a case only after it said that it is ready.
- A case is suspected only if a ready worker died with it. It is put at the end of the queue, and
  given to another machine if there is one. If a second worker dies with it, it has failed.
- A worker that dies before it is ready, or between two cases, says nothing about a case.
"""

import enum
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from swiftmedsam.case import CaseError
from swiftmedsam.fleet.progress import FleetProgress
from swiftmedsam.fleet.worker import Outcome, Ready
from swiftmedsam.messages import printable
from swiftmedsam.program.jobs import Job, Older, Report
from swiftmedsam.program.run_log import BEGUN, FAILED, SKIPPED, WRITTEN
from swiftmedsam.program.signals import Stopper

TURN = 1.0  # seconds that the driver waits for events before it looks around
MOST_DEATHS = 2  # of workers with one case
MOST_FAILED_STARTS = 5  # in a row; then the driver waits, or gives up if there is no worker
PAUSE = 60.0  # seconds until it tries again
PATIENCE = 60.0  # seconds that it waits for a worker before it says so, or does without
HUNG = 2  # a case ends itself after --timeout; after this many times as long it hangs

log = logging.getLogger(__name__)


class FleetError(RuntimeError):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True)
class Started:
    """A worker has answered."""

    worker: int
    ready: Ready


@dataclass(frozen=True)
class Finished:
    """A worker is done with its case."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True)
class Died:
    """A worker is dead, or cannot be reached."""

    worker: int
    reason: str  # a few words
    node_lost: bool = False  # whether its whole machine is gone


Event = Started | Finished | Died


class Pool(Protocol):
    """Where workers run. Each has a number; numbers are not used twice."""

    def capacity(self) -> int:
        """How many workers the nodes that are there have room for."""

    def nodes(self) -> set[str]:
        """The nodes with room for a worker."""

    def start(self) -> int:
        """Ask for a worker; return its number. `Started` or `Died` will follow."""

    def send(self, worker: int, job: Job) -> None:
        """Give a case to a worker; `Finished` or `Died` will follow."""

    def kill(self, worker: int) -> None:
        """End a worker; no more events of it will follow."""

    def events(self, seconds: float) -> Sequence[Event]:
        """What has happened; waits for the first event, but not longer than `seconds`."""

    def slices(self, worker: int) -> tuple[int, int]:
        """How many slices of its case a worker has done, of how many; (0, 0) if not known."""


class State(enum.Enum):
    """What a worker does."""

    STARTING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    REFUSED = enum.auto()  # it stays, else the next one would be started in its place


@dataclass(frozen=True)
class Death:
    """A worker's death while it had a case."""

    node: str
    host: str
    reason: str
    when: float  # by the driver's clock


@dataclass(eq=False)
class Entry:
    """A case in the queue."""

    job: Job
    deaths: list[Death] = field(default_factory=list)
    older: Older | None = None  # set when it is begun

    @property
    def was_begun(self) -> bool:
        """Whether a worker has had it."""
        return self.older is not None


@dataclass(eq=False)
class Member:
    """A worker as the driver knows it."""

    state: State = State.STARTING
    node: str = ""
    host: str = ""
    entry: Entry | None = None  # its case
    since: float = 0.0  # when it got the case


class Driver:
    """Runs the jobs of a run on the workers of a pool; `report` is up to date at any time."""

    def __init__(
        self, jobs: Sequence[Job], report: Report, stopper: Stopper, progress: FleetProgress, *,
        workers: int | None, timeout: float | None, skip_existing: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Begin with all jobs waiting.

        Args:
            jobs: the cases.
            report: what has become of the cases.
            stopper: asked in every turn.
            progress: shows how far the run is.
            workers: how many there should be; None: as many as the pool has room for.
            timeout: seconds of --timeout.
            skip_existing: whether a case with an output is left out, as soon as it would be begun.
            clock: seconds.
        """
        self._report, self._stopper, self._progress = report, stopper, progress
        self._wanted, self._timeout, self._skip = workers, timeout, skip_existing
        self._clock = clock
        self._files = [job.file for job in jobs]
        self._waiting = deque(Entry(job) for job in jobs)
        self._members: dict[int, Member] = {}
        self._failed_starts, self._last_failure, self._next_start = 0, "", clock()
        self._worked = clock()  # when a worker was last there
        self._flags: dict[frozenset[str], str] = {}  # a host for each kind of CPU
        self.deaths = 0  # of workers that were ready

    def run(self, pool: Pool) -> None:
        """Return when every case is written, skipped or has failed. To be called once.

        Raises:
            Stopped: a signal came; running cases are dropped.
            FleetError: there is no worker, and there will be none.
        """
        self._pool = pool
        while self._waiting or self._of(State.BUSY):
            self._stopper.check()
            self._give_cases()
            self._start_workers()
            done = []
            for event in self._pool.events(TURN):
                member = self._members[event.worker]
                if isinstance(event, Started):
                    self._started(member, event.ready)
                elif isinstance(event, Died):
                    self._died(event)
                elif member.entry is not None:
                    done.append((member.entry, event.outcome))
                    member.state, member.entry = State.IDLE, None
            self._record(done)
            self._kill_hung()
            self._show()
            self._require_workers()

    def skip_existing(self) -> bool:
        """Skip the cases that have outputs, if asked for; return whether any other is left.

        The others come into any order: two drivers on one folder would else begin the same cases at
        the same time, and do all of them twice.
        """
        if self._skip:
            waiting = [entry for entry in self._waiting if not self._skipped(entry)]
            random.shuffle(waiting)
            self._waiting = deque(waiting)
        return bool(self._waiting)

    def _skipped(self, entry: Entry) -> bool:
        """Whether a case is skipped: it has an output, and no worker of this run had it."""
        if not self._skip or entry.was_begun or not entry.job.output.exists():
            return False
        self._report.skipped += 1
        self._report.note(entry.job, SKIPPED)
        return True

    def _of(self, *states: State) -> list[Member]:
        return [member for member in self._members.values() if member.state in states]

    # Cases

    def _give_cases(self) -> None:
        """Give a case to each idle worker, as far as there are cases for it."""
        for number, member in self._members.items():
            if member.state is State.IDLE and (entry := self._next_for(member)):
                if not entry.was_begun:
                    entry.older = Older(entry.job)
                member.state, member.entry, member.since = State.BUSY, entry, self._clock()
                self._report.note(entry.job, BEGUN)
                self._progress.begin()
                self._pool.send(number, entry.job)

    def _next_for(self, member: Member) -> Entry | None:
        """Take the next case for a worker from the queue; cases that are there are skipped."""
        kept: list[Entry] = []  # suspected ones, which another machine should take
        found = None
        while self._waiting and found is None:
            entry = self._waiting.popleft()
            if self._skipped(entry):  # another run may have written it since
                continue
            died_on = {death.node for death in entry.deaths}
            if member.node in died_on and self._another_comes(entry, died_on):
                kept.append(entry)
            else:
                found = entry
        self._waiting.extendleft(reversed(kept))
        return found

    def _another_comes(self, entry: Entry, died_on: set[str]) -> bool:
        """Whether a suspected case can wait for a worker on a machine not in `died_on`.

        Where a worker that starts will be is not known, nor whether there is room for it.
        """
        there = {member.node for member in self._of(State.IDLE, State.BUSY)}
        since = self._clock() - entry.deaths[-1].when
        return bool(there - died_on) or (since < PATIENCE and bool(self._of(State.STARTING)))

    def _record(self, done: Sequence[tuple[Entry, Outcome]]) -> None:
        """Record cases that are done; the table is written once for all of them."""
        written = [entry for entry, outcome in done if outcome.message is None]
        for entry, outcome in done:
            for record in outcome.records:
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            if outcome.message is not None:
                self._failed(entry, outcome.message)
            elif entry.job.table is not None:
                entry.job.table.add(outcome.rows)
        table_fault = self._write_table(written[-1].job) if written else ""
        for entry in written:
            if table_fault:
                self._failed(entry, table_fault)
            else:
                self._report.written += 1
                self._report.note(entry.job, WRITTEN)

    def _write_table(self, job: Job) -> str:
        """Write the table of --stats, if there is one; return the message if it fails, else ""."""
        if job.table is None:
            return ""
        try:
            job.table.put_in_order(self._files)
            job.table.write(printable(job.file))
        except CaseError as error:
            log.error("%s", error)
            return str(error)
        return ""

    def _failed(self, entry: Entry, message: str) -> None:
        """Record a case that has failed."""
        self._report.failures[entry.job.file] = message
        self._report.note(entry.job, FAILED)
        if entry.older is not None:
            entry.older.remove()

    # Workers

    def _start_workers(self) -> None:
        """Ask for workers: as many as there should be, but not more than there are cases left."""
        refused = len(self._of(State.REFUSED))
        wanted = self._pool.capacity() if self._wanted is None else self._wanted + refused
        left = len(self._waiting) + len(self._of(State.BUSY)) + refused
        while len(self._members) < min(wanted, left) and self._clock() >= self._next_start:
            self._members[self._pool.start()] = Member()

    def _started(self, member: Member, ready: Ready) -> None:
        member.node, member.host = ready.node, ready.host
        if ready.refusal:
            member.state = State.REFUSED
            log.warning("%s: takes no part, it %s", printable(ready.host), ready.refusal)
            self._last_failure = f"{ready.host} {ready.refusal}"
            return
        member.state = State.IDLE
        self._failed_starts = 0
        if self._flags and ready.flags not in self._flags:
            log.warning(
                "the CPUs of %s and %s have other instructions, so labels may differ a little",
                printable(next(iter(self._flags.values()))), printable(ready.host),
            )  # fmt: skip
        self._flags.setdefault(ready.flags, ready.host)

    def _died(self, event: Died) -> None:
        """A worker is dead: its case is suspected if it was ready and had one."""
        member = self._members.pop(event.worker)
        if member.state is State.REFUSED:
            return
        if member.state is State.STARTING:
            log.warning("a worker did not start: %s", event.reason)
            if not event.node_lost:
                self._failed_starts += 1
                self._last_failure = event.reason
                if self._failed_starts >= MOST_FAILED_STARTS:
                    self._next_start = self._clock() + PAUSE
            return
        self.deaths += 1
        host = printable(member.host)
        entry = member.entry
        if entry is None:
            log.warning("a worker on %s died between two cases: %s", host, event.reason)
            return
        name = printable(entry.job.file)
        entry.deaths.append(Death(member.node, host, event.reason, self._clock()))
        if len(entry.deaths) < MOST_DEATHS:
            log.warning("%s: a worker on %s died with it: %s", name, host, event.reason)
            self._waiting.append(entry)
            return
        where = "; ".join(f"on {death.host}: {death.reason}" for death in entry.deaths)
        message = f"{name}: {len(entry.deaths)} workers died with it ({where})"
        log.error("%s", message)
        self._failed(entry, message)

    def _kill_hung(self) -> None:
        """Kill workers whose case did not end by its --timeout; this counts as a death."""
        if self._timeout is None:
            return
        longest = HUNG * self._timeout
        for number, member in list(self._members.items()):
            if member.state is State.BUSY and self._clock() - member.since > longest:
                self._pool.kill(number)
                self._died(Died(number, f"killed, no answer in {longest:g} s"))

    def _require_workers(self) -> None:
        """Say so if there has been no worker for a while.

        Raises:
            FleetError: there is no worker, and none can be expected.
        """
        if self._of(State.IDLE, State.BUSY):
            self._worked = self._clock()
            return
        starting = self._of(State.STARTING)
        if self._failed_starts >= MOST_FAILED_STARTS and not starting:
            raise FleetError(f"no worker could be started: {self._last_failure}")
        refusing = {member.node for member in self._of(State.REFUSED)}
        if refusing and self._pool.nodes() <= refusing:
            raise FleetError(f"no worker can take part: {self._last_failure}")
        if self._clock() - self._worked > PATIENCE:
            self._worked = self._clock()
            room = self._pool.capacity() - len(self._of(State.REFUSED))
            log.warning("no worker yet: the nodes have room for %d, waiting", room)

    def _show(self) -> None:
        running = [
            self._pool.slices(number)
            for number, member in self._members.items()
            if member.state is State.BUSY
        ]
        self._progress.show(
            self._report.skipped, self._report.written + len(self._report.failures), running,
            len(self._of(State.IDLE, State.BUSY)),
        )  # fmt: skip
