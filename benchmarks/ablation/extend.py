"""How well one box in one slice gives a whole object, on volumes with truth.

    python -m benchmarks.ablation.extend INPUTS GTS [--sets FILE] [--csv FILE] [VARIANT ...]

Each object of a volume is marked in its middle slice. Its box there is loosened as the organisers'
are: each side is moved outward by 0 to 5 pixels of the 256 x 256 input. The object is then followed
upwards and downwards to its end, and compared with the truth and with what its 3D box gives. All
objects of a volume are marked, as in the challenge; where two overlap, the smaller one counts.

A VARIANT is `NAME: KEY=VALUE ...` with fields of `swiftmedsam.settings.Settings`. Without any, the
method is measured alone; with --rules, also with each rule of the end changed. All variants share
embeddings, and those that go the same way share its masks. Four references are always there:

    3D box                   what the box of the whole object gives
    box in every slice       the middle slice's box in each slice of the 3D box, nothing followed
    ends known               followed as ever, but exactly to the object's own first and last slice
    until half its size      followed until a mask is smaller than half of the first one

Ends count where the truth ends inside the volume: one end each above and below. Leaks count of
objects that have such an end and could leak: the volume has more than 1.5 times their slices. An
object leaks if it is found in more than 1.5 times its slices.
"""

import argparse
import csv
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.ablation.modes import Variant
from swiftmedsam import Case, Network, load, read_case
from swiftmedsam.cpu import AUTO, PRECISIONS
from swiftmedsam.embeddings import Embeddings
from swiftmedsam.evaluation.datasets import read_sets
from swiftmedsam.evaluation.dice import dsc
from swiftmedsam.extend import extended, painted
from swiftmedsam.follow import Follower, Found, Given, Signs
from swiftmedsam.frame import INPUT_SIZE
from swiftmedsam.result import Clock
from swiftmedsam.segment import segment
from swiftmedsam.settings import Settings

OFF = {
    "extend_least_area": 0.0, "extend_least_likeness": 0.0, "extend_least_agreement": 0.0,
    "extend_least_iou": 0.0,
}  # fmt: skip
ALL_OFF = " ".join(f"{key}={value}" for key, value in OFF.items())
METHOD = "extended"
RULES = (
    METHOD,
    "without area: extend_least_area=0.0",
    "without likeness: extend_least_likeness=0.0",
    "without agreement: extend_least_agreement=0.0",
    "without predicted IoU: extend_least_iou=0.0",
    f"area alone: {ALL_OFF} extend_least_area=0.4",
    f"likeness alone: {ALL_OFF} extend_least_likeness=0.55",
    f"agreement alone: {ALL_OFF} extend_least_agreement=0.4",
    f"predicted IoU alone: {ALL_OFF} extend_least_iou=0.5",
    "smaller areas: extend_least_area=0.2",
    "less likeness: extend_least_likeness=0.45",
    "a gap of one slice: extend_gap=1",
    'previous mask: prompts=("previous",)',
)
BOX_3D, EVERY, KNOWN = "3D box", "box in every slice", "ends known"
HALF = f"until half its size: {ALL_OFF} extend_least_area=0.5 extend_gap=0"
MOST_MOVED = 5  # pixels of the input that a side of a box is moved outward, at most
LEAK = 1.5  # times an object's slices
NEAR = 2  # slices
KEPT = 512  # embeddings of a volume, 4 MiB each: every slice in two views

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One object by one variant."""

    variant: str
    case: str
    modality: str
    dataset: str
    label: int
    depth: int  # slices of the volume
    first: int  # the truth's first slice, and its last
    last: int
    found_first: int  # -1 where nothing was found
    found_last: int
    dsc: float

    @property
    def ends(self) -> list[int]:
        """Slices between each end that lies inside the volume and where it was found."""
        if self.found_first < 0:
            return []
        above = [abs(self.found_last - self.last)] if self.last < self.depth - 1 else []
        return above + ([abs(self.found_first - self.first)] if self.first > 0 else [])

    @property
    def could_leak(self) -> bool:
        """Whether it ends inside the volume, and there is room to leak into."""
        ends_inside = self.first > 0 or self.last < self.depth - 1
        return ends_inside and self.depth > LEAK * (self.last - self.first + 1)

    @property
    def leaks(self) -> bool:
        """Whether it was found in far more slices than it has."""
        found = self.found_last - self.found_first + 1
        return self.found_first >= 0 and found > LEAK * (self.last - self.first + 1)


class Remembering(Follower):
    """A follower that goes the same way once: variants may differ in where it ends."""

    def __init__(self, depth: int, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._last = depth - 1
        self._known: dict[object, Found] = {}
        self._ways: dict[object, tuple[list[tuple[Found, Signs]], Iterator]] = {}

    def given(self, given: Given) -> Found:
        """As it was found at first."""
        if given.mask is not None:
            return super().given(given)
        key = given.z, given.boxes.tobytes()
        if key not in self._known:
            self._known[key] = super().given(given)
        return self._known[key]

    def onward(self, first: Found, last: int) -> Iterator[tuple[Found, Signs]]:
        """The way from there that was gone, and if need be further."""
        upwards = last > first.z
        key = id(first), upwards  # `_known` keeps it
        if key not in self._ways:
            self._ways[key] = [], super().onward(first, self._last if upwards else 0)
        gone, further = self._ways[key]
        for place in range(abs(last - first.z)):
            if place == len(gone):
                gone.append(next(further))
            yield gone[place]


def loosened(mask: Mask, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """The box (4,) around a mask (H, W), each side moved outward, not over the border."""
    ys, xs = np.nonzero(mask)
    moved = random.integers(0, MOST_MOVED, 4, endpoint=True) * max(mask.shape) / INPUT_SIZE
    low = np.maximum([xs.min() - moved[0], ys.min() - moved[1]], 0)
    limits = mask.shape[1] - 1, mask.shape[0] - 1
    return np.concatenate([low, np.minimum([xs.max() + moved[2], ys.max() + moved[3]], limits)])


def marked(truth: Mask, name: str) -> tuple[Given, int, int]:
    """The box of an object (D, H, W) in its middle slice, and its first and last slice.

    The same for the same `name`, whatever else is measured.
    """
    slices = np.flatnonzero(truth.any(axis=(1, 2)))
    first, last = int(slices[0]), int(slices[-1])
    middle = int(slices[np.abs(slices - (first + last) // 2).argmin()])
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return Given(middle, loosened(truth[middle], random)[np.newaxis]), first, last


def plain(settings: Settings) -> Settings:
    """Settings without what says where an object ends: the same for all that go the same way."""
    return replace(settings, **OFF, extend_gap=0, extend_most=0)


def measure(
    case: Case, truth: np.ndarray, network: Network, variants: Sequence[Variant], dataset: str
) -> Iterator[Row]:
    """Rows of a volume, object by object."""
    image, modality = case.image, case.name.split("_")[1]
    depth = len(image)
    embeddings = Embeddings(image, network, KEPT)
    method = variants[0].settings
    labels = np.unique(truth[truth > 0]).tolist()
    known = [marked(truth == label, f"{case.name}/{label}") for label in labels]
    nowhere = np.zeros(image.shape[1:], np.bool_)
    followers: dict[Settings, Remembering] = {}

    def rows(variant: str, found: Sequence[Mask]) -> Iterator[Row]:
        for label, (_, first, last), mask in zip(labels, known, found, strict=True):
            slices = np.flatnonzero(mask.any(axis=(1, 2)))
            reached = (int(slices[0]), int(slices[-1])) if slices.size else (-1, -1)
            place = variant, case.name, modality, dataset, label, depth
            yield Row(*place, first, last, *reached, dsc(mask, truth == label))

    def followed(variant: str, settings: Settings, given: Sequence[list[Given]]) -> Iterator[Row]:
        way = plain(settings)
        if way not in followers:
            followers[way] = Remembering(depth, image, network, embeddings, settings, Clock())
        extents = [extended(one, followers[way], depth, settings) for one in given]
        painted_ = painted(extents, image.shape, settings)
        yield from rows(variant, [painted_ == number + 1 for number in range(len(labels))])

    by_3d_box = segment(case, network, method, embeddings=embeddings).labels
    yield from rows(BOX_3D, [by_3d_box == label for label in labels])
    without_end = replace(method, **OFF, extend_gap=depth)
    every, bounded = [], []
    for given, first, last in known:
        bounds = [Given(z, given.boxes, nowhere) for z in (first - 1, last + 1) if 0 <= z < depth]
        bounded.append([given, *bounds])
        every.append([*(Given(z, given.boxes) for z in range(first, last + 1)), *bounds])
    yield from followed(EVERY, method, every)
    yield from followed(KNOWN, without_end, bounded)
    for variant in variants:
        yield from followed(variant.name, variant.settings, [[given] for given, _, _ in known])


def summary(rows: Sequence[Row], by_box: float) -> str:
    """Objects, DSC, its share of the 3D box's, ends and leaks of the rows of one variant."""
    score = 100 * float(np.mean([row.dsc for row in rows]))
    ends = [end for row in rows for end in row.ends]
    near = "- | - | 0"
    if ends:
        share = 100 * np.mean(np.array(ends) <= NEAR)
        near = f"{np.median(ends):g} | {share:.0f}% | {len(ends)}"
    could = [row for row in rows if row.could_leak]
    leaks = f"{sum(row.leaks for row in could)} of {len(could)}"
    return f"{len(rows)} | {score:.1f} | {score / by_box:.2f} | {near} | {leaks if could else '-'}"


HEADER = "objects | DSC | of the 3D box's | ends: median | within 2 | ends | leaks"


def table(rows: Sequence[Row]) -> str:
    """Markdown: all variants, and then the first one by modality and data set."""
    names = list(dict.fromkeys(row.variant for row in rows))
    own = {name: [row for row in rows if row.variant == name] for name in names}

    def score(name: str, dataset: str | None = None) -> float:
        chosen = [row.dsc for row in own[name] if dataset in (None, row.dataset)]
        return 100 * float(np.mean(chosen))

    lines = [f"| variant | {HEADER} |", "|---" * 8 + "|"]
    lines += [f"| {name} | {summary(own[name], score(BOX_3D))} |" for name in names]
    half, method = HALF.partition(":")[0], names[names.index(KNOWN) + 1]
    lines += ["", f"| {method} | {HEADER} | {BOX_3D} | {EVERY} | {half} |", "|---" * 11 + "|"]
    for modality in sorted({row.modality for row in rows}):
        of_modality = [row for row in own[method] if row.modality == modality]
        sets = sorted({row.dataset for row in of_modality})
        for dataset in sets:
            chosen = [row for row in of_modality if row.dataset == dataset]
            others = " | ".join(f"{score(name, dataset):.1f}" for name in (BOX_3D, EVERY, half))
            lines.append(f"| {dataset} | {summary(chosen, score(BOX_3D, dataset))} | {others} |")
        scores = [
            float(np.mean([row.dsc for row in own[name] if row.modality == modality]))
            for name in (BOX_3D, EVERY, half)
        ]
        others = " | ".join(f"{100 * one:.1f}" for one in scores)
        lines.append(f"| **{modality}** | {summary(of_modality, 100 * scores[0])} | {others} |")
    return "\n".join(lines)


def volumes_with_truth(options: argparse.Namespace) -> Iterator[tuple[Case, np.ndarray, str]]:
    """Each volume that the options name, its truth (D, H, W) and its data set.

    `options` has inputs, truths, sets and only. Names are printed when their turn is over.
    """
    sets = read_sets(options.sets) if options.sets else {}
    for path in sorted(options.inputs.glob(f"{options.only}.npz")):
        case = read_case(path)
        if not case.is_volume:
            continue
        with np.load(options.truths / path.name) as file:
            truth = file["gts"]
        dataset = sets[path.name].dataset if path.name in sets else case.name.split("_")[1]
        yield case, truth, dataset
        print(path.name, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.ablation.extend", description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("truths", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--rules", action="store_true", help="each rule of the end changed, too")
    parser.add_argument("--sets", type=Path, metavar="FILE", help="the data set of each case")
    parser.add_argument("--only", default="3D*", metavar="GLOB")
    parser.add_argument("--weights", type=Path, metavar="DIR")
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument("--csv", type=Path, metavar="FILE")
    options = parser.parse_intermixed_args(argv)
    try:
        asked = options.variants or (RULES if options.rules else [METHOD])
        variants = [Variant.parse(text) for text in (*asked, HALF)]
    except ValueError as error:
        parser.error(str(error))
    network = load(options.weights, precision=options.precision)
    rows: list[Row] = []
    for case, truth, dataset in volumes_with_truth(options):
        rows += measure(case, truth, network, variants, dataset)
    if not rows:
        print(f"{options.inputs}: no volume with an object", file=sys.stderr)
        return 1
    print(f"{network.variant}, {network.precision}, {network.threads} threads\n")
    print(table(rows))
    if options.csv:
        with options.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(Row.__annotations__))
            writer.writeheader()
            writer.writerows(vars(row) for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
