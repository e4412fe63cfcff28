"""Estimates the memory that a case needs, so that a case that cannot fit is refused in time.

The kernel kills a program that exceeds its container's memory, and the remaining cases are lost.
So the peak of a case is estimated from the headers of its arrays, before anything is allocated.
The constants are measured (docs/limits.md); `benchmarks/limits/memory.py` measures them again.
"""

import math
import re

import numpy as np

from swiftmedsam.system import container_memory_limits, physical_memory

PROGRAM_BYTES = 400 << 20  # Python, the libraries, encoder and decoder in f32, chunks of arrays
PROMPT_BYTES = 32 << 20  # for each prompt with all cells in one call of the decoder
# Prompts with all cells in one call. It is constant, also if memory is short: on some CPUs the last
# bits of logits, and so border pixels, depend on which prompts share a call.
DECODE_BATCH = 6
# From so many prompts in a call on, the decoder for many boxes is used. It is faster from 6 on, but
# it has to be loaded first (docs/log/2026-12-01-many-boxes.md).
MANY_PROMPTS = 16
MANY_BYTES = 64 << 20  # of this decoder, beside the other one
LARGE_IMAGE = 1 << 30  # bytes of pixels; beside a larger image, little else is kept in memory
LARGE_BATCH = 2  # prompts in one call if the image is large
EMBEDDING_BYTES = 4 << 20  # (1, 4096, 256) float32
LIBRARY_BYTES = 160 << 20  # nibabel, SimpleITK, pydicom and highdicom, once imported
SCAN_PROGRAM_BYTES = PROGRAM_BYTES + LIBRARY_BYTES + DECODE_BATCH * PROMPT_BYTES
LABEL_COPIES = 4  # of a scan's labels, while they are encoded, compressed and written
HELD_BYTES = 512 << 20  # of raw values; more are not kept, but read from the file again
BOX_BYTES = 2 << 10  # for each box: its copies as floats, its prompts and list entries
TRACKED_TOGETHER = 128  # boxes of a volume that are tracked from slice to slice at a time
# For each tracked box, in two slices and two frames: a mask of 256 x 256, and logits to interpolate
TRACKED_BYTES = 2 * 2 * 256 * 256 * (1 + 4)
COMFORT_BYTES = 1900 * 10**6  # up to this peak, memory is used to save time

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """The bytes that '8G', '512M', '1.5g' or a plain number means; units are powers of 1024.

    Raises:
        ValueError: it is not a size, or 0.
    """
    match = SIZE.fullmatch(text)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"expected a size like 8G or 512M, got '{text}'")
    return size


def available_memory() -> int:
    """Bytes that this process may use: the machine's memory or the container's limit, if less."""
    return min([physical_memory(), *container_memory_limits()])


def decode_batch(size: int) -> int:
    """Prompts with all cells in one call of the decoder, for a case of `size` bytes of pixels."""
    return LARGE_BATCH if size > LARGE_IMAGE else DECODE_BATCH


def streamed(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
    """Whether pixels are too large to keep raw in memory, so that they are read again if needed."""
    alpha = len(shape) == 3 and shape[2] == 4  # images with alpha are always kept
    return dtype != np.uint8 and not alpha and math.prod(shape) * dtype.itemsize > HELD_BYTES


def estimate_peak(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], boxes: int, *, is_volume: bool
) -> int:
    """Bytes that a case needs at least: with full calls of the decoder, and one embedding kept.

    `shape` and `dtype` are those of the stored pixels, `boxes` is their number. The peak is either
    while the case is read (raw values and pixels of 0..255 at once) or while it is segmented.
    """
    values = math.prod(shape)
    pixels = values if is_volume else math.prod(shape[:2])
    raw = 0 if dtype == np.uint8 or streamed(shape, dtype) else values * dtype.itemsize
    reading = raw + values
    if not is_volume and shape[2:] == (4,):
        reading += 3 * pixels  # the copy without alpha
    labels = pixels * np.min_scalar_type(boxes).itemsize
    mask = 16 * math.prod(shape[1:]) if is_volume else 0  # of one object, interpolated
    prompts = max(3 if is_volume else 1, decode_batch(values)) * PROMPT_BYTES  # a box: 3 or 1
    tracked = min(boxes, TRACKED_TOGETHER) * TRACKED_BYTES if is_volume else 0
    segmenting = values + labels + mask + tracked
    many = MANY_BYTES if boxes >= MANY_PROMPTS else 0
    return PROGRAM_BYTES + many + prompts + boxes * BOX_BYTES + max(reading, segmenting)


def estimate_scan_peak(shape: tuple[int, ...], dtype: np.dtype[np.generic], reading: int) -> int:
    """Bytes that a scan of another format needs at least, without its boxes.

    Its voxels, (I, J, K) or (I, J, K, 3) of `dtype`, stay in memory beside the case, because the
    statistics need them. `reading` is the peak while the file is read.
    """
    values, pixels = math.prod(shape), math.prod(shape[:3])
    if dtype == np.uint8:
        # a volume in colour becomes grey: both as float32
        making = 4 * (values + pixels) if shape[3:] and shape[2] > 1 else 0
    elif dtype.kind == "f":  # a copy without NaN, a rounded copy, and a mask of fractions
        making = values * (2 * dtype.itemsize + 1)
    else:
        making = values
    thinnest = min(shape[:3])
    mask = 16 * pixels // thinnest if thinnest > 1 else 0  # of the largest slice of a volume
    segmenting = values + LABEL_COPIES * pixels + mask
    kept = values * dtype.itemsize
    return SCAN_PROGRAM_BYTES + max(reading, kept + max(making, segmenting))


def estimate_labels_peak(shape: tuple[int, ...], dtype: np.dtype[np.generic], reading: int) -> int:
    """Bytes that a label map needs at least, if only its boxes are used.

    It becomes uint16; floats are rounded, and compared with the rounded ones. The arguments are
    those of `estimate_scan_peak`; several layers are a fourth axis.
    """
    values = math.prod(shape)
    making = values * max(2, dtype.itemsize + 1 if dtype.kind == "f" else 0)
    return SCAN_PROGRAM_BYTES + max(reading, values * dtype.itemsize + making)


def embeddings_kept(peak: int, limit: int | None, most: int) -> int:
    """How many embeddings, 1 to `most`, fit into `COMFORT_BYTES` beside a case's `peak`.

    `limit` are the bytes that the process may use, None is no limit. Fewer embeddings cost time,
    since slices are encoded again; they do not change the labels.
    """
    spare = min(COMFORT_BYTES, limit or COMFORT_BYTES) - peak
    # At least one is kept: otherwise each view of an image would encode the whole image again.
    return max(1, min(most, spare // EMBEDDING_BYTES))
