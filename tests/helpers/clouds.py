"""Servers of Google Cloud Storage and Azure Blob Storage, which can be late, refuse, or break off.

The servers are gcp-storage-emulator (PyPI) and Azurite (npm). Clients talk to them through a proxy
that makes the faults: dicts with "do" ("late" with "seconds", "break", or a status like "503"),
"times", and what they are for: "method", and "key", a part of the path or of the head of the body.
With "ends" the path itself, without a query or a list, ends in the key.
"""

import http.client
import http.server
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from urllib.parse import unquote

from tests.helpers import HANGS, free_ports
from tests.helpers.s3_server import Files

# Azurite's only account, as its documentation gives it.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
OF_ONE_HOP = ("connection", "keep-alive", "transfer-encoding")  # headers that a proxy makes itself
HEAD = 1000  # bytes of a body; in those of Google's uploads is the name of the object


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a port of this machine, unless there is a fault for them."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.faults, self.requests, self.lock = port, [], [], threading.Lock()

    def fault_for(self, method, what):
        with self.lock:
            self.requests.append(f"{method} {what}")
            for fault in self.faults:
                fits = fault.get("method", method) == method and fault.get("key", "") in what
                if fault.get("ends"):
                    path, _, query = what.partition("?")
                    fits = path.endswith(fault["key"]) and "comp=list" not in query
                if fits and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return {"do": ""}

    def handle_error(self, request, address):
        """A client that hung up is no error."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        head = body[:HEAD].decode("utf-8", "replace") if self.command == "POST" else ""
        fault = self.server.fault_for(self.command, f"{unquote(self.path)} {head}".strip())
        if fault["do"] == "late":
            time.sleep(fault["seconds"])
        elif fault["do"].isdecimal():
            self._refuse(int(fault["do"]))
            return
        elif fault["do"] == "break" and self.command != "GET":
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=HANGS)
        upstream.request(self.command, self.path, body, dict(self.headers))
        with upstream.getresponse() as answer:
            content = answer.read()
            self.send_response(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in OF_ONE_HOP:
                    self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
        upstream.close()
        if fault["do"] == "break":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def _refuse(self, status):
        message = "the server is busy" if status == 503 else "you may not do this"
        content = json.dumps({"error": {"code": status, "message": message}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _answer


class Cloud(Files):
    """A running server behind a proxy; `files` is the file system of fsspec for it."""

    def __init__(self, port):
        self._proxy = Proxy(port)
        self._thread = threading.Thread(target=self._proxy.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"

    def connect(self):
        import fsspec

        self.files = fsspec.filesystem(
            self.scheme, skip_instance_cache=True, use_listings_cache=False
        )

    def faults(self, *faults):
        """From now on these; the list of requests begins anew."""
        with self._proxy.lock:
            self._proxy.faults, self._proxy.requests = list(faults), []

    def requests(self, *words):
        """The requests so far that contain all words."""
        with self._proxy.lock:
            return [one for one in self._proxy.requests if all(word in one for word in words)]

    def close(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join(HANGS)


class Google(Cloud):
    """gcp-storage-emulator, in threads of this process."""

    scheme = "gs"
    uploads = "POST"  # the method

    def __init__(self, folder):
        from gcp_storage_emulator.server import create_server

        (port,) = free_ports(1)
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self._server = create_server("127.0.0.1", port, in_memory=True)
        self._server.start()
        super().__init__(port)
        self.environment = {"STORAGE_EMULATOR_HOST": self.url, "NO_PROXY": "127.0.0.1"}

    def close(self):
        super().close()
        self._server.stop()


class Azure(Cloud):
    """Azurite, in a process of its own."""

    scheme = "az"
    uploads = "PUT"

    @staticmethod
    def program():
        """Where it is; None if it is not installed."""
        return shutil.which(os.environ.get("AZURITE", "azurite-blob"))

    def __init__(self, folder):
        (port,) = free_ports(1)
        self._said = (folder / "azurite.log").open("wb")
        self._process = subprocess.Popen(
            [self.program(), "--inMemoryPersistence", "--disableTelemetry",
             "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)],
            cwd=folder, stdout=self._said, stderr=self._said,
        )  # fmt: skip
        until = time.monotonic() + HANGS
        while not listens(port):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "azurite.log").read_text())
            time.sleep(0.1)
        super().__init__(port)
        self.environment = {
            "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;"
            f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.url}/{ACCOUNT};",
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def close(self):
        super().close()
        self._process.terminate()
        self._process.wait(HANGS)
        self._said.close()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
