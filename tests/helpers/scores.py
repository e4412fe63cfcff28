"""Folders of truth and outputs for the scorer."""

import numpy as np

from swiftmedsam.evaluation.score import (
    CaseScore,
    parse_name,
)

SPACING_XYZ = (1.0, 2.0, 3.0)


def put_truth(gts, name, labels, spacing=SPACING_XYZ):
    volume = {"spacing": np.array(spacing)} if name.startswith("3") else {}
    np.savez_compressed(gts / name, gts=labels, **volume)


def put_output(segs, name, labels):
    np.savez_compressed(segs / name, segs=labels)


def image_labels(columns=3, shape=(5, 8)):
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 1 : 1 + columns] = 1
    return labels


def row(name, dsc, nsd=0.5, missing=False, by_object=()):
    return CaseScore(
        name, *parse_name(name), len(by_object) or 1, dsc, nsd, missing, tuple(by_object)
    )
