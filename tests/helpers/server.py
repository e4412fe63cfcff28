"""The server as a process of its own, and volumes to draw boxes in."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.helpers import HANGS, ROOT

ADDRESS = re.compile(r"^http://(\S+):(\d+)/")


class Serving:
    """`swiftmedsam serve` on a free port; `url` has no slash at its end."""

    def __init__(self, *words: object, **environment: str) -> None:
        command = [sys.executable, "-m", "swiftmedsam", "serve", "--port", "0", *map(str, words)]
        surroundings = {**os.environ, "NO_PROXY": "*", **environment}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=surroundings,
        )  # fmt: skip
        self.printed = self.process.stdout.readline().strip()
        found = ADDRESS.match(self.printed)
        if not found:
            raise RuntimeError(self.process.communicate(timeout=HANGS)[1])
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://{self.host}:{self.port}"

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal; its exit status, and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=HANGS)
        return self.process.returncode, said


@contextlib.contextmanager
def serving(*words: object, **environment: str):
    """A server that ends with the block, and must not have failed in it."""
    server = Serving(*words, **environment)
    try:
        yield server
    finally:
        status, said = server.end()
    assert status in (143, -9), said
    assert "Traceback" not in said and "Error" not in said, said


def ball(shape, centre, radius) -> np.ndarray:
    """Mask of a ball; radius and centre are in voxels."""
    axes = np.ogrid[tuple(slice(0, length) for length in shape)]
    return sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True)) <= radius**2


def phantom(shape=(20, 96, 112), *balls) -> np.ndarray:
    """A volume int16 with bright balls (centre, radius) in a grey, slightly noisy ground."""
    rng = np.random.default_rng(5)
    volume = rng.normal(200, 15, shape)
    for centre, radius in balls:
        volume[ball(shape, centre, radius)] += 400
    return volume.astype(np.int16)


def box_around(centre, radius, axis=0, margin=2) -> list[list[int]]:
    """A half-open box around a ball, in its middle slice along `axis`."""
    box = [[middle - radius - margin, middle + radius + margin + 1] for middle in centre]
    box[axis] = [centre[axis], centre[axis] + 1]
    return box


def scratch(path: Path, name: str, content: bytes = b"") -> Path:
    """A file below `path`, with its folders."""
    made = path / name
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(content)
    return made
