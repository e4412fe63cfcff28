"""Segment what a box marks in a medical image, on a CPU.

    network = swiftmedsam.load()
    image = swiftmedsam.open_image("scan.nii.gz", network)
    result = image.segment([[x_min, y_min, z_min, x_max, y_max, z_max]])
    result.labels  # 1 in the object, 0 elsewhere

The files of this package, in the order in which the data pass them:

    case        an image or volume with its boxes, checked
    npz         the challenge's files: cases in, labels out
    display     raw scanner values to 0..255, by modality; `chunks` reads large arrays in parts
    frame       the letterbox between a slice and the network's input of 256 x 256
    views       what a box is shown in: the whole slice, a mirrored slice, an enlarged crop
    schedule    which slices are decoded for which boxes, and in which order
    embeddings  encodes each slice once, and keeps embeddings that are needed again
    prompts     the boxes that the decoder gets; `flow` moves a mask to the next slice
    network     encoder and decoder in OpenVINO; `manifest` checks the weights, `cpu` the precision
    decoding    prompts of many boxes, in batches
    masks       logits to masks, masks to labels
    segment     the loop that uses all of these; `result` is what it returns
    extend      a whole object from one slice; `follow` goes from a slice to the next

`settings` holds every choice of these steps. `scans` reads and writes NIfTI, DICOM, NRRD and
pictures; `program` is the command line, `server` serves viewers. `torch_model`, `convert`, `train`
and `evaluation` make and measure the weights; they need more packages and nothing else imports
them.

Importing this package loads none of its modules: each export is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "BEST",
    "LITEMEDSAM",
    "Case",
    "CaseError",
    "Network",
    "OpenImage",
    "Result",
    "Settings",
    "WeightsError",
    "load",
    "make_case",
    "open_image",
    "read_case",
    "segment_case",
    "write_labels",
]

if TYPE_CHECKING:
    from swiftmedsam.case import Case, CaseError, make_case
    from swiftmedsam.manifest import WeightsError
    from swiftmedsam.network import Network, load
    from swiftmedsam.npz import read_case, write_labels
    from swiftmedsam.result import Result
    from swiftmedsam.scans.session import OpenImage, open_image
    from swiftmedsam.segment import segment as segment_case
    from swiftmedsam.settings import BEST, LITEMEDSAM, Settings
else:
    _HOMES = {  # for each export: its module, and its name there
        "BEST": ("settings", "BEST"),
        "LITEMEDSAM": ("settings", "LITEMEDSAM"),
        "Result": ("result", "Result"),
        "Settings": ("settings", "Settings"),
        "Case": ("case", "Case"),
        "CaseError": ("case", "CaseError"),
        "Network": ("network", "Network"),
        "OpenImage": ("scans.session", "OpenImage"),
        "WeightsError": ("manifest", "WeightsError"),
        "load": ("network", "load"),
        "make_case": ("case", "make_case"),
        "open_image": ("scans.session", "open_image"),
        "read_case": ("npz", "read_case"),
        "segment_case": ("segment", "segment"),
        "write_labels": ("npz", "write_labels"),
    }

    def __getattr__(name: str) -> object:
        """Load the module of an export that is used for the first time."""
        if name not in _HOMES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        module, original = _HOMES[name]
        return getattr(import_module(f"swiftmedsam.{module}"), original)
