"""Check that two folders of outputs hold the same labels, file by file."""

import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Compare the folders of the command line; return the exit status."""
    wanted, found = (sorted(Path(folder).glob("*.npz")) for folder in sys.argv[1:3])
    if not wanted or [p.name for p in wanted] != [p.name for p in found]:
        print(f"files differ: {[p.name for p in wanted]} and {[p.name for p in found]}")
        return 1
    for a, b in zip(wanted, found, strict=True):
        with np.load(a) as left, np.load(b) as right:
            if left["segs"].dtype != right["segs"].dtype or (left["segs"] != right["segs"]).any():
                print(f"{a.name}: labels differ")
                return 1
    print(f"{len(wanted)} outputs are the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
