"""Who may ask the server: checked before any route is.

A browser sends requests on behalf of whatever page is open in it. So:

- `Host` must not be a name that someone else could let point to this machine (DNS rebinding);
- `Origin`, where a browser sends it, must be the server itself (foreign pages);
- with a token, a request has it as `Authorization: Bearer`, or as the cookie that a visit of
  `/?token=...` sets.
"""

import asyncio
import ipaddress
import logging
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swiftmedsam.messages import printable
from swiftmedsam.server.hub import Refused

log = logging.getLogger(__name__)

COOKIE = "swiftmedsam_token"
# Which say nothing but that the server is there, and whether it has a token; or check one.
OPEN_PATHS = {"/healthz", "/auth/", "/auth/token"}
MOST_DIGITS = 20  # of the length of a request
CHUNK_SECONDS = 60.0  # that a client may take for the next piece of a request's body

T = TypeVar("T")


def error_response(status: int, detail: str) -> JSONResponse:
    """An error as clients of nnInteractive understand it: one line."""
    return JSONResponse({"detail": detail}, status)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request pass to `app`, or answers it by an error."""

    def __init__(self, app: ASGIApp, token: str = "", hosts: Iterable[str] = ()) -> None:
        """`hosts` are names of this machine beside its own."""
        self._app, self._token = app, token
        own = {"localhost", socket.gethostname(), *hosts}
        self._hosts = {host.lower().rstrip(".") for host in own}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["guard"] = self  # for a face whose clients log in

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                # uvicorn's own log would have the query, in which a token can be
                log.debug("%s %s: %d", scope["method"], printable(scope["path"]), message["status"])
            await send(message)

        response = self._refusal(scope)
        await (response or self._app)(scope, receive, sent)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own(host):
            return error_response(403, "this name of the server is not known (--allow-host)")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return error_response(403, "requests of other pages are not answered")
        if not self._token or scope["path"] in OPEN_PATHS:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and "token" in query:
            return self._visit(query)
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return None
        if self.is_token(_cookie(headers.get("cookie", ""))):
            return None
        return error_response(401, "a token is needed: the server printed it when it started")

    def _is_own(self, host: str) -> bool:
        """Whether a `Host` is an address, or a name of this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    @property
    def needs_token(self) -> bool:
        """Whether requests need a token."""
        return bool(self._token)

    def is_token(self, given: str) -> bool:
        """Whether this is the token that requests need."""
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _visit(self, query: dict[str, list[str]]) -> Response:
        """Keep a token of the address line as a cookie, and take it out of the line."""
        token = query.pop("token")[-1]
        if not self.is_token(token):
            return error_response(401, "the token is wrong")
        rest = urlencode(query, doseq=True)
        response = RedirectResponse("/?" + rest if rest else "/", 303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        Refused: it is longer than `limit` bytes, or it does not come.
    """
    body = bytearray()
    async for chunk in stream_body(request, limit):
        body += chunk
    return bytes(body)


async def stream_body(
    request: Request, limit: int, too_large: Refused | None = None
) -> AsyncGenerator[bytes, None]:
    """The body of a request in the pieces that come.

    A body that is at most twice as long as it may be is read to its end before it is refused: a
    client that still sends would see that the connection broke, and not why.

    Raises:
        Refused: it is longer than `limit` bytes (`too_large`), or it does not come.
    """
    too_large = too_large or Refused(413, f"a request can have {limit} bytes")
    declared = request.headers.get("content-length", "0")
    said = int(declared) if declared.isdecimal() and len(declared) <= MOST_DIGITS else 2 * limit + 1
    length, stream = 0, request.stream()
    while max(said, length) <= 2 * limit:
        try:
            chunk = await asyncio.wait_for(anext(stream), CHUNK_SECONDS)
        except StopAsyncIteration:
            if max(said, length) > limit:
                break
            return
        except (TimeoutError, asyncio.TimeoutError, ClientDisconnect):
            raise Refused(408, "the request did not come to its end") from None
        length += len(chunk)
        if max(said, length) <= limit:
            yield chunk
    raise too_large


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """What `work` returns; it is cancelled if the client goes away meanwhile.

    The body of the request was read before.

    Raises:
        Refused: the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(408, "the client went away")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
