"""The application of the server, asked in the event loop of a test, without a network."""

import asyncio
import contextlib
import json
from urllib.parse import urlencode

import nibabel
import numpy as np

from swiftmedsam.memory import SCAN_PROGRAM_BYTES
from swiftmedsam.server.app import application
from swiftmedsam.server.files import Files
from swiftmedsam.server.hub import Hub, Limits
from tests.helpers import HANGS, BrightInBox
from tests.helpers.server import phantom

SHAPE = (12, 40, 48)
PLENTY = SCAN_PROGRAM_BYTES + (8 << 30)
SHOWN = {"plane": "axial", "index": 6}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Asking:
    """An application that is asked in the event loop of a test; answers are (status, content)."""

    def __init__(self, hub):
        self.hub, self._app = hub, application(hub)

    async def __call__(self, method, path, json_=None, body=b"", gone=None, kind="", headers=()):
        """`gone` is a future: when it is done, the client has gone away.

        Without a `body` the client says that there is one, and does not send it.
        """
        path, _, query = path.partition("?")
        kind = kind or ("application/octet-stream" if json_ is None else "application/json")
        content = body if json_ is None else json.dumps(json_).encode()
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "scheme": "http", "server": ("127.0.0.1", 1527), "client": ("127.0.0.1", 5),
            "root_path": "", "http_version": "1.1", "raw_path": path.encode(),
            "headers": [
                (b"host", b"127.0.0.1"), (b"content-type", kind.encode()),
                *((name.encode(), value.encode()) for name, value in dict(headers).items()),
            ],
        }  # fmt: skip
        waiting = [{"type": "http.request", "body": content, "more_body": False}]
        if content is None:
            waiting = []
        sent = []

        async def receive():
            if not waiting:
                await (gone or asyncio.get_running_loop().create_future())
                return {"type": "http.disconnect"}
            return waiting.pop(0)

        async def send(message):
            sent.append(message)

        await self._app(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        kind = dict(sent[0]["headers"]).get(b"content-type", b"")
        return sent[0]["status"], json.loads(answer) if kind == b"application/json" else answer


def scan_file(folder):
    """A file with a bright ball in its middle."""
    path = folder / "scan.nii.gz"
    image = nibabel.Nifti1Image(phantom(SHAPE, ((6, 18, 20), 8)).T, np.diag([-1.0, -1, 1, 1]))
    nibabel.save(image, path)
    return path


@contextlib.contextmanager
def asking(file, **more):
    """An application with one file; the clock is `hub.clock`."""
    clock = Clock()
    options = {"sessions": 2, **more}
    journals = options.pop("journals", None)
    hub = Hub(
        BrightInBox(), Limits(PLENTY, **options), Files([file]), clock=clock, modality="MR",
        journals=journals,
    )  # fmt: skip
    hub.clock = clock
    hub.start()
    try:
        yield Asking(hub)
    finally:
        hub.end()
        hub.worker.join(HANGS)
        hub.close()


async def opened(ask):
    status, described = await ask("POST", "/api/images", {"file": "named/0"})
    assert status == 200, described
    return f"/api/images/{described['id']}"


async def stroked(ask, path, row=15):
    """Draw a stroke of a new object; its number."""
    number = (await ask("POST", f"{path}/objects", {}))[1]["number"]
    query = urlencode({**SHOWN, "column": 15, "row": row, "columns": 9, "rows": 9})
    status, _ = await ask("POST", f"{path}/objects/{number}/strokes?{query}", body=b"\1" * 81)
    assert status == 200
    return number


def form(name, content, file=""):
    """A form of one part, and its type."""
    of_file = f'; filename="{file}"' if file else ""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def run(test):
    asyncio.run(asyncio.wait_for(test, HANGS))
