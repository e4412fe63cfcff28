"""Folders of cases, truth and outputs for the report."""

import numpy as np

from swiftmedsam.evaluation.report.__main__ import main
from tests.helpers import make_case_file

IMAGE, OTHER, VOLUME = "2DBox_US_A-1.npz", "2DBox_US_A-2.npz", "3DBox_MR_B-1.npz"


HOSTILE = "2DBox_<img src=x onerror=alert(1)>_\"a' & <b>&amp;\n.npz"


SLICES = [  # of the volume: found in two slices, missed in two, in neither map in two
    "slice 0, DSC 100.0 %", "slice 1, DSC 100.0 %", "slice 2, DSC 0.0 %", "slice 3, DSC 0.0 %",
    "slice 4", "slice 5",
]  # fmt: skip


def make_folders(root):
    """Four cases: an image that is right, a hostile name without truth, one without an output, and
    a volume half of which is found."""
    inputs, segs, gts = (root / name for name in ("inputs", "segs", "gts"))
    for folder in (inputs, segs, gts):
        folder.mkdir()
    image, volume = np.zeros((48, 80), np.uint8), np.zeros((6, 40, 64), np.uint8)
    image[10:31, 7:44] = 1
    volume[0:4, 6:26, 8:47] = 1
    half = volume.copy()
    half[2:] = 0
    for name in (IMAGE, OTHER, VOLUME, HOSTILE):
        make_case_file(inputs, name)
    for name, labels in ((IMAGE, image), (VOLUME, half), (HOSTILE, image)):
        np.savez_compressed(segs / name, segs=labels)
    for name, labels in ((IMAGE, image), (OTHER, image)):
        np.savez_compressed(gts / name, gts=labels)
    np.savez_compressed(gts / VOLUME, gts=volume, spacing=[1.0, 1.0, 3.0])
    return inputs, segs, gts


def write(folders, *options):
    inputs, segs, gts = folders
    out = inputs.parent / "report.html"
    words = [inputs, segs, "--gts", gts, "--out", out, "--processes", 1, *options]
    assert main([str(word) for word in words]) == 0
    return out.read_text()
