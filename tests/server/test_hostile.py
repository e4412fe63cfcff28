"""Secrets in logs, clients that are slow or send too much, odd names, and what a kill leaves."""

import asyncio
import errno
import os
import signal
from urllib.parse import quote

import numpy as np
import pytest

from swiftmedsam.server import guard, nninteractive, uploads
from swiftmedsam.server.files import Files
from swiftmedsam.server.hub import Limits, Refused
from swiftmedsam.server.packed import pack
from swiftmedsam.server.page_files import place_for
from tests.helpers.asking import SHAPE, asking, form, opened, run, scan_file, stroked
from tests.helpers.page import Client
from tests.helpers.server import Serving, phantom, serving


@pytest.fixture
def file(tmp_path):
    return scan_file(tmp_path)


# Secrets


def test_a_server_that_says_each_request_does_not_say_the_token():
    server = Serving("--verbose", "--no-journal", SWIFTMEDSAM_TOKEN="s3cret")
    client = Client(server)
    assert client.ask("GET", "/?token=s3cret")[0] == 303
    assert client.ask("GET", "/healthz")[0] == 200
    _, said = server.end()
    assert "GET /healthz: 200" in said and "s3cret" not in said


# Uploads


@pytest.mark.parametrize("path", ["/api/images?name=x.nii.gz", "/api/images?folder=1&name=x"])
def test_an_upload_that_does_not_go_on_is_given_up(file, path, monkeypatch, tmp_path):
    monkeypatch.setattr(guard, "CHUNK_SECONDS", 0.05)

    async def test(ask):
        status, said = await ask("POST", path, body=None)
        assert (status, said["detail"]) == (408, "the request did not come to its end")

    with asking(file) as one:
        run(test(one))


@pytest.mark.parametrize("wanted", ["/api/images?name=x.nii.gz", "/session/"])
def test_no_more_files_are_received_at_a_time_than_images_may_be_open(file, wanted, tmp_path):
    async def test(ask):
        slow = [
            asyncio.create_task(ask("POST", "/api/images?name=x.nii.gz", body=None))
            for _ in range(2)
        ]
        await asyncio.sleep(0.05)
        body, kind = form("files", file.read_bytes(), "x.nii.gz")
        method = "PUT" if wanted == "/session/" else "POST"
        status, said = await ask(method, wanted, body=body, kind=kind)
        assert (status, said["detail"]) == (503, "other files are being sent; try again later")
        for one in slow:
            one.cancel()
            assert (await one)[0] == 503
        assert (await ask("POST", wanted.replace("/session/", "/api/images?name=x.nii.gz"),
                          body=file.read_bytes()))[0] == 200  # fmt: skip

    with asking(file) as one:
        run(test(one))


async def leased(ask):
    """The headers of a client with a session."""
    _, lease = await ask("POST", "/claim")
    return {"x-lease-token": lease["lease_token"]}


def test_a_full_disk_is_one_line(file, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test(ask):
        monkeypatch.setattr(uploads, "stream_body", full)
        status, said = await ask("POST", "/api/images?name=x.nii.gz", body=file.read_bytes())
        assert (status, said["detail"]) == (400, "No space left on device")

    with asking(file) as one:
        run(test(one))


def test_a_client_sends_one_image_at_a_time_and_none_larger_than_the_memory(file):
    async def test(ask):
        headers = await leased(ask)
        slow = asyncio.create_task(ask("POST", "/set_image", body=None, headers=headers))
        await asyncio.sleep(0.05)
        image = pack(phantom(SHAPE)[np.newaxis])
        status, said = await ask("POST", "/set_image", body=image, headers=headers)
        assert (status, said["detail"]) == (409, "this client is sending something already")
        # and while it sends, its lease does not run out
        ask.hub.clock.now += 10_000
        ask.hub.reap()
        assert (await ask("POST", "/heartbeat", headers=headers))[0] == 200
        slow.cancel()
        assert (await slow)[0] == 503
        assert (await ask("POST", "/set_image", body=image, headers=headers))[0] == 200
        ask.hub.limits = Limits(len(image) - 1, upload=1 << 30)
        status, said = await ask("POST", "/set_image", body=image, headers=headers)
        assert status == 413 and said["detail"] == f"a request can have {len(image) - 1} bytes"

    with asking(file) as one:
        run(test(one))


def test_former_objects_of_a_client_do_not_fill_the_memory(file):
    async def test(ask):
        headers = await leased(ask)
        image = pack(phantom(SHAPE)[np.newaxis])
        assert (await ask("POST", "/set_image", body=image, headers=headers))[0] == 200
        (held,) = ask.hub._held.values()
        everything = pack(np.ones(SHAPE, np.uint8))
        for _ in range(nninteractive.OBJECTS_KEPT):
            path = "/add_initial_seg_interaction"
            assert (await ask("POST", path, body=everything, headers=headers))[0] == 200
            await ask("POST", "/reset_interactions", {}, headers=headers)
        taken = sum(one.nbytes for one in held.session.objects.values())
        assert 0 < taken <= nninteractive.FORMER_BYTES * np.prod(SHAPE)

    with asking(file) as one:
        run(test(one))


# Names


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
def test_a_name_that_is_no_text_is_listed_opened_and_saved(file, tmp_path):
    root = tmp_path / os.fsdecode(b"M\xfcller")
    root.mkdir()
    (root / os.fsdecode(b"sc\xfcn.nii.gz")).write_bytes(file.read_bytes())

    async def test(ask):
        ask.hub.files = Files(root=tmp_path)
        status, top = await ask("GET", "/api/folder")
        (folder,) = (one["id"] for one in top["entries"] if one["kind"] == "folder")
        assert status == 200
        status, inner = await ask("GET", f"/api/folder?folder={quote(folder)}")
        (entry,) = inner["entries"]
        status, described = await ask("POST", "/api/images", {"file": entry["id"]})
        assert status == 200, described
        path = f"/api/images/{described['id']}"
        asked = {"objects": [await stroked(ask, path)], "format": ".nii.gz"}
        status, said = await ask("POST", f"{path}/save", asked)
        assert status == 200, said
        name = described["stem"] + ".nii.gz"
        status, said = await ask("POST", f"{path}/save", {**asked, "name": name})
        assert status == 200 and (root / name).exists(), said

    with asking(file) as one:
        run(test(one))


def test_a_folder_is_no_place_for_a_file(tmp_path):
    (tmp_path / "labels.nii.gz").mkdir()
    with pytest.raises(Refused, match="^'labels.nii.gz': there is a folder of that name$"):
        place_for(tmp_path, "labels.nii.gz")


# Saving


@pytest.mark.parametrize("name", ["sizes.csv", "Sizes.CSV"])
def test_a_table_does_not_count_as_saved_objects(file, name, tmp_path):
    async def test(ask):
        path = await opened(ask)
        asked = {"objects": [await stroked(ask, path)], "format": ".csv", "name": name}
        status, said = await ask("POST", f"{path}/save", asked)
        assert status == 200, said
        assert list(tmp_path.glob("journals/*.journal"))
        asked = {**asked, "name": "labels.nii.gz"}
        status, said = await ask("POST", f"{path}/save", asked)
        assert status == 200, said
        assert not list(tmp_path.glob("journals/*.journal"))

    with asking(file, journals=tmp_path / "journals") as one:
        run(test(one))


def test_a_download_counts_as_saved_when_the_page_has_it_and_nothing_changed(file, tmp_path):
    def is_kept():
        return bool(list(tmp_path.glob("journals/*.journal")))

    async def test(ask):
        path = await opened(ask)
        asked = {"objects": [await stroked(ask, path)], "format": ".nii.gz"}
        await ask("POST", f"{path}/saved")  # nothing was saved yet
        assert is_kept()
        _, said = await ask("POST", f"{path}/save", asked)
        status, _ = await ask("GET", f"/api/{said['files'][0]['path']}")
        assert status == 200 and is_kept()
        number = await stroked(ask, path, 25)  # before the page says that it has the file
        await ask("POST", f"{path}/saved")
        assert is_kept()
        await ask("POST", f"{path}/save", {**asked, "objects": [*asked["objects"], number]})
        await ask("POST", f"{path}/saved")
        assert not is_kept()

    with asking(file, journals=tmp_path / "journals") as one:
        run(test(one))


def test_what_is_named_twice_at_the_same_time_is_written_once(file, tmp_path):
    async def test(ask):
        paths = [await opened(ask), await opened(ask)]
        numbers = [await stroked(ask, path) for path in paths]
        answers = await asyncio.gather(*(
            ask("POST", f"{path}/save", {"objects": [number], "format": "", "name": "x.nii.gz"})
            for path, number in zip(paths, numbers, strict=True)
        ))  # fmt: skip
        assert sorted(status for status, _ in answers) == [200, 409]

    with asking(file) as one:
        run(test(one))


# After a kill


@pytest.mark.skipif(os.name != "posix", reason="it needs SIGKILL, and locks")
def test_what_a_killed_server_had_received_is_removed_by_the_next(file, tmp_path):
    words = "--no-journal", "--threads", "1", "--quiet"
    stranger = tmp_path / "swiftmedsam-serve-x"  # without a lock: not known to be left
    stranger.mkdir()
    body = file.read_bytes()
    with serving(*words, TMPDIR=str(tmp_path)) as other:
        Client(other).fine("POST", "/api/images?name=other.nii.gz", body=body)
        with serving(*words, TMPDIR=str(tmp_path)) as server:
            Client(server).fine("POST", "/api/images?name=x.nii.gz", body=body)
            server.end(signal.SIGKILL)
        assert len(list(tmp_path.rglob("x.nii.gz"))) == 1
        with serving(*words, TMPDIR=str(tmp_path)):
            assert not list(tmp_path.rglob("x.nii.gz"))
            assert list(tmp_path.rglob("other.nii.gz")) and stranger.exists()
    assert not list(tmp_path.rglob("other.nii.gz"))
