"""Compare two folders of outputs: `python -m benchmarks.reference.parity OURS BASELINE`.

Prints mean DSC over objects and number of different pixels of each case, then the lowest DSC.
"""

import sys
from pathlib import Path

import numpy as np

from swiftmedsam.evaluation.dice import dsc

WANTED = 0.999  # lowest DSC of a case


def case_dsc(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the mean DSC over the objects of two label maps; 1 if neither has any object."""
    scores = [
        dsc(ours == label, theirs == label)
        for label in np.union1d(np.unique(ours), np.unique(theirs))
        if label
    ]
    return float(np.mean(scores)) if scores else 1.0


def main() -> int:
    """Compare the two folders of the command line; return 1 if a DSC is below `WANTED`."""
    ours, theirs = (Path(folder) for folder in sys.argv[1:3])
    scores = {}
    for path in sorted(theirs.glob("*.npz")):
        with np.load(ours / path.name) as a, np.load(path) as b:
            scores[path.name] = case_dsc(a["segs"], b["segs"])
            differing = int((a["segs"] != b["segs"]).sum())
        print(f"{scores[path.name]:.5f}  {differing:7d} px  {path.name}")
    below = [name for name, score in scores.items() if score < WANTED]
    print(f"{len(scores)} cases, lowest {min(scores.values()):.5f}, {len(below)} below {WANTED}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
