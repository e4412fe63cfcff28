"""`python -m swiftmedsam.train.tools.taper --data DIR`: how large objects are in each slice of
their 3D box.

What `TAPER` in swiftmedsam/prompts.py was taken from: the sides of an object in a slice, in sides
of the box around all of its slices, by the slice's distance from the box's middle. A mean over data
sets, each the mean of its objects' slices, so that none counts for its number of volumes.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.train.data.corpus import (
    MIN_OBJECT_AREA,
    Picture,
    read_corpus,
    tight_box,
    volume_of,
)

LEAST_SLICES = 5  # of an object in the corpus: of fewer it is not known where it ends
BINS = 10  # of the distance, from the middle slice to the end

Sides = list[tuple[float, float]]  # by slice: distance 0..1 from the middle, sides 0..1


def object_sides(boxes: dict[int, npt.NDArray[np.int64]]) -> Sides:
    """Of an object whose boxes (4,) by slice are given, in order."""
    slices = np.array(list(boxes))
    corners = np.array(list(boxes.values()))
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0) + 1
    sides = (corners[:, 2:] + 1 - corners[:, :2]) / (high - low)
    # a slice is as thick as the distance to the next: the ends lie half of it beyond the centres
    half = (slices[-1] - slices[0]) / 2 + np.median(np.diff(slices)) / 2
    distances = abs(slices - (slices[0] + slices[-1]) / 2) / half
    return list(zip(distances.tolist(), np.sqrt(sides.prod(axis=1)).tolist(), strict=True))


def volume_sides(pictures: Sequence[Picture]) -> Iterator[Sides]:
    """Of the objects of a volume, whose slices with an object the `pictures` are."""
    boxes: dict[int, dict[int, npt.NDArray[np.int64]]] = defaultdict(dict)
    largest: dict[int, int] = defaultdict(int)
    for picture in sorted(pictures, key=lambda picture: picture.key):
        z = int(picture.key.rpartition("__z")[2])
        _, labels = picture.read()
        for label in np.unique(labels[labels != 0]).tolist():
            mask = labels == label
            boxes[label][z] = tight_box(mask)
            largest[label] = max(largest[label], int(mask.sum()))
    for label, of_object in boxes.items():
        if len(of_object) >= LEAST_SLICES and largest[label] >= MIN_OBJECT_AREA:
            yield object_sides(of_object)


def bin_means(sides: Sides) -> npt.NDArray[np.float64]:
    """Mean sides by bin of the distance (`BINS`,); NaN where there is no slice."""
    distances, shares = np.array(sides).T
    bins = np.minimum((distances * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(bins, shares, minlength=BINS) / counts, np.float64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.tools.taper", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="tar shards or npz with gts")
    options = parser.parse_args(argv)
    volumes: dict[tuple[str, str], list[Picture]] = defaultdict(list)
    try:
        for picture in read_corpus(options.data):
            if "__z" in picture.key:
                volumes[volume_of(picture)].append(picture)
        by_set: dict[str, Sides] = defaultdict(list)
        for (dataset, _), pictures in volumes.items():
            for sides in volume_sides(pictures):
                by_set[dataset] += sides
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if not by_set:
        print(f"{options.data}: no object in {LEAST_SLICES} slices or more", file=sys.stderr)
        return 1
    means = {dataset: bin_means(sides) for dataset, sides in by_set.items()}
    means["mean of sets"] = np.nanmean(list(means.values()), axis=0)
    print("data set".ljust(30), *(f"{i / BINS:.1f}-" for i in range(BINS)))
    for dataset, row in means.items():
        print(dataset.ljust(30), *(f"{share:.2f}" for share in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
