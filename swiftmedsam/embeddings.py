"""Embeddings of the slices of one case: each slice is encoded once, as long as memory allows."""

from collections import Counter, OrderedDict
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import FloatArray, Frame
from swiftmedsam.memory import LARGE_IMAGE
from swiftmedsam.result import Clock

Key = tuple[Frame, int]  # the frame, and the slice that it shows


class Encoder(Protocol):
    """The part of `network.Network` that makes embeddings."""

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Embedding (1, 4096, C) of pixels (1, 3, 256, 256)."""

    def release_encoder(self) -> None:
        """Free memory that the next `encode` will take again."""


class Embeddings:
    """Embeddings by frame and slice. Several threads may share one."""

    def __init__(
        self, image: npt.NDArray[np.uint8], encoder: Encoder, most: int,
        upcoming: Counter[Key] | None = None,
    ) -> None:  # fmt: skip
        """Make an empty cache for slices of `image` (D, H, W) or (D, H, W, 3).

        It keeps at most `most` embeddings, 1 or more. `upcoming` counts how often `get` will be
        called for each key: an embedding is kept while more calls will come. None: the number is
        unknown, and the most recently used embeddings are kept.
        """
        self._image, self._encoder, self._most = image, encoder, most
        self._upcoming = None if upcoming is None else upcoming.copy()
        self._kept: OrderedDict[Key, FloatArray] = OrderedDict()
        self._lock = Lock()

    @property
    def most(self) -> int:
        """How many embeddings are kept, at most."""
        return self._most

    def get(self, frame: Frame, z: int, clock: Clock) -> FloatArray:
        """The embedding (1, 4096, C) of slice `z` as `frame` shows it."""
        key = frame, z
        with self._lock:  # held while it encodes: another thread may want the same slice
            embedding = self._kept.pop(key, None)
            if embedding is None:
                embedding = self._encoded(key, clock)
            if self._is_needed_again(key):
                if len(self._kept) >= self._most:
                    # Remove the first one kept. With `upcoming` it is needed last: tracking
                    # downwards begins with the latest slices. Otherwise it was used longest ago.
                    self._kept.popitem(last=False)
                self._kept[key] = embedding
        return embedding

    def _encoded(self, key: Key, clock: Clock) -> FloatArray:
        frame, z = key
        with clock.measure("encode"):
            embedding = self._encoder.encode(frame.pixels(self._image[z]))
            if self._image.nbytes > LARGE_IMAGE:  # little memory is left beside it
                self._encoder.release_encoder()
        return embedding

    def _is_needed_again(self, key: Key) -> bool:
        if self._upcoming is None:
            return True
        self._upcoming[key] -= 1
        return self._upcoming[key] > 0
