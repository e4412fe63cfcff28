"""What each rule of a mode gives and costs: DSC and seconds, on cases with truth.

    python -m benchmarks.ablation.modes INPUTS GTS [--csv FILE] [--picture FILE] ["NAME: KEY=VALUE
    ..." ...]

A variant's keys are arguments of `swiftmedsam.segment` (`mode`, `max_crops`, `step`) or constants
of its modules (`views.SMALL_BOX`, `follow.RENEWAL`); `true_boxes=True` asks each slice of a volume
with the box of the truth. Without any, those of `VARIANTS` are compared. All variants do a case
before the next one is read, in one process, each case begun by another one; seconds are those of
`segment`, as ratios to the first variant.
"""

import argparse
import ast
import csv
import importlib
import inspect
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np

from benchmarks.reference.parity import case_dsc
from benchmarks.reference.true_boxes import TrueBoxes
from swiftmedsam import Case, Network, load, read_case
from swiftmedsam.network import AUTO, PRECISIONS
from swiftmedsam.segment import DEFAULT_MODE, segment

MODULES = ("follow", "frame", "segment", "views")  # whose constants can be set
VARIANTS = (
    "exact: mode=exact",
    "exact, every 2nd slice: mode=exact step=2",
    "exact, every 3rd slice: mode=exact step=3",
    "best",
    "best, every slice: step=1",
    "best, every 3rd slice: step=3",
    "best, no crops: max_crops=0",
    "best, 16 crops: max_crops=16",
    "best, crops alone: views.CROP_WEIGHT=1.0",
    "best, prompts not wider: frame.PROMPT_MARGIN=0",
    "best, no taper: follow.TAPER=(1.0,1.0)",
    "best, only the last mask carried: follow.RENEWAL=1.0",
    "true boxes: true_boxes=True step=1",
)
TRUE_BOXES = "true_boxes"
MARKERS = "osD^v<>Ph"


def _module(name: str) -> ModuleType:
    return importlib.import_module(
        f"app.{name}"
    )  # the name `swiftmedsam.segment` is the function's


@dataclass(frozen=True)
class Variant:
    """Arguments and constants by which cases are segmented."""

    name: str
    arguments: dict[str, object]
    constants: dict[tuple[str, str], object]  # by module and name
    true_boxes: bool = False  # ask with those of the truth, which is no way to segment

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Of `NAME: KEY=VALUE ...`.

        Raises:
            ValueError: a word is no `KEY=VALUE`, or there is no such constant.
        """
        name, _, words = text.partition(":")
        arguments, constants, true_boxes = {}, {}, False
        for word in words.split():
            key, equals, value_text = word.partition("=")
            if not equals:
                raise ValueError(f"'{name}': expected KEY=VALUE, got '{word}'")
            try:
                value = ast.literal_eval(value_text)
            except (ValueError, SyntaxError):
                value = value_text
            module, dot, constant = key.partition(".")
            if not dot and key in inspect.signature(segment).parameters:
                arguments[key] = value
            elif key == TRUE_BOXES:
                true_boxes = bool(value)
            elif dot and module in MODULES and hasattr(_module(module), constant):
                constants[module, constant] = value
            else:
                raise ValueError(f"'{name}': there is no {key} to set")
        if true_boxes and arguments.get("mode", DEFAULT_MODE) != DEFAULT_MODE:
            raise ValueError(f"'{name}': {TRUE_BOXES} is for mode {DEFAULT_MODE} only")
        return cls(name.strip(), arguments, constants, true_boxes)

    @contextmanager
    def in_force(self, case: Case, truth: np.ndarray) -> Iterator[None]:
        """Its constants and rules replace the program's inside the `with`."""
        with ExitStack() as stack:
            if self.true_boxes and case.is_volume:
                rules = TrueBoxes(case, truth)
                patch = mock.patch.object(_module("segment"), "Follower", lambda image: rules)
                stack.enter_context(patch)
            for (module, constant), value in self.constants.items():
                stack.enter_context(mock.patch.object(_module(module), constant, value))
            yield


@dataclass(frozen=True)
class Row:
    """One case by one variant."""

    variant: str
    case: str
    kind: str  # "2D" or "3D"
    modality: str
    dsc: float
    seconds: float


def measure(
    case: Case, truth: np.ndarray, network: Network, variants: Sequence[Variant]
) -> Iterator[Row]:
    """Rows of a case, variant by variant."""
    kind, modality = case.name[:2], case.name.split("_")[1]
    for variant in variants:
        with variant.in_force(case, truth):
            began = time.perf_counter()
            labels = segment(case, network, **variant.arguments)  # type: ignore[arg-type]
            seconds = time.perf_counter() - began
        dsc = case_dsc(labels, truth)
        yield Row(variant.name, case.name, kind, modality, dsc, seconds)


def of_kind(rows: Sequence[Row], kind: str) -> dict[str, tuple[dict[str, float], float]]:
    """By variant: mean DSC by modality, and seconds, of cases of one kind."""
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


def table(rows: Sequence[Row]) -> str:
    """Markdown: a part for images, one for volumes."""
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


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Time against DSC, a panel for images and one for volumes."""
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
            # variants lie close together: a shape and a number of its own each, names beside
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
    rows: list[Row] = []
    for turn, path in enumerate(sorted(options.inputs.glob(f"{options.only}.npz"))):
        with np.load(options.truths / path.name) as file:
            truth = file["gts"]
        first = turn % len(variants)
        in_turn = variants[first:] + variants[:first]
        rows += measure(read_case(path), truth, network, in_turn)
        print(path.name, file=sys.stderr)
    print(f"{network.variant}, {network.precision}, {network.threads} threads\n")
    print(table(rows))
    if options.csv:
        with options.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(Row.__annotations__))
            writer.writeheader()
            writer.writerows(vars(row) for row in rows)
    if options.picture and rows:
        draw(rows, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
