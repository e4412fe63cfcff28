"""What many tests make or read: pictures, case files, labels, and networks checked on paper.

It imports numpy alone, so that tests of numpy alone start at once. Makers that need more are in
the other modules of this folder.
"""

import contextlib
import logging
import socket
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]  # of the repository

# Where the volume case below lies in a patient, in RAS: x to the left, y to the back, z to the
# head; 1, 2 and 3 mm.
CASE_AFFINE = np.array([[-1.0, 0, 0, 30], [0, -2, 0, 40], [0, 0, 3, -50], [0, 0, 0, 1]])


HANGS = 300  # seconds after which a process is given up; no test asks how long one takes


def ellipse(height: int, width: int, centre: tuple[int, int], radii: tuple[int, int]) -> np.ndarray:
    """Mask (height, width) of an ellipse; `centre` and `radii` are (y, x)."""
    y, x = np.ogrid[:height, :width]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def picture(height: int, width: int, *masks: np.ndarray, colour: bool = False) -> np.ndarray:
    """A grey gradient (height, width) uint8 with bright `masks`; (height, width, 3) in colour."""
    y, x = np.ogrid[:height, :width]
    grey = (20 + 60 * x / width + 40 * y / height) * np.ones((height, width))
    for i, mask in enumerate(masks):
        grey[mask] = 160 + 30 * i + 20 * (x / width * np.ones((height, 1)))[mask]
    image = grey.astype(np.uint8)
    return np.stack([image, image // 2, 255 - image], axis=-1) if colour else image


def image_case() -> dict[str, np.ndarray]:
    """Arrays of an image (48, 80, 3) with two ellipses in their boxes."""
    masks = ellipse(48, 80, (20, 25), (10, 18)), ellipse(48, 80, (32, 58), (8, 14))
    boxes = np.array([[7, 10, 43, 30], [44, 24, 72, 40]])
    return {"imgs": picture(48, 80, *masks, colour=True), "boxes": boxes}


def volume_case() -> dict[str, np.ndarray]:
    """Arrays of a volume (6, 40, 64), an ellipse that drifts, and boxes with middles 1, 2, 4."""
    slices = [picture(40, 64, ellipse(40, 64, (16 + z, 24 + 2 * z), (9, 14))) for z in range(6)]
    boxes = np.array([[8, 6, 0, 46, 30, 3], [10, 8, 1, 48, 30, 4], [14, 10, 3, 50, 32, 5]])
    return {"imgs": np.stack(slices), "boxes": boxes, "spacing": np.array([1.0, 2.0, 3.0])}


def make_case_file(folder: Path, name: str, **arrays: npt.ArrayLike | None) -> Path:
    """Write folder/name: the image or volume case above, `arrays` replaced (None: left out)."""
    content = {**(volume_case() if name.startswith("3D") else image_case()), **arrays}
    path = folder / name
    with path.open("wb") as stream:  # numpy would append .npz to other names
        np.savez_compressed(stream, **{k: v for k, v in content.items() if v is not None})
    return path


def read_labels(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["segs"]
        return archive["segs"]


def inside(prompt: np.ndarray, height: int = 256, width: int = 256) -> np.ndarray:
    """Mask (height, width) of a box x_min, y_min, x_max, y_max, all four inclusive."""
    x_min, y_min, x_max, y_max = prompt
    y, x = np.ogrid[:height, :width]
    return (x_min <= x) & (x <= x_max) & (y_min <= y) & (y <= y_max)


def pixels_of(cells: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Of `logits` (N, 256, 256) those (N, 4 h, 4 w) of the rectangles `cells` (N, h, w)."""
    _, height, width = cells.shape
    y, x = np.divmod(cells[:, 0, 0], 64)
    return np.stack(
        [
            one[4 * r : 4 * (r + height), 4 * c : 4 * (c + width)]
            for one, r, c in zip(logits, y, x, strict=True)
        ]
    )


class BrightInBox:
    """A `NetworkLike` one can check on paper: mask = brightest pixels inside the prompt.

    The embedding is a copy of the pixels; `encoded` counts how often each picture came by.
    """

    def __init__(self) -> None:
        self.encoded: Counter[bytes] = Counter()
        self.prompts: list[np.ndarray] = []  # (N, 4), one of each call

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.encoded[pixels.tobytes()] += 1
        return pixels.copy()

    def decode(
        self, embedding: np.ndarray, prompts: np.ndarray, cells: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.prompts.append(prompts.copy())
        bright = embedding[0, 0] > 0.5
        masks = np.stack([bright & inside(prompt) for prompt in prompts])
        logits = np.where(masks, 1, -1).astype(np.float32)
        return pixels_of(cells, logits), np.ones(len(prompts), np.float32)


class BoxesAsMasks(BrightInBox):
    """An `swiftmedsam.segment.NetworkLike` whose masks are the prompts themselves."""

    def decode(
        self, embedding: np.ndarray, prompts: np.ndarray, cells: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return super().decode(np.ones_like(embedding), prompts, cells)


class Everywhere(BrightInBox):
    """A network whose masks fill the frame."""

    def decode(self, embedding, prompts, cells):
        self.prompts.append(prompts.copy())
        logits = np.ones((len(prompts), 256, 256), np.float32)
        return pixels_of(cells, logits), np.ones(len(prompts), np.float32)


class SureOfRows(BoxesAsMasks):
    """A network whose predicted IoU is a thousandth of the row a prompt begins in."""

    def decode(self, embedding, prompts, cells):
        logits, _ = super().decode(embedding, prompts, cells)
        return logits, (prompts[:, 1] / 1000).astype(np.float32)


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def _levels_of_logging() -> dict[str, int]:
    """The level of the root logger (named "") and of each of the program's that has one."""
    root = logging.getLogger()
    levels = {
        name: logger.level
        for name, logger in root.manager.loggerDict.items()
        if name.startswith("swiftmedsam") and isinstance(logger, logging.Logger) and logger.level
    }
    return {"": root.level, **levels}


@contextlib.contextmanager
def same_levels():
    """Levels of logging that the block changes are what they were, after it."""
    before = _levels_of_logging()
    try:
        yield
    finally:
        for name in _levels_of_logging() | before:
            logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


@contextlib.contextmanager
def fresh_logging():
    """Logging as at the start of a process: pytest's own handlers would be in main's way."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    with same_levels():
        root.handlers[:] = []
        root.setLevel(logging.WARNING)
        try:
            yield
        finally:
            root.handlers[:] = handlers


IMAGE, VOLUME = "2DBox_Endoscopy_1.npz", "3DBox_MR_1.npz"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make_shifted_cases(folder, names):
    """Write cases whose masks differ: the image of `image_case`, each time 5 pixels further."""
    for i, name in enumerate(names):
        make_case_file(folder, name, imgs=np.roll(image_case()["imgs"], 5 * i, axis=1))


class Watched(BrightInBox):
    """Counts the embeddings that are alive whenever something is decoded."""

    def __init__(self):
        super().__init__()
        self.made, self.alive = [], []

    def encode(self, pixels):
        embedding = super().encode(pixels)
        self.made.append(weakref.ref(embedding))
        return embedding

    def decode(self, embedding, prompts, cells):
        self.alive.append(sum(ref() is not None for ref in self.made))
        return super().decode(embedding, prompts, cells)


def labels_of(case, network, settings=None, *, crops=None, memory_limit=None, **changes):
    """The labels that `segment` returns; `changes` are of the settings, `crops` of both bounds."""
    from dataclasses import replace

    from swiftmedsam.segment import segment
    from swiftmedsam.settings import BEST

    if crops is not None:
        changes |= {"image_crops": crops, "volume_crops": crops}
    settings = replace(settings or BEST, **changes)
    return segment(case, network, settings, memory_limit=memory_limit).labels


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
