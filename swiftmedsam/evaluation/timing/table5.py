"""Makes stand-ins for the 14 cases of the paper's Table 5.

    python -m swiftmedsam.evaluation.timing.table5 INPUTS OUT

The table's own cases are the challenge's. These have their shapes and their numbers of boxes and
are made of real ones, since the size of masks decides how a volume is tracked and noise has no
masks. Nothing is drawn at random: the same INPUTS make the same arrays. The recipe:

1. Source: the case of INPUTS of the same kind, image or volume, that has the same modality (else
   any), needs to be tiled least for that many boxes, is largest in its plane, comes first by name.
2. Tiles: mirrored copies side by side, as few as have enough boxes and change the proportions of
   the picture by `MAX_STRETCH` at most. The plane is then resized to the wanted size.
3. Slices: the source is stretched along z, blending neighbours, until its boxes cross as many
   slices as wanted, counted box by box, and stands in the middle. Slices above and below are
   mirrored copies without boxes.
4. Boxes: those of INPUTS, which come from the truth, moved with the pixels; of more than are
   wanted every so manieth.
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
from swiftmedsam.case import Case, CaseError
from swiftmedsam.evaluation.published import COLUMNS, MADE, TABLE_5
from swiftmedsam.evaluation.score import ScoreError, npz_files, parse_name
from swiftmedsam.npz import read_case

MAX_STRETCH = 1.5  # of height over width
# Slices that boxes cross in the paper's volumes, counted box by box, are guessed from seconds: for
# a box in an image Swift v2 is published as 0.2 s faster than LiteMedSAM (1.6 and 1.8), for the CTs
# and MRs with 1 and 6 objects whose ratio is the usual one (0888, 0860, 0179, 0121) as 20.0, 3.5,
# 4.4 and 28.7 s. That would be 100, 18, 22 and 144 slices, of 0.94, 0.81, 0.60 and 0.63 s for v2.
V2_SECONDS_A_SLICE = 0.75

Boxes = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Wanted:
    """What a case shall be like."""

    name: str  # without .npz
    shape: tuple[int, ...]  # (H, W) or (D, H, W)
    boxes: int
    box_slices: int  # that they cross, counted box by box; of an image as many as boxes

    @property
    def is_volume(self) -> bool:
        """Whether it has slices."""
        return len(self.shape) == 3

    @property
    def depth(self) -> int:
        """Its slices; an image is one."""
        return self.shape[0] if self.is_volume else 1


@dataclass(frozen=True)
class Source:
    """A case that others can be made of."""

    path: Path
    modality: str
    shape: tuple[int, int, int]  # (D, H, W), of an image (1, H, W)
    boxes: int

    def tiles(self, wanted: Wanted) -> int:
        """How many copies have enough boxes."""
        return math.ceil(wanted.boxes / self.boxes)


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
    # The four works of which the speed of programs is compared.
    "figures": (
        *(each for each in _BY_TABLE if each.name.startswith(FIGURES_OF_TABLE)),
        Wanted("3DBox_CT_1x56" + MADE, (60, 512, 512), 1, 56),
        Wanted("3DBox_CT_6x295" + MADE, (60, 512, 512), 6, 295),
    ),
}  # fmt: skip


def _as_volume(case: Case) -> tuple[Pixels, Boxes]:
    """Pixels (D, H, W[, 3]) and boxes (N, 6) of a case; an image is one slice."""
    if case.is_volume:
        return case.image, case.boxes
    return case.image[np.newaxis], np.insert(case.boxes, [2, 4], 0, axis=1)


def find_sources(folder: Path) -> list[Source]:
    """The cases of a folder that have boxes, by name.

    Raises:
        CaseError: one cannot be read.
        ScoreError: the folder is none, or a name is not that of a case.
    """
    sources = []
    for name, path in npz_files(folder, "*").items():
        pixels, boxes = _as_volume(read_case(path))
        if len(boxes):
            depth, height, width = pixels.shape[:3]
            sources.append(Source(path, parse_name(name)[0], (depth, height, width), len(boxes)))
    return sources


def choose(sources: Sequence[Source], wanted: Wanted) -> Source:
    """The source that a case is made of.

    Raises:
        ScoreError: there is none of its kind.
    """
    modality, kind = parse_name(f"{wanted.name}.npz")[0], "3" if wanted.is_volume else "2"
    candidates = [source for source in sources if source.path.name[0] == kind]
    if not candidates:
        raise ScoreError(f"no {kind}DBox case with boxes to make {wanted.name} of")
    return min(
        candidates,
        key=lambda source: (
            source.modality != modality, source.tiles(wanted), -math.prod(source.shape[1:]),
            source.path.name,
        ),
    )  # fmt: skip


def choose_grid(source: Source, wanted: Wanted) -> tuple[int, int]:
    """Rows and columns of tiles: the fewest of good proportions; those with the best of them."""
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
    """First and last pixel that the pixels `low` to `high`, both inclusive, touch once scaled."""
    return np.floor(low * scale), np.ceil((high + 1) * scale) - 1


def tiled_boxes(boxes: Boxes, size: tuple[int, int], grid: tuple[int, int]) -> Boxes:
    """Boxes (N * tiles, 6) of mirrored copies of slices of `size` (height, width), side by side."""
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
    """How many slices boxes (N, 6) cross, counted box by box."""
    return int((boxes[:, 5] - boxes[:, 2] + 1).sum())


def choose_depth(boxes: Boxes, depth: int, wanted: Wanted) -> int:
    """The fewest slices to stretch `depth` to so that `boxes` cross enough; if none, all."""
    for stretched in range(1, wanted.depth):
        low, high = _scaled(boxes[:, 2], boxes[:, 5], stretched / depth)
        if (high - low + 1).sum() >= wanted.box_slices:
            return stretched
    return wanted.depth


def slice_at(pixels: Pixels, position: int, stretched: int) -> npt.NDArray[np.float32]:
    """A slice of `pixels` made `stretched` slices deep; mirrored copies go on at both ends."""
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
    """`plane` (h, w[, 3]) tiled, mirrored, and resized to `size` (height, width)."""
    rows, columns = grid
    padding = [(0, (rows - 1) * plane.shape[0]), (0, (columns - 1) * plane.shape[1])]
    tiled = np.pad(plane, padding + [(0, 0)] * (plane.ndim - 2), mode="symmetric")
    shrinks = math.prod(size) < math.prod(tiled.shape[:2])
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.round(cv2.resize(tiled, size[::-1], interpolation=filter_)).astype(np.uint8)


def make(source: Source, wanted: Wanted) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a case: imgs, boxes, spacing (of a volume), and words on what it is made of.

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
        flat = boxes[:, [0, 1, 3, 4]].astype(np.int64)
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
        description="Make stand-ins for the cases of the paper's Table 5 out of real cases.",
        epilog="Exit status: 0, or 1 when a case cannot be used or made, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--set", choices=SETS, default="table5",
        help="table5: its 14 cases (default); figures: the four whose speed is compared",
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
