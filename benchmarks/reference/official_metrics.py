"""The organisers' metrics, transcribed, against what `python -m swiftmedsam.evaluation` says.

    python -m swiftmedsam.evaluation SEGS GTS --json FILE [--official]
    python -m benchmarks.reference.official_metrics SEGS GTS FILE [FILE ...]

The oracle of evaluation: label after label on whole arrays, as in the organisers'
`evaluation/compute_metrics.py` (bowang-lab/MedSAM, branch LiteMedSAM), and nothing shared with
`swiftmedsam/evaluation/metrics.py` but the package surface-distance. A FILE says itself in which
order it used spacing. Prints, per case, how far DSC and NSD (0..1) are apart, then the largest of
all. Missing outputs have no score by the organisers' script and are left out.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from surface_distance import (
    compute_dice_coefficient,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
)

WANTED = 1e-6  # apart at most, of 1


def surface_dice(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """NSD of two masks (A, B, C) at 2 mm, the spacing being that of their axes."""
    if not (a.any() and b.any()):
        return 0.0  # what the package says, too, but only with NumPy 1: it uses np.Inf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `", DeprecationWarning)
        distances = compute_surface_distances(a, b, spacing_mm)
    return compute_surface_dice_at_tolerance(distances, 2.0)


def organisers_scores(
    truth: np.ndarray, found: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[float, float]:
    """DSC and NSD of a case, (H, W) or (D, H, W): means over labels 1 to the largest of `truth`.

    NaN where one of these is in neither map. `spacing_mm` is used for the axes of a volume as it
    is, and not at all for an image.
    """
    if truth.ndim == 2:
        truth, found, spacing_mm = truth[..., None], found[..., None], (1.0, 1.0, 1.0)
    labels = range(1, int(truth.max()) + 1)
    dsc = np.mean([compute_dice_coefficient(truth == i, found == i) for i in labels])
    if dsc <= 0.2:
        return float(dsc), 0.0
    nsd = np.mean([surface_dice(truth == i, found == i, spacing_mm) for i in labels])
    return float(dsc), float(nsd)


def differences(segs: Path, gts: Path, document: dict) -> np.ndarray:
    """How far DSC and NSD are from the organisers', (cases, 2), by the JSON of evaluation.

    Prints a line per case.
    """
    as_stored = document["rules"]["spacing"] == "official"
    apart = []
    for case in document["cases"]:
        name = case["name"]
        if case["missing"]:
            continue
        with np.load(gts / name) as truth, np.load(segs / name) as output:
            spacing = truth["spacing"] if "spacing" in truth else np.ones(3)
            dsc, nsd = organisers_scores(
                truth["gts"], output["segs"], spacing if as_stored else spacing[::-1]
            )
        apart.append((abs(dsc - case["dsc"]), abs(nsd - case["nsd"])))
        print("{:.1e}  {:.1e}  {}".format(*apart[-1], name))
    return np.array(apart).reshape(-1, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 1 if a case is farther apart than wanted, or NaN by the organisers' script."""
    parser = argparse.ArgumentParser("python -m benchmarks.reference.official_metrics")
    parser.add_argument("segs", type=Path, metavar="SEGS")
    parser.add_argument("gts", type=Path, metavar="GTS")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(argv)
    lines, equal = [], True
    for file in options.files:
        document = json.loads(file.read_text())
        apart = differences(options.segs, options.gts, document)
        equal = equal and bool((apart <= WANTED).all())  # not so of NaN
        dsc, nsd = apart.max(axis=0, initial=0)
        order = document["rules"]["spacing"]
        lines.append(f"{file}, spacing {order}: {len(apart)} cases, DSC {dsc:.1e}, NSD {nsd:.1e}")
    print("Largest differences:", *lines, sep="\n")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
