"""Segment medical images where boxes say so, on a CPU.

The way of the data, a module a step:

    npz -> case.read_case -> Case: image (H, W[, 3]) or (D, H, W) uint8, boxes, modality
        (intensity: raw scanner values become 0..255, by modality)
    boxes -> views.choose_views -> whole slices, or crops of them around small boxes
    view -> segment.Walk: slice after slice, all its boxes together
        slice -> frame.pixels -> (1, 3, 256, 256) -> network.encode -> embedding
        boxes -> frame.prompts -> network.decode -> logits in the boxes -> frame.mask -> masks
    masks -> labels 1..N in box order -> case.write_labels -> npz, key 'segs'

Reading order: segment, views, frame, case, network.
"""

from app.case import Case, CaseError, make_case, read_case, write_labels
from app.network import Network, WeightsError, load
from app.segment import segment

__version__ = "0.1.0"

__all__ = [
    "Case",
    "CaseError",
    "Network",
    "WeightsError",
    "load",
    "make_case",
    "read_case",
    "segment",
    "write_labels",
]
