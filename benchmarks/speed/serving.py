"""Time the server through HTTP: what somebody waits for after a box, a stroke, or *Open*.

    python -m benchmarks.speed.serving [--weights DIR] [--precision P] [--rounds N] [--browser]

A server process of its own does three things; all figures are medians.

- Boxes: it gets a volume by nnInteractive's protocol, and boxes in single slices (`do_autozoom`
  off). Beside them the encoder alone runs in this process, in the same turns, while the server
  rests. A slice is new if it is far from all that were asked before: the server encodes the
  neighbours of the last one while nobody asks.
- Opening: it opens a NIfTI file of 512 x 512 x 200 voxels, by the requests that the page sends,
  until the first slice is here. The file was read before, so it is in the memory of the system.
  With --browser, the page itself opens it in headless Chromium (package playwright), until the
  slice is painted.
- Strokes: an object that reaches through all slices gets strokes of the brush, until the new
  labels of the slice are here: one after the other, and with a pause before each.
"""

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import nibabel
import numpy as np

from swiftmedsam.cpu import AUTO, PRECISIONS
from swiftmedsam.network import load
from swiftmedsam.server.hub import NEIGHBOURS
from swiftmedsam.server.packed import pack, unpack

SIDE = 512  # of a slice
STEP = 2 * NEIGHBOURS + 3  # slices between two new ones
MOST_REST = 20  # seconds
ANSWER_MS = 60  # the target beside the encoder
LARGE, LARGE_AGAIN, SMALL = (100, 300), (120, 330), (200, 230)  # sides of boxes, in pixels
# What is timed, with the encoder's runs in it: a small box needs an enlarged crop, too.
ENCODED = {"first box in a new slice": 1, "next box in it": 0, "small box in it": 1,
           "first box in the slice beside it": 0}  # fmt: skip
OPENED_SLICES = 200  # of the file that is opened
FILE = "opened.nii.gz"
LARGE_STROKE = {"column": 100, "row": 100, "columns": 300, "rows": 300}  # makes the object large
STROKE = {"column": 200, "row": 240, "columns": 90, "rows": 13}  # a brush of 13 pixels, moved by 77
PAUSE = 1.0  # seconds before a stroke; a person needs about as long to look where the next one goes
FILE_OPENED, ON_SCREEN = "file opened, first slice here", "file opened, first slice on the screen"
STROKE_AFTER, STROKE_LATER = "brush stroke right after another", "brush stroke after a pause"
TARGETS = {FILE_OPENED: 1500, ON_SCREEN: 1500, STROKE_AFTER: 50, STROKE_LATER: 50}  # ms
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

Seconds = dict[str, list[float]]


def volume(depth: int) -> np.ndarray:
    """A volume (depth, SIDE, SIDE) int16 with a bright tube."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:SIDE, :SIDE]
    tube = (y - 200) ** 2 + (x - 200) ** 2 <= 70**2
    noise = rng.normal(200, 20, (SIDE, SIDE)) + 400 * tube
    return np.stack([np.roll(noise, z % 7, axis=0) for z in range(depth)]).astype(np.int16)


class Client:
    """A client of nnInteractive's protocol on one connection."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
        self._lease = ""
        self._lease = json.loads(self.post("/claim"))["lease_token"]

    def post(self, path: str, body: bytes = b"", **meta: object) -> bytes:
        """The body of an answer."""
        headers = {"X-Lease-Token": self._lease, "X-Meta": json.dumps(meta)}
        self._http.request("POST", path, body, headers)
        response = self._http.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(content.decode())
        return content

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def rest(self, seconds: float) -> None:
        """Ask nothing, until the neighbours of the last slice are encoded."""
        self._http.close()
        time.sleep(min(seconds, MOST_REST))
        self._http.connect()

    def box(self, z: int, ends: tuple[int, int]) -> float:
        """Seconds from a box in slice `z` to its mask."""
        box = {"bbox_coords": [[z, z + 1], ends, ends], "include_interaction": True}
        began = time.perf_counter()
        content = self.post("/add_bbox_interaction", json.dumps(box).encode())
        if content:
            unpack(content, 1 << 30)
        return time.perf_counter() - began


def boxes(url: str, network: object, rounds: int, seconds: Seconds) -> None:
    """Add seconds by what was done; the server is started."""
    client = Client(url)
    image = volume(rounds * STEP + 1)
    began = time.perf_counter()
    client.post("/set_image", pack(image[np.newaxis]), image_properties={"spacing": [2, 1, 1]})
    seconds["volume sent and opened"].append(time.perf_counter() - began)
    client.post("/set_do_autozoom", b'{"do_autozoom": false}')
    pixels = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    network.encode(pixels)
    for turn in range(rounds):
        z = STEP * turn + NEIGHBOURS
        began = time.perf_counter()
        network.encode(pixels)
        alone = time.perf_counter() - began
        seconds["encoder alone"].append(alone)
        new, again, small, beside = ENCODED
        seconds[new].append(client.box(z, LARGE))
        seconds[again].append(client.box(z, LARGE_AGAIN))
        seconds[small].append(client.box(z, SMALL))
        client.rest(3 * NEIGHBOURS * alone)
        seconds[beside].append(client.box(z + 1, LARGE))
        client.post("/reset_interactions")
        client.rest(3 * NEIGHBOURS * alone)
    client.post("/release")
    client.close()


# The page's requests


class Page:
    """What the page asks for, on one connection."""

    def __init__(self, url: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)

    def ask(
        self, method: str, path: str, asked: object = None, body: bytes | None = None
    ) -> tuple[bytes, dict[str, object]]:
        """The body of an answer, and what its header says of a change."""
        headers = {"Content-Type": "application/octet-stream"}
        if body is None:
            body, headers = json.dumps(asked).encode(), {"Content-Type": "application/json"}
        self._http.request(method, f"/api/{path}", body, headers)
        response = self._http.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(content.decode())
        return content, json.loads(response.headers.get("X-Change", "{}"))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def open(self) -> tuple[str, str, int]:
        """Open the file; return the path of its image, and the plane and slice shown first."""
        described = json.loads(self.ask("POST", "images", {"file": "named/0"})[0])
        plane, path = described["planes"][0], f"images/{described['id']}"
        self.ask("POST", f"{path}/objects", {})  # the page begins one before it shows anything
        index = plane["size"][0] // 2
        self.ask("GET", f"{path}/slices/{plane['name']}/{index}")
        return path, plane["name"], index

    def stroke(self, path: str, plane: str, index: int, place: dict[str, int]) -> float:
        """Seconds from a stroke of the brush, in object 1, to the new labels."""
        query = urlencode({"plane": plane, "index": index, **place})
        body = bytes([1]) * (place["columns"] * place["rows"])
        began = time.perf_counter()
        content, meta = self.ask("POST", f"{path}/objects/1/strokes?{query}", body=body)
        labels = np.frombuffer(content, "<u2")
        took = time.perf_counter() - began
        patch = meta["patch"]
        if patch is None or labels.size != patch["rows"] * patch["columns"] or (labels != 1).any():
            raise RuntimeError(f"a stroke gave no labels of its own: {patch}")
        return took


def opening(url: str, rounds: int, seconds: Seconds) -> None:
    """Open the file again and again."""
    page = Page(url)
    for _ in range(rounds):
        began = time.perf_counter()
        path, _, _ = page.open()
        seconds[FILE_OPENED].append(time.perf_counter() - began)
        page.ask("DELETE", path)
    page.close()


# Run in the page before its own scripts: milliseconds from its request until a slice is painted.
WATCH = """window.shown = new Promise(done => {
  const look = () => {
    if (!document.querySelector(".picture[data-slice]")) return requestAnimationFrame(look);
    requestAnimationFrame(() => { // it is painted with this frame
      const asked = performance.getEntriesByType("resource").find(
        ({ name }) => new URL(name).pathname === "/api/images");
      done(performance.now() - asked.startTime);
    });
  };
  look();
});"""


def opening_on_screen(url: str, rounds: int, seconds: Seconds) -> None:
    """Let the page open the file, which it does by itself since there is no other."""
    from playwright.sync_api import sync_playwright

    own = next(filter(None, map(shutil.which, BROWSERS)), None)  # None: playwright's Chromium
    client = Page(url)
    with sync_playwright() as playwright:
        # no sandbox: root has none, and the pages are our own
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.add_init_script(WATCH)
            page.goto(f"{url}/")
            seconds[ON_SCREEN].append(page.evaluate("window.shown") / 1000)
            image = page.evaluate("location.hash.slice(1)")
            page.close()
            client.ask("DELETE", f"images/{image}")
        browser.close()
    client.close()


def strokes(url: str, rounds: int, seconds: Seconds) -> None:
    """Brush in slices from one end of an object to the other."""
    page = Page(url)
    path, plane, _ = page.open()
    last = OPENED_SLICES - 1
    for end in (0, last):  # the object's box is as large as that of a liver, or larger
        page.stroke(path, plane, end, LARGE_STROKE)
    for index in np.linspace(1, last - 1, rounds).astype(int).tolist():
        time.sleep(PAUSE)
        seconds[STROKE_LATER].append(page.stroke(path, plane, index, STROKE))
        beside = {**STROKE, "row": STROKE["row"] + 40}
        seconds[STROKE_AFTER].append(page.stroke(path, plane, index, beside))
    page.ask("DELETE", path)
    page.close()


def measured(
    words: Sequence[str], network: object, rounds: int, *, browser: bool
) -> tuple[float, Seconds]:
    """Start a server by the command `words`; seconds until it was up, and by what was done."""
    seconds, began = defaultdict[str, list[float]](list), time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip().rstrip("/") if server.stdout else ""
            up = time.perf_counter() - began
            if not url:
                raise SystemExit("the server did not start")
            boxes(url, network, rounds, seconds)
            opening(url, rounds, seconds)
            if browser:
                opening_on_screen(url, rounds, seconds)
            strokes(url, rounds, seconds)
        finally:
            server.terminate()
    return up, seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.serving", description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--browser", action="store_true", help="open the file in Chromium, too")
    options = parser.parse_args(argv)
    network = load(options.weights, precision=options.precision)
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / FILE
        nibabel.save(nibabel.Nifti1Image(volume(OPENED_SLICES).T, np.diag([-1, -1, 2, 1])), file)
        words = [sys.executable, "-m", "swiftmedsam", "serve", str(file), "--port", "0",
                 "--precision", options.precision, "--journal", str(Path(made) / "journal"),
                 "--quiet"]  # fmt: skip
        if options.weights is not None:
            words += ["--weights", str(options.weights)]
        up, seconds = measured(words, network, options.rounds, browser=options.browser)
    print(f"{network.variant}, {network.precision}, {network.threads} threads")
    print(f"slices of {SIDE} x {SIDE}, medians of {options.rounds}; up in {up:.1f} s")
    medians = {name: 1000 * float(np.median(values)) for name, values in seconds.items()}
    alone = medians["encoder alone"]
    targets = {name: count * alone + ANSWER_MS for name, count in ENCODED.items()} | TARGETS
    for name, median in medians.items():
        target = f"  target {targets[name]:.0f} ms" if name in targets else ""
        print(f"{name:40} {median:8.1f} ms{target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
