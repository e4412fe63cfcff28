"""Write training pictures as cases: `python -m swiftmedsam.train.tools.cases --data DIR --out DIR`.

The cases are for `python -m convert --calibration`. A modality is drawn, then a data set of it,
then a picture. All have equal chances, and no picture is drawn twice.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.train.data.corpus import (
    BalancedSampler,
    Picture,
    objects_of,
    read_corpus,
    tight_box,
)

TRIES = 20  # draws for each wanted case; a small corpus may have no more new pictures


def object_boxes(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return boxes (N, 4) around the objects of a label map (H, W)."""
    boxes = [tight_box(labels == label) for label in objects_of(labels)]
    return np.array(boxes, np.int64).reshape(-1, 4)


def write_cases(data: Path, out: Path, count: int, seed: int) -> int:
    """Write up to `count` images as `out`/2DBox_MODALITY_*.npz; return their number.

    Raises:
        ValueError: there is no picture below `data`.
    """
    sampler = BalancedSampler(read_corpus(data), modality_power=0, dataset_power=0)
    random = np.random.default_rng(seed)
    chosen: dict[tuple[str, str], Picture] = {}
    for _ in range(TRIES * count):
        picture = sampler.draw(random)
        chosen[picture.dataset, picture.key] = picture
        if len(chosen) == count:
            break
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for (dataset, key), picture in chosen.items():
        image, labels = picture.read()
        boxes = object_boxes(labels)
        if len(boxes):
            name = f"2DBox_{picture.modality}_{dataset}-{key}.npz".replace("/", "-")
            np.savez_compressed(out / name, imgs=image, boxes=boxes)
            written += 1
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.tools.cases", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="tar shards or npz with gts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=330)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        written = write_cases(options.data, options.out, options.count, options.seed)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {written} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
