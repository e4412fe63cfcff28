"""The page's requests, and the browser that tests drive."""

import http.client
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers import HANGS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Client:
    """Sends requests to a server as they are, and nothing besides."""

    def __init__(self, server) -> None:
        self.server = server

    def ask(self, method, path, json_=None, body=None, **headers):
        """Status, headers and content of an answer; content is JSON where it says so."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=HANGS)
        if json_ is not None:
            body = json.dumps(json_)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.headers.get_content_type() == "application/json":
            content = json.loads(content)
        return answer.status, answer.headers, content

    def fine(self, method, path, json_=None, body=None, **headers):
        """The content of an answer that is no error."""
        status, _, content = self.ask(method, path, json_, body, **headers)
        assert status == 200, content
        return content

    def refused(self, method, path, json_=None, body=None, **headers):
        """Status and words of an answer that is an error: one line without a traceback."""
        status, _, content = self.ask(method, path, json_, body, **headers)
        assert status >= 400, content
        words = content["detail"]
        assert words and "\n" not in words and "Traceback" not in words and "Error" not in words
        return status, words

    def changed(self, method, path, json_=None, body=None):
        """What a change says of itself in its header, and its labels."""
        status, headers, content = self.ask(method, path, json_, body)
        assert status == 200, content
        return json.loads(headers["X-Change"]), content


def launch(playwright):
    """Headless Chromium. Where there is none the test is skipped, but not in CI."""
    paths = [*filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path]
    found = [path for path in paths if Path(path).exists()]
    if not found:
        reason = f"no browser: neither {', '.join(BROWSERS)} nor playwright's own is here"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    # no sandbox: root has none, and the pages are our own
    return playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
