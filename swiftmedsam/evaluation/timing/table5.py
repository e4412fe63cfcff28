"""Make cases like the 14 cases of the paper's Table 5.

    python -m swiftmedsam.evaluation.timing.table5 INPUTS OUT

The cases of the table belong to the challenge. The cases made here have the same shapes and numbers
of boxes. They are made of real cases: the size of masks decides how a volume is tracked, and noise
has no masks. Nothing is random: the same INPUTS give the same arrays. The steps:

1. Source: a case of INPUTS of the same kind (image or volume), of the same modality if there is
   one. Of these, the one that needs the fewest tiles, then the largest plane, then the first name.
2. Tiles: mirrored copies side by side, as few as have enough boxes and change the proportions of
   the picture by at most `MAX_STRETCH`. The plane is then resized to the wanted size.
3. Slices: the source is stretched along z (neighbours are blended) until its boxes cross the wanted
   number of slices, counted box by box. It is put in the middle. Slices above and below are
   mirrored copies without boxes.
4. Boxes: the boxes of the source, moved with the pixels. If there are too many, they are taken at
   even intervals.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.atomic import atomic_file
from swiftmedsam.case import IN_PLANE, Case, CaseError
from swiftmedsam.evaluation.published import COLUMNS, MADE, TABLE_5
from swiftmedsam.evaluation.score import ScoreError, npz_files, parse_name
from swiftmedsam.npz import read_case

MAX_STRETCH = 1.5  # of height over width
# How many slices the boxes of the paper's volumes cross is not published; it is estimated from the
# published seconds. For one box in an image, Swift v2 takes 0.2 s less than LiteMedSAM (1.6 and 1.8
# s). For the CTs and MRs with 1 and 6 objects and the usual ratio (0888, 0860, 0179, 0121) it takes
# 20.0, 3.5, 4.4 and 28.7 s less. That would be 100, 18, 22 and 144 slices, with 0.94,
# 0.81, 0.60 and 0.63 s each for v2.
V2_SECONDS_A_SLICE = 0.75

Boxes = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Wanted:
    """The wanted properties of a case."""

    name: str  # without .npz
    shape: tuple[int, ...]  # (H, W) or (D, H, W)
    boxes: int
    box_slices: int  # slices that boxes cross, counted box by box; for an image 1 a box

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume."""
        return len(self.shape) == 3

    @property
    def depth(self) -> int:
        """Number of slices; 1 for an image."""
        return self.shape[0] if self.is_volume else 1


@dataclass(frozen=True)
class SourceCase:
    """A case from which others can be made."""

    path: Path
    modality: str
    shape: tuple[int, int, int]  # (D, H, W); (1, H, W) for an image
    boxes: int
    spans: tuple[tuple[float, float], ...] = ()  # first and last slice of each box

    def tiles(self, wanted: Wanted) -> int:
        """Return the number of copies that have enough boxes."""
        return math.ceil(wanted.boxes / self.boxes)

    def crosses_enough(self, wanted: Wanted) -> bool:
        """Whether as many boxes cross the wanted slices, stretched over the whole wanted depth."""
        if not self.spans:
            return True
        taken = np.linspace(0, self.tiles(wanted) * self.boxes - 1, wanted.boxes).round()
        spans = np.array(self.spans)[taken.astype(int) % self.boxes]
        low, high = _scaled(spans[:, 0], spans[:, 1], wanted.depth / self.shape[0])
        return bool((high - low + 1).sum() >= wanted.box_slices)


def _table_5() -> Iterator[Wanted]:
    v2 = COLUMNS.index("Swift v2")
    for name, row in TABLE_5.items():
        box_slices, seconds = row.objects, row.seconds[v2]
        if len(row.shape) == 3 and seconds is not None:
            box_slices = round(seconds / V2_SECONDS_A_SLICE)
        yield Wanted(name + MADE, row.shape, row.objects, box_slices)


FIGURES_OF_TABLE = ("2DBox_US_0525", "2DBox_Microscope_0016")
_BY_TABLE = tuple(_table_5())
SETS = {
    "table5": _BY_TABLE,
    # The four cases on which the speed of programs is compared.
    "figures": (
        *(each for each in _BY_TABLE if each.name.startswith(FIGURES_OF_TABLE)),
        Wanted("3DBox_CT_1x56" + MADE, (60, 512, 512), 1, 56),
        Wanted("3DBox_CT_6x295" + MADE, (60, 512, 512), 6, 295),
    ),
}  # fmt: skip


def _as_volume(case: Case) -> tuple[Pixels, Boxes]:
    """Return pixels (D, H, W[, 3]) and boxes (N, 6) of a case; an image has one slice."""
    if case.is_volume:
        return case.image, case.boxes
    return case.image[np.newaxis], np.insert(case.boxes, [2, 4], 0, axis=1)


def find_sources(folder: Path) -> list[SourceCase]:
    """Return the cases of a folder that have boxes, by name.

    Raises:
        CaseError: a case cannot be read.
        ScoreError: `folder` is not a folder, or a name is not the name of a case.
    """
    sources = []
    for name, path in npz_files(folder, "*").items():
        pixels, boxes = _as_volume(read_case(path))
        if len(boxes):
            depth, height, width = pixels.shape[:3]
            spans = tuple((float(first), float(last)) for first, last in boxes[:, [2, 5]])
            shape = (depth, height, width)
            sources.append(SourceCase(path, parse_name(name)[0], shape, len(boxes), spans))
    return sources


def choose(sources: Sequence[SourceCase], wanted: Wanted) -> SourceCase:
    """Choose the source for a wanted case.

    Raises:
        ScoreError: there is no source of its kind.
    """
    modality, kind = parse_name(f"{wanted.name}.npz")[0], "3" if wanted.is_volume else "2"
    candidates = [source for source in sources if source.path.name[0] == kind]
    if not candidates:
        raise ScoreError(f"no {kind}DBox case with boxes to make {wanted.name} of")
    return min(
        candidates,
        key=lambda source: (
            source.modality != modality, not source.crosses_enough(wanted), source.tiles(wanted),
            -math.prod(source.shape[1:]), source.path.name,
        ),
    )  # fmt: skip


def choose_grid(source: SourceCase, wanted: Wanted) -> tuple[int, int]:
    """Choose rows and columns of tiles: the fewest with good proportions, of these the best."""
    (height, width), (wanted_height, wanted_width) = source.shape[1:], wanted.shape[-2:]

    def stretch(grid: tuple[int, int]) -> float:
        rows, columns = grid
        return abs(math.log((rows * height * wanted_width) / (columns * width * wanted_height)))

    needed = source.tiles(wanted)
    for count in itertools.count(needed):
        grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
        best = min(grids, key=stretch)
        if stretch(best) <= math.log(MAX_STRETCH):
            return best
    raise AssertionError("count is endless")


def _scaled(low: Boxes, high: Boxes, scale: float) -> tuple[Boxes, Boxes]:
    """Scale the range of pixels `low` to `high`; return its first and last pixel. All inclusive."""
    return np.floor(low * scale), np.ceil((high + 1) * scale) - 1


def tiled_boxes(boxes: Boxes, size: tuple[int, int], grid: tuple[int, int]) -> Boxes:
    """Return the boxes (N * tiles, 6) of mirrored copies, side by side; `size` (height, width)."""
    height, width = size
    copies = []
    for row, column in np.ndindex(*grid):
        copy = boxes.copy()
        for axis, index, side in ((0, column, width), (1, row, height)):
            if index % 2:
                copy[:, [axis, axis + 3]] = side - 1 - boxes[:, [axis + 3, axis]]
            copy[:, [axis, axis + 3]] += index * side
        copies.append(copy)
    return np.concatenate(copies)


def count_box_slices(boxes: npt.NDArray[np.number]) -> int:
    """Count the slices that boxes (N, 6) cross, box by box."""
    return int((boxes[:, 5] - boxes[:, 2] + 1).sum())


def choose_depth(boxes: Boxes, depth: int, wanted: Wanted) -> int:
    """Choose the fewest slices for which the stretched `boxes` cross enough; else all slices."""
    for stretched in range(1, wanted.depth):
        low, high = _scaled(boxes[:, 2], boxes[:, 5], stretched / depth)
        if (high - low + 1).sum() >= wanted.box_slices:
            return stretched
    return wanted.depth


def slice_at(pixels: Pixels, position: int, stretched: int) -> npt.NDArray[np.float32]:
    """Return a slice of `pixels` stretched to `stretched` slices, mirrored beyond both ends."""
    depth = len(pixels)
    inside = position % (2 * stretched)
    inside = min(inside, 2 * stretched - 1 - inside)
    z = min(max((inside + 0.5) * depth / stretched - 0.5, 0), depth - 1)
    lower = int(z)
    share = np.float32(z - lower)
    upper = min(lower + 1, depth - 1)
    blend: npt.NDArray[np.float32] = pixels[lower] * (1 - share) + pixels[upper] * share
    return blend


def _resized(
    plane: npt.NDArray[np.float32], grid: tuple[int, int], size: tuple[int, int]
) -> Pixels:
    """Tile `plane` (h, w[, 3]) with mirrored copies, and resize it to `size` (height, width)."""
    rows, columns = grid
    padding = [(0, (rows - 1) * plane.shape[0]), (0, (columns - 1) * plane.shape[1])]
    tiled = np.pad(plane, padding + [(0, 0)] * (plane.ndim - 2), mode="symmetric")
    shrinks = math.prod(size) < math.prod(tiled.shape[:2])
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.round(cv2.resize(tiled, size[::-1], interpolation=filter_)).astype(np.uint8)


def make(source: SourceCase, wanted: Wanted) -> dict[str, npt.NDArray[np.generic]]:
    """Make the arrays of a case: imgs, boxes, spacing (of a volume), and a text on its source.

    Raises:
        CaseError: the source cannot be read.
    """
    pixels, boxes = _as_volume(read_case(source.path))
    depth, height, width = source.shape
    grid, size = choose_grid(source, wanted), (wanted.shape[-2], wanted.shape[-1])
    boxes = tiled_boxes(boxes, (height, width), grid)
    boxes = boxes[np.linspace(0, len(boxes) - 1, wanted.boxes).round().astype(int)]
    stretched = choose_depth(boxes, depth, wanted)
    scales = size[1] / (grid[1] * width), size[0] / (grid[0] * height), stretched / depth
    for axis, scale in enumerate(scales):
        boxes[:, axis], boxes[:, axis + 3] = _scaled(boxes[:, axis], boxes[:, axis + 3], scale)
    first = (wanted.depth - stretched) // 2
    boxes[:, [2, 5]] += first
    slices = [
        _resized(slice_at(pixels, z - first, stretched), grid, size) for z in range(wanted.depth)
    ]
    made_from = np.array(f"{source.path.name}, {grid[0]} x {grid[1]} tiles")
    if not wanted.is_volume:
        image = slices[0] if slices[0].ndim == 3 else np.stack([slices[0]] * 3, axis=-1)
        flat = boxes[:, IN_PLANE].astype(np.int64)
        return {"imgs": image, "boxes": flat, "made_from": made_from}
    with np.load(source.path, allow_pickle=False) as archive:
        spacing = archive["spacing"] if "spacing" in archive else np.ones(3)
    return {
        "imgs": np.stack(slices), "boxes": boxes.astype(np.int64), "spacing": spacing / scales,
        "made_from": made_from,
    }  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.timing.table5",
        description="Make cases like those of the paper's Table 5, from real cases.",
        epilog="Exit status: 0, or 1 when a case cannot be used or made, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--set", choices=SETS, default="table5",
        help="table5: its 14 cases (default); figures: the four cases to compare speed",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        sources = find_sources(options.inputs)
        options.out.mkdir(parents=True, exist_ok=True)
        for wanted in SETS[options.set]:
            arrays = make(choose(sources, wanted), wanted)
            with atomic_file(options.out / f"{wanted.name}.npz") as stream:
                np.savez_compressed(stream, **arrays)
            boxes, shape = arrays["boxes"], "x".join(map(str, arrays["imgs"].shape))
            crossed = f", {count_box_slices(boxes)} slices of them" if boxes.shape[1] == 6 else ""
            print(f"{wanted.name}  {shape}  {len(boxes)} boxes{crossed}  of {arrays['made_from']}")
    except (CaseError, ScoreError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
