"""From a trained LiteMedSAM to a trained SwiftMedSAM, in steps that grow dearer.

`initialise` copies what fits; `features` caches what the teacher computes; `blockwise` repairs each
shortened stage of the encoder on its own, against the teacher's features at that point; `loop`
trains decoder and encoder on truth and teacher. `data`, `augment` and `losses` serve all of them.
Preprocessing is the program's own, `swiftmedsam.frame`.

`package` makes a folder of all this and of weights and pictures for a machine that is lent for
minutes; there `lease` trains, if need be with `without_opencv` in OpenCV's place.
"""

import sys
from importlib import import_module

try:
    import cv2 as cv2
except ImportError:  # an accelerator machine
    sys.modules["cv2"] = import_module("swiftmedsam.train.machine.without_opencv")
