"""Who may ask the server: checked before any route is.

A browser sends requests on behalf of whatever page is open in it. So:

- `Host` must not be a name that someone else could let point to this machine (DNS rebinding);
- `Origin`, where a browser sends it, must be the server itself (foreign pages);
- with a token, a request has it as `Authorization: Bearer`, or as the cookie that a visit of
  `/?token=...` sets.
"""

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from swiftmedsam.server.hub import Refused

COOKIE = "swiftmedsam_token"
OPEN_PATHS = {"/healthz"}  # which say nothing but that the server is there
MOST_DIGITS = 20  # of the length of a request
CHUNK_SECONDS = 60.0  # that a client may take for the next piece of a request's body


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
        response = self._refusal(scope)
        await (response or self._app)(scope, receive, send)

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
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return None
        if self._is_token(_cookie(headers.get("cookie", ""))):
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

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _visit(self, query: dict[str, list[str]]) -> Response:
        """Keep a token of the address line as a cookie, and take it out of the line."""
        token = query.pop("token")[-1]
        if not self._is_token(token):
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
    too_large = Refused(413, f"a request can have {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if len(declared) > MOST_DIGITS or (declared.isdecimal() and int(declared) > limit):
        raise too_large
    body, stream = bytearray(), request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), CHUNK_SECONDS)
        except StopAsyncIteration:
            return bytes(body)
        except (TimeoutError, asyncio.TimeoutError, ClientDisconnect):
            raise Refused(408, "the request did not come to its end") from None
        if len(body) + len(chunk) > limit:
            raise too_large
        body += chunk
