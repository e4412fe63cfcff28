"""A simulated cluster, and the driver of a fleet on it.

In `Simulated` time only passes while the driver waits for its events.
"""

import heapq
import itertools
import logging
from collections import Counter

from swiftmedsam.atomic import atomic_file
from swiftmedsam.fleet.driver import (
    Died,
    Driver,
    Finished,
    Started,
)
from swiftmedsam.fleet.progress import FleetProgress
from swiftmedsam.fleet.worker import Outcome, Ready
from swiftmedsam.program.jobs import Job, LocalOutput, Report
from swiftmedsam.program.signals import Stopper

LOAD = 2.0  # seconds until a worker is ready
TAKES = 10.0  # seconds of a case
WRITTEN, RAISES, DIES, STUCK, LOSES_NODE = "written", "raises", "dies", "stuck", "loses its node"
FOR_EVER = 1e5  # seconds
FLAGS = frozenset({"avx2"})


class Simulated:
    """A pool of workers on `nodes` (room by name).

    `does(file, attempt, node)` says what becomes of a case; `starts(number, node)` says what a new
    worker answers: "" if it is ready, "!..." if it dies, else why it takes no part.
    """

    def __init__(self, nodes, does=lambda *_: WRITTEN, starts=lambda *_: "", flags=None):
        self.room, self.does, self.starts = dict(nodes), does, starts
        self.flags = flags or {}
        self.now = 0.0
        self.begun = Counter()  # how often a worker had each case
        self.begun_on = []  # (file, node)
        self.most_running = 0
        self.killed = 0
        self.workers = {}  # number: its node, "" while it waits for room
        self.running = {}  # number: its job
        self._numbers, self._order = itertools.count(1), itertools.count()
        self._plan, self._events = [], []

    def clock(self):
        return self.now

    def at(self, when, act):
        heapq.heappush(self._plan, (when, next(self._order), act))

    # As the driver calls it

    def capacity(self):
        return sum(self.room.values())

    def nodes(self):
        return {node for node, room in self.room.items() if room}

    def start(self):
        number = next(self._numbers)
        self.workers[number] = ""
        self._place()
        return number

    def send(self, worker, job):
        node = self.workers.get(worker)
        self.begun[job.file] += 1
        self.begun_on.append((job.file, node))
        if node is None:
            self._events.append(Died(worker, "was dead"))
            return
        self.running[worker] = job
        self.most_running = max(self.most_running, len(self.running))
        what = self.does(job.file, self.begun[job.file], node)
        if what != STUCK:
            self.at(self.now + TAKES, lambda: self._end(worker, job, what))

    def kill(self, worker):
        self.killed += 1
        self._forget(worker)

    def events(self, seconds):
        assert self.now < FOR_EVER, "the driver waits for ever"
        end = self.now + seconds
        while not self._events and self._plan and self._plan[0][0] <= end:
            self.now, _, act = heapq.heappop(self._plan)
            act()
        if not self._events:
            self.now = end
        events, self._events = self._events, []
        return events

    def slices(self, worker):
        return (1, 4) if worker in self.running else (0, 0)

    # What happens in it

    def add_node(self, node, room):
        self.room[node] = room
        self._place()

    def lose_node(self, node):
        del self.room[node]
        for worker in [number for number, where in self.workers.items() if where == node]:
            self.die(worker, "its machine is lost", node_lost=True)

    def die(self, worker, reason="its process was killed or crashed", *, node_lost=False):
        if worker in self.workers:
            self._forget(worker)
            self._events.append(Died(worker, reason, node_lost))
            self._place()

    def _forget(self, worker):
        self.workers.pop(worker, None)
        self.running.pop(worker, None)
        self._place()

    def _place(self):
        used = Counter(self.workers.values())
        for worker, node in self.workers.items():
            if not node:
                free = [one for one, room in self.room.items() if used[one] < room]
                if free:
                    where = min(free, key=lambda one: used[one])  # spread
                    used[where] += 1
                    self.workers[worker] = where
                    self.at(self.now + LOAD, lambda w=worker, n=where: self._answer(w, n))

    def _answer(self, worker, node):
        if worker not in self.workers:
            return
        answer = self.starts(worker, node)
        if answer.startswith("!"):
            self.die(worker, answer[1:])
        else:
            flags = self.flags.get(node, FLAGS)
            self._events.append(Started(worker, Ready(f"host-{node}", node, flags, answer)))

    def _end(self, worker, job, what):
        if self.running.get(worker) is not job:
            return
        if what == DIES:
            self.die(worker)
        elif what == LOSES_NODE:
            self.lose_node(self.workers[worker])
        else:
            del self.running[worker]
            message = f"{job.file}: no zip" if what == RAISES else None
            record = logging.LogRecord("swiftmedsam.x", 20, "", 0, "%s said", (job.file,), None)
            rows = [{"scan": job.file, "label": 1}]
            if message is None:
                write(job)
            self._events.append(Finished(worker, Outcome(message, [record], rows)))


def write(job):
    with atomic_file(job.output.path) as stream:
        stream.write(job.file.encode() * 1000)


def make_jobs(folder, count, **more):
    """`count` jobs whose outputs, in `folder`, hold their own names."""
    files = [f"case_{i:02}" for i in range(count)]
    return [
        Job(file, LocalOutput(folder / file), None, removes_older=True, **more) for file in files
    ]


def run(jobs, pool, *, workers=None, timeout=None, skip_existing=False, report=None, stopper=None):
    """Run a driver to its end; return its report."""
    report = Report() if report is None else report
    driver = Driver(
        jobs, report, stopper or Stopper(), FleetProgress(len(jobs), bar=False),
        workers=workers, timeout=timeout, skip_existing=skip_existing, clock=pool.clock,
    )  # fmt: skip
    driver.skip_existing()
    driver.run(pool)
    return report


def only(file, what, attempts=99):
    """That one case does `what` in its first attempts; all others are written."""
    return lambda this, attempt, _: what if this == file and attempt <= attempts else WRITTEN


def twice(pool):
    return sorted(file for file, times in pool.begun.items() if times > 1)


def whole(jobs):
    return [job.file for job in jobs if job.output.path.read_bytes() == job.file.encode() * 1000]
