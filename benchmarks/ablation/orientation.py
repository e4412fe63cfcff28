"""What it costs if a viewer says neither how a slice lies nor what it shows.

    python -m benchmarks.ablation.orientation INPUTS GTS [--sets FILE] [--only GLOB]
    python -m benchmarks.ablation.orientation --scan SCAN LABELS MODALITY [--scan ...]

3D Slicer's extension nnInteractive sends voxels as they are stored, without their directions. A
DICOM series is stored as the network knows it. A NIfTI file may be stored upside down, mirrored, or
with rows and columns exchanged. Each object of a volume is marked in its middle slice, as
`benchmarks.ablation.extend` does it, and that slice is asked in each of these ways. The remedy is
to ask a slice twice, as it is and upside down, and to take the surer answer.

With --scan, a scan in its own format is asked as a file, with its directions and MODALITY, and as
the array that Slicer sends of it, without both. LABELS is a label map on the same grid. Boxes are
those of the objects in the middle slice, along the axis that each way takes for that of the slices.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.ablation.extend import Mask, marked, volumes_with_truth
from swiftmedsam import Case, load, open_image
from swiftmedsam.cpu import AUTO, PRECISIONS
from swiftmedsam.evaluation.dice import dsc
from swiftmedsam.modality import parse_modality
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.session import OpenImage
from swiftmedsam.segment import NetworkLike, segment

Turn = Callable[[np.ndarray], np.ndarray]
STORED, UPSIDE_DOWN, SURER = "as the network knows it", "upside down", "the surer of both"
TURNS: dict[str, Turn] = {  # of slices (D, H, W); each is its own way back
    STORED: lambda slices: slices,
    UPSIDE_DOWN: lambda slices: slices[:, ::-1],
    "mirrored": lambda slices: slices[:, :, ::-1],
    "turned by 180 degrees": lambda slices: slices[:, ::-1, ::-1],
    "rows and columns exchanged": lambda slices: slices.swapaxes(1, 2),
}
KNOWN, SENT = "as a file", "as Slicer sends it"


@dataclass(frozen=True)
class Row:
    """One object in its middle slice, asked in one way."""

    variant: str
    case: str
    dataset: str
    dsc: float


def around(mask: Mask) -> list[float]:
    """The box (6,) around a mask (1, H, W): x_min, y_min, 0, x_max, y_max, 0."""
    _, ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), 0, xs.max(), ys.max(), 0]


def turned_rows(case: Case, truth: np.ndarray, network: NetworkLike, dataset: str) -> Iterator[Row]:
    """Rows of a challenge volume: each object in each way."""
    for label in np.unique(truth[truth > 0]).tolist():
        given, _, _ = marked(truth == label, f"{case.name}/{label}")
        own = truth[given.z : given.z + 1] == label
        box = np.zeros(own.shape, np.bool_)
        left, top, right, bottom = given.boxes[0].astype(int)
        box[:, top : bottom + 1, left : right + 1] = True
        sure = {}
        for name, turn in TURNS.items():
            slices = np.ascontiguousarray(turn(case.image[given.z : given.z + 1]))
            asked = replace(case, image=slices, boxes=np.array([around(turn(box))], np.float64))
            result = segment(asked, network)
            score = dsc(turn(result.labels > 0), own)
            sure[name] = result.predicted_iou[0][0], score
            yield Row(name, case.name, dataset, score)
        yield Row(SURER, case.name, dataset, max(sure[STORED], sure[UPSIDE_DOWN])[1])


def scan_rows(scan: Path, labels: Path, modality: str, network: NetworkLike) -> Iterator[Row]:
    """Rows of a scan: each object of its label map, as a file and as Slicer sends it."""
    read = read_scan(scan)
    array, truth = read.voxels.T, read_scan(labels, as_labels=True).voxels.T
    if truth.shape != array.shape:
        raise ValueError(f"{labels}: expected a label map of {array.shape}, found {truth.shape}")
    ways = {
        KNOWN: open_image(scan, network, modality=modality),
        SENT: open_image(array, network, spacing_mm=read.spacing_mm[::-1], is_volume=True),
    }
    for label in np.unique(truth[truth > 0]).tolist():
        for name, image in ways.items():
            yield Row(name, read.name, modality, slice_score(image, truth == label))


def slice_score(image: OpenImage, own: Mask) -> float:
    """DSC of an object (K, J, I) in its middle slice."""
    axis = image.slice_axis
    areas = own.sum(axis=tuple(other for other in range(3) if other != axis))
    slices = np.flatnonzero(areas)
    middle = int(slices[len(slices) // 2])
    plane = np.zeros_like(own)
    inside = tuple(middle if other == axis else slice(None) for other in range(3))
    plane[inside] = own[inside]
    ends = [np.flatnonzero(plane.any(axis=tuple({0, 1, 2} - {other})))[[0, -1]] for other in
            (2, 1, 0)]  # fmt: skip
    box = [end[0] for end in ends] + [end[1] for end in ends]
    return dsc(image.segment([box]).labels[inside] > 0, own[inside])


def table(rows: Sequence[Row]) -> str:
    """Markdown: mean DSC by way, over all and by data set."""
    names = list(dict.fromkeys(row.variant for row in rows))
    sets = sorted({row.dataset for row in rows})
    lines = [f"| data set | objects | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for dataset in (None, *sets):
        chosen = [row for row in rows if dataset in (None, row.dataset)]
        means = [
            100 * float(np.mean([row.dsc for row in chosen if row.variant == name]))
            for name in names
        ]
        cells = " | ".join(f"{mean:.1f}" for mean in means)
        lines.append(f"| {dataset or '**all**'} | {len(chosen) // len(names)} | {cells} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ablation.orientation", description=__doc__
    )
    parser.add_argument("inputs", type=Path, nargs="?")
    parser.add_argument("truths", type=Path, nargs="?")
    parser.add_argument("--sets", type=Path, metavar="FILE", help="the data set of each case")
    parser.add_argument("--only", default="3D*", metavar="GLOB")
    parser.add_argument(
        "--scan", action="append", nargs=3, default=[], metavar=("SCAN", "LABELS", "MODALITY")
    )
    parser.add_argument("--weights", type=Path, metavar="DIR")
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    options = parser.parse_args(argv)
    if (options.truths is None) == (not options.scan):
        parser.error("give INPUTS and GTS, or --scan")
    logging.disable(logging.WARNING)  # boxes of one slice are meant
    network = load(options.weights, precision=options.precision)
    rows: list[Row] = []
    for scan, labels, modality in options.scan:
        known = parse_modality(modality).name
        rows += scan_rows(Path(scan), Path(labels), known, network)
    if options.truths is not None:
        for case, truth, dataset in volumes_with_truth(options):
            rows += turned_rows(case, truth, network, dataset)
    if not rows:
        print("no volume with an object", file=sys.stderr)
        return 1
    print(f"{network.variant}, {network.precision}; DSC in the middle slice\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
