"""`python -m swiftmedsam.train --variant v2 --init lite_medsam.pth --data DIR --out runs/NAME
[--resume]`.

Four phases, each of which leaves its weights in the run folder and is skipped when they are there:

    cache     the teacher's features of some hundred pictures       runs/NAME/cache/
    blocks    stage 0 and stage 2 of the encoder, each on its own   runs/NAME/stage0.safetensors...
    decoder   on the cached embeddings                              runs/NAME/decoder.safetensors
    together  end to end, on truth and teacher                      runs/NAME/student.safetensors
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning_fabric import Fabric

from swiftmedsam.program.invoked import invoked
from swiftmedsam.torch_model import (
    VARIANTS,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    save_model,
    trained_on,
)
from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.data.corpus import CorpusError, Source, counts
from swiftmedsam.train.data.stream import CacheSource, CorpusSource
from swiftmedsam.train.machine.memory import keep_freed_memory
from swiftmedsam.train.machine.precision import default_precision
from swiftmedsam.train.options import RECIPES, Options
from swiftmedsam.train.repair.blockwise import PARTS, repair
from swiftmedsam.train.repair.decoder import DECODER_REPAIR, repair_decoder
from swiftmedsam.train.repair.features import write_cache
from swiftmedsam.train.repair.initialise import dense_student_of, student_of
from swiftmedsam.train.repair.one_cycle import RepairOptions
from swiftmedsam.train.run import Run

log = logging.getLogger("train")

# Those that are a number or one of some words; whoever wants another augmentation writes a recipe.
OPTION_FIELDS = [
    field
    for field in dataclasses.fields(Options)
    if field.type in (int, float) or get_args(field.type)
]

# Steps by part. Stage 0 is whole in v1, and converges faster where it is not.
REPAIRS = {"v1": {"stage2": 300}, "v2": {"stage2": 450, "stage0": 250}}
DENSE = {name for name, preset in VARIANTS.items() if preset.dense_encoder}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        invoked("swiftmedsam.train"), description=__doc__.splitlines()[0]
    )
    parser.add_argument("--variant", choices=sorted({*REPAIRS, *DENSE}), required=True)
    parser.add_argument("--init", type=Path, required=True, help="the teacher's checkpoint")
    parser.add_argument("--teacher", choices=sorted(VARIANTS), default="lite", help="its variant")
    parser.add_argument("--data", type=Path, required=True, help="tar shards or npz with gts")
    parser.add_argument(
        "--unlabelled-data", type=Path, metavar="DIR", nargs="+", default=[],
        help="tar shards whose labels, if any, are not read, for the teacher (with --unlabelled)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--start", type=Path, help="weights of the variant: skip to 'together'")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="ours")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--cached", action="store_true", help="'together' on the cached pictures")
    parser.add_argument("--pictures", type=int, default=1000, help="rows of the cache")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--precision", help="Fabric's name; default: bf16-mixed if it pays here")
    together = parser.add_argument_group(
        "of 'together' (swiftmedsam/train/options.py; default: the recipe's)"
    )
    for field in OPTION_FIELDS:
        flag, words = f"--{field.name.replace('_', '-')}", get_args(field.type)
        if words:
            together.add_argument(flag, choices=words)
        else:
            together.add_argument(flag, type=field.type, metavar="X")
    return parser


def repaired(arguments: argparse.Namespace, teacher: SwiftMedSAM) -> SwiftMedSAM:
    """The student after the phases cache, blocks and decoder, done or loaded."""
    out: Path = arguments.out
    architecture = VARIANTS[arguments.variant]
    cache = out / "cache"
    if not (cache / "done").exists() or int((cache / "done").read_text()) < arguments.pictures:
        log.info("cache: features of %d pictures", arguments.pictures)
        source = CorpusSource(arguments.data, Augmentation(extent=0, warp=0))
        write_cache(teacher, source, cache, arguments.pictures, seed=1)
    phases = [*REPAIRS[arguments.variant], "decoder"]  # each starts from the one before
    paths = [out / f"{phase}.safetensors" for phase in phases]
    done = max((i for i, path in enumerate(paths) if path.exists()), default=-1)
    if done < 0:
        student = student_of(teacher, architecture)
    else:
        student = load_model(paths[done], architecture)
    for phase, path in list(zip(phases, paths, strict=True))[done + 1 :]:
        log.info("repair of %s", phase)
        if phase == "decoder":
            repair_decoder(student, teacher, cache, DECODER_REPAIR)
        else:
            steps = REPAIRS[arguments.variant][phase]
            repair(student, PARTS[phase], cache, RepairOptions(steps=steps))
        save_model(student, path)
    return student


def source_of(arguments: argparse.Namespace, options: Options) -> CorpusSource:
    """The pictures to train on; their number is logged for each data set.

    Raises:
        CorpusError: a folder holds no picture, or a shard's pictures and labels are not in pairs.
    """
    source = CorpusSource(arguments.data, options.augmentation, arguments.unlabelled_data)
    for kind, pictures in (("labelled", source.labelled), ("unlabelled", source.unlabelled)):
        if pictures:
            found = counts(pictures)
            each = ", ".join(f"{name} {count}" for name, count in found.items())
            log.info("%d %s pictures in %d sets: %s", len(pictures), kind, len(found), each)
    return source


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.pictures <= RepairOptions().held_back:
        parser.error(
            f"--pictures {arguments.pictures}: expected more than {RepairOptions().held_back}, "
            "which are held back to measure the repair"
        )
    named = {field.name: getattr(arguments, field.name) for field in OPTION_FIELDS}
    chosen = {name: value for name, value in named.items() if value is not None}
    try:
        options = dataclasses.replace(RECIPES[arguments.recipe], **chosen)
    except ValueError as error:
        log.error("%s", error)
        return 1
    keep_freed_memory()
    fabric = Fabric(
        accelerator=arguments.accelerator, devices=arguments.devices, num_nodes=arguments.nodes,
        precision=arguments.precision or default_precision(arguments.accelerator),
    )  # fmt: skip
    fabric.launch()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        teacher = load_model(arguments.init, VARIANTS[arguments.teacher])
        corpus = source_of(arguments, options)  # before the repair, which takes an hour
        if arguments.start:
            student = load_model(arguments.start, VARIANTS[arguments.variant])
        elif arguments.variant in DENSE:
            student = dense_student_of(teacher, VARIANTS[arguments.variant])
        else:
            with fabric.rank_zero_first():
                student = repaired(arguments, teacher)
        source: Source = corpus
        if arguments.cached:
            source = CacheSource(arguments.out / "cache", RepairOptions().held_back)
        known = trained_on(arguments.start) if arguments.start else []
        run = Run(arguments.out, options, fabric, sorted({*known, *corpus.datasets}))
        run.train(student, source, None if arguments.cached else teacher, resume=arguments.resume)
    except (CheckpointError, CorpusError, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
