"""A part of MONAI Label's REST API: for the module MONAI Label of 3D Slicer, with a ROI.

The module uploads a volume to a session and asks for the object in the ROI that the user placed. A
ROI that is one voxel thick marks an object in one slice, which is followed through the volume. Each
answer follows from its own request: nothing of an object is kept.

Points are refused: the network is asked with boxes. There is no datastore, so no "next sample".

A session here is an image that was uploaded. The module neither releases it nor sends heartbeats,
and uploads its volume again if it is gone; so where all sessions are taken, the one of this face
that was used longest ago makes room for a new one.
"""

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from swiftmedsam import __version__
from swiftmedsam.messages import one_line, printable, shortened
from swiftmedsam.result import Progress
from swiftmedsam.scans.formats import itk, nifti
from swiftmedsam.scans.formats.by_suffix import suffix_of
from swiftmedsam.scans.scan import ScanError
from swiftmedsam.scans.session import OpenImage, open_image
from swiftmedsam.server.guard import read_body, stream_body, while_connected
from swiftmedsam.server.hub import Held, Hub, Refused
from swiftmedsam.server.objects import Change
from swiftmedsam.server.page_files import detached
from swiftmedsam.server.region import Box, parts_of
from swiftmedsam.server.session import Session
from swiftmedsam.server.temporary import remove

MODEL = "swiftmedsam"
LABEL = "object"  # of the segment that the module makes at once; others are the user's
UPLOADED = (*nifti.SUFFIXES, ".nrrd", ".mha")
ANSWERED = (".nrrd", *nifti.SUFFIXES)
OUTPUTS = ("all", "image", "json")
MOST_FIELDS = 16  # of a form
MOST_LOGIN = 1 << 16  # bytes
MOST_COORDINATE = 1e9
INFO: dict[str, object] = {
    "name": "SwiftMedSAM",
    "description": "Segments what is in a 3D ROI, on the CPU",
    "version": __version__,
    "labels": [LABEL],
    # "deepgrow" is the type that the module shows with a ROI
    "models": {
        MODEL: {
            "type": "deepgrow",
            "labels": [LABEL],
            "dimension": 3,
            "description": "What is in the ROI; a ROI of one slice marks a whole object",
            "config": {},
        }
    },
    "trainers": {},
    "strategies": {},
    "scoring": {},
    "train_stats": {},
    "datastore": {"total": 0, "completed": 0},
}


@dataclass
class Client:
    """What a session of this face has beside its image."""

    number: int  # of the object that is asked for; it is empty between two requests


class Face:
    """The endpoints."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tokens: list[str] = []  # of sessions of this face, that of the last request last

    def routes(self) -> list[Route]:
        """All routes."""
        session = "/session/{session_id}"
        return [
            Route("/auth/", self.auth, methods=["GET"]),
            Route("/auth/token", self.log_in, methods=["POST"]),
            Route("/auth/token/valid", self.is_valid, methods=["GET"]),
            Route("/info/", self.info, methods=["GET"]),
            Route("/session/", self.create, methods=["PUT"]),
            Route(session, self.find, methods=["GET"]),
            Route(session, self.remove, methods=["DELETE"]),
            Route("/infer/{model}", self.infer, methods=["POST"]),
        ]

    # Who asks, and what there is

    async def auth(self, request: Request) -> Response:
        """Whether the module must log in: it does if this server has a token."""
        return JSONResponse({"enabled": request.scope["guard"].needs_token})

    async def log_in(self, request: Request) -> Response:
        """Log in: the password is the server's token, the name does not matter."""
        fields = parse_qs((await read_body(request, MOST_LOGIN)).decode("latin-1"))
        given = fields.get("password", [""])[-1]
        if not request.scope["guard"].is_token(given):
            raise Refused(401, "the password should be the token that the server printed")
        return JSONResponse({"access_token": given, "token_type": "bearer"})

    async def is_valid(self, _: Request) -> Response:
        """Say that the client is logged in: `guard` has refused all others."""
        return JSONResponse({})

    async def info(self, _: Request) -> Response:
        """What can be asked."""
        return JSONResponse(INFO)

    # Images

    async def create(self, request: Request) -> Response:
        """Open the image that is uploaded."""
        folder = self._hub.temporary.new_folder()
        try:
            limit = self._hub.limits.upload
            with self._hub.receiving_file():
                async with _form(request, limit) as form:
                    path = await asyncio.to_thread(_stored, form, folder)
            held = self._claimed()
            try:
                session = await self._hub.open(held, lambda limit: self._opened(path, limit))
            except BaseException:
                self._release(held.token)
                raise
        finally:
            remove(folder)
        held.state = Client(session.new_object(LABEL).number)
        k, j, i = session.shape
        described = {"name": held.token, "path": "", "image": path.name, "shape": [i, j, k]}
        return JSONResponse({"session_id": held.token, "session_info": described})

    async def find(self, request: Request) -> Response:
        """A session; {} if there is none: the module then uploads its volume again."""
        held = self._held(request.path_params["session_id"])
        return JSONResponse({} if held is None else {"name": held.token})

    async def remove(self, request: Request) -> Response:
        """Close an image."""
        held = self._held(request.path_params["session_id"])
        if held is None:
            raise Refused(404, "there is no such session")
        self._release(held.token)
        return JSONResponse({"name": held.token})

    def _claimed(self) -> Held:
        """A new session, if need be in place of an older one of this face."""
        while True:
            try:
                held = self._hub.claim()
            except Refused:
                idle = [token for token in self._tokens if not self._is_busy(token)]
                if not idle:
                    raise
                self._release(idle[0])
                continue
            self._tokens.append(held.token)
            return held

    def _held(self, token: str) -> Held | None:
        """The session of a token, if there is one of this face."""
        if token not in self._tokens:
            return None
        self._tokens.remove(token)
        with suppress(Refused):
            held = self._hub.held(token)
            self._tokens.append(token)
            return held if isinstance(held.state, Client) else None
        return None

    def _is_busy(self, token: str) -> bool:
        with suppress(Refused):
            return self._hub.held(token, works=False).busy > 0
        return False

    def _release(self, token: str) -> None:
        with suppress(ValueError):
            self._tokens.remove(token)
        self._hub.release(token)

    def _opened(self, path: Path, limit: int) -> OpenImage:
        """The image of an uploaded file, whose memory may be `limit` bytes."""
        hub = self._hub
        return open_image(
            path, hub.network, modality=hub.modality, window=hub.window, memory_limit=limit,
            embeddings_limit=hub.embeddings_limit,
        )  # fmt: skip

    # Objects

    async def infer(self, request: Request) -> Response:
        """Segment what is in a ROI."""
        if request.path_params["model"] != MODEL:
            raise Refused(404, f"there is no model of that name, expected {MODEL}")
        output = request.query_params.get("output") or "all"
        if output not in OUTPUTS:
            raise Refused(
                400, f"output should be one of {', '.join(OUTPUTS)}, got {_shown(output)}"
            )
        async with _form(request, self._hub.limits.upload) as form:
            asked = _object(_text(form, "params") or "{}")
        suffix = asked.get("result_extension") or ANSWERED[0]
        if suffix not in ANSWERED:
            wanted = ", ".join(ANSWERED)
            raise Refused(400, f"result_extension should be one of {wanted}, got {_shown(suffix)}")
        held = self._held(request.query_params.get("session_id", ""))
        if held is None:
            raise Refused(404, "the session is unknown or has expired: load the volume again")
        session = held.opened
        box = _box(asked, session)

        def work(progress: Progress) -> tuple[Change, bytes]:
            change = session.add_box(held.state.number, box, progress=progress)
            session.undo(held.state.number)
            return change, b"" if output == "json" else _content(session, change, str(suffix))

        change, content = await while_connected(request, self._hub.do(held, work))
        label = asked.get("label")
        said = {
            "label_names": {label if isinstance(label, str) and label else LABEL: 1},
            "voxels": int(change.mask.sum()),
            "warnings": list(change.warnings) if change.box else ["nothing was found in the ROI"],
        }
        if output == "json":
            return JSONResponse(said)
        name = f"label{suffix}"
        if output == "image":
            disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
            return Response(content, media_type="application/octet-stream", headers=disposition)
        return _multipart(said, name, content)


def routes(hub: Hub) -> list[Route]:
    """The routes of this face."""
    return Face(hub).routes()


# Requests


@asynccontextmanager
async def _form(request: Request, limit: int) -> AsyncIterator[FormData]:
    """The fields of a form, and at most one file; what is kept of it on disk goes at the end.

    Raises:
        Refused: it is no form, is longer than `limit` bytes, or does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused(400, f"the request should be a form in parts, got {_shown(kind)}")
    parser = MultiPartParser(
        request.headers, stream_body(request, limit), max_files=1, max_fields=MOST_FIELDS
    )
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError) as error:
        raise Refused(400, f"the form cannot be read ({one_line(error)})") from None
    try:
        yield form
    finally:
        await form.close()


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    if not isinstance(value, str):
        raise Refused(400, f"{name} should be text, got a file")
    return value


def _stored(form: FormData, folder: Path) -> Path:
    """The uploaded file, in `folder`, by a name that the server chooses, with its suffix.

    Raises:
        Refused: there is none, it is of another kind, or it is the header of other files.
    """
    file = form.get("files")
    if not isinstance(file, UploadFile):
        raise Refused(400, "expected a file in the part 'files'")
    given = Path(file.filename or "")
    suffix = suffix_of(given, UPLOADED)
    if not suffix:
        raise Refused(400, f"{_shown(given.name)}: expected a name ending in {', '.join(UPLOADED)}")
    path = folder / f"image{suffix}"
    with path.open("wb") as stream:
        shutil.copyfileobj(file.file, stream)
    try:
        others = detached(path)
    except (ScanError, Refused):  # it may say what there is on this machine
        others = [path]
    if others:
        raise Refused(400, f"{path.name}: is damaged, or the header of other files")
    return path


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "params should be a JSON object")
    return value


def _box(asked: dict[str, Any], session: Session) -> Box:
    """The voxels (K, J, I) of the ROI, half open.

    A ROI has two opposite corners, i, j and k of each, in any order; both are in it. They may lie
    outside of the image.

    Raises:
        Refused: there is no ROI, or there are points.
    """
    if any(asked.get(kind) for kind in ("foreground", "background")):
        raise Refused(400, "points are not understood: delete them, and place a ROI")
    roi = asked.get("roi")
    if not roi:
        raise Refused(400, "place a ROI around the object; one that is flat marks it in one slice")
    is_roi = (
        isinstance(roi, list)
        and len(roi) == 6
        and all(
            isinstance(one, int | float)
            and not isinstance(one, bool)
            and -MOST_COORDINATE < one < MOST_COORDINATE  # nor NaN
            for one in roi
        )
    )
    if not is_roi:
        raise Refused(400, f"roi should be 6 numbers (i, i, j, j, k, k), got {_shown(roi)}")
    i, j, k = (
        (round(min(pair)), round(max(pair)) + 1) for pair in zip(roi[::2], roi[1::2], strict=True)
    )
    return k, j, i


def _shown(value: object) -> str:
    return shortened(printable(json.dumps(value)))


# Answers


def _content(session: Session, change: Change, suffix: str) -> bytes:
    """A file of labels on the grid of the image: 1 in the object, 0 elsewhere."""
    labels = np.zeros(session.shape, np.uint8)
    if change.box is not None:
        labels[parts_of(change.box)] = change.mask
    path = Path(f"label{suffix}")
    # the uploaded file is gone: what is written follows from the scan alone
    scan = replace(session.image.scan, path=Path("image"))
    if suffix in nifti.SUFFIXES:
        return nifti.encoded(labels.T, scan, path)
    return itk.encoded(labels.T, scan, path, [])


def _multipart(said: dict[str, object], name: str, content: bytes) -> Response:
    """A form of two parts, as the module reads it: `params`, and the file `image`."""
    boundary = secrets.token_hex(16)
    head = 'Content-Disposition: form-data; name="{}"{}\r\nContent-Type: {}\r\n\r\n'
    parts = (
        (head.format("params", "", "application/json"), json.dumps(said).encode()),
        (
            head.format("image", f'; filename="{name}"', "application/octet-stream"),
            content,
        ),
    )
    body = b"".join(
        b"--%b\r\n%b%b\r\n" % (boundary.encode(), text.encode(), part) for text, part in parts
    )
    return Response(
        body + f"--{boundary}--\r\n".encode(),
        media_type=f"multipart/form-data; boundary={boundary}",
    )
