"""benchmarks.fleet_simulation: what its model says where one can reckon it."""

import csv

import pytest

from benchmarks.fleet_simulation import TABLE, Model, main, measured, simulate

FREE = Model(start_up=0, latency=0, megabytes=0, bandwidth=1)


@pytest.mark.parametrize(("workers", "minutes"), [(1, 64), (4, 16), (64, 1)])
def test_without_losses_workers_share_the_time(tmp_path, workers, minutes):
    row = simulate(workers, [60.0] * 64, FREE, tmp_path)
    assert row.minutes == pytest.approx(minutes)
    assert (row.working, row.starting, row.storage, row.idle) == pytest.approx((100, 0, 0, 0))


def test_workers_wait_for_the_last_case(tmp_path):
    row = simulate(2, [60.0, 60.0, 60.0], FREE, tmp_path)
    assert row.minutes == pytest.approx(2)
    assert (row.working, row.idle) == pytest.approx((75, 25))


def test_a_start_counts_for_each_worker(tmp_path):
    row = simulate(2, [60.0, 60.0], Model(60, 0, 0, 1), tmp_path)
    assert (row.minutes, row.working, row.starting) == pytest.approx((2, 50, 50))


def test_the_storage_is_a_limit_for_all_workers_together(tmp_path):
    row = simulate(256, [1.0] * 1000, Model(0, 0, 50, 500), tmp_path)
    assert row.minutes * 60 == pytest.approx(1000 * 50 / 500 + 1)


def test_the_table_is_printed_and_written(tmp_path, capsys):
    file = tmp_path / "fleet.csv"
    assert main(["--cases", "50", "--csv", str(file)]) == 0
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["workers"] for row in rows] == [str(2**i) for i in range(9)]
    assert float(rows[0]["times_faster"]) == 1
    assert "126000 CTs: " in capsys.readouterr().out


def test_times_are_those_of_volumes_without_the_start():
    times = measured(TABLE, "best")
    assert len(times) == 7
    assert all(2 < seconds < 15 for seconds in times)
