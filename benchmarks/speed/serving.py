"""Time boxes through HTTP: what somebody waits for after a box is drawn.

    python -m benchmarks.speed.serving [--weights DIR] [--precision P] [--rounds N]

A server process of its own gets a volume by nnInteractive's protocol, and boxes in single slices
(`do_autozoom` off). Medians, beside the encoder alone, which runs in this process in the same turns
while the server rests. A slice is new if it is far from all that were asked before: the server
encodes the neighbours of the last one while nobody asks.
"""

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

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


def measured(url: str, network: object, rounds: int) -> dict[str, list[float]]:
    """Seconds by what was done; the server is started."""
    client, seconds = Client(url), defaultdict[str, list[float]](list)
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
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed.serving", description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(argv)
    words = [sys.executable, "-m", "swiftmedsam", "serve", "--port", "0", "--precision",
             options.precision, "--no-journal", "--quiet"]  # fmt: skip
    if options.weights is not None:
        words += ["--weights", str(options.weights)]
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip() if server.stdout else ""
            up = time.perf_counter() - began
            network = load(options.weights, precision=options.precision)
            seconds = measured(url, network, options.rounds)
        finally:
            server.terminate()
    print(f"{network.variant}, {network.precision}, {network.threads} threads")
    print(f"slices of {SIDE} x {SIDE}, medians of {options.rounds}; up in {up:.1f} s")
    medians = {name: 1000 * float(np.median(values)) for name, values in seconds.items()}
    alone = medians["encoder alone"]
    for name, median in medians.items():
        target = ""
        if name in ENCODED:
            target = f"  target {ENCODED[name] * alone + ANSWER_MS:.0f} ms"
        print(f"{name:36} {median:8.1f} ms{target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
