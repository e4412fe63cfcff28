"""Who holds a session, for how long, and how much memory all take together."""

import asyncio
import contextlib

import numpy as np
import pytest

from swiftmedsam import open_image
from swiftmedsam.memory import EMBEDDING_BYTES, SCAN_PROGRAM_BYTES
from swiftmedsam.server.files import Files
from swiftmedsam.server.hub import LEAST_TO_PREPARE, NEIGHBOURS, Hub, Limits, Refused
from swiftmedsam.server.session import Session
from tests.helpers import HANGS, BrightInBox
from tests.helpers.server import phantom

SHAPE = (40, 48, 56)
PLENTY = SCAN_PROGRAM_BYTES + (8 << 30)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def hub_of(clock, memory=PLENTY, **more):
    return Hub(BrightInBox(), Limits(memory, **more), Files(), clock=clock)


@contextlib.contextmanager
def working(hub):
    hub.start()
    try:
        yield
    finally:
        hub.end()
        hub.worker.join(HANGS)


async def opened(hub, held, shape=SHAPE):
    volume = phantom(shape, ((20, 20, 20), 8))
    return await hub.open(
        held, lambda limit: open_image(volume, hub.network, modality="MR", memory_limit=limit)
    )


def is_gone(hub, held):
    with pytest.raises(Refused) as refused:
        hub.held(held.token, works=False)
    assert refused.value.status == 410
    return True


def test_a_session_is_lost_when_it_is_not_used(clock):
    hub = hub_of(clock, idle_seconds=100)
    held = hub.claim()
    clock.now += 99
    hub.held(held.token, works=False)  # only there
    assert hub.remaining(held) == 1
    hub.held(held.token)
    assert hub.remaining(held) == 100
    clock.now += 100
    assert is_gone(hub, held)


def test_a_client_that_sends_heartbeats_loses_it_when_they_stop(clock):
    hub = hub_of(clock, liveness_seconds=10)
    with_beats, without = hub.claim(liveness=True), hub.claim()
    for _ in range(5):
        clock.now += 9
        hub.held(with_beats.token, works=False)
    clock.now += 10
    hub.reap()
    assert is_gone(hub, with_beats)
    assert hub.held(without.token) is without


def test_tokens_differ_and_cannot_be_counted(clock):
    hub = hub_of(clock, sessions=50)
    tokens = {hub.claim().token for _ in range(50)}
    assert len(tokens) == 50 and {len(token) for token in tokens} == {32}
    for token in (None, "", "0", "0" * 32):
        with pytest.raises(Refused):
            hub.held(token)


def test_a_full_hub_refuses_until_one_is_released_or_lost(clock):
    hub = hub_of(clock, sessions=2)
    first, _ = hub.claim(), hub.claim()
    with pytest.raises(Refused, match="^all 2 sessions are in use") as refused:
        hub.claim()
    assert refused.value.status == 503
    hub.release(first.token)
    hub.release(first.token)
    hub.release(None)
    hub.claim()
    clock.now += 601
    hub.claim()


def test_a_session_is_not_lost_while_the_network_works_for_it(clock):
    hub = hub_of(clock, idle_seconds=10)
    held = hub.claim(liveness=True)

    def slow(_):
        clock.now += 1000
        hub.reap()
        return hub.held(held.token) is held

    async def ask():
        assert await hub.do(held, slow)
        assert hub.remaining(held) == 10

    with working(hub):
        asyncio.run(ask())


def test_images_share_the_memory_and_one_that_does_not_fit_is_refused(clock):
    hub = hub_of(clock, SCAN_PROGRAM_BYTES + (100 << 20))

    async def ask():
        first, second, third = hub.claim(), hub.claim(), hub.claim()
        session = await opened(hub, first)
        left = hub.memory_for(second) - SCAN_PROGRAM_BYTES
        assert 0 <= left < 100 << 20
        assert session.image.reserved_bytes == (100 << 20) - left
        assert session.image.embeddings_kept * EMBEDDING_BYTES <= 100 << 20
        with pytest.raises(Refused, match="memory limit") as refused:
            await opened(hub, second)
        assert refused.value.status == 400 and "\n" not in refused.value.detail
        hub.release(first.token)
        await opened(hub, third)

    with working(hub):
        asyncio.run(ask())


def test_another_image_takes_the_place_and_the_memory_of_the_first(clock):
    hub = hub_of(clock)

    async def ask():
        held = hub.claim()
        first = await opened(hub, held)
        second = await opened(hub, held, (10, 20, 30))
        assert held.session is second is not first
        other = hub.claim()
        assert hub.memory_for(other) == PLENTY - second.image.reserved_bytes

    with working(hub):
        asyncio.run(ask())


def test_without_an_image_a_session_says_so(clock):
    with pytest.raises(Refused, match="^no image was set$"):
        _ = hub_of(clock).claim().opened


def test_an_image_that_was_released_while_it_was_opened_is_not_kept(clock):
    hub = hub_of(clock)

    async def ask():
        held = hub.claim()

        def opening(limit):
            hub.release(held.token)
            return open_image(np.zeros(SHAPE, np.uint8), hub.network, memory_limit=limit)

        with pytest.raises(Refused) as refused:
            await hub.open(held, opening)
        assert refused.value.status == 410 and held.session is None

    with working(hub):
        asyncio.run(ask())


# Idle time


def test_the_neighbours_of_the_last_slice_are_encoded_while_nobody_asks(clock):
    hub = hub_of(clock)
    encoded = hub.network.encoded

    async def ask():
        held = hub.claim()
        session = await opened(hub, held)
        number = session.new_object().number
        box = ((20, 21), (5, 40), (5, 40))
        await hub.do(held, lambda _: session.add_box(number, box, extend=False))
        while sum(encoded.values()) < 1 + 2 * NEIGHBOURS:
            await asyncio.sleep(0.01)
        known = dict(encoded)
        near = ((20 + NEIGHBOURS, 21 + NEIGHBOURS), (5, 40), (5, 40))
        await hub.do(held, lambda _: session.add_box(number, near, extend=False, quick=True))
        assert {key: encoded[key] for key in known} == known  # it was there

    with working(hub):
        asyncio.run(asyncio.wait_for(ask(), HANGS))


def test_after_what_needs_no_network_nothing_is_prepared(clock, monkeypatch):
    """The next stroke of a brush does not wait for a slice that nobody asked for."""
    monkeypatch.setattr("swiftmedsam.server.worker.PATIENCE", HANGS)  # prepared here alone
    hub = hub_of(clock)

    async def ask():
        held = hub.claim()
        session = await opened(hub, held)
        number = session.new_object().number
        mask = np.ones(session.shape[1:], bool)
        await hub.do(held, lambda _: session.set_slice(number, 0, 20, mask), prepares=False)
        assert not hub.prepare()
        await hub.do(held, lambda _: session.set_slice(number, 0, 21, mask))
        assert hub.prepare()

    with working(hub):
        asyncio.run(asyncio.wait_for(ask(), HANGS))


def test_where_memory_is_short_nothing_is_prepared(clock):
    least = SCAN_PROGRAM_BYTES + (30 << 20)
    hub = hub_of(clock, least)

    async def ask():
        held = hub.claim()
        session = await opened(hub, held)
        assert session.image.embeddings_kept < LEAST_TO_PREPARE
        number = session.new_object().number
        box = ((20, 21), (5, 40), (5, 40))
        await hub.do(held, lambda _: session.add_box(number, box, extend=False, quick=True))
        await asyncio.sleep(0.1)
        assert sum(hub.network.encoded.values()) == 1

    with working(hub):
        asyncio.run(ask())


def test_what_is_lost_is_not_prepared(clock):
    hub = hub_of(clock)

    async def ask():
        held = hub.claim()
        await opened(hub, held)
        hub.release(held.token)
        assert not hub.prepare()

    with working(hub):
        asyncio.run(ask())


def test_every_session_has_room_for_its_embeddings(clock):
    """The first ones do not take what the others need."""
    hub = hub_of(clock, memory=SCAN_PROGRAM_BYTES + 600 * EMBEDDING_BYTES, sessions=4)
    for _ in range(4):
        held = hub.claim()
        image = open_image(
            np.zeros((9, 32, 32), np.uint8), hub.network, memory_limit=hub.memory_for(held),
            embeddings_limit=hub.embeddings_limit,
        )  # fmt: skip
        held.session = Session(image)
        assert image.embeddings_kept >= LEAST_TO_PREPARE
