"""Train a variant of the network.

    python -m swiftmedsam.train --variant v2 --init lite_medsam.pth --data DIR --out runs/NAME
        [--resume]

There are four phases. Each writes its result into the run folder, and is skipped if it is there:

    cache     compute features of the teacher of some hundred pictures   cache/
    blocks    train stages 2 and 0 of the encoder, one by one            stage2.safetensors, ...
    decoder   train the decoder on the cached embeddings                 decoder.safetensors
    together  train end to end, on truth and teacher                     student.safetensors
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning_fabric import Fabric

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
from swiftmedsam.train.options import RECIPES, Options, read_factors
from swiftmedsam.train.repair.blockwise import PARTS, repair
from swiftmedsam.train.repair.decoder import DECODER_REPAIR, repair_decoder
from swiftmedsam.train.repair.features import write_cache
from swiftmedsam.train.repair.initialise import dense_student_of, student_of
from swiftmedsam.train.repair.one_cycle import RepairOptions
from swiftmedsam.train.run import Run

log = logging.getLogger("train")

# The fields that are a number or a text. Another augmentation needs a recipe of its own.
OPTION_FIELDS = [
    field
    for field in dataclasses.fields(Options)
    if field.type in (int, float, str) or get_args(field.type)
]

# Training steps of each part. v1 keeps stage 0 whole; in v2, stage 0 converges faster.
REPAIRS = {"v1": {"stage2": 300}, "v2": {"stage2": 450, "stage0": 250}}
DENSE = {name for name, preset in VARIANTS.items() if preset.dense_encoder}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("swiftmedsam train", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=sorted({*REPAIRS, *DENSE}), required=True)
    parser.add_argument("--init", type=Path, required=True, help="checkpoint of the teacher")
    parser.add_argument(
        "--teacher", choices=sorted(VARIANTS), default="lite", help="variant of the teacher"
    )
    parser.add_argument(
        "--second-init", type=Path, metavar="FILE",
        help="checkpoint of a second teacher, for the pictures of --second and --second-for",
    )  # fmt: skip
    parser.add_argument(
        "--second-teacher", choices=sorted(VARIANTS), default="lite",
        help="variant of the second teacher",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of tar shards, or of npz with gts"
    )
    parser.add_argument(
        "--unlabelled-data", type=Path, metavar="DIR", nargs="+", default=[],
        help="tar shards for the teacher, with --unlabelled; labels in them are not read",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--start", type=Path, help="weights of the variant: do the phase 'together' only"
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="ours")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument(
        "--cached", action="store_true", help="use the cached pictures in the phase 'together'"
    )
    parser.add_argument("--pictures", type=int, default=1000, help="number of cached pictures")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--precision", help="as Fabric names it; default: bf16-mixed where this is faster"
    )
    together = parser.add_argument_group(
        "options of the phase 'together' (swiftmedsam/train/options.py; default: from the recipe)"
    )
    for field in OPTION_FIELDS:
        flag, words = f"--{field.name.replace('_', '-')}", get_args(field.type)
        if words:
            together.add_argument(flag, choices=words)
        else:
            together.add_argument(flag, type=field.type, metavar="X")
    return parser


def repaired(arguments: argparse.Namespace, teacher: SwiftMedSAM) -> SwiftMedSAM:
    """Return the student after the phases cache, blocks and decoder; load what is there."""
    out: Path = arguments.out
    architecture = VARIANTS[arguments.variant]
    cache = out / "cache"
    if not (cache / "done").exists() or int((cache / "done").read_text()) < arguments.pictures:
        log.info("cache: features of %d pictures", arguments.pictures)
        source = CorpusSource(arguments.data, Augmentation(extent=0, warp=0))
        write_cache(teacher, source, cache, arguments.pictures, seed=1)
    phases = [
        *REPAIRS[arguments.variant],
        "decoder",
    ]  # each starts from the weights of the one before
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
    """Return the pictures to train on, and log their number for each data set.

    Raises:
        CorpusError: a folder holds no picture, or a shard has a picture without labels, or labels
            without a picture.
    """
    source = CorpusSource(
        arguments.data, options.augmentation, arguments.unlabelled_data,
        read_factors(options.favoured), list(filter(None, options.second_for.split(","))),
    )  # fmt: skip
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
    if arguments.cached and arguments.second_init:
        parser.error("--cached --second-init: a cache has the embeddings of one teacher only")
    named = {field.name: getattr(arguments, field.name) for field in OPTION_FIELDS}
    chosen = {name: value for name, value in named.items() if value is not None}
    try:
        options = dataclasses.replace(RECIPES[arguments.recipe], **chosen)
    except ValueError as error:
        log.error("%s", error)
        return 1
    if options.second and not arguments.second_init:
        parser.error(f"--second {options.second}: expected --second-init, the second teacher")
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
        second = None
        if arguments.second_init:
            second = load_model(arguments.second_init, VARIANTS[arguments.second_teacher])
        known = trained_on(arguments.start) if arguments.start else []
        run = Run(arguments.out, options, fabric, sorted({*known, *corpus.datasets}))
        run.train(
            student, source, None if arguments.cached else teacher, second,
            resume=arguments.resume,
        )  # fmt: skip
    except (CheckpointError, CorpusError, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
