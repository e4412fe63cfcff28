"""Draw cases to look at, as one picture.

    python -m swiftmedsam.evaluation.report.sheet INPUTS GTS SEGS [OTHER_SEGS] --out FILE

With one folder of outputs, the sheet shows the worst cases, or the worst, median and best case of
each modality (`--by-modality`). With two, it shows the cases with the largest gains and losses of
OTHER_SEGS. A row is a case. It shows one object close up: its worst, or its most changed one. Of a
volume it shows five slices of the object.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import IN_PLANE, CaseError
from swiftmedsam.evaluation.console import (
    ORANGE,
    PURPLE,
    SKY_BLUE,
    add_shared_options,
    clear_line,
    picture,
    positive,
    progress,
)
from swiftmedsam.evaluation.metrics import Labels
from swiftmedsam.evaluation.report.pictures import evenly
from swiftmedsam.evaluation.score import (
    CaseScore,
    ScoreError,
    by_modality,
    npz_files,
    read_output,
    read_truth,
    score,
)
from swiftmedsam.npz import read_case

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 5
AROUND = 0.4  # of the box's longer side, shown on each side of it
# Colour and style of the contours of truth, SEGS and OTHER_SEGS
CONTOURS = ((SKY_BLUE, "-"), (ORANGE, "-"), (PURPLE, "--"))


@dataclass(frozen=True)
class SheetRow:
    """A case of the sheet."""

    title: str
    name: str  # name of its files
    place: int  # position of the shown object among the labels of the truth


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.report.sheet",
        description="Draw cases to look at: the worst, or the largest gains and losses.",
        epilog="Blue: truth; orange: SEGS; violet, dashed: OTHER_SEGS; white: the given box. "
        "Exit status: 0, or 1 when a case cannot be read or scored, 2 on wrong usage.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("gts", type=Path, metavar="GTS", help="folder of truth")
    parser.add_argument("segs", type=Path, metavar="SEGS", help="folder of outputs")
    parser.add_argument("other", type=Path, metavar="OTHER_SEGS", nargs="?", help="another one")
    parser.add_argument("--out", type=picture, required=True, metavar="FILE", help="png or jpg")
    parser.add_argument(
        "--count",
        type=positive,
        default=10,
        help="number of rows; of gains and of losses each (default 10)",
    )
    parser.add_argument(
        "--by-modality", action="store_true", help="worst, median and best of each modality"
    )
    add_shared_options(parser, "score")
    return parser


def _percent(dsc: float) -> str:
    return f"{100 * dsc:.0f}"


def _dscs(row: CaseScore) -> npt.NDArray[np.float64]:
    return np.array([each.dsc for each in row.by_object])


def worst(rows: Sequence[CaseScore], count: int) -> Iterator[SheetRow]:
    """Yield the cases with the lowest DSC, each with its worst object."""
    for row in sorted(rows, key=lambda row: row.dsc)[:count]:
        yield SheetRow(f"worst: DSC {_percent(row.dsc)}", row.name, int(np.argmin(_dscs(row))))


def of_each_modality(rows: Sequence[CaseScore]) -> Iterator[SheetRow]:
    """Yield worst, median and best case of each modality, with worst, median and best object."""
    for members in by_modality(rows).values():
        ordered = sorted(members, key=lambda row: row.dsc)
        for word, share in (("worst", 0.0), ("median", 0.5), ("best", 1.0)):
            row = ordered[round(share * (len(ordered) - 1))]
            objects = np.argsort(_dscs(row), kind="stable")
            place = int(objects[round(share * (len(objects) - 1))])
            yield SheetRow(f"{word}: DSC {_percent(row.dsc)}", row.name, place)


def changes(
    base: Sequence[CaseScore], other: Sequence[CaseScore], count: int
) -> Iterator[SheetRow]:
    """Yield the largest gains of `other`, then its largest losses, with the most changed object.

    `base` and `other` are rows that `score` returned for the same truth.
    """
    pairs = sorted(zip(base, other, strict=True), key=lambda pair: pair[0].dsc - pair[1].dsc)
    gains = [pair for pair in pairs[:count] if pair[1].dsc > pair[0].dsc]
    losses = [pair for pair in pairs[::-1][:count] if pair[1].dsc < pair[0].dsc]
    for word, chosen in (("gain", gains), ("loss", losses)):
        for before, after in chosen:
            change = _dscs(after) - _dscs(before)
            place = int(np.argmax(change if word == "gain" else -change))
            title = f"{word}: {_percent(before.dsc)} to {_percent(after.dsc)}"
            yield SheetRow(title, before.name, place)


def close_up(box: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return the shown part around a box (4,): x from, x to, y from, y to."""
    margin = AROUND * max(box[2] - box[0], box[3] - box[1], 8)
    return box[0] - margin, box[2] + margin, box[1] - margin, box[3] + margin


def draw_panel(
    axes: "Axes", image: npt.NDArray[np.uint8], masks: Sequence[npt.NDArray[np.bool_]],
    box: npt.NDArray[np.float64], shown: tuple[float, float, float, float],
) -> None:  # fmt: skip
    """Draw a slice (H, W[, 3]), the contours of masks (H, W), and a box (4,).

    `shown` is the part to show: x from, x to, y from, y to.
    """
    axes.imshow(image, cmap="gray")
    for mask, (colour, style) in zip(masks, CONTOURS, strict=False):
        if mask.any():
            axes.contour(mask, [0.5], colors=colour, linestyles=style, linewidths=1.2)
    x, y, x_max, y_max = box + np.array([-0.5, -0.5, 0.5, 0.5])  # around all pixels of the box
    axes.plot([x, x_max, x_max, x, x], [y, y, y_max, y_max, y], color="w", lw=0.6)
    left, right, top, bottom = shown
    axes.set(xlim=(left, right), ylim=(bottom, top))


def draw_sheet(rows: Sequence[SheetRow], options: argparse.Namespace) -> None:
    """Write the sheet.

    Raises:
        CaseError: a case cannot be read.
        ScoreError: an output or a truth cannot be read.
        OSError: the sheet cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * PANELS, 2.35 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), PANELS, squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        for axes in line:
            axes.axis("off")
        case = read_case(options.inputs / row.name)
        maps: list[Labels] = [read_truth(options.gts / row.name)]
        for folder in (options.segs, options.other):
            if folder is not None:  # there is an output
                there = (folder / row.name).exists()
                maps.append(read_output(folder / row.name) if there else np.zeros_like(maps[0]))
        label = int(np.unique(maps[0][maps[0] > 0])[row.place])
        if label > len(case.boxes):
            raise ScoreError(f"{row.name}: truth has label {label}, boxes are {len(case.boxes)}")
        if case.is_volume:
            box = case.boxes[label - 1, IN_PLANE]
            first, last = case.boxes[label - 1, [2, 5]].astype(int).tolist()
            for axes, z in zip(line, evenly(first, last, PANELS), strict=False):
                masks = [labels[z] == label for labels in maps]
                draw_panel(axes, case.image[z], masks, box, close_up(box))
                axes.text(0, 0, f"z {z}", fontsize=6, transform=axes.transAxes, va="top")
        else:
            box, (height, width) = case.boxes[label - 1], case.label_shape
            masks = [labels == label for labels in maps]
            for axes, shown in zip(line, (close_up(box), (0, width, 0, height)), strict=False):
                draw_panel(axes, case.image, masks, box, shown)
        name = row.name.removesuffix(".npz")
        line[0].set_title(f"{row.title}, object {label}\n{name}", fontsize=6, loc="left")
    figure.savefig(options.out, dpi=100)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        scored = [
            score(
                folder, options.gts, only=options.only, processes=options.processes,
                progress=progress(),
            )
            for folder in (options.segs, options.other)
            if folder is not None
        ]  # fmt: skip
        there = npz_files(options.inputs, options.only)
        scored = [[row for row in rows if row.name in there and row.objects] for rows in scored]
        if options.other is not None:
            rows = list(changes(*scored, options.count))
        elif options.by_modality:
            rows = list(of_each_modality(*scored))
        else:
            rows = list(worst(*scored, options.count))
        if not rows:
            raise ScoreError(f"{options.inputs}: has no case to show")
        draw_sheet(rows, options)
    except (CaseError, ScoreError, OSError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    for row in rows:
        print(f"{row.title}  {row.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
