"""Talk to the server with damaged requests: `python -m fuzz.server --runs N --seed S`.

Each run starts the server's application with a stub in place of the network, and holds a
conversation in which one or two requests are changed: packed arrays of nnInteractive (kind
`packed`), all of its protocol (`nninteractive`), the page (`page`), its uploads (`upload`), and
MONAI Label (`monailabel`). Then it holds the same conversation without changes. Good is:

- A changed request is answered, or refused with a message of one line.
- The conversation without changes is answered as a whole: the server is as usable as before.
- Nothing is written to stderr, no file is left behind or changed that nobody named, and what lies
  beside the folder of the server is not read.
- The process does not take more memory than the server may.

Everything else is a finding, and is printed with the number of its run. `--only NUMBER` repeats
this run. A request without an answer after two minutes is a finding, too.
"""

import asyncio
import gc
import json
import logging
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from fuzz import runs
from fuzz.header_seeds import voxels
from fuzz.runs import Everywhere, Finding, is_good, stderr_kept
from fuzz.server_seeds import (
    FORM,
    KINDS,
    SCAN,
    SECRET,
    Ask,
    changed,
    conversation,
    formed,
)
from swiftmedsam.memory import SCAN_PROGRAM_BYTES
from swiftmedsam.server.app import application
from swiftmedsam.server.files import Files
from swiftmedsam.server.hub import Hub, Limits
from swiftmedsam.server.packed import PackedError, unpack

MEMORY = SCAN_PROGRAM_BYTES + (1 << 29)
UPLOAD = 1 << 20
HANGS = 120  # seconds
REFUSED, ANSWERED = "refused", "answered"
MARK = b"11 x 13 x 3"  # the grid of the secret scan, as a description says it

Answer = tuple[int, dict[str, str], bytes]


class Client:
    """Sends requests to an application, and remembers what is named in later ones."""

    def __init__(self, app: Any, chance: random.Random) -> None:
        self._app, self._chance = app, chance
        self.named = {"id": "none", "lease": "none", "session": "none"}

    async def ask(self, ask: Ask) -> Answer | None:
        """The answer to a request; None: the client went away before there was one.

        Raises:
            AssertionError: it was not answered.
        """
        path, headers = self._filled(ask.path), dict(ask.headers)
        query = {key: self._filled(str(value)) for key, value in ask.query.items()}
        body = ask.body
        if ask.json is not None:
            body = json.dumps(ask.json).encode()
            headers.setdefault("Content-Type", "application/json")
        if ask.form is not None:
            body = formed(ask.form)
            headers.setdefault("Content-Type", FORM)
        if ask.meta is not None:
            headers.setdefault("X-Meta", json.dumps(ask.meta))
        headers = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
            "method": ask.method, "path": path, "raw_path": path.encode(errors="replace"),
            "root_path": "", "query_string": urlencode(query, errors="replace").encode(),
            "headers": [(key.lower().encode(), self._filled(value).encode("latin-1", "replace"))
                        for key, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1527), "state": {},
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        pieces, gone = self._pieces(body), asyncio.Event()
        if ask.after is not None:
            pieces = [*pieces[: ask.after], {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            if pieces:
                return pieces.pop(0)
            if ask.after is None:
                await gone.wait()  # the client stays
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await asyncio.wait_for(self._app(scope, receive, send), HANGS)
        ended = bool(sent) and not sent[-1].get("more_body", False)
        if ask.after is not None and not ended:
            return None
        assert ended, "no answer"
        status, content = sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:])
        found = {key.decode(): value.decode("latin-1") for key, value in sent[0]["headers"]}
        self._note(status, found, content)
        return status, found, content

    def _filled(self, text: str) -> str:
        """A text with what was named in it."""
        for name, value in self.named.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def _pieces(self, body: bytes) -> list[dict[str, Any]]:
        size = self._chance.choice((1, 7, 100, 1 << 20)) if len(body) < 5000 else 4096
        parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        last = len(parts) - 1
        return [
            {"type": "http.request", "body": part, "more_body": number < last}
            for number, part in enumerate(parts)
        ]

    def _note(self, status: int, headers: dict[str, str], content: bytes) -> None:
        if status != 200 or headers.get("content-type") != "application/json":
            return
        said = json.loads(content)
        keys = {"id": "id", "lease_token": "lease", "session_id": "session"}
        for key, name in keys.items():
            if isinstance(said, dict) and isinstance(said.get(key), str):
                self.named[name] = said[key]


def wrong_in(answer: Answer) -> str:
    """What is wrong with an answer; "" if nothing is."""
    status, headers, content = answer
    if MARK in content:
        return "a file was read that nobody named"
    if status >= 400:
        try:
            message = json.loads(content)["detail"]
        except (ValueError, KeyError, TypeError):
            return f"{status} without a message: {content[:100]!r}"
        if status >= 500 and status != 503 or not is_good(message):
            return f"{status}: {message[:300]!r}"
        return ""
    if status == 200 and headers.get("content-type") == "application/octet-stream":
        meta = json.loads(headers.get("x-meta", "{}"))
        if meta.get("bbox"):
            try:
                shape = unpack(content, 1 << 20).shape
            except PackedError as error:
                return f"the answer cannot be unpacked: {error}"
            if list(shape) != meta["shape"]:
                return f"the answer has shape {shape}, and says {meta['shape']}"
    if headers.get("content-type") == "application/x-ndjson":
        last = json.loads((content.splitlines() or [b'{"detail": "none"}'])[-1])
        if "change" not in last and not is_good(last.get("detail", "")):
            return f"the last line is {last}"
    return ""


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[None]:
    """Start and end an application, as a server does."""
    told, begun, ended = asyncio.Queue[dict[str, str]](), asyncio.Event(), asyncio.Event()

    async def send(message: dict[str, str]) -> None:
        (begun if message["type"] == "lifespan.startup.complete" else ended).set()

    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, told.get, send))
    told.put_nowait({"type": "lifespan.startup"})
    await asyncio.wait_for(begun.wait(), HANGS)
    try:
        yield
    finally:
        told.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait_for(ended.wait(), HANGS)
        await task


async def held(kind: str, chance: random.Random, root: Path) -> tuple[str, str]:
    """Hold a conversation with changes, and the same without; the outcome and what is wrong."""
    good = conversation(kind, chance)
    asks, _ = changed(good, chance)
    hub = Hub(Everywhere(), Limits(MEMORY, 8, UPLOAD), Files([], root), modality="CT")
    app = application(hub)
    outcome = ANSWERED
    async with served(app):
        for number, ask in enumerate(conversed := [*asks, *good]):
            if number in (0, len(asks)):
                client = Client(app, chance)
            answer = await client.ask(ask)
            place = f"{ask.method} {ask.path} [{number}]"
            if answer is None:
                continue
            wrong = wrong_in(answer)
            if wrong:
                return outcome, f"{place}: {wrong}"
            if answer[0] >= 400:
                outcome = REFUSED
                if number >= len(asks):
                    return outcome, f"{place}, unchanged: {answer[0]} {answer[2][:200]!r}"
        assert number == len(conversed) - 1
    return outcome, ""


def check(kind: str, chance: random.Random, folder: Path) -> tuple[str, str]:
    """Do a run in an empty folder; return its outcome, and what is wrong with it, or ""."""
    root, temporary = folder / "root", folder / "temporary"
    for one in (root, temporary):
        one.mkdir()
    scan, secret = _scans()
    (root / SCAN).write_bytes(scan)
    (folder / SECRET).write_bytes(secret)
    tempfile.tempdir = str(temporary)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with stderr_kept() as said:
            outcome, wrong = asyncio.run(held(kind, chance, root))
    except Exception as error:
        return REFUSED, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        tempfile.tempdir = None
    if any(temporary.iterdir()):
        gc.collect()  # then what only the application held is gone, as when the server ends
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
    named = {SCAN, SECRET}
    if wrong:
        return outcome, wrong
    if said:
        return outcome, f"on stderr: {' '.join(said)[:200]}"
    if any(temporary.iterdir()) or (folder / SECRET).read_bytes() != secret:
        return outcome, f"files are left or changed: {left}"
    if not named <= set(left) or (root / SCAN).read_bytes() != scan:
        return outcome, f"{SCAN} is changed or gone: {left}"
    if taken > MEMORY - SCAN_PROGRAM_BYTES:
        return outcome, f"{taken >> 20} MB were taken"
    return outcome, ""


def _scans() -> tuple[bytes, bytes]:
    """The content of the scan that may be opened, and of the one that may not."""
    import nibabel

    values = voxels("int16") * 8 - 1000  # Hounsfield units, so that it has a window
    scan, other = (
        nibabel.Nifti1Image(one, np.diag([-1.5, -2, 3, 1]))
        for one in (values, np.zeros((11, 13, 3), np.uint8))
    )
    return scan.to_bytes(), other.to_bytes()


def work(
    numbers: Sequence[int], root_seed: int, kinds: Sequence[str], folder: Path, tell: Connection
) -> None:
    """Do the runs `numbers`; this function runs in a process of its own."""
    chosen = list(kinds or KINDS)
    logging.getLogger().addHandler(logging.NullHandler())  # errors of requests are in the answers
    for number in numbers:
        kind, seed = chosen[number % len(chosen)], f"{root_seed} {number}"
        chance = random.Random(seed)
        _, change = changed(conversation(kind, chance), chance)
        tell.send((number, kind, change))
        for old in folder.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        tell.send(check(kind, random.Random(seed), folder))
    tell.close()


def run(
    numbers: Sequence[int], root_seed: int, folder: Path, kinds: Sequence[str] = ()
) -> tuple[Counter[str], list[Finding]]:
    """Do the runs `numbers`; return the number of each outcome, and the findings."""
    return runs.run(work, numbers, root_seed, folder, kinds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 1 if there is a finding."""
    return runs.command(work, "fuzz.server", __doc__ or "", ", ".join(KINDS), argv)


if __name__ == "__main__":
    sys.exit(main())
