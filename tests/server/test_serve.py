"""The command `swiftmedsam serve`: how it starts, what it refuses, and how it ends."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from swiftmedsam.server import serve
from swiftmedsam.server.packed import pack
from tests.helpers import HANGS, ROOT, fresh_logging
from tests.helpers.server import Serving, phantom, serving


def ask(server, method, path, body=b"", **headers):
    """Status and body of an answer."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=HANGS)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def refused(*words):
    """The exit status and the last line of a command that does not start."""
    command = [sys.executable, "-m", "swiftmedsam", "serve", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert not done.stdout and "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_though_a_client_waits_for_a_mask(number):
    with serving("--verbose") as server:
        assert ask(server, "GET", "/healthz") == (200, b'{"ok":true}')
        lease = {"X-Lease-Token": json.loads(ask(server, "POST", "/claim")[1])["lease_token"]}
        image = pack(phantom((60, 96, 96), ((30, 48, 48), 28))[np.newaxis])
        assert ask(server, "POST", "/set_image", image, **lease)[0] == 200
        box = {"bbox_coords": [[30, 31], [18, 79], [18, 79]], "include_interaction": True}
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(
                ask(server, "POST", "/add_bbox_interaction", json.dumps(box).encode(), **lease)
            )
        )
        thread.start()
        time.sleep(0.5)
        status, said = server.end(number)
        thread.join(HANGS)
        assert status == 128 + number
        # it was refused, or it was done before the signal came
        assert answers[0][0] in (200, 503), answers
        assert server.process.returncode == status and "Traceback" not in said
        server.process.returncode = 143  # what `serving` expects


def test_a_port_that_is_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, line = refused("--port", port)
    assert (status, line) == (
        1, f"127.0.0.1:{port}: cannot listen there (Address already in use)",
    )  # fmt: skip


def test_strangers_need_the_token_and_foreign_names_are_refused():
    with serving(
        "--host", "0.0.0.0", "--allow-host", "box.local", SWIFTMEDSAM_TOKEN="s3cret"
    ) as one:
        assert one.printed == f"http://127.0.0.1:{one.port}/?token=s3cret"
        assert ask(one, "GET", "/healthz")[0] == 200
        assert ask(one, "POST", "/claim")[0] == 401
        own = {"Authorization": "Bearer s3cret"}
        assert ask(one, "POST", "/claim", **own)[0] == 200
        assert ask(one, "POST", "/claim", **own, Host="box.local")[0] == 200
        assert ask(one, "POST", "/claim", **own, Host="evil.example")[0] == 403
        assert ask(one, "POST", "/claim", **own, Origin="http://evil.example")[0] == 403


def test_a_network_that_cannot_be_loaded_ends_it(tmp_path):
    status, line = refused("--port", 0, "--weights", tmp_path)
    assert status == 1 and str(tmp_path) in line


def test_broken_weights_end_it_after_it_has_begun(tmp_path):
    import shutil

    from swiftmedsam.manifest import default_weights

    copy = tmp_path / "weights"
    shutil.copytree(default_weights(), copy)
    for path in copy.rglob("*.bin"):
        path.write_bytes(b"no network")
    server = Serving("--weights", copy)
    _, said = server.process.communicate(timeout=HANGS)
    assert server.process.returncode == 1
    assert "Traceback" not in said and len(said.splitlines()) <= 3, said


# Wrong usage; the parser is asked in this process, since each start takes a second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "so it needs --token"),
        (["--host", "192.168.1.1"], "so it needs --token"),
        (["--token", "a b"], "--token should be letters and digits"),
        (["--token", "schlüssel"], "--token should be letters and digits"),
        (["--port", "70000"], "--port should be at most 65535"),
        (["--port", "-1"], "expected a whole number"),
        (["no/such.nii"], "no/such.nii: expected a file or folder, found none"),
        (["--root", "no/such"], "--root no/such: expected a folder, found none"),
        (["--memory-limit", "100M"], "--memory-limit should be at least"),
        (["--sessions", "0"], "expected a whole number above 0"),
        (["--idle-timeout", "0"], "expected seconds above 0"),
        (["--max-upload", "much"], "expected a size like 8G"),
        (["--modality", "magic"], "expected one of CT"),
        (["--directions", "LLP"], "expected three directions like LPS or RAS, got 'LLP'"),
        (["--directions", "LP"], "expected three directions"),
        (["--directions", "LPX"], "expected three directions"),
        (["--directions", "LPSS"], "expected three directions"),
        (["--journal", "x", "--no-journal"], "not allowed with"),
    ],
)
def test_wrong_usage_is_one_line(words, message, capsys, monkeypatch):
    monkeypatch.delenv(serve.TOKEN, raising=False)
    with pytest.raises(SystemExit) as left, fresh_logging():
        serve.main(words)
    assert left.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("swiftmedsam serve: error: ") and message in last


def test_the_state_folder_is_that_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert serve.state_folder() == tmp_path / "swiftmedsam"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert serve.state_folder() == tmp_path / ".local" / "state" / "swiftmedsam"
