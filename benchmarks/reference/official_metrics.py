"""Compare our scores with the organisers' metrics.

    python -m swiftmedsam.evaluation SEGS GTS --json FILE [--official]
    python -m benchmarks.reference.official_metrics SEGS GTS FILE [FILE ...]

The metrics are transcribed from the organisers' `evaluation/compute_metrics.py`
(bowang-lab/MedSAM, branch LiteMedSAM): label by label, on whole arrays. They share only the package
surface-distance with `swiftmedsam/evaluation/metrics.py`. Each FILE contains the order of the
spacing that it was scored with. The command prints the differences of DSC and NSD (0..1) for each
case, then the largest ones. Missing outputs are left out, as the organisers' script does not score
them.
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

WANTED = 1e-6  # largest difference of scores 0..1


def surface_dice(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Return the NSD of two masks (A, B, C) at 2 mm; the spacing is in the order of their axes."""
    if not (a.any() and b.any()):
        return 0.0  # as the package returns with NumPy 1; with NumPy 2 it fails, as it uses np.Inf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `", DeprecationWarning)
        distances = compute_surface_distances(a, b, spacing_mm)
    return compute_surface_dice_at_tolerance(distances, 2.0)


def organisers_scores(
    truth: np.ndarray, found: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[float, float]:
    """Return DSC and NSD of a case (H, W) or (D, H, W): means over labels 1 to the largest one.

    They are NaN if one of these labels is in neither map. `spacing_mm` is used for the axes of a
    volume as it is; for an image it is not used.
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
    """Return the differences of DSC and NSD, (cases, 2), from those in the JSON `document`.

    Prints a line for each case.
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
    """Compare; return 1 if a difference is above `WANTED`, or NaN by the organisers' metrics."""
    parser = argparse.ArgumentParser("python -m benchmarks.reference.official_metrics")
    parser.add_argument("segs", type=Path, metavar="SEGS")
    parser.add_argument("gts", type=Path, metavar="GTS")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(argv)
    lines, equal = [], True
    for file in options.files:
        document = json.loads(file.read_text())
        apart = differences(options.segs, options.gts, document)
        equal = equal and bool((apart <= WANTED).all())  # False for NaN
        dsc, nsd = apart.max(axis=0, initial=0)
        order = document["rules"]["spacing"]
        lines.append(f"{file}, spacing {order}: {len(apart)} cases, DSC {dsc:.1e}, NSD {nsd:.1e}")
    print("Largest differences:", *lines, sep="\n")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
