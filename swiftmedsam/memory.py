"""How much memory a case takes and how much there is, so that what cannot fit is refused in time.

The kernel kills a program that outgrows its container, and with it the cases that are still to
come. So the peak of a case is estimated from the headers of its arrays, before anything is
allocated. The constants are measured (docs/limits.md); `benchmarks/limits/memory.py` measures
again.
"""

import math
import re

import numpy as np

from swiftmedsam.system import container_memory_limits, physical_memory

PROGRAM_BYTES = 400 << 20  # Python, the libraries, encoder and decoder in f32, chunks of arrays
PROMPT_BYTES = 32 << 20  # of each prompt with all cells in one call of the decoder
# Prompts with all cells in one call. A constant, never less where memory is tight: which prompts
# share a call may change the last bits of their logits on some CPUs, and so a border pixel.
DECODE_BATCH = 6
LARGE_IMAGE = 1 << 30  # bytes of pixels beside which little else is held
LARGE_BATCH = 2  # prompts in one call beside a large image
EMBEDDING_BYTES = 4 << 20  # (1, 256, 64, 64) float32
LIBRARY_BYTES = 160 << 20  # nibabel, SimpleITK, pydicom and highdicom, once imported
SCAN_PROGRAM_BYTES = PROGRAM_BYTES + LIBRARY_BYTES + DECODE_BATCH * PROMPT_BYTES
LABEL_COPIES = 4  # of a scan's labels, while they are encoded and compressed to be written
HELD_BYTES = 512 << 20  # of raw values; to read more of them twice or thrice takes less memory
BOX_BYTES = 2 << 10  # a box's copies as floats, its prompts and places in lists
TRACKED_TOGETHER = 128  # boxes of a volume that are tracked from slice to slice at a time
# of each, in two slices and two frames: a mask of 256 x 256, and logits to interpolate with
TRACKED_BYTES = 2 * 2 * 256 * 256 * (1 + 4)
COMFORT_BYTES = 1900 * 10**6  # what speed may be bought with; a case that needs more gets it

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of '8G', '512M', '1.5g' or a plain number; units are powers of 1024, as docker's.

    Raises:
        ValueError: no such size, or 0.
    """
    match = SIZE.fullmatch(text)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"expected a size like 8G or 512M, got '{text}'")
    return size


def available_memory() -> int:
    """Bytes this process may use: the machine's memory, cut to the container's limit."""
    return min([physical_memory(), *container_memory_limits()])


def decode_batch(size: int) -> int:
    """Prompts with all cells in one call, by the bytes of a case's pixels; one box at least."""
    return LARGE_BATCH if size > LARGE_IMAGE else DECODE_BATCH


def streamed(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
    """Whether stored pixels are so many bytes that they are never held, but read anew as needed."""
    alpha = len(shape) == 3 and shape[2] == 4  # which does not count among the values
    return dtype != np.uint8 and not alpha and math.prod(shape) * dtype.itemsize > HELD_BYTES


def estimate_peak(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], boxes: int, *, is_volume: bool
) -> int:
    """Bytes without which a case cannot be done: full calls of the decoder, one embedding kept.

    `shape` and `dtype` are those of the stored pixels. Either the reading is the peak, where raw
    values wait beside what becomes of them, or the segmentation.
    """
    values = math.prod(shape)
    pixels = values if is_volume else math.prod(shape[:2])
    held = 0 if dtype == np.uint8 or streamed(shape, dtype) else values * dtype.itemsize
    reading = held + values
    if not is_volume and shape[2:] == (4,):
        reading += 3 * pixels  # without alpha
    labels = pixels * np.min_scalar_type(boxes).itemsize
    mask = 16 * math.prod(shape[1:]) if is_volume else 0  # of one object, interpolated
    prompts = max(3 if is_volume else 1, decode_batch(values)) * PROMPT_BYTES  # a box: 3 or 1
    tracked = min(boxes, TRACKED_TOGETHER) * TRACKED_BYTES if is_volume else 0
    segmenting = values + labels + mask + tracked
    return PROGRAM_BYTES + prompts + boxes * BOX_BYTES + max(reading, segmenting)


def estimate_scan_peak(shape: tuple[int, ...], dtype: np.dtype[np.generic], reading: int) -> int:
    """Bytes without which a scan of another format cannot be done, its boxes not counted.

    Its voxels, (I, J, K) or (I, J, K, 3) of `dtype`, wait beside the case that is made of them, for
    their statistics; `reading` are the bytes of all that is held while they are read.
    """
    values, pixels = math.prod(shape), math.prod(shape[:3])
    if dtype == np.uint8:
        # to grey: colour as float32, and what becomes of it
        making = 4 * (values + pixels) if shape[3:] and shape[2] > 1 else 0
    elif dtype.kind == "f":  # without NaN, rounded, and which are not whole
        making = values * (2 * dtype.itemsize + 1)
    else:
        making = values
    thinnest = min(shape[:3])
    mask = 16 * pixels // thinnest if thinnest > 1 else 0  # of the largest slice of a volume
    segmenting = values + LABEL_COPIES * pixels + mask
    kept = values * dtype.itemsize
    return SCAN_PROGRAM_BYTES + max(reading, kept + max(making, segmenting))


def estimate_labels_peak(shape: tuple[int, ...], dtype: np.dtype[np.generic], reading: int) -> int:
    """Bytes without which a label map that only boxes come from cannot be read.

    It becomes uint16; of floats there are rounded ones, and which differ from them. No case is made
    of it. The arguments are those of `estimate_scan_peak`; several layers are a fourth axis.
    """
    values = math.prod(shape)
    making = values * max(2, dtype.itemsize + 1 if dtype.kind == "f" else 0)
    return SCAN_PROGRAM_BYTES + max(reading, values * dtype.itemsize + making)


def embeddings_kept(peak: int, limit: int | None, most: int) -> int:
    """How many embeddings, 1 to `most`, fit beside a case's `peak` into what is comfortable.

    `limit`: bytes that the process may take, None: as many as it likes. A smaller number costs
    time, since slices are encoded again; it does not change the labels.
    """
    spare = min(COMFORT_BYTES, limit or COMFORT_BYTES) - peak
    # one is kept at least: else each view of an image would encode the whole of it again
    return max(1, min(most, spare // EMBEDDING_BYTES))
