"""Foreign pages, foreign names and strangers are not answered; errors are one line."""

import asyncio
import json
import logging

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from swiftmedsam.server import guard
from swiftmedsam.server.app import LastNet, application
from swiftmedsam.server.files import Files
from swiftmedsam.server.guard import COOKIE, Guard, is_loopback, read_body
from swiftmedsam.server.hub import Hub, Limits, Refused
from tests.helpers import BrightInBox

OWN = "127.0.0.1:1527"


def ask(app, path="/x", method="GET", query="", messages=None, **headers):
    """Status, headers and body of what an application answers."""
    named = {"host": OWN, **{key.replace("_", "-"): value for key, value in headers.items()}}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "scheme": "http", "server": ("127.0.0.1", 1527), "client": ("127.0.0.1", 5),
        "root_path": "", "http_version": "1.1", "raw_path": path.encode(),
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in named.items()],
    }  # fmt: skip
    waiting = list(messages or [{"type": "http.request", "body": b"", "more_body": False}])
    sent = []

    async def receive():
        if not waiting:
            await asyncio.sleep(3600)
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


async def passed(scope, receive, send):
    await PlainTextResponse("passed")(scope, receive, send)


def status(guarded, **words):
    found, _, body = ask(guarded, **words)
    if found == 200:
        assert body == b"passed"
    else:
        assert list(json.loads(body)) == ["detail"]
    return found


# Names and pages


@pytest.mark.parametrize(
    ("host", "wanted"),
    [(OWN, 200), ("localhost:1527", 200), ("LOCALHOST", 200), ("localhost.", 200),
     ("[::1]:1527", 200), ("192.168.1.7:80", 200), ("workstation:9", 200), ("evil.example", 403),
     ("127.0.0.1.evil.example", 403), ("localhost.evil.example:1527", 403), ("", 403),
     ("evil.example@127.0.0.1", 200), ("127.0.0.1@evil.example", 403), ("[::1", 403),
     ("a b", 403)],
)  # fmt: skip
def test_only_addresses_and_own_names_are_answered(host, wanted):
    assert status(Guard(passed, hosts=["workstation"]), host=host) == wanted


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [(f"http://{OWN}", 200), ("http://127.0.0.1:80", 403), ("http://127.0.0.1", 403),
     (f"https://{OWN}", 403), ("http://evil.example", 403), ("null", 403), ("", 403),
     (f"http://{OWN}.evil.example", 403)],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_pages_are_not_answered(origin, wanted, method):
    assert status(Guard(passed), method=method, origin=origin) == wanted


# Tokens


def test_without_a_token_requests_need_none():
    assert status(Guard(passed)) == 200
    assert status(Guard(passed), authorization="Bearer whatever") == 200


@pytest.mark.parametrize(
    ("words", "wanted"),
    [({}, 401), ({"authorization": "Bearer secret"}, 200),
     ({"authorization": "bearer secret"}, 200), ({"authorization": "Bearer secre"}, 401),
     ({"authorization": "Bearer secrets"}, 401),
     ({"authorization": "Bearer "}, 401), ({"authorization": "Basic secret"}, 401),
     ({"authorization": "secret"}, 401), ({"authorization": "Bearer sécret"}, 401),
     ({"cookie": f"a=b; {COOKIE}=secret"}, 200), ({"cookie": f"{COOKIE}=other"}, 401),
     ({"cookie": f"{COOKIE}="}, 401), ({"cookie": "\";=,"}, 401),
     ({"query": "token=secret"}, 401)],
)  # fmt: skip
def test_a_token_is_needed(words, wanted):
    assert status(Guard(passed, "secret"), **words) == wanted


def test_whether_the_server_is_there_is_no_secret():
    assert status(Guard(passed, "secret"), path="/healthz") == 200
    assert status(Guard(passed, "secret"), path="/healthz/x") == 401
    assert status(Guard(passed, "secret"), path="/healthz", host="evil.example") == 403


def test_a_token_of_the_address_line_becomes_a_cookie_and_leaves_the_line():
    found, headers, _ = ask(Guard(passed, "secret"), "/", query="token=secret&scan=3")
    assert (found, headers[b"location"]) == (303, b"/?scan=3")
    cookie = headers[b"set-cookie"].decode()
    assert cookie.startswith(f"{COOKIE}=secret;")
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert status(Guard(passed, "secret"), path="/", query="token=wrong") == 401


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_which_addresses_are_of_this_machine_alone(host, local):
    assert is_loopback(host) == local


# Bodies


def body_of(*chunks, limit=10, **headers):
    messages = [
        {"type": "http.request", "body": chunk, "more_body": place < len(chunks)}
        for place, chunk in enumerate(chunks, start=1)
    ]

    async def app(scope, receive, send):
        content = await read_body(Request(scope, receive), limit)
        await PlainTextResponse(content)(scope, receive, send)

    return ask(app, method="POST", messages=messages, **headers)[2]


def test_a_body_is_read_up_to_its_limit():
    assert body_of(b"12345", b"67890") == b"1234567890"
    assert body_of(b"") == b""


@pytest.mark.parametrize(
    ("chunks", "headers"),
    [([b"12345", b"678901"], {}), ([b""], {"content_length": "11"}),
     ([b""], {"content_length": "9" * 5000})],
)  # fmt: skip
def test_a_longer_body_is_refused_before_it_is_kept(chunks, headers):
    with pytest.raises(Refused) as refused:
        body_of(*chunks, **headers)
    assert refused.value.status == 413


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(guard, "CHUNK_SECONDS", 0.01)

    async def app(scope, receive, send):
        await read_body(Request(scope, receive), 10)

    for messages in ([{"type": "http.request", "body": b"1", "more_body": True}],
                     [{"type": "http.disconnect"}]):  # fmt: skip
        with pytest.raises(Refused) as refused:
            ask(app, messages=messages)
        assert refused.value.status == 408


# Errors nobody foresaw


def test_an_error_in_a_route_is_answered_in_the_same_words(monkeypatch):
    """Starlette's own answer would be words alone."""
    hub = Hub(BrightInBox(), Limits(8 << 30), Files())
    monkeypatch.setattr(hub, "claim", lambda **_: {}["none"])
    found, _, body = ask(application(hub), "/claim", "POST")
    assert found == 500
    assert json.loads(body) == {"detail": "an error in the server: KeyError: 'none'"}


def test_an_error_that_nobody_foresaw_is_one_line_for_the_client_and_in_the_log(caplog):
    async def broken(*_):
        raise ZeroDivisionError("a\nb")

    with caplog.at_level(logging.INFO):
        found, _, body = ask(LastNet(broken), "/x\ny")
    assert found == 500
    assert json.loads(body) == {"detail": "an error in the server: ZeroDivisionError: a b"}
    assert [record.getMessage() for record in caplog.records] == [
        "GET /x\\ny: ZeroDivisionError: a b"
    ]


# What is logged


def test_requests_are_logged_without_what_follows_their_path(caplog):
    caplog.set_level(logging.DEBUG, "swiftmedsam")
    guarded = Guard(passed, "s3cret")
    ask(guarded, path="/", query="token=s3cret")
    ask(guarded, path="/x\n2", authorization="Bearer s3cret")
    ask(guarded, path="/x", authorization="Bearer other")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["GET /: 303", "GET /x\\n2: 200", "GET /x: 401"]
