"""Train networks side by side for some minutes, in a folder of `swiftmedsam.train.lent.package`.

    python3 -m swiftmedsam.train.lent.lease v3-distil=5+v3-truth=3.5 v2=8.5 --out DIR

trains two networks at the same time: v3 for 5 minutes with the recipe "v3-distil", then for 3.5
minutes with "v3-truth"; and v2 for 8.5 minutes. Other options go to `python -m swiftmedsam.train`,
such as `--steps 3 --seed 7`. DIR gets the averaged weights of each recipe (fp16 safetensors) and
the log of its losses; it is updated every `COLLECT_EVERY` seconds.
"""

import argparse
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from swiftmedsam.torch_model import read_state_dict
from swiftmedsam.train.run import WEIGHTS

PACKED = ".xz"
COLLECT_EVERY = 15  # seconds
Flags = dict[str, float | str]


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: variant, teacher, options of `python -m swiftmedsam.train`."""

    variant: str
    teacher: str
    flags: Flags


# A run ends by the clock. The other numbers are of earlier runs on an H200 (docs/training.md).
ALWAYS: Flags = {"steps": 1_000_000, "save_every": 200, "teacher_weight": 1.0}
BREADTH: Flags = {
    "batch_size": 32, "unlabelled": 16, "taught": 32, "boxes": 4, "free_boxes": 4,
    "pseudo_objects": 3, "learning_rate": 4e-4,
}  # fmt: skip
DISTIL: Flags = {
    "batch_size": 64, "unlabelled": 64, "taught": 64, "free_boxes": 0, "truth_weight": 0.0,
    "learning_rate": 1e-3, "optimizer": "muon", "warmup": 100, "average_decay": 0.99,
}  # fmt: skip
RECIPES = {
    "v3-distil": Recipe("v3", "v1", DISTIL),  # learns the embedding of its teacher only
    "v3-truth": Recipe("v3", "lite", BREADTH),
    "v1": Recipe("v1", "lite", BREADTH),
    "v2": Recipe("v2", "lite", BREADTH),
}
SETTLING = 150  # steps, for a network that starts with random weights


def rewrite(source: Path, target: Path, *, as_teacher: bool = False) -> None:
    """Write the checkpoint `source` as fp16 safetensors, with its metadata.

    `as_teacher` stores the weights of products as bfloat16, in which training computes products
    anyway. The packed file is then a fifth smaller.
    """
    metadata: dict[str, str] = {}
    if source.suffix == ".safetensors":
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}

    def kind(name: str, tensor: torch.Tensor) -> torch.dtype:
        if not tensor.is_floating_point():
            return tensor.dtype
        products = as_teacher and name.endswith(".weight") and tensor.ndim > 1
        return torch.bfloat16 if products else torch.float16

    state = read_state_dict(source)
    partial = target.with_name(target.name + ".partial")
    save_file({n: t.to(kind(n, t)).contiguous() for n, t in state.items()}, partial, metadata)
    partial.replace(target)


def _unpack(packed: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(packed) as file, target.open("wb") as plain:
        shutil.copyfileobj(file, plain, 1 << 20)


def unpack(folder: Path, work: Path) -> None:
    """Unpack every packed file below `folder` to the same place below `work`."""
    packed = sorted(folder.rglob("*" + PACKED))
    targets = [work / path.relative_to(folder).with_suffix("") for path in packed]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        list(processes.map(_unpack, packed, targets))


@dataclass(frozen=True)
class TimedRecipe:
    """A recipe of the plan, and how many minutes it may take."""

    name: str
    minutes: float

    def command(self, work: Path, start: Path, extra: Sequence[str], workers: int) -> list[str]:
        """Return the command that trains it, from the weights `start` if they exist."""
        recipe, corpus = RECIPES[self.name], work / "corpus"
        settling = {} if start.exists() else {"settling": SETTLING}
        flags = ALWAYS | recipe.flags | {"minutes": self.minutes, "workers": workers} | settling
        pairs = chain.from_iterable((f"--{n.replace('_', '-')}", str(v)) for n, v in flags.items())
        unlabelled = [corpus / "unlabelled"]
        if not flags.get("truth_weight", 1.0):  # without the labels, labelled pictures are as good
            unlabelled.append(corpus / "train")
        command: list[str | Path] = [
            sys.executable, "-m", "swiftmedsam.train",
            "--variant", recipe.variant, "--teacher", recipe.teacher,
            "--init", work / "weights" / f"teacher_{recipe.teacher}.safetensors",
            "--data", corpus / "train", "--unlabelled-data", *unlabelled,
            "--out", work / self.name, *(["--start", start] if start.exists() else ()),
        ]  # fmt: skip
        return [*(str(part) for part in command), *pairs, *extra]


def plan_of(text: str) -> list[TimedRecipe]:
    """Parse the plan of one network, such as "v3-distil=5+v3-truth=3.5".

    Raises:
        ValueError: a recipe is unknown, its minutes are missing, or the variants differ.
    """
    stages = []
    for part in text.split("+"):
        name, _, minutes = part.partition("=")
        if name not in RECIPES:
            raise ValueError(f"'{name}' in '{text}': expected one of {', '.join(RECIPES)}")
        try:
            stages.append(TimedRecipe(name, float(minutes)))
        except ValueError:
            raise ValueError(f"'{part}': expected {name}=MINUTES") from None
    if len({RECIPES[stage.name].variant for stage in stages}) > 1:
        raise ValueError(f"'{text}': expected recipes of one variant")
    return stages


def train_network(
    stages: Sequence[TimedRecipe], work: Path, extra: Sequence[str], workers: int
) -> int:
    """Train one network, each recipe in a folder of its name; return the exit status."""
    start = work / "weights" / f"start_{RECIPES[stages[0].name].variant}.safetensors"
    for stage in stages:
        process = subprocess.Popen(
            stage.command(work, start, extra, workers),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        for line in process.stdout or ():
            print(f"{stage.name}: {line}", end="", flush=True)
        if process.wait():
            return process.returncode
        start = work / stage.name / WEIGHTS
    return 0


def collect(names: Sequence[str], work: Path, out: Path) -> None:
    """Copy NAME.safetensors and NAME.csv of each recipe that has weights to `out`."""
    for name in names:
        weights, kept = work / name / WEIGHTS, out / f"{name}.safetensors"
        if weights.exists() and not (
            kept.exists() and kept.stat().st_mtime >= weights.stat().st_mtime
        ):
            rewrite(weights, kept)
            shutil.copyfile(work / name / "log.csv", out / f"{name}.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.lent.lease", description=__doc__.splitlines()[0]
    )
    parser.add_argument("networks", nargs="+", metavar="RECIPE=MINUTES[+RECIPE=MINUTES]")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/lease"), help="folder for everything else"
    )
    parser.add_argument("--accelerator", default="cuda")
    arguments, extra = parser.parse_known_args(argv)
    try:
        networks = [plan_of(text) for text in arguments.networks]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    cv2, cuda = sys.modules["cv2"], torch.cuda.is_available()
    print("torch", torch.__version__, "OpenCV", getattr(cv2, "__version__", "none"), "GPU", cuda)
    if arguments.accelerator == "cuda" and not cuda:
        print("found no GPU; to try it without one: --accelerator cpu", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    unpack(Path(__file__).parents[3], arguments.work)
    names = [stage.name for stages in networks for stage in stages]
    workers = max(1, (os.cpu_count() or 1) // len(networks) - 1)
    extra = ["--accelerator", arguments.accelerator, *extra]
    with ThreadPoolExecutor() as threads:
        runs = [
            threads.submit(train_network, stages, arguments.work, extra, workers)
            for stages in networks
        ]
        while wait(runs, COLLECT_EVERY).not_done:
            collect(names, arguments.work, arguments.out)
    collect(names, arguments.work, arguments.out)
    return max(abs(run.result()) for run in runs)


if __name__ == "__main__":
    sys.exit(main())
