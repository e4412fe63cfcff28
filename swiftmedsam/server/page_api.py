"""The page: its files, and what its scripts in `page/` ask for, below /api/.

Requests and answers are JSON, but for pictures and labels of slices. A change answers with the
labels of the slice that the page shows, where they changed: uint16, little endian, row by row; the
header X-Change says where that is, and how the object is now.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from swiftmedsam.messages import printable
from swiftmedsam.result import Progress
from swiftmedsam.server.asked import (
    aside,
    colour_of,
    numbers_of,
    part_of,
    refusing,
    text_of,
    whole,
    window_of,
)
from swiftmedsam.server.fields import json_of
from swiftmedsam.server.guard import read_body
from swiftmedsam.server.hub import Hub, Refused
from swiftmedsam.server.opened import Opened, Painted
from swiftmedsam.server.page_files import place_for
from swiftmedsam.server.slices import Plane
from swiftmedsam.server.tabs import Tabs, known
from swiftmedsam.server.temporary import remove

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# Nothing but the page's own files runs in it, and no other page shows it in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
T = TypeVar("T")


def routes(hub: Hub) -> Sequence[BaseRoute]:
    """All routes of the page."""
    page = Page(hub)
    image, one = "/api/images/{id}", "/api/images/{id}/objects/{number}"
    shown = "/{plane}/{index}"
    found = [
        ("GET", "/", page.index),
        ("GET", "/page/{name}", page.file),
        ("GET", "/api/files", page.list_files),
        ("GET", "/api/folder", page.list_folder),
        ("POST", "/api/images", page.open),
        ("GET", image, page.describe),
        ("PATCH", image, page.change),
        ("DELETE", image, page.close),
        ("POST", f"{image}/alive", page.alive),
        ("GET", f"{image}/slices{shown}", page.slice),
        ("GET", f"{image}/labels{shown}", page.labels),
        ("POST", f"{image}/labels", page.add_labels),
        ("POST", f"{image}/objects", page.new_object),
        ("PATCH", one, page.rename),
        ("DELETE", one, page.remove),
        ("POST", f"{one}/boxes", page.box),
        ("POST", f"{one}/refine", page.refine),
        ("POST", f"{one}/strokes", page.stroke),
        ("POST", f"{one}/extend", page.extend),
        ("POST", f"{image}/stop", page.stop),
        ("POST", f"{image}/undo", page.undo),
        ("POST", f"{image}/save", page.save),
        ("GET", f"{image}/saved/{{key}}", page.saved),
        ("POST", f"{image}/saved", page.received),
    ]
    return [Route(path, answer, methods=[method]) for method, path, answer in found]


class Page:
    """The requests of pages, and the images that they have open."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._tabs = hub, Tabs(hub)
        self._files = {path.name: path for path in PAGE.iterdir() if path.suffix in TYPES}

    # The page's files

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._sent("index.html")

    async def file(self, request: Request) -> Response:
        """A style or a script."""
        return self._sent(request.path_params["name"])

    def _sent(self, name: str) -> Response:
        path = self._files.get(name)
        if path is None:
            raise Refused(404, "the page has no such file")
        return FileResponse(path, media_type=TYPES[path.suffix], headers=HEADERS)

    # Files to open

    async def list_files(self, request: Request) -> Response:
        """The files of the command line, and whether there is a folder to look into."""
        named = [{"file": one.id, "name": one.name} for one in self._hub.files.named()]
        return JSONResponse({"named": named, "has_root": self._hub.files.has_root})

    async def list_folder(self, request: Request) -> Response:
        """What a folder below the root holds: `id`, `name` and `kind`."""
        folder = request.query_params.get("folder") or "root"
        found = await aside(known, self._hub.files.folder, folder)
        return JSONResponse({
            "parent": folder.rpartition("/")[0] or None,
            "entries": [{"id": one.id, "name": one.name, "kind": one.kind} for one in found],
        })  # fmt: skip

    async def open(self, request: Request) -> Response:
        """Open a file of the server's machine, or one that is uploaded."""
        opened = await self._tabs.open(request)
        return JSONResponse(await aside(opened.described))

    # The image

    def _image(self, request: Request) -> Opened:
        return self._tabs.of(request).opened

    async def _do(self, request: Request, call: Callable[[], T], *, prepares: bool = True) -> T:
        """What `call` returns, in the thread that uses the network; `prepares` as of `Hub.do`."""
        held = self._tabs.of(request).held
        with refusing():
            return await self._hub.do(held, lambda _: call(), prepares=prepares)

    async def describe(self, request: Request) -> Response:
        """The image and its objects."""
        return JSONResponse(await aside(self._image(request).described))

    async def alive(self, request: Request) -> Response:
        """Keep the image: its page is still there."""
        self._tabs.of(request)
        return JSONResponse({})

    async def change(self, request: Request) -> Response:
        """Set which objects count where they overlap, or the window that the network sees."""
        opened, asked = self._image(request), await json_of(request)
        if "later_wins" in asked:
            opened.later_wins = asked["later_wins"] is True
        if "window" in asked:
            window = window_of(asked["window"])
            await self._do(request, lambda: opened.see(window))
        return JSONResponse(await aside(opened.described))

    async def close(self, request: Request) -> Response:
        """Close the image."""
        tab = self._tabs.of(request)
        tab.opened.stop()
        await self._do(request, lambda: None)  # after what is under way
        self._tabs.forget(tab)
        return JSONResponse({})

    async def slice(self, request: Request) -> Response:
        """A PNG of a slice."""
        opened = self._image(request)
        plane, index = _shown(opened, request.path_params)
        text = request.query_params.get("window")
        window = None if text is None else window_of(text.split(","))
        content = await aside(opened.picture, plane, index, window)
        return Response(content, media_type="image/png")

    async def labels(self, request: Request) -> Response:
        """The numbers of objects in a slice: uint16, little endian, row by row."""
        opened = self._image(request)
        labels = await aside(opened.labels, *_shown(opened, request.path_params))
        return Response(labels.tobytes(), media_type="application/octet-stream")

    async def add_labels(self, request: Request) -> Response:
        """Go on from a saved label map: each of its objects becomes one."""
        opened, held = self._image(request), self._tabs.of(request).held
        _, path, own = await self._tabs.file_of(request)
        limit = self._hub.memory_for(held)
        try:
            added = await self._do(request, lambda: opened.add_labels(path, limit))
        finally:
            remove(own)
        return JSONResponse(await aside(opened.described) | {"added": added})

    # Objects

    async def new_object(self, request: Request) -> Response:
        """Begin an object."""
        opened, asked = self._image(request), await json_of(request)
        name, colour = text_of(asked.get("name"), "name") or "", colour_of(asked.get("colour"))
        one = await self._do(request, lambda: opened.session.new_object(name, colour))
        return JSONResponse(opened.about(one))

    async def rename(self, request: Request) -> Response:
        """Give an object another name or colour."""
        opened, asked, number = self._image(request), await json_of(request), _number(request)
        name, colour = text_of(asked.get("name"), "name") or "", colour_of(asked.get("colour"))
        await self._do(request, lambda: opened.session.rename(number, name, colour))
        with refusing():
            return JSONResponse(opened.about(opened.session[number]))

    async def remove(self, request: Request) -> Response:
        """Remove an object."""
        opened, number = self._image(request), _number(request)
        plane, index = _shown(opened, request.query_params)
        painted = await self._do(request, lambda: opened.remove(number, plane, index))
        return _changed(opened, plane, index, painted, removed=number)

    async def box(self, request: Request) -> Response:
        """Take a box that was drawn in a slice; the answer is what it gave there."""
        opened, asked, number = self._image(request), await json_of(request), _number(request)
        plane, index = _shown(opened, asked)
        part = part_of(plane, asked.get("box"))
        positive = asked.get("positive", True) is not False
        painted = await self._do(
            request, lambda: opened.box(number, plane, index, part, positive=positive)
        )
        return _changed(opened, plane, index, painted)

    async def refine(self, request: Request) -> Response:
        """Make the mask of the last box of an object exact."""
        opened, number = self._image(request), _number(request)
        plane, index = _shown(opened, await json_of(request))
        painted = await self._do(request, lambda: opened.refine(number, plane, index))
        return _changed(opened, plane, index, painted)

    async def stroke(self, request: Request) -> Response:
        """Take a stroke of brush or eraser: a byte for each pixel of a part of a slice."""
        opened, asked, number = self._image(request), request.query_params, _number(request)
        plane, index = _shown(opened, asked)
        column, row, columns, rows = (
            whole(asked.get(key), key) for key in ("column", "row", "columns", "rows")
        )
        part = part_of(plane, [column, row, column + columns, row + rows])
        body = await read_body(request, rows * columns)
        if len(body) != rows * columns:
            raise Refused(400, f"a stroke should have {rows * columns} bytes, got {len(body)}")
        touched = (np.frombuffer(body, np.uint8) != 0).reshape(rows, columns)
        erase = asked.get("erase") == "1"
        painted = await self._do(
            request, lambda: opened.stroke(number, plane, index, part, touched, erase=erase),
            prepares=False,  # another stroke follows soon, and needs no network
        )  # fmt: skip
        return _changed(opened, plane, index, painted)

    async def undo(self, request: Request) -> Response:
        """Take back the last change of any object."""
        opened = self._image(request)
        plane, index = _shown(opened, await json_of(request))
        painted = await self._do(request, lambda: opened.undo(plane, index))
        return _changed(opened, plane, index, painted)

    async def extend(self, request: Request) -> Response:
        """Follow an object through the slices: lines of JSON, as it goes on.

        Each line is `{"done", "most"}`; the last one is `{"change"}` or `{"detail"}`. If the page
        disconnects, it stops; what was found until then counts.
        """
        tab, asked, number = self._tabs.of(request), await json_of(request), _number(request)
        opened = tab.opened
        with refusing():
            plane, _ = opened.plane(asked.get("plane"), 0)
            opened.require_mark(number, plane)
        lines = asyncio.Queue[dict[str, Any] | None]()
        stop = threading.Event()  # of this extension alone: another tab may have its own

        def extending(progress: Progress) -> dict[str, Any]:
            change = opened.extend(number, plane, progress, stop)
            about = opened.about(opened.session[number])
            return {"object": about, "box": change.box, "warnings": change.warnings}

        async def work() -> None:
            try:
                with opened.stopping(stop):
                    change = await self._hub.do(
                        tab.held, extending,
                        tell=lambda done, most: lines.put_nowait({"done": done, "most": most}),
                    )  # fmt: skip
                lines.put_nowait({"change": change})
            except Refused as error:
                lines.put_nowait({"detail": error.detail})
            finally:
                lines.put_nowait(None)

        task = asyncio.create_task(work())

        async def answer() -> AsyncIterator[bytes]:
            try:
                while (line := await lines.get()) is not None:
                    yield json.dumps(line).encode() + b"\n"
                await task  # an unexpected error ends the answer
            finally:
                stop.set()

        return StreamingResponse(answer(), media_type="application/x-ndjson")

    async def stop(self, request: Request) -> Response:
        """Stop following an object; what was found until then counts."""
        self._image(request).stop()
        return JSONResponse({})

    # Saving

    async def save(self, request: Request) -> Response:
        """Save objects: for the browser, or by `name` in the folder of the opened file.

        A file that is there already is replaced only if the request says `replace` (409).
        """
        opened, asked = self._image(request), await json_of(request)
        suffix, numbers = text_of(asked.get("format"), "format"), numbers_of(asked.get("objects"))
        name, place = text_of(asked.get("name"), "name"), None
        if name is not None:
            if opened.folder is None:
                raise Refused(400, "an uploaded image has no folder on the server's machine")
            place = place_for(opened.folder, name)

        def save() -> list[Path]:
            # asked in the worker: another page may save the same name at the same time
            if place is not None and place.exists() and asked.get("replace") is not True:
                raise Refused(409, f"{name} is there already")
            return opened.save(suffix or "", numbers, place)

        written = await self._do(request, save)
        base = f"images/{opened.id}/saved"
        return JSONResponse({
            "files": [
                {"name": printable(path.name), "size": path.stat().st_size}
                | ({} if place else {"path": f"{base}/{key}"}) for key, path in enumerate(written)
            ],
        })  # fmt: skip

    async def saved(self, request: Request) -> Response:
        """A file that was saved for the browser."""
        opened, key = self._image(request), whole(request.path_params["key"], "a saved file")
        if not 0 <= key < len(opened.saved):
            raise Refused(404, "this file was not saved")
        return FileResponse(opened.saved[key], media_type="application/octet-stream")

    async def received(self, request: Request) -> Response:
        """The browser has the files that were saved for it."""
        opened = self._image(request)
        await self._do(request, opened.received)
        return JSONResponse({})


def _number(request: Request) -> int:
    return whole(request.path_params["number"], "the number of an object")


def _shown(opened: Opened, asked: Mapping[str, Any]) -> tuple[Plane, int]:
    """The slice that the page shows, by `plane` and `index` of a request."""
    with refusing():
        return opened.plane(asked.get("plane"), whole(asked.get("index"), "index"))


def _changed(
    opened: Opened, plane: Plane, index: int, painted: Painted | None, removed: int | None = None
) -> Response:
    """The answer to a change: what changed, and the new labels of the shown slice."""
    meta: dict[str, Any] = {"object": None, "box": None, "patch": None, "removed": removed}
    content = b""
    if painted is not None:
        change, part = painted.change, painted.part
        one = opened.session.objects.get(change.number)
        meta["object"] = None if one is None else opened.about(one)
        meta["box"], meta["warnings"] = change.box, change.warnings
        if part is not None:
            (top, bottom), (left, right) = part
            meta["patch"] = {
                "plane": plane.name, "index": index, "row": top, "column": left,
                "rows": bottom - top, "columns": right - left,
            }  # fmt: skip
            content = painted.labels.tobytes()
    headers = {"X-Change": json.dumps(meta)}
    return Response(content, media_type="application/octet-stream", headers=headers)
