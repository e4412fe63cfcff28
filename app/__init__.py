"""Segment medical images where boxes say so, on a CPU.

The way of the data, a module a step:

    npz -> case.read_case -> Case: image (H, W[, 3]) or (D, H, W) uint8, boxes, modality
        (intensity: raw scanner values become 0..255, by modality)
    slice -> views.choose_views -> the slice, or crops of it around small boxes
    view -> frame.pixels -> (1, 3, 256, 256) -> network.encode -> embedding   once per view
    box -> frame.prompts -> network.decode -> logits (N, 256, 256) -> frame.mask -> mask
        (segment: all boxes of a view at once)
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
