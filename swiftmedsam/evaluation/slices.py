"""Make an image of each slice of volumes, with the true box of each object in this slice.

    python -m swiftmedsam.evaluation.slices INPUTS GTS OUT [--every N] [--only GLOB]

The program carries an object through a volume from slice to slice. Where its masks are wrong, the
reason may be the network, or the way it is asked. Nothing is carried between these images, so their
scores are those of the network:

    python -m app OUT/inputs SEGS
    python -m swiftmedsam.evaluation SEGS OUT/gts
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swiftmedsam.case import CaseError
from swiftmedsam.evaluation.agreement import tight_box
from swiftmedsam.evaluation.console import clear_line, positive, progress
from swiftmedsam.evaluation.score import Pair, ScoreError, find_pairs, read_truth
from swiftmedsam.npz import read_case

VOLUME, IMAGE = "3DBox_", "2DBox_"


def write_slices(pair: Pair, out: Path, every: int) -> int:
    """Write every `every`-th slice of a volume that has objects, and its truth; return how many.

    The label of an object is its place among the objects of the slice, in the order of their labels
    in the volume. Boxes are the first and last pixel of each object, x_min, y_min, x_max, y_max.

    Raises:
        CaseError: the input is not a case.
        ScoreError: the input is missing, or the truth cannot be read or is of another shape.
        OSError: a file cannot be written.
    """
    if pair.found is None:
        raise ScoreError(f"{pair.truth.name}: has no input of this name")
    image, labels = read_case(pair.found).image, read_truth(pair.truth)
    if image.shape[:3] != labels.shape:
        raise ScoreError(
            f"{pair.truth.name}: the truth has shape {labels.shape}, the input {image.shape[:3]}"
        )
    stem = pair.truth.stem.removeprefix(VOLUME)
    written = 0
    for z in range(0, len(labels), every):
        objects = np.unique(labels[z])
        objects = objects[objects > 0]
        if objects.size:
            name = f"{IMAGE}{stem}_z{z:03}.npz"
            boxes = [tight_box(labels[z] == label) for label in objects]
            truth = np.where(labels[z] > 0, np.searchsorted(objects, labels[z]) + 1, 0)
            pixels = image[z] if image.ndim == 4 else np.repeat(image[z, :, :, None], 3, axis=2)
            np.savez_compressed(out / "inputs" / name, imgs=pixels, boxes=np.array(boxes))
            np.savez_compressed(out / "gts" / name, gts=truth.astype(labels.dtype))
            written += 1
    return written


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.slices",
        description="Make an image of each slice of volumes, with the true boxes of its objects.",
        epilog="Exit status: 0, or 1 when something cannot be read, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("gts", type=Path, metavar="GTS", help="folder of their truth")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--every", type=positive, default=2, metavar="N", help="every N-th slice (default 2)"
    )
    parser.add_argument(
        "--only", default=f"{VOLUME}*", metavar="GLOB", help=f"cases to take (default {VOLUME}*)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        pairs = find_pairs(options.inputs, options.gts, official=False, only=options.only)
        flat = [pair.truth.name for pair in pairs if not pair.truth.name.startswith(VOLUME)]
        if flat:
            raise ScoreError(f"{flat[0]}: is not a volume, {VOLUME}*.npz")
        for folder in ("inputs", "gts"):
            (options.out / folder).mkdir(parents=True, exist_ok=True)
        written, show = 0, progress("volumes")
        for done, pair in enumerate(pairs, start=1):
            written += write_slices(pair, options.out, options.every)
            if show:
                show(done, len(pairs))
    except (CaseError, ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {written} slices of {len(pairs)} volumes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
