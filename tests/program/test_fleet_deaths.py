"""What the driver of a fleet makes of workers and machines that die, in a simulated cluster."""

import re
from collections import Counter

import pytest

from swiftmedsam.fleet.driver import (
    MOST_FAILED_STARTS,
    PATIENCE,
    PAUSE,
    FleetError,
)
from swiftmedsam.program.jobs import Report
from tests.helpers.fleet import (
    DIES,
    LOAD,
    LOSES_NODE,
    TAKES,
    WRITTEN,
    Simulated,
    only,
    run,
    twice,
    whole,
    write,
)


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
