"""Segment medical images where boxes say so, on a CPU.

The way of the data, a module a step:

    npz -> case.read_case -> Case: image (H, W[, 3]) or (D, H, W) uint8, boxes, modality
        (intensity: raw scanner values become 0..255, by modality)
    boxes -> views.choose_views -> frames: whole slices, mirrored ones, crops around small boxes
    segment.Walk: slice after slice, all boxes together
        slice -> frame.pixels -> (1, 3, 256, 256) -> network.encode -> embedding
        boxes, masks of the neighbouring slice -> follow -> prompts
        prompts -> network.decode -> answers: logits in the boxes -> frame.mask_of -> masks
    masks -> labels 1..N in box order -> case.write_labels -> npz, key 'segs'

Reading order: segment, views, follow, frame, case, network. Your own files, and images that are
asked for many boxes (`open_image`): app.scans.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from app import stop as stop  # first: from here on `python -m app` hears signals
from app.case import Case, CaseError, make_case, read_case, write_labels

__version__ = "0.1.0"

__all__ = [
    "Case",
    "CaseError",
    "Network",
    "OpenImage",
    "WeightsError",
    "load",
    "make_case",
    "open_image",
    "read_case",
    "segment_case",
    "write_labels",
]

if TYPE_CHECKING:
    from app.network import Network, WeightsError, load
    from app.scans.opened import OpenImage, open_image
    from app.segment import segment as segment_case
else:
    # Loaded when asked for: training frames its pictures as the program does, where there may be no
    # OpenVINO; npz files need nothing of app.scans; scoring needs the names of modalities alone.
    _HOMES = {
        "Network": "app.network", "WeightsError": "app.network", "load": "app.network",
        "OpenImage": "app.scans.opened", "open_image": "app.scans.opened",
    }  # fmt: skip

    def __getattr__(name: str) -> object:
        """An export of a module that is not loaded yet."""
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        if name in ("segment", "segment_case"):  # the module, and its function
            module = import_module("app.segment")
            return module if name == "segment" else module.segment
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
