"""Train a SwiftMedSAM from a trained LiteMedSAM, its teacher.

- `__main__`: the command, with its four phases.
- `options`: all choices of a training run, and the recipes.
- `run`: end-to-end training on truth and teacher.
- `losses`: the losses.
- `decoder_only`, `cells`: the command that trains a decoder alone, at some cells of the frame.
- `data/`: pictures of the corpus, augmented and drawn in batches.
- `repair/`: short trainings of single parts, before the end-to-end training.
- `machine/`: memory, precision and libraries of the machine.
- `tools/`: commands around a run: means of weights, curves, quick scores, cases.
- `lent/`: training on a machine that is lent for minutes.

Pixels are framed as in the program (`swiftmedsam.frame`).
"""

import sys
from importlib import import_module

try:
    import cv2 as cv2
except ImportError:  # a lent machine may have no OpenCV
    sys.modules["cv2"] = import_module("swiftmedsam.train.machine.without_opencv")
