"""Measure what settings give and cost: DSC and seconds, on cases with truth.

    python -m benchmarks.ablation.modes INPUTS GTS [--csv FILE] ["NAME: KEY=VALUE ..." ...]

The keys of a variant are fields of `swiftmedsam.settings.Settings`. `mode`, "best" or "litemedsam",
gives its other values. With `true_boxes=True` the prompt in each slice of a volume is the box of
the truth. Without any variant, those of `VARIANTS` are compared. All run in one process. All
variants segment a case before the next case is read, and each in turn is the first. Seconds are of
`segment_case`, as ratios to the first variant.
"""

import argparse
import ast
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reference.parity import case_dsc
from benchmarks.reference.true_boxes import TrueBoxes
from swiftmedsam import Case, Network, load, read_case
from swiftmedsam.cpu import AUTO, PRECISIONS
from swiftmedsam.prompts import Prompter
from swiftmedsam.segment import segment
from swiftmedsam.settings import MODES, Settings, changed

VARIANTS = (
    "litemedsam: mode=litemedsam",
    "litemedsam, every 2nd slice: mode=litemedsam step=2",
    "litemedsam, every 3rd slice: mode=litemedsam step=3",
    "best",
    "best, every slice: step=1",
    "best, every 3rd slice: step=3",
    "best, no crops: image_crops=0 volume_crops=0",
    "best, 16 crops: image_crops=16 volume_crops=16",
    "best, crops alone: crop_weight=1.0",
    "best, prompts not wider: prompt_margin=0",
    "best, no tapered box: prompts=('given','tracked')",
    "best, only the last mask tracked: renewal=1.0",
    "true boxes: true_boxes=True step=1",
)
TRUE_BOXES = "true_boxes"
MARKERS = "osD^v<>Ph"


@dataclass(frozen=True)
class Variant:
    """A name, and the settings to segment with."""

    name: str
    settings: Settings
    true_boxes: bool = False  # prompts from the truth: an upper limit, not a method

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Parse `NAME: KEY=VALUE ...`.

        Raises:
            ValueError: a word is not `KEY=VALUE`, or the setting or value does not exist.
        """
        name, _, words = text.partition(":")
        values: dict[str, object] = {}
        for word in words.split():
            key, equals, value_text = word.partition("=")
            if not equals:
                raise ValueError(f"'{name}': expected KEY=VALUE, got '{word}'")
            try:
                values[key] = ast.literal_eval(value_text)
            except (ValueError, SyntaxError):
                values[key] = value_text
        mode, true_boxes = values.pop("mode", "best"), bool(values.pop(TRUE_BOXES, False))
        if mode not in MODES:
            raise ValueError(f"'{name}': there is no mode {mode}")
        try:
            settings = changed(MODES[str(mode)], values)
        except ValueError as error:
            raise ValueError(f"'{name}': {error}") from error
        return cls(name.strip(), settings, true_boxes)

    def prompter(self, case: Case, truth: np.ndarray) -> Prompter | None:
        """Return what chooses the prompts of a case; None: as the settings say."""
        if self.true_boxes and case.is_volume:
            return TrueBoxes(case, truth, self.settings)
        return None


@dataclass(frozen=True)
class ModeRow:
    """The result of one variant on one case."""

    variant: str
    case: str
    kind: str  # "2D" or "3D"
    modality: str
    dsc: float
    seconds: float


def measure_case(
    case: Case, truth: np.ndarray, network: Network, variants: Sequence[Variant]
) -> Iterator[ModeRow]:
    """Yield the rows of a case, one for each variant."""
    kind, modality = case.name[:2], case.name.split("_")[1]
    for variant in variants:
        prompter = variant.prompter(case, truth)
        began = time.perf_counter()
        labels = segment(case, network, variant.settings, prompter=prompter).labels
        seconds = time.perf_counter() - began
        dsc = case_dsc(labels, truth)
        yield ModeRow(variant.name, case.name, kind, modality, dsc, seconds)


def of_kind(rows: Sequence[ModeRow], kind: str) -> dict[str, tuple[dict[str, float], float]]:
    """Return mean DSC by modality, and seconds, of the cases of one kind, for each variant."""
    found = {}
    for variant in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == variant and row.kind == kind]
        by_modality = {
            modality: float(np.mean([row.dsc for row in own if row.modality == modality]))
            for modality in sorted({row.modality for row in own})
        }
        if own:
            found[variant] = by_modality, sum(row.seconds for row in own)
    return found


def modes_table(rows: Sequence[ModeRow]) -> str:
    """Return a Markdown table with a part for images and one for volumes."""
    lines = []
    for kind in ("2D", "3D"):
        found = of_kind(rows, kind)
        if not found:
            continue
        modalities = list(next(iter(found.values()))[0])
        first = next(iter(found.values()))[1]
        cases = len({row.case for row in rows if row.kind == kind})
        lines.append(f"| {kind}, {cases} cases | {' | '.join(modalities)} | mean | time |")
        lines.append("|---" * (len(modalities) + 3) + "|")
        for variant, (by_modality, seconds) in found.items():
            numbers = [100 * by_modality[modality] for modality in modalities]
            cells = " | ".join(f"{number:.1f}" for number in [*numbers, np.mean(numbers)])
            lines.append(f"| {variant} | {cells} | {seconds / first:.2f} |")
        lines.append("")
    return "\n".join(lines)


def draw_modes(rows: Sequence[ModeRow], picture: Path) -> None:
    """Draw DSC over time, in a panel for images and one for volumes; write `picture`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = [kind for kind in ("2D", "3D") if of_kind(rows, kind)]
    figure, axes = plt.subplots(1, len(kinds), figsize=(7.5 * len(kinds), 4.5), squeeze=False)
    for kind, panel in zip(kinds, axes[0], strict=True):
        found = of_kind(rows, kind)
        first = next(iter(found.values()))[1]
        for number, (variant, (by_modality, seconds)) in enumerate(found.items(), start=1):
            place = seconds / first, 100 * np.mean(list(by_modality.values()))
            # points are close together: each has a marker and number, and names are in the legend
            panel.plot(
                *place, MARKERS[number % len(MARKERS)], color=plt.cm.cividis(number / len(found)),
                label=f"{number}  {variant}", markersize=8, alpha=0.8,
            )  # fmt: skip
            panel.annotate(
                str(number), place, fontsize=8, xytext=(5, 4), textcoords="offset points"
            )
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        panel.set(xlabel=f"time, {next(iter(found))} = 1", ylabel="DSC, mean of modalities")
        panel.set_title({"2D": "images", "3D": "volumes"}[kind])
        panel.margins(0.08)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.ablation.modes", description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("truths", type=Path)
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--weights", type=Path, metavar="DIR")
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_intermixed_args(argv)
    try:
        variants = [Variant.parse(text) for text in options.variants]
    except ValueError as error:
        parser.error(str(error))
    network = load(options.weights, precision=options.precision)
    rows: list[ModeRow] = []
    for turn, path in enumerate(sorted(options.inputs.glob(f"{options.only}.npz"))):
        with np.load(options.truths / path.name) as file:
            truth = file["gts"]
        first = turn % len(variants)
        in_turn = variants[first:] + variants[:first]
        rows += measure_case(read_case(path), truth, network, in_turn)
        print(path.name, file=sys.stderr)
    print(f"{network.variant}, {network.precision}, {network.threads} threads\n")
    print(modes_table(rows))
    if options.csv:
        with options.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(ModeRow.__annotations__))
            writer.writeheader()
            writer.writerows(vars(row) for row in rows)
    if options.picture and rows:
        draw_modes(rows, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
