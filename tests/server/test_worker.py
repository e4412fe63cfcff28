"""The thread that uses the network: one job at a time, and none for somebody who is gone."""

import asyncio
import contextlib
import threading
import time

import pytest

from swiftmedsam.extend import Enough
from swiftmedsam.server.worker import Abandoned, Worker
from tests.helpers import HANGS


@contextlib.contextmanager
def working(idle=None):
    worker = Worker(idle)
    worker.start()
    try:
        yield worker
    finally:
        worker.end()
        worker.join(HANGS)
        assert not worker._thread.is_alive()


def long_job(began, steps=None):
    """A job that goes on until its progress function ends it."""

    def job(progress):
        began.set()
        for done in range(10**9):
            if steps is not None:
                steps.append(done)
            progress(done, 10**9)
            time.sleep(0.001)

    return job


async def until(event):
    assert await asyncio.to_thread(event.wait, HANGS)


def test_jobs_run_one_by_one_in_one_thread_and_return_or_raise():
    threads, running = set(), []

    def job(number):
        def call(_):
            threads.add(threading.current_thread())
            running.append(number)
            assert len(running) == 1
            time.sleep(0.002)
            running.remove(number)
            return number

        return call

    async def ask(worker):
        assert await asyncio.gather(*(worker.do(job(n)) for n in range(20))) == list(range(20))
        with pytest.raises(KeyError):
            await worker.do(lambda _: {}["nothing"])
        return await worker.do(job(7))

    with working() as worker:
        assert asyncio.run(ask(worker)) == 7
    assert len(threads) == 1 and threading.current_thread() not in threads


def test_the_event_loop_goes_on_while_a_job_runs():
    async def ask(worker):
        began, ticks = threading.Event(), 0
        task = asyncio.create_task(worker.do(long_job(began)))
        await until(began)
        while ticks < 20:
            await asyncio.sleep(0.001)
            ticks += 1
        assert not task.done()
        task.cancel()

    with working() as worker:
        asyncio.run(ask(worker))


def test_nobody_waits_so_the_job_ends_and_a_job_in_line_does_not_begin():
    async def ask(worker):
        began, steps, others = threading.Event(), [], []
        first = asyncio.create_task(worker.do(long_job(began, steps)))
        await until(began)
        second = asyncio.create_task(worker.do(lambda _: others.append(1)))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await worker.do(lambda _: None)  # the first has ended
        length = len(steps)
        await asyncio.sleep(0.05)
        assert len(steps) == length and not others

    with working() as worker:
        asyncio.run(ask(worker))


def test_when_its_time_is_up_a_job_is_told_that_it_is_enough():
    def job(progress):
        try:
            while True:
                progress(1, 2)
        except Enough:
            return "so far"

    with working() as worker:
        assert asyncio.run(worker.do(job, seconds=0.01)) == "so far"


def test_steps_are_told_in_the_event_loop():
    told = []

    async def ask(worker):
        def tell(done, total):
            told.append((done, total, threading.current_thread() is threading.main_thread()))

        await worker.do(lambda progress: [progress(n, 3) for n in (1, 2, 3)], tell=tell)
        await asyncio.sleep(0)

    with working() as worker:
        asyncio.run(ask(worker))
    assert told == [(1, 3, True), (2, 3, True), (3, 3, True)]


def test_at_its_end_the_server_abandons_what_runs_and_what_waits():
    async def ask(worker):
        began = threading.Event()
        tasks = [asyncio.create_task(worker.do(long_job(began)))]
        await until(began)
        tasks += [asyncio.create_task(worker.do(lambda _: None)) for _ in range(3)]
        await asyncio.sleep(0)
        worker.end()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in results] == [Abandoned] * 4
        with pytest.raises(Abandoned):
            await worker.do(lambda _: None)

    with working() as worker:
        asyncio.run(ask(worker))


def test_idle_time_is_used_step_by_step_and_again_after_each_job():
    steps, rested = [], threading.Event()

    def idle():
        steps.append(1)
        if len(steps) % 4 == 0:
            rested.set()
            return False
        return True

    async def ask(worker):
        await until(rested)
        assert len(steps) == 4
        rested.clear()
        await worker.do(lambda _: None)
        await until(rested)
        assert len(steps) == 8

    with working(idle) as worker:
        asyncio.run(ask(worker))


def test_a_step_that_fails_is_the_last_one():
    steps, failed = [], threading.Event()

    def idle():
        steps.append(1)
        failed.set()
        raise ValueError

    async def ask(worker):
        await until(failed)
        assert await worker.do(lambda _: 3) == 3

    with working(idle) as worker:
        asyncio.run(ask(worker))
    assert 1 <= len(steps) <= 2
