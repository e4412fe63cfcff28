"""The driver of a fleet: which cases are given to whom, and what deaths mean.

The workers here are none: `Simulated` plays a cluster in which time only passes while the driver
waits. tests/program/test_fleet_ray.py has real ones.
"""

import contextlib
import heapq
import itertools
import logging
import re
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from swiftmedsam.atomic import atomic_file
from swiftmedsam.fleet.driver import (
    HUNG,
    MOST_FAILED_STARTS,
    PATIENCE,
    PAUSE,
    Died,
    Driver,
    Finished,
    FleetError,
    Started,
)
from swiftmedsam.fleet.progress import FleetProgress, duration
from swiftmedsam.fleet.worker import Outcome, Ready
from swiftmedsam.program.jobs import Job, Report
from swiftmedsam.program.run_log import RunLog, read_log
from swiftmedsam.program.signals import Stopped, Stopper
from swiftmedsam.program.stats_table import StatsTable
from tests.helpers import HANGS

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
    with atomic_file(job.output) as stream:
        stream.write(job.file.encode() * 1000)


@pytest.fixture
def jobs(tmp_path):
    """Make `count` jobs whose outputs hold their own names."""

    def make(count, **more):
        files = [f"case_{i:02}" for i in range(count)]
        return [Job(file, tmp_path / file, None, removes_older=True, **more) for file in files]

    return make


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
    return [job.file for job in jobs if job.output.read_bytes() == job.file.encode() * 1000]


# Without faults


def test_each_case_is_given_to_one_worker_once_it_is_ready(jobs):
    pool = Simulated({"a": 2, "b": 1})
    cases = jobs(10)
    report = run(cases, pool)
    assert (report.written, report.failures) == (10, {})
    assert pool.begun == {job.file: 1 for job in cases}
    assert pool.most_running == 3
    assert whole(cases) == [job.file for job in cases]
    assert pool.now < LOAD + 4 * TAKES + 3  # 10 cases on 3 workers: 4 rounds


@pytest.mark.parametrize(("workers", "cases", "started"), [(2, 9, 2), (8, 9, 8), (8, 3, 3)])
def test_there_are_as_many_workers_as_asked_for_but_not_more_than_cases(
    jobs, workers, cases, started
):
    pool = Simulated({"a": 3})  # the others wait for room
    assert run(jobs(cases), pool, workers=workers).written == cases
    assert next(pool._numbers) - 1 == started


def test_what_workers_said_is_said_in_the_order_of_the_cases_ends(jobs, caplog):
    with caplog.at_level(logging.INFO):
        run(jobs(3), Simulated({"a": 1}))
    assert caplog.messages == ["case_00 said", "case_01 said", "case_02 said"]


# Deaths


def test_a_case_whose_worker_was_killed_is_done_by_another(jobs, caplog):
    pool = Simulated({"a": 1, "b": 1}, only("case_03", DIES, attempts=1))
    cases = jobs(8)
    report = run(cases, pool)
    assert (report.written, report.failures) == (8, {})
    assert twice(pool) == ["case_03"]
    assert pool.begun_on[-1][0] == "case_03"  # at the end
    assert len({node for file, node in pool.begun_on if file == "case_03"}) == 2
    said = r"case_03: a worker on host-[ab] died with it: its process was killed or crashed"
    assert [message for message in caplog.messages if re.fullmatch(said, message)]


def test_a_case_that_kills_every_worker_fails_after_two_on_two_machines(jobs):
    pool = Simulated({"a": 2, "b": 2}, only("case_01", DIES))
    cases = jobs(9)
    report = run(cases, pool)
    assert report.written == 8
    assert list(report.failures) == ["case_01"]
    message = report.failures["case_01"]
    assert message.startswith("case_01: 2 workers died with it (on host-")
    assert "host-a: its process" in message and "host-b: its process" in message
    assert pool.begun["case_01"] == 2
    assert len(whole([job for job in cases if job.file != "case_01"])) == 8


def test_on_a_single_machine_the_second_worker_is_enough(jobs):
    pool = Simulated({"a": 1}, only("case_00", DIES))
    report = run(jobs(3), pool)
    assert (report.written, list(report.failures)) == (2, ["case_00"])
    assert pool.begun["case_00"] == 2


def test_a_suspected_case_waits_for_another_machine(jobs):
    """Though the one it died on is idle: there the cause may be the machine."""

    def does(file, attempt, node):
        return DIES if file == "case_00" and node == "a" else WRITTEN

    pool = Simulated({"a": 1, "b": 1}, does)
    report = run(jobs(2), pool)
    assert (report.written, report.failures) == (2, {})
    assert [node for file, node in pool.begun_on if file == "case_00"] == ["a", "b"]


def test_a_suspected_case_waits_for_a_worker_that_starts_elsewhere(jobs):
    pool = Simulated({"a": 3, "b": 1}, only("case_00", DIES))
    # when the case dies on a, another worker there is idle, and that on b starts again
    pool.at(LOAD + TAKES - 0.5, lambda: pool.die(2))
    report = run(jobs(4), pool)
    assert list(report.failures) == ["case_00"]
    assert [node for file, node in pool.begun_on if file == "case_00"] == ["a", "b"]


def test_a_suspected_case_does_not_wait_for_ever(jobs):
    """A third worker is asked for all the time, and there is no room for it."""
    pool = Simulated({"a": 1, "b": 1}, only("case_00", DIES))
    pool.at(LOAD + TAKES - 0.5, lambda: pool.lose_node("b"))
    report = run(jobs(3), pool, workers=3)
    assert list(report.failures) == ["case_00"]
    assert [node for file, node in pool.begun_on if file == "case_00"] == ["a", "a"]
    assert PATIENCE < pool.now < 2 * PATIENCE


def test_a_case_that_was_written_by_a_worker_that_died_is_not_called_skipped(jobs):
    pool = Simulated({"a": 1}, lambda *_: DIES if pool.begun.total() == 1 else WRITTEN)
    pool.at(LOAD + TAKES - 1, lambda: [write(job) for job in pool.running.values()])
    report = run(jobs(3), pool, skip_existing=True)
    assert (report.written, report.skipped, len(twice(pool))) == (3, 0, 1)


def test_all_cases_of_a_lost_node_are_done_by_others(jobs):
    pool = Simulated({"a": 3, "b": 2})
    pool.at(LOAD + 1.5 * TAKES, lambda: pool.lose_node("a"))
    cases = jobs(20)
    report = run(cases, pool)
    assert (report.written, report.failures) == (20, {})
    assert len(twice(pool)) == 3  # those that ran there
    assert max(pool.begun.values()) == 2
    assert len(whole(cases)) == 20


def test_a_case_that_takes_its_machine_down_fails_after_two(jobs):
    """As where a container is a node, and the kernel ends it for lack of memory."""
    pool = Simulated({"a": 2, "b": 2, "c": 2}, only("case_01", LOSES_NODE))
    report = run(jobs(20), pool)
    assert (report.written, list(report.failures)) == (19, ["case_01"])
    assert report.failures["case_01"].count("its machine is lost") == 2
    assert len(pool.room) == 1


def test_a_node_that_comes_gets_cases(jobs):
    pool = Simulated({"a": 1})
    pool.at(LOAD + TAKES, lambda: pool.add_node("b", 2))
    assert run(jobs(12), pool).written == 12
    assert Counter(node for _, node in pool.begun_on)["b"] >= 6
    assert twice(pool) == []


def test_without_any_node_the_driver_waits_and_says_so(jobs, caplog):
    pool = Simulated({"a": 2})
    pool.at(LOAD + TAKES / 2, lambda: pool.lose_node("a"))
    pool.at(5 * PATIENCE, lambda: pool.add_node("b", 1))
    assert run(jobs(4), pool).written == 4
    assert "no worker yet: the nodes have room for 0, waiting" in caplog.messages


def test_a_worker_that_dies_before_it_is_ready_makes_no_case_guilty(jobs):
    pool = Simulated({"a": 1}, starts=lambda number, _: "!no room on disk" if number < 4 else "")
    report = run(jobs(3), pool)
    assert (report.written, report.failures) == (3, {})
    assert set(pool.begun.values()) == {1}


def test_a_worker_that_dies_between_two_cases_makes_none_guilty(jobs, caplog):
    """It waits since the last case is on its way: then the machine gets a new one."""
    pool = Simulated({"a": 1, "b": 1}, only("case_02", DIES, attempts=1))
    pool.at(LOAD + TAKES + 3, lambda: [pool.die(w) for w in set(pool.workers) - set(pool.running)])
    report = run(jobs(3), pool)
    assert (report.written, report.failures) == (3, {})
    assert any("died between two cases" in message for message in caplog.messages)


def test_a_worker_that_dies_after_its_answer_makes_no_case_guilty(jobs):
    pool = Simulated({"a": 1})
    ended = pool._end

    def end_and_die(worker, job, what):
        ended(worker, job, what)
        if job.file == "case_00":
            pool.die(worker)

    pool._end = end_and_die
    report = run(jobs(3), pool)
    assert (report.written, report.failures) == (3, {})
    assert set(pool.begun.values()) == {1}


def test_only_failed_starts_in_a_row_count(jobs):
    pool = Simulated(
        {"a": 1}, only("case_00", DIES, attempts=1),
        starts=lambda number, _: "" if number % MOST_FAILED_STARTS == 0 else "!it is broken",
    )  # fmt: skip
    assert run(jobs(3), pool).written == 3


def test_a_machine_that_is_lost_while_a_worker_starts_is_no_failed_start(jobs):
    pool = Simulated({})
    for i in range(2 * MOST_FAILED_STARTS):
        pool.at(10 * i, lambda name=f"n{i}": pool.add_node(name, 1))
        pool.at(10 * i + LOAD / 2, lambda name=f"n{i}": pool.lose_node(name))
    pool.at(500, lambda: pool.add_node("a", 1))
    assert run(jobs(3), pool).written == 3


def test_if_no_worker_can_be_started_the_run_ends_with_the_reason(jobs):
    pool = Simulated({"a": 2}, starts=lambda *_: "!ModuleNotFoundError: No module named 'x'")
    report = Report()
    with pytest.raises(FleetError, match="no worker could be started: ModuleNotFoundError: No"):
        run(jobs(3), pool, report=report)
    assert next(pool._numbers) - 1 <= MOST_FAILED_STARTS + 1
    assert (report.written, report.failures, pool.begun) == (0, {}, {})


def test_starts_that_fail_on_one_machine_do_not_fill_the_time(jobs):
    pool = Simulated(
        {"a": 1, "b": 1}, starts=lambda _, node: "!it is broken" if node == "b" else ""
    )
    assert run(jobs(30), pool).written == 30
    assert next(pool._numbers) - 1 <= 2 + MOST_FAILED_STARTS + pool.now / PAUSE


# Who takes part


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_worker_that_refuses_gets_no_case_and_no_successor(jobs, caplog, first):
    room = {"a": 1, "b": 2}
    pool = Simulated(
        {first: room.pop(first), **room},
        starts=lambda _, node: "computes in f32" if node == "b" else "",
    )
    assert run(jobs(5), pool).written == 5
    assert {node for _, node in pool.begun_on} == {"a"}
    assert next(pool._numbers) - 1 == 3
    assert caplog.messages.count("host-b: takes no part, it computes in f32") == 2


def test_workers_that_refuse_do_not_count_as_those_that_were_asked_for(jobs):
    pool = Simulated(
        {"a": 2, "b": 1}, starts=lambda _, node: "computes in f32" if node == "b" else ""
    )
    assert run(jobs(8), pool, workers=2).written == 8
    assert pool.most_running == 2


def test_a_lost_machine_of_workers_that_refused_leaves_its_place_to_others(jobs, caplog):
    pool = Simulated(
        {"a": 1, "b": 2}, starts=lambda _, node: "computes in f32" if node == "b" else ""
    )
    pool.at(LOAD + TAKES, lambda: [pool.lose_node("b"), pool.add_node("c", 2)])
    assert run(jobs(12), pool).written == 12
    assert Counter(node for _, node in pool.begun_on)["c"] >= 6
    assert not [message for message in caplog.messages if "died" in message]


@pytest.mark.parametrize("workers", [None, 2, 9])
def test_if_all_refuse_the_run_ends_with_the_reason(jobs, workers):
    pool = Simulated({"a": 1, "b": 1}, starts=lambda *_: "has numpy 1.0")
    with pytest.raises(FleetError, match="no worker can take part: host-. has numpy 1.0"):
        run(jobs(9), pool, workers=workers)
    assert pool.begun == {}


def test_cpus_of_different_kinds_are_told_once(jobs, caplog):
    flags = {node: frozenset({node}) for node in "abc"}
    run(jobs(9), Simulated({"a": 2, "b": 2}, flags=flags))
    told = [message for message in caplog.messages if "other instructions" in message]
    assert len(told) == 1


# Cases that fail by themselves


def test_a_case_that_raises_fails_once(jobs):
    pool = Simulated({"a": 2}, only("case_02", RAISES))
    report = run(jobs(5), pool)
    assert report.failures == {"case_02": "case_02: no zip"}
    assert (report.written, pool.begun["case_02"]) == (4, 1)


def test_a_case_that_hangs_is_ended_with_its_worker_twice(jobs):
    pool = Simulated({"a": 1, "b": 1}, only("case_00", STUCK))
    report = run(jobs(4), pool, timeout=30)
    assert (report.written, list(report.failures)) == (3, ["case_00"])
    reason = f"killed, no answer in {HUNG * 30} s"
    assert report.failures["case_00"].count(reason) == 2
    assert (pool.begun["case_00"], pool.killed) == (2, 2)
    assert 2 * HUNG * 30 < pool.now < 2 * HUNG * 30 + 3 * TAKES


def test_an_older_output_of_a_case_that_fails_is_removed(jobs):
    cases = jobs(3)
    for job in cases:
        job.output.write_bytes(b"older")
    run(cases, Simulated({"a": 1}, only("case_01", DIES)))
    assert whole([cases[0], cases[2]]) == ["case_00", "case_02"]
    assert not cases[1].output.exists()


# Drivers that end, and drivers side by side


def test_a_driver_that_was_stopped_and_starts_again_loses_nothing(jobs):
    cases, stopper, report = jobs(10), Stopper(), Report()
    pool = Simulated({"a": 3})
    pool.at(LOAD + 1.5 * TAKES, lambda: setattr(stopper, "received", signal.SIGTERM))
    with pytest.raises(Stopped):
        run(cases, pool, report=report, stopper=stopper)
    assert report.written == 3
    again = Simulated({"a": 3})
    second = run(cases, again, skip_existing=True)
    assert (second.written, second.skipped, second.failures) == (7, 3, {})
    done = pool.begun + again.begun
    assert sorted(done) == [job.file for job in cases]
    assert sum(done.values()) == 10 + 3  # the running ones were done twice
    assert len(whole(cases)) == 10


@pytest.mark.parametrize("skip", [False, True])
def test_two_drivers_on_one_folder_leave_whole_files(jobs, skip):
    """The second one runs while the first one waits."""
    cases = jobs(10)
    pool, other = Simulated({"a": 3}), Simulated({"b": 2})
    reports = [Report(), Report()]

    def second():
        run(cases, other, skip_existing=skip, report=reports[1])

    pool.at(LOAD + 1.5 * TAKES, second)
    run(cases, pool, skip_existing=skip, report=reports[0])
    assert [report.failures for report in reports] == [{}, {}]
    assert len(whole(cases)) == 10
    if skip:
        assert [report.written for report in reports] == [6, 7]  # three ran in both
        assert [report.skipped for report in reports] == [4, 3]
    else:
        assert [report.written for report in reports] == [10, 10]


def test_two_drivers_that_begin_together_do_not_do_the_same_cases(jobs):
    """Each has one worker. They take turns: one waits for its events while the other goes on."""
    cases, pools = jobs(100), [Simulated({"a": 1}), Simulated({"b": 1})]
    turns = threading.Barrier(2)

    class InTurns:
        def __init__(self, pool):
            self.pool = pool

        def __getattr__(self, name):
            return getattr(self.pool, name)

        def events(self, seconds):
            with contextlib.suppress(threading.BrokenBarrierError):  # the other one has ended
                turns.wait(HANGS)
            return self.pool.events(seconds)

    def drive(pool):
        try:
            return run(cases, InTurns(pool), skip_existing=True)
        finally:
            turns.abort()

    with ThreadPoolExecutor() as threads:
        reports = list(threads.map(drive, pools))
    assert len(whole(cases)) == 100
    assert sum(report.written + report.skipped for report in reports) == 200
    assert sum(report.written for report in reports) < 130  # by chance: else 200


def test_a_case_that_fails_here_does_not_remove_what_another_driver_wrote(jobs):
    cases = jobs(3)
    pool = Simulated({"a": 1}, only("case_01", DIES))
    pool.at(LOAD + 1.5 * TAKES, lambda: write(cases[1]))
    report = run(cases, pool)
    assert list(report.failures) == ["case_01"]
    assert len(whole(cases)) == 3


# What is recorded


def test_the_log_says_what_became_of_each_case(jobs, tmp_path):
    cases = jobs(5)
    cases[0].output.write_bytes(b"older")
    pool = Simulated(
        {"a": 1}, lambda file, *_: {"case_01": RAISES, "case_02": DIES}.get(file, WRITTEN)
    )
    path = tmp_path / "run.jsonl"
    files = [job.file for job in cases]
    report = Report(
        log=RunLog(path, None, "v2, f32", files, {job.file: job.output for job in cases})
    )
    run(cases, pool, report=report, skip_existing=True)
    report.log.close(1)
    said = read_log(path).cases
    states = {name: case["state"] for name, case in said.items()}
    assert list(states) == files
    assert list(states.values()) == ["skipped", "failed", "failed", "written", "written"]
    assert said["case_02"]["message"] == report.failures["case_02"]


def test_the_table_has_the_order_of_the_cases_and_is_written_once_a_turn(
    jobs, tmp_path, monkeypatch
):
    saved = []

    class Table(StatsTable):
        def save(self):
            saved.append([row["scan"] for row in self._rows])

    table = Table(tmp_path / "stats.csv", [])
    pool = Simulated({"a": 4}, only("case_00", DIES, attempts=1))
    assert run(jobs(8, table=table), pool).written == 8
    assert saved[-1] == [f"case_{i:02}" for i in range(8)]
    assert len(saved) <= 8


def test_a_table_that_cannot_be_written_makes_its_cases_failures(jobs, tmp_path):
    table = StatsTable(tmp_path / "no folder" / "stats.csv", [])
    report = run(jobs(2, table=table), Simulated({"a": 1}))
    assert report.written == 0
    assert report.failures["case_00"].startswith("case_00: the labels are written, ")


# Progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a minute"), (29, "less than a minute"), (60, "1 min"), (3599, "1 h 00 min"),
     (7500, "2 h 05 min")],
)  # fmt: skip
def test_a_duration_is_said_in_words(seconds, words):
    assert duration(seconds) == words


def test_progress_is_that_of_the_whole_fleet():
    now = [0.0]
    progress = FleetProgress(100, bar=False, clock=lambda: now[0])
    assert progress.line(20, 0, [(0, 0)], 1) == "20 of 100 cases, 1 workers"
    progress.begin()
    now[0] = 600.0
    # 9 of 80 cases and two halves in 10 minutes: 70 are left
    line = progress.line(20, 9, [(5, 10), (20, 40), (0, 0)], 3)
    assert line == "29 of 100 cases, 25 of 50 slices of running ones, 3 workers, 1 h 10 min left"


def test_progress_is_a_line_a_minute_without_a_terminal(jobs, caplog):
    with caplog.at_level(logging.INFO):
        pool = Simulated({"a": 2})
        report = Report()
        cases = jobs(30)
        Driver(
            cases, report, Stopper(), FleetProgress(30, bar=False, clock=pool.clock),
            workers=None, timeout=None, skip_existing=False, clock=pool.clock,
        ).run(pool)  # fmt: skip
    lines = [message for message in caplog.messages if " workers, " in message]
    assert len(lines) == 2
    assert lines[0].startswith("10 of 30 cases, 2 of 8 slices of running ones, 2 workers, ")


def test_on_a_terminal_progress_is_a_bar(capsys):
    progress = FleetProgress(4, bar=True)
    progress.show(1, 1, [], 2)
    assert capsys.readouterr().err == f"\r\033[K[{'#' * 12}{'.' * 12}] 2 of 4 cases, 2 workers"
