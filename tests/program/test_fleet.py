"""The driver of a fleet: which cases are given to whom, and what is said of them.

The workers here are none: `tests.helpers.fleet` simulates a cluster. What deaths mean is in
test_fleet_deaths.py; tests/program/test_fleet_ray.py has real workers.
"""

import contextlib
import logging
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from swiftmedsam.fleet.driver import (
    HUNG,
    Driver,
    FleetError,
)
from swiftmedsam.fleet.progress import FleetProgress, duration
from swiftmedsam.program.jobs import Report
from swiftmedsam.program.run_log import RunLog, read_log
from swiftmedsam.program.signals import Stopped, Stopper
from swiftmedsam.program.stats_table import StatsTable
from tests.helpers import HANGS
from tests.helpers.fleet import (
    DIES,
    LOAD,
    RAISES,
    STUCK,
    TAKES,
    WRITTEN,
    Simulated,
    only,
    run,
    whole,
    write,
)

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
        job.output.path.write_bytes(b"older")
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
    cases[0].output.path.write_bytes(b"older")
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
