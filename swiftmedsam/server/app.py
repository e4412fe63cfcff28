"""The server's application: the routes of all faces, behind the checks of `guard`."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swiftmedsam.messages import one_line, printable, shortened
from swiftmedsam.server import monailabel, nninteractive, page_api
from swiftmedsam.server.guard import Guard, error_response
from swiftmedsam.server.hub import Hub, Refused

log = logging.getLogger(__name__)

Routes = Callable[[Hub], Sequence[BaseRoute]]
# How clients may ask. A new face is a module with a function `routes`, and one entry here.
FACES: tuple[Routes, ...] = (nninteractive.routes, monailabel.routes, page_api.routes)

REAP_SECONDS = 2.0  # between two looks for clients that are gone
JOIN_SECONDS = 5.0  # that the worker may take to end its inference


def application(hub: Hub, *, token: str = "", hosts: Iterable[str] = ()) -> ASGIApp:
    """The application that serves `hub`.

    Args:
        hub: the network, and the sessions.
        token: that every request needs; "": none.
        hosts: names of this machine, beside its own.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        hub.start()
        reaper = asyncio.create_task(_reap(hub))
        try:
            yield
        finally:
            reaper.cancel()
            hub.end()
            await asyncio.to_thread(hub.worker.join, JOIN_SECONDS)
            hub.close()

    app = Starlette(
        routes=[route for face in FACES for route in face(hub)],
        exception_handlers={
            Refused: _refused,
            HTTPException: _http_error,
            Exception: _unforeseen,
        },  # fmt: skip
        lifespan=lifespan,
    )
    return Guard(LastNet(app), token, hosts)


async def _reap(hub: Hub) -> None:
    while True:
        await asyncio.sleep(REAP_SECONDS)
        hub.reap()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(error.status, error.detail)


async def _http_error(_: Request, error: Exception) -> Response:
    """Answer a request for an unknown path, or by a method that this path does not have."""
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


async def _unforeseen(_: Request, error: Exception) -> Response:
    """What nobody foresaw; Starlette raises it once more when this is sent."""
    return error_response(500, f"an error in the server: {_reason(error)}")


class LastNet:
    """Logs an unexpected error by one line, and answers it if nobody has; the server goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except asyncio.CancelledError:  # uvicorn ends, and has waited long enough
            if scope["type"] != "http" or begun:
                raise
            await error_response(503, "the server is ending")(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            path = shortened(printable(scope["path"]))
            log.error("%s %s: %s", scope["method"], path, _reason(error))
            log.debug("where it arose", exc_info=True)
            if not begun:
                response = error_response(500, f"an error in the server: {_reason(error)}")
                await response(scope, receive, send)
