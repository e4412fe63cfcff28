"""The functions of OpenCV that training needs, for a machine without it.

`swiftmedsam.train` uses this module in place of cv2 there. Pillow decodes, numpy resizes, torch
warps. Names, arguments and results are as in cv2. Grey levels may differ by one, because of
rounding; in `warpAffine` by a few, because cv2 rounds positions.
"""

import functools
import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

IMREAD_UNCHANGED = -1
COLOR_BGR2RGB = 4
INTER_NEAREST, INTER_LINEAR, INTER_AREA, INTER_NEAREST_EXACT = 0, 1, 3, 6


def imdecode(data: np.ndarray, flags: int) -> np.ndarray:
    """Decode a picture to (H, W) or (H, W, 3), BGR; 16-bit values are kept."""
    if flags != IMREAD_UNCHANGED:
        raise NotImplementedError(f"flags {flags}")
    with Image.open(io.BytesIO(data.tobytes())) as picture:
        if picture.mode.startswith("I"):
            return np.array(picture).astype(np.uint16)
        array = np.array(picture if picture.mode == "L" else picture.convert("RGB"))
    return array if array.ndim == 2 else np.ascontiguousarray(array[:, :, ::-1])


def cvtColor(array: np.ndarray, code: int) -> np.ndarray:
    """Return `array` (H, W, 3) with its channels in reverse order."""
    if code != COLOR_BGR2RGB:
        raise NotImplementedError(f"code {code}")
    return np.ascontiguousarray(array[:, :, ::-1])


@functools.lru_cache(maxsize=256)
def _area(old: int, new: int) -> np.ndarray:
    """Weights (new, old) to shrink: each new pixel is the mean of the old ones that it covers."""
    ends = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    covered = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    weights = covered.clip(0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _enlarged(old: int, new: int) -> np.ndarray:
    """Weights (new, old) to enlarge as INTER_AREA does: it mixes two old pixels at borders only."""
    places = np.arange(new)
    low = np.floor(places * (old / new)).astype(int)
    share = places + 1 - (low + 1) * (new / old)
    share = np.where(share <= 0, 0, share - np.floor(share))
    weights = np.zeros((new, old), np.float32)
    np.add.at(weights, (places, low.clip(0, old - 1)), 1 - share)
    np.add.at(weights, (places, (low + 1).clip(0, old - 1)), share)
    return weights


def resize(array: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Resize `array` (H, W[, C]) to `size` (width, height); the dtype stays."""
    shape, (width, height) = array.shape, size
    if interpolation == INTER_NEAREST_EXACT:
        rows, columns = (
            ((np.arange(new) + 0.5) * (old / new)).astype(int)
            for old, new in ((shape[0], height), (shape[1], width))
        )
        return array[rows[:, None], columns]
    if interpolation != INTER_AREA:
        raise NotImplementedError(f"interpolation {interpolation}")
    shrinks = height <= shape[0] and width <= shape[1]
    weights = _area if shrinks else _enlarged
    lines = np.tensordot(weights(shape[0], height), array.astype(np.float32), 1)
    resized = np.moveaxis(np.tensordot(weights(shape[1], width), lines, (1, 1)), 0, 1)
    if array.dtype.kind == "f":
        return resized.astype(array.dtype)
    return np.rint(resized).clip(0, np.iinfo(array.dtype).max).astype(array.dtype)


def warpAffine(
    array: np.ndarray, matrix: np.ndarray, size: tuple[int, int], flags: int
) -> np.ndarray:
    """Warp `array` (H, W[, C]) by `matrix` (2, 3) to `size` (width, height); new places are 0."""
    modes = {INTER_LINEAR: "bilinear", INTER_NEAREST: "nearest"}
    height, width = array.shape[:2]
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ back.T
    # grid_sample: -1 and 1 are the outer edges of the first and last pixel
    grid = torch.from_numpy((2 * places + 1) / [width, height] - 1).unsqueeze(0)
    planes = torch.from_numpy(array.reshape(height, width, -1).astype(np.float64)).permute(2, 0, 1)
    moved = F.grid_sample(
        planes.unsqueeze(0), grid, mode=modes[flags], padding_mode="zeros", align_corners=False
    )[0]
    moved = moved.permute(1, 2, 0).reshape(size[1], size[0], *array.shape[2:])
    return moved.round().numpy().astype(array.dtype)
