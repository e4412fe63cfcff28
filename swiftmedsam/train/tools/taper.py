"""Measure the sizes of objects by slice: `python -m swiftmedsam.train.tools.taper --data DIR`.

The taper of swiftmedsam/settings.py comes from here: the sides of an object in a slice, relative to
the sides of its 3D box, by the distance of the slice from the middle of the box. The result is a
mean over data sets, each a mean over the slices of its objects. So a data set with many volumes
counts as much as one with few.
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

LEAST_SLICES = 5  # of an object; with fewer, its end is not known well enough
BINS = 10  # of the distance from the middle slice, up to the end of the box

# For each slice: distance from the middle, 0..1, and sides relative to the box, 0..1.
Sides = list[tuple[float, float]]


def object_sides(boxes: dict[int, npt.NDArray[np.int64]]) -> Sides:
    """Return the sides of an object; `boxes` are its boxes (4,) by slice, in order."""
    slices = np.array(list(boxes))
    corners = np.array(list(boxes.values()))
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0) + 1
    sides = (corners[:, 2:] + 1 - corners[:, :2]) / (high - low)
    # slices have a thickness: the object ends half a slice beyond the outer centres
    half = (slices[-1] - slices[0]) / 2 + np.median(np.diff(slices)) / 2
    distances = abs(slices - (slices[0] + slices[-1]) / 2) / half
    return list(zip(distances.tolist(), np.sqrt(sides.prod(axis=1)).tolist(), strict=True))


def volume_sides(pictures: Sequence[Picture]) -> Iterator[Sides]:
    """Yield the sides of each object of a volume; `pictures` are its slices with an object."""
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
    """Return the mean sides (`BINS`,) by bin of the distance; NaN for a bin without slices."""
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
