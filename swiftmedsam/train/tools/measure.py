"""Score checkpoints quickly: `python -m swiftmedsam.train.tools.measure CHECKPOINT... --val DIR`.

In place of a checkpoint, FOLDER:PRECISION is a weights folder as the program runs it, for example
weights/v3:int8.

The network gets the box of each object of each case of `val`, in one or a few slices, and DSC is
measured in the 256 x 256 input. Crops, tracking and the other rules of the program are not used, so
a checkpoint takes minutes where the program takes an hour. The scores are to compare checkpoints
with one another. To score a release, use `python -m swiftmedsam.evaluation` on outputs of the
program.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from swiftmedsam.cpu import PRECISIONS
from swiftmedsam.frame import Frame, every_cell
from swiftmedsam.network import Network, WeightsError, load
from swiftmedsam.torch_model import (
    VARIANTS,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    read_state_dict,
)
from swiftmedsam.torch_model.checkpoint import fitting_variant
from swiftmedsam.train.data.corpus import MIN_OBJECT_AREA, tight_box
from swiftmedsam.train.data.framed import frame_labels
from swiftmedsam.train.losses import dice_of
from swiftmedsam.train.machine.lean import make_lean
from swiftmedsam.train.machine.memory import keep_freed_memory
from swiftmedsam.train.machine.precision import cpu_autocast

MARGIN = 2  # input pixels around an object; the organisers' boxes have 0 to 5
PROMPTS = 8  # decoded together; more would need more memory and not less time
# Upper limits of the classes of object size, as parts of the 256 x 256 input pixels.
OBJECT_SIZES = {"under 0.2%": 0.002, "0.2 to 1%": 0.01, "1 to 5%": 0.05, "over 5%": 1.0}


@dataclass(frozen=True)
class AskedSlice:
    """A slice, with the boxes and true masks of its objects."""

    case: str
    pixels: np.ndarray  # (1, 3, 256, 256), 0..1
    boxes: np.ndarray  # (N, 4), input pixels
    masks: np.ndarray  # (N, 256, 256) bool


def asked_in(case: Path, truth: Path, slices: int) -> Iterator[AskedSlice]:
    """Yield an image, or up to `slices` evenly spaced slices of a volume, with their objects."""
    with np.load(case) as file:
        images = file["imgs"]
    with np.load(truth) as file:
        labels = file["gts"]
    if labels.ndim == 2:
        images, labels = images[np.newaxis], labels[np.newaxis]
    filled = np.flatnonzero(labels.any(axis=(1, 2)))
    if not filled.size:
        return
    places = (np.arange(slices) + 0.5) / slices * filled.size
    for z in np.unique(filled[places.astype(int)]):
        framed = frame_labels(labels[z])
        ids, areas = np.unique(framed[framed > 0], return_counts=True)
        masks = [framed == i for i in ids[areas >= MIN_OBJECT_AREA]]
        if masks:
            outward = np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])
            boxes = np.stack([tight_box(mask) + outward for mask in masks]).clip(0, 256)
            pixels = Frame(*labels[z].shape).pixels(images[z])
            yield AskedSlice(case.stem, pixels, boxes.astype(np.float32), np.stack(masks))


class Converted:
    """A network of OpenVINO, with the methods of `SwiftMedSAM` that are used here."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embedding (1, 4096, C) of `pixels` (1, 3, 256, 256), values 0..1."""
        return torch.from_numpy(self._network.encode(pixels.contiguous().numpy()))

    def decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return logits (N, 256, 256) of `boxes` (N, 4), in input pixels."""
        cells = every_cell(len(boxes))
        logits, _ = self._network.decode(embedding.numpy(), boxes.numpy(), cells)
        return torch.from_numpy(logits), None


def read(text: str) -> SwiftMedSAM | Converted:
    """Return the network of a checkpoint, or that of FOLDER:PRECISION.

    Raises:
        CheckpointError, OSError: the checkpoint cannot be read, or fits no variant.
        WeightsError: the weights folder cannot be used, or has no such precision.
    """
    folder, colon, precision = text.rpartition(":")
    if colon and precision in PRECISIONS:
        return Converted(load(folder, precision=precision))
    path = Path(text)
    variant = fitting_variant(read_state_dict(path))
    if variant is None:
        raise CheckpointError(f"{path.name}: fits no known variant")
    model = load_model(path, VARIANTS[variant]).to(memory_format=torch.channels_last)
    make_lean(model)
    return model


@torch.inference_mode()
def dice_in(model: SwiftMedSAM | Converted, asked: AskedSlice) -> np.ndarray:
    """Return the Dice (N,) of the model's masks of the N objects."""
    pixels = torch.from_numpy(asked.pixels).to(memory_format=torch.channels_last)
    boxes, found = torch.from_numpy(asked.boxes), []
    with cpu_autocast():
        embedding = model.encode(pixels)
        for first in range(0, len(boxes), PROMPTS):
            found.append(model.decode(embedding, boxes[first : first + PROMPTS])[0] > 0)
    return dice_of(torch.cat(found), torch.from_numpy(asked.masks)).numpy()


def modality_in_name(case: str) -> str:
    """Return the modality in the name of a case."""
    return re.sub(r"^[23]DBox_", "", case).split("_")[0]


def means(scores: Mapping[str, float], kind_of: Mapping[str, str]) -> dict[str, tuple[float, int]]:
    """Return mean score and number of cases for each kind."""
    by_kind = defaultdict(list)
    for case, score in scores.items():
        by_kind[kind_of[case]].append(score)
    return {kind: (float(np.mean(found)), len(found)) for kind, found in sorted(by_kind.items())}


@dataclass(frozen=True)
class CheckpointScores:
    """The DSC of one checkpoint."""

    cases: dict[str, float]  # mean over the objects of the case
    objects: list[tuple[float, float]]  # area as a part of the input, Dice

    def lines(self, sets: Mapping[str, Mapping[str, object]]) -> dict[str, tuple[float, int]]:
        """Return all means by name, each with the number of values in it."""
        modalities = means(self.cases, {case: modality_in_name(case) for case in self.cases})
        lines = {
            "mean over modalities": (
                float(np.mean([mean for mean, _ in modalities.values()])), len(self.cases),
            )
        }  # fmt: skip
        if sets:
            by_set = means(self.cases, {case: str(sets[case]["set"]) for case in self.cases})
            trained = {str(entry["set"]): bool(entry["trained"]) for entry in sets.values()}
            groups = []
            for known, name in ((True, "sets trained on"), (False, "sets never seen")):
                group = [mean for kind, (mean, _) in by_set.items() if trained[kind] is known]
                if group:
                    lines[name] = float(np.mean(group)), len(group)
                    groups.append(lines[name][0])
            lines["mean of both"] = float(np.mean(groups)), len(groups)
        low = 0.0
        for name, high in OBJECT_SIZES.items():
            within = [dice for area, dice in self.objects if low <= area < high]
            if within:
                lines[f"objects {name}"] = float(np.mean(within)), len(within)
            low = high
        return lines | modalities


def measure(model: SwiftMedSAM | Converted, val: Path, slices: int, only: str) -> CheckpointScores:
    """Score `model` on the cases of `val`/inputs and `val`/gts whose file names match `only`."""
    cases: dict[str, list[float]] = defaultdict(list)
    objects = []
    for path in sorted((val / "inputs").glob(only)):
        for asked in asked_in(path, val / "gts" / path.name, slices):
            found = dice_in(model, asked)
            areas = asked.masks.mean(axis=(1, 2))
            objects += list(zip(areas.tolist(), found.tolist(), strict=True))
            cases[asked.case] += found.tolist()
    return CheckpointScores({case: float(np.mean(found)) for case, found in cases.items()}, objects)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, a column for each checkpoint; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.tools.measure", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT",
        help="a file, or FOLDER:PRECISION for a weights folder and f32, bf16 or int8",
    )  # fmt: skip
    parser.add_argument("--val", type=Path, required=True, help="folder with inputs/ and gts/")
    parser.add_argument(
        "--sets", type=Path, help="JSON: data set of each case, and whether it was trained on"
    )
    parser.add_argument("--slices", type=int, default=2, help="slices of each volume (default: 2)")
    parser.add_argument("--only", default="*.npz", help="pattern of the cases' file names")
    options = parser.parse_args(argv)
    keep_freed_memory()
    sets = json.loads(options.sets.read_text()) if options.sets else {}
    columns = []
    for text in options.checkpoints:
        try:
            model = read(text)
        except (CheckpointError, OSError, WeightsError) as error:
            print(error, file=sys.stderr)
            return 1
        scores = measure(model, options.val, options.slices, options.only)
        if not scores.cases:
            print(f"{options.val}: no case with an object of {MIN_OBJECT_AREA} pixels that matches "
                  f"{options.only}", file=sys.stderr)  # fmt: skip
            return 1
        columns.append(scores.lines(sets))
    print(
        f"{'DSC in %':24}" + "".join(f"{Path(text).stem[:20]:>22}" for text in options.checkpoints)
    )
    for name, (_, count) in columns[0].items():
        print(f"{name:24}" + "".join(f"{100 * column[name][0]:22.2f}" for column in columns), count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
