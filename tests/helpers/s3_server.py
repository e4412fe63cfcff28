"""An S3 server (moto's) in a process of its own, which can be late, answer 503, or break off.

`python -m tests.helpers.s3_server PORT_FILE` starts it; `S3Server` does so and talks to it. A fault
is a dict: "do" ("late", "503", "break"), "times", and what it is for: "method", "key" (a part of
the path). With "late" come "seconds".
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from tests.helpers import HANGS, ROOT

CONTROL, REQUESTS = "/test-faults", "/test-requests"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Faulty:
    """A WSGI application around moto's, with faults and a list of the requests."""

    def __init__(self, inner):
        self._inner, self._lock = inner, threading.Lock()
        self._faults, self._requests = [], []

    def _fault(self, method, path):
        with self._lock:
            self._requests.append(f"{method} {path}")
            for fault in self._faults:
                fits = fault.get("method", method) == method and fault.get("key", "") in path
                if fits and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return None

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == CONTROL:
            length = int(environ["CONTENT_LENGTH"])
            with self._lock:
                self._faults = json.loads(environ["wsgi.input"].read(length))
                self._requests = []
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
        if path == REQUESTS:
            with self._lock:
                answer = json.dumps(self._requests).encode()
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]
        query = environ.get("QUERY_STRING", "")
        fault = self._fault(method, f"{path}?{query}" if query else path)
        if fault is None:
            return self._inner(environ, start_response)
        if fault["do"] == "late":
            time.sleep(fault["seconds"])
            return self._inner(environ, start_response)
        if fault["do"] == "503":
            head = [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))]
            start_response("503 Slow Down", head)
            return [BUSY]
        if method == "PUT":  # hang up in the middle of the upload
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        return self._half(environ, start_response)

    def _half(self, environ, start_response):
        """Half of the true answer, whose head promises all."""
        whole = b"".join(self._inner(environ, start_response))
        yield whole[: len(whole) // 2]
        with contextlib.suppress(OSError):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def serve(port_file):
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    app = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    partial = port_file.with_suffix(".partial")
    partial.write_text(str(server.port))
    partial.rename(port_file)
    server.serve_forever()


class Files:
    """What a store has; `files` is its file system of fsspec."""

    def upload(self, folder, prefix):
        """Store the files of a folder, and those below, in a prefix."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.files.pipe_file(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def contents(self, prefix):
        """Bytes by name of the files in a prefix; {} if there are none."""
        with contextlib.suppress(FileNotFoundError):
            return {
                name[len(prefix) + 1 :]: self.files.cat_file(name)
                for name in self.files.find(prefix)
            }
        return {}


class S3Server(Files):
    """A running server; `files` is the file system of fsspec for it."""

    def __init__(self, folder):
        port_file = folder / "port"
        self._said = (folder / "s3.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.s3_server", port_file],
            cwd=ROOT, stdout=self._said, stderr=self._said,
        )  # fmt: skip
        until = time.monotonic() + HANGS
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "s3.log").read_text())
            time.sleep(0.1)
        self.url = f"http://127.0.0.1:{port_file.read_text()}"

    @property
    def environment(self):
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def connect(self):
        import fsspec

        self.files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)

    def _ask(self, path, data=None):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}{path}", data, timeout=HANGS) as answer:
            return answer.read()

    def faults(self, *faults):
        """From now on these; the list of requests begins anew."""
        self._ask(CONTROL, json.dumps(faults).encode())

    def requests(self, *words):
        """The requests so far that contain all words."""
        asked = json.loads(self._ask(REQUESTS))
        return [one for one in asked if all(word in one for word in words)]

    def put(self, bucket, key, content):
        """Store an object under any key; fsspec would clean some."""
        self.files.call_s3("put_object", Bucket=bucket, Key=key, Body=content)

    def close(self):
        self._process.kill()
        self._process.wait(HANGS)
        self._said.close()


if __name__ == "__main__":
    os.environ.pop("AWS_ENDPOINT_URL", None)
    serve(Path(sys.argv[1]))
