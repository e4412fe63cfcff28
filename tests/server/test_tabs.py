"""Pages that are gone, two tabs on one image, and images that are opened at the same time."""

import asyncio
import gc
import json
import tempfile
import threading
import time
import weakref

import pytest

from swiftmedsam import open_image
from swiftmedsam.server import opened as opened_images
from swiftmedsam.server.session import Session
from swiftmedsam.server.tabs import GONE_SECONDS, IDLE_SECONDS
from swiftmedsam.server.temporary import LOCK
from swiftmedsam.server.worker import Abandoned
from tests.helpers import HANGS
from tests.helpers.asking import (
    PLENTY,
    SHAPE,
    asking,
    form,
    opened,
    run,
    scan_file,
    stroked,
)
from tests.helpers.server import phantom


@pytest.fixture
def file(tmp_path):
    return scan_file(tmp_path)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# Pages that are gone


def test_an_image_that_expired_leaves_neither_memory_nor_files(file, temporary, tmp_path):
    async def test(ask):
        path = await opened(ask)
        (held,) = ask.hub._held.values()
        session = weakref.ref(held.session)
        del held
        (home,) = temporary.iterdir()
        assert len(list(home.iterdir())) == 2
        ask.hub.clock.now += IDLE_SECONDS + 1
        ask.hub.reap()
        gc.collect()
        assert session() is None
        assert [one.name for one in home.iterdir()] == [LOCK]
        assert (await ask("GET", path))[0] == 404

    with asking(file) as ask:
        run(test(ask))
    assert not list(temporary.iterdir())


def test_an_image_that_expired_leaves_its_journal_to_who_opens_it_next(file, tmp_path):
    async def test(ask):
        await opened(ask)
        ask.hub.clock.now += IDLE_SECONDS + 1
        ask.hub.reap()
        await stroked(ask, await opened(ask))
        assert list(tmp_path.glob("journals/*.journal"))

    with asking(file, journals=tmp_path / "journals") as ask:
        run(test(ask))


@pytest.mark.parametrize("wanted", ["/claim", "/api/images"])
def test_a_page_that_is_gone_gives_its_place_to_any_client(file, wanted):
    async def test(ask):
        paths = [await opened(ask), await opened(ask)]
        asked = {"file": "named/0"} if wanted == "/api/images" else None
        status, said = await ask("POST", wanted, asked)
        assert (status, said["detail"]) == (503, "all 2 sessions are in use; try again later")
        ask.hub.clock.now += GONE_SECONDS - 1
        await ask("POST", f"{paths[0]}/alive")
        ask.hub.clock.now += 2
        assert (await ask("POST", wanted, asked))[0] == 200
        assert (await ask("GET", paths[1]))[0] == 404
        assert (await ask("GET", paths[0]))[0] == 200
        assert (await ask("POST", wanted, asked))[0] == 503

    with asking(file) as ask:
        run(test(ask))


def test_an_image_whose_objects_cannot_come_back_is_not_held(file, tmp_path, monkeypatch):
    async def test(ask):
        await stroked(ask, path := await opened(ask))
        await ask("DELETE", path)

        def none(session, kept):
            raise MemoryError

        monkeypatch.setattr(opened_images, "restore", none)
        for _ in range(3):
            status, said = await ask("POST", "/api/images", {"file": "named/0"})
            assert (status, said["detail"]) == (413, "this needs more memory than there is")
        monkeypatch.undo()
        status, described = await ask("POST", "/api/images", {"file": "named/0"})
        assert status == 200 and described["came_back"] == 1

    with asking(file, journals=tmp_path / "journals", sessions=1) as ask:
        run(test(ask))


# At the same time


def test_images_that_are_opened_at_the_same_time_share_the_memory(file):
    limits = []

    async def test(hub):
        def opening(limit):
            limits.append(limit)
            return open_image(phantom(SHAPE), hub.network, modality="MR", memory_limit=limit)

        held = [hub.claim(), hub.claim()]
        sessions = await asyncio.gather(*(hub.open(one, opening) for one in held))
        assert limits == [PLENTY, PLENTY - sessions[0].image.reserved_bytes]

    with asking(file) as ask:
        run(test(ask.hub))


def test_two_tabs_that_extend_on_one_image_do_not_stop_each_other(file, monkeypatch):
    async def test(ask):
        path = await opened(ask)
        numbers = [await stroked(ask, path), await stroked(ask, path)]
        begun, go_on = asyncio.Event(), threading.Event()
        loop, extend = asyncio.get_running_loop(), Session.extend

        def slow(session, number, axis, progress):
            if number == numbers[0]:
                loop.call_soon_threadsafe(begun.set)
                assert go_on.wait(HANGS)
            return extend(session, number, axis, progress)

        monkeypatch.setattr(Session, "extend", slow)
        gone = loop.create_future()
        asked = {"plane": "axial"}
        first = asyncio.create_task(
            ask("POST", f"{path}/objects/{numbers[0]}/extend", asked, gone=gone)
        )
        await begun.wait()
        second = asyncio.create_task(ask("POST", f"{path}/objects/{numbers[1]}/extend", asked))
        await asyncio.sleep(0.1)
        gone.set_result(None)  # the first tab is closed: its own extension ends, and no other
        await first
        go_on.set()
        _, said = await second
        change = json.loads(said.splitlines()[-1])["change"]
        assert change["warnings"] == []

    with asking(file) as ask:
        run(test(ask))


def test_a_module_that_goes_away_stops_what_it_asked_for(file, monkeypatch):
    async def test(ask):
        body, kind = form("files", file.read_bytes(), "x.nii.gz")
        _, said = await ask("PUT", "/session/", body=body, kind=kind)
        begun, loop = asyncio.Event(), asyncio.get_running_loop()
        add_box, ended = Session.add_box, []

        def long(session, number, box, *, progress):
            loop.call_soon_threadsafe(begun.set)
            try:
                for _ in range(HANGS * 100):
                    progress(0, 2)
                    time.sleep(0.01)
            except Abandoned:
                ended.append(number)
                raise
            return add_box(session, number, box, progress=progress)

        monkeypatch.setattr(Session, "add_box", long)
        gone = loop.create_future()
        body, kind = form("params", json.dumps({"roi": [5, 40, 5, 35, 6, 6]}).encode())
        path = f"/infer/swiftmedsam?session_id={said['session_id']}"
        infer = asyncio.create_task(ask("POST", path, body=body, kind=kind, gone=gone))
        await begun.wait()
        gone.set_result(None)
        status, _ = await infer
        assert status == 408
        await ask.hub.worker.do(lambda _: None)  # the worker is free again
        assert ended

    with asking(file) as ask:
        run(test(ask))
