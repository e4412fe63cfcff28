"""The protocol of nnInteractive, version 2: for 3D Slicer's extension, napari's plugin, and others.

A client claims a lease, sends a volume and boxes, and gets the part of its label that changed. It
draws one object after the other: `reset_interactions` begins a new one, and
`add_initial_seg_interaction` one that it has already. Slicer does the latter whenever somebody
edits a segment by hand. An object that was followed here before is then known again by its voxels,
and what was edited counts as corrected slices.

Two things that clients may ask have another meaning here. `do_autozoom` false: a box changes its
own slice only. A negative box takes away what is found in it (`session`).

Clients send voxels without their directions: those of the hub are taken. Only napari-nifti, the
reader of napari's plugin, says something of them: it turns volumes to RAS, and their spacing is
negative.

Points, scribbles and lassos are refused: the network is asked with boxes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from swiftmedsam.frame import BoolArray
from swiftmedsam.result import Progress
from swiftmedsam.scans.scan import MemoryLimit, require_memory
from swiftmedsam.scans.session import OpenImage, open_image
from swiftmedsam.server.fields import (
    META,
    box_of,
    flag,
    is_length,
    json_of,
    meta_of,
    shown,
    spacing_of,
)
from swiftmedsam.server.guard import read_body, while_connected
from swiftmedsam.server.hub import Held, Hub, Refused
from swiftmedsam.server.objects import NOWHERE, Change
from swiftmedsam.server.packed import DTYPES, PackedError, declared, pack, unpack
from swiftmedsam.server.region import hull_of, parts_of
from swiftmedsam.server.session import Session

LEASE = "x-lease-token"
BINARY = "application/octet-stream"
NAPARI_DIRECTIONS = "RAS"  # of volumes whose spacing is negative
OBJECTS_KEPT = 16  # former objects of a client that are known again
FORMER_BYTES = 4  # for each voxel of the image: as much as two objects that fill it need
ALIKE = 0.5  # Dice of a mask with a former object from which on it is this object
CAPABILITIES: dict[str, object] = {
    "supported_interactions": {
        "points": False, "bbox2d": True, "bbox3d": True, "scribble": False, "lasso": False,
    },
    "channel_mapping": {
        "prev_seg": 0, "bbox2d": [1, 2], "bbox3d": [1, 2], "lasso": [1, 2], "points": [3, 4],
        "scribble": [5, 6],
    },
    "num_interaction_channels": 7,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": False,
    "preferred_scribble_thickness": [2, 2, 2],
    "interaction_decay": 0.98,
    "patch_size": [256, 256],
    "do_autozoom": True,
    "inference_session_version": "2.6.0",  # of the protocol that this follows
    "license": "Apache-2.0 (weights: research)",
    "supports_undo": True,
}  # fmt: skip


@dataclass
class Drawn:
    """A box that a client drew."""

    box: tuple[tuple[int, int], ...]
    positive: bool


@dataclass
class Client:
    """What a client's lease has beside its session."""

    number: int = 0  # of the object that is drawn; 0: none yet
    former: list[int] = field(default_factory=list)  # objects before it, the latest last
    waiting: list[Drawn] = field(default_factory=list)  # boxes that are not asked yet
    extends: bool = True


class Face:
    """The endpoints."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        """All routes of the protocol."""
        gets = {"healthz": self.healthz, "capabilities": self.capabilities,
                "lease_status": self.lease_status}  # fmt: skip
        posts = {
            "claim": self.claim, "release": self.release, "heartbeat": self.heartbeat,
            "set_image": self.set_image, "set_target_buffer": self.set_target_buffer,
            "reset_interactions": self.reset, "set_do_autozoom": self.set_do_autozoom,
            "undo": self.undo, "predict": self.predict, "add_bbox_interaction": self.add_box,
            "add_initial_seg_interaction": self.add_initial_seg,
            **{f"add_{kind}_interaction": self.refuse for kind in ("point", "scribble", "lasso")},
        }  # fmt: skip
        return [
            *(Route(f"/{name}", call, methods=["GET"]) for name, call in gets.items()),
            *(Route(f"/{name}", call, methods=["POST"]) for name, call in posts.items()),
        ]

    # The lease

    async def healthz(self, _: Request) -> Response:
        """Say that the server runs."""
        return JSONResponse({"ok": True})

    async def capabilities(self, _: Request) -> Response:
        """What can be asked."""
        return JSONResponse(CAPABILITIES)

    async def claim(self, _: Request) -> Response:
        """A new lease."""
        held = self._hub.claim(liveness=True)
        held.state = Client()
        limits = self._hub.limits
        return JSONResponse(
            {
                "lease_token": held.token,
                "idle_timeout_seconds": limits.idle_seconds,
                "liveness_timeout_seconds": limits.liveness_seconds,
                "max_sessions": limits.sessions,
            }
        )

    async def release(self, request: Request) -> Response:
        """Give the lease back."""
        self._hub.release(request.headers.get(LEASE))
        return JSONResponse({"released": True})

    async def heartbeat(self, request: Request) -> Response:
        """The client is still there."""
        held = self._held(request, works=False)
        return JSONResponse({"remaining_seconds": self._hub.remaining(held)})

    async def lease_status(self, request: Request) -> Response:
        """How long the lease holds."""
        held = self._held(request, works=False)
        return JSONResponse(
            {
                "remaining_seconds": self._hub.remaining(held),
                "idle_timeout_seconds": held.idle,
            }
        )

    def _held(self, request: Request, *, works: bool = True) -> Held:
        held = self._hub.held(request.headers.get(LEASE), works=works)
        if not isinstance(held.state, Client):
            raise Refused(410, "the session is unknown or has expired")
        return held

    # The image

    async def set_image(self, request: Request) -> Response:
        """Take a volume (1, X, Y, Z)."""
        held = self._held(request)
        properties = meta_of(request).get("image_properties")
        spacing = spacing_of(properties if isinstance(properties, dict) else {})
        with self._hub.receiving(held) as most:
            body = await read_body(request, most)

        def opening(limit: int) -> OpenImage:
            return self._opened(body, spacing, limit)

        session = await while_connected(request, self._hub.open(held, opening))
        held.state = Client(extends=held.state.extends)
        return JSONResponse({"original_image_shape": [1, *session.shape]})

    def _opened(self, body: bytes, spacing: list[float] | None, limit: int) -> OpenImage:
        try:
            dtype, shape = declared(body)
            if len(shape) != 4 or shape[0] != 1:
                raise Refused(400, f"expected an image (1, X, Y, Z), got {shape}")
            require_memory("the image", shape[1:], dtype, 0, MemoryLimit(limit))
            array = unpack(body, limit)[0]
        except PackedError as error:
            raise Refused(400, str(error)) from None
        if dtype.kind == "b":
            array = array.view(np.uint8)
        directions = self._hub.directions
        if spacing is not None:
            directions = NAPARI_DIRECTIONS if max(spacing) < 0 else directions
            spacing = [abs(one) for one in spacing]
        return open_image(
            array, self._hub.network, spacing_mm=spacing, is_volume=True,
            modality=self._hub.modality, window=self._hub.window,
            directions=directions, memory_limit=limit,
            embeddings_limit=self._hub.embeddings_limit,
        )  # fmt: skip

    async def set_target_buffer(self, request: Request) -> Response:
        """Check that the client's label has the image's shape."""
        held, asked = self._held(request), await json_of(request)
        shape, dtype = asked.get("shape"), asked.get("dtype")
        if not (isinstance(shape, list) and len(shape) == 3 and all(map(is_length, shape))):
            raise Refused(400, f"shape should be 3 whole numbers above 0, got {shown(shape)}")
        kind = np.dtype(dtype).kind if isinstance(dtype, str) and dtype in DTYPES else ""
        if kind not in ("b", "i", "u"):
            raise Refused(400, f"dtype should be bool or of whole numbers, got {shown(dtype)}")
        if held.session is not None and tuple(shape) != held.session.shape:
            wanted = list(held.session.shape)
            raise Refused(400, f"shape should be that of the image, {wanted}, got {shape}")
        return JSONResponse({})

    # Prompts

    async def set_do_autozoom(self, request: Request) -> Response:
        """Whether a box in a slice goes on in other slices."""
        held, asked = self._held(request), await json_of(request)
        held.state.extends = flag(asked, "do_autozoom", True)
        return JSONResponse({})

    async def reset(self, request: Request) -> Response:
        """Begin a new object."""
        held = self._held(request)
        await self._hub.do(held, lambda _: self._leave(held))  # after what is under way
        return JSONResponse({})

    def _leave(self, held: Held) -> None:
        """The object is done; the client begins another."""
        client, session = held.state, held.session
        client.waiting.clear()
        number, client.number = client.number, 0
        if session is None or number not in session.objects:
            return
        if session[number].box is None:
            session.remove(number)
            return
        session.forget(number)
        client.former.append(number)
        most = FORMER_BYTES * math.prod(session.shape)
        while (
            len(client.former) > OBJECTS_KEPT
            or sum(session[one].nbytes for one in client.former) > most
        ):
            session.remove(client.former.pop(0))

    async def refuse(self, request: Request) -> Response:
        """A point, scribble or lasso."""
        self._held(request)
        raise Refused(400, "only boxes can be asked; draw a box around the object")

    async def add_box(self, request: Request) -> Response:
        """Take a box; answer it, unless the client wants to wait."""
        held, asked = self._held(request), await json_of(request)
        drawn = Drawn(box_of(asked.get("bbox_coords")), flag(asked, "include_interaction", True))
        _ = held.opened
        held.state.waiting.append(drawn)
        if not flag(asked, "run_prediction", True):
            return _answer(None)
        return await self._predicted(request, held)

    async def predict(self, request: Request) -> Response:
        """Answer the boxes that wait."""
        held = self._held(request)
        _ = held.opened
        return await self._predicted(request, held)

    async def _predicted(self, request: Request, held: Held) -> Response:
        session, client = held.opened, held.state
        drawn, client.waiting = client.waiting, []
        if not drawn:
            return _answer(None)
        if client.number not in session.objects:
            client.number = session.new_object().number

        def asked(progress: Progress) -> list[Change]:
            done: list[Change] = []
            try:
                for one in drawn:
                    change = session.add_box(
                        client.number, one.box, positive=one.positive, extend=client.extends,
                        progress=progress,
                    )  # fmt: skip
                    done.append(change)
            except BaseException:  # the client is told of none of them
                for _ in done:
                    session.undo(client.number)
                raise
            return done

        seconds = self._hub.limits.answer_seconds
        changes = await while_connected(request, self._hub.do(held, asked, seconds=seconds))
        return _answer(_together(session, client.number, changes))

    async def undo(self, request: Request) -> Response:
        """Take back the last box."""
        held = self._held(request)
        session, client = held.opened, held.state
        if client.waiting:
            client.waiting.pop()
            return _answer(Change(client.number, None, np.zeros((0, 0, 0), np.bool_)))
        if client.number not in session.objects or not session[client.number].history:
            return _answer(None)
        change = await self._hub.do(held, lambda _: session.undo(client.number))
        return _answer(change)

    async def add_initial_seg(self, request: Request) -> Response:
        """Begin with an object that the client has."""
        held = self._held(request)
        session, run = held.opened, flag(meta_of(request), "run_prediction", False)
        with self._hub.receiving(held) as most:
            body = await read_body(request, most)

        def seed(_: Progress) -> None:
            self._seeded(held, session, _mask(body, session, self._hub.memory_for(held)))

        await while_connected(request, self._hub.do(held, seed))
        return await self._predicted(request, held) if run else _answer(None)

    def _seeded(self, held: Held, session: Session, mask: BoolArray) -> None:
        """Take a mask as the object. If it is like a former object, it is this one, corrected."""
        self._leave(held)
        client = held.state
        known = _most_alike(session, client.former, mask)
        if known is None:
            client.number = session.new_object().number
            session.seed(client.number, mask)
        else:
            client.former.remove(known)
            client.number = known
            session.correct(known, mask)
        session.forget(client.number)  # the client shows it already, and would not take it back


def routes(hub: Hub) -> list[Route]:
    """The routes of this face."""
    return Face(hub).routes()


# Answers


def _answer(change: Change | None) -> Response:
    """A prediction: the part of the client's label that changed. None: nothing was asked."""
    meta: dict[str, object] = {"ran_prediction": change is not None, "bbox": None}
    body = b""
    if change is not None and change.box is not None:
        meta |= {"bbox": change.box, "dtype": "uint8", "shape": change.mask.shape}
        body = pack(change.mask.view(np.uint8))
    return Response(body, media_type=BINARY, headers={META: json.dumps(meta)})


def _together(session: Session, number: int, changes: Sequence[Change]) -> Change:
    """One change of several that came one after the other."""
    box = hull_of(*(change.box for change in changes))
    return Change(number, box, session[number].content.at(box or NOWHERE))


def _most_alike(session: Session, numbers: Sequence[int], mask: BoolArray) -> int | None:
    """The object that a mask is most likely a correction of; None: it is like none of them."""
    total = int(mask.sum())
    best, found = ALIKE, None
    for number in reversed(numbers):
        box = session[number].box
        if box is None:
            continue
        own = session[number].mask
        dice = 2 * int((own & mask[parts_of(box)]).sum()) / (int(own.sum()) + total)
        if dice > best:
            best, found = dice, number
    return found


def _mask(body: bytes, session: Session, memory: int) -> BoolArray:
    """A packed mask (X, Y, Z), which may take `memory` bytes."""
    limit = min(8 * math.prod(session.shape), memory)
    try:
        dtype, shape = declared(body)
        if shape != session.shape:
            wanted = session.shape
            raise Refused(400, f"the mask should have the image's shape {wanted}, got {shape}")
        if dtype.kind == "f":
            raise Refused(400, f"the mask should be of whole numbers, got {dtype}")
        return np.asarray(unpack(body, limit) != 0)
    except PackedError as error:
        raise Refused(400, str(error)) from None
