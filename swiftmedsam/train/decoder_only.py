"""Train the decoder of a network alone, after another decoder of the same encoder.

    python -m swiftmedsam.train.decoder_only TEACHER.safetensors --variant v3 --data DIR --out RUN

The student gets the teacher's weights, with fewer mask tokens if `--mask-tokens` says so. Its
decoder learns the teacher's masks, and the truth where there is one; the encoder does not change.

A step takes a tenth of the time of one of `python -m swiftmedsam.train`: embeddings are computed
once for several steps, decoders have the form in which they are exported, which needs fewer
products (`swiftmedsam.convert.rewrite`), and masks are compared at a quarter of the cells, drawn
anew for each step.
"""

import argparse
import dataclasses
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from swiftmedsam.convert.rewrite import ExportedDecoder
from swiftmedsam.torch_model import (
    VARIANTS,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    save_model,
    trained_on,
)
from swiftmedsam.torch_model.architecture import INPUT_SIZE
from swiftmedsam.torch_model.checkpoint import read_state_dict
from swiftmedsam.train.cells import at_cells, decode, decode_at, draw_cells, losses_at
from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.data.corpus import CorpusError
from swiftmedsam.train.data.prompts import pseudo_boxes
from swiftmedsam.train.data.stream import Batch, Batches, CorpusSource
from swiftmedsam.train.losses import trust_in
from swiftmedsam.train.machine.encoder import Encode, openvino_encoder
from swiftmedsam.train.machine.memory import keep_freed_memory
from swiftmedsam.train.machine.precision import computes_bfloat16, cpu_autocast
from swiftmedsam.train.muon import Muon
from swiftmedsam.train.options import Options, read_factors

log = logging.getLogger("train")

KEPT = 96  # batches of 8 pictures, 25 MB each
WARMUP = 20  # steps
DECAY = 0.995  # of the moving average of the weights
REPORT_EVERY = 25  # steps
SAVE_EVERY = 200
COLUMNS = ("step", "loss", "truth", "answers", "learning_rate", "seconds_per_step")


@dataclass(frozen=True)
class Lesson:
    """A picture with boxes and what is known of their masks."""

    image: Tensor  # (1, 4096, C), in half precision
    boxes: Tensor  # (N, 4); those with a truth are the last ones
    answers: Tensor  # (N, 256, 256): the teacher's logits, in half precision
    iou: Tensor  # (N,): the teacher's prediction
    trust: float  # in the teacher, 0..1
    targets: Tensor  # (K, 256, 256) bool: the truth of the last K boxes; K may be 0


@torch.no_grad()
def lessons_of(
    batch: Batch, pixels: str, encode: Encode, teacher: SwiftMedSAM, decoder: ExportedDecoder
) -> list[Lesson]:
    """Return what the teacher says of a batch, picture by picture; `decoder` is the teacher's."""
    embeddings = encode(batch[pixels]) + teacher.prompt_encoder.dense_prompt()
    images = embeddings.flatten(2).transpose(1, 2)
    unlabelled = len(images) - len(batch["boxes"])
    lessons = []
    for i in range(len(images)):
        image, boxes = images[i : i + 1], batch["free_boxes"][i]
        if objects := len(batch["shifts"][i]):
            seen = decode(decoder, image, boxes[:objects])[0]
            moved = pseudo_boxes(seen, batch["shifts"][i], boxes[:objects])
            boxes = torch.cat([moved, boxes[objects:]])
        known = i - unlabelled
        own = batch["boxes"][known] if known >= 0 else boxes[:0]
        targets = batch["targets"][known] if known >= 0 else own.new_zeros(0, *[INPUT_SIZE] * 2)
        boxes = torch.cat([boxes, own])
        answers, iou = decode(decoder, image, boxes)
        trust = 1.0
        if len(own):
            trust = float(trust_in(answers[-len(own) :].unsqueeze(0), targets.unsqueeze(0)))
        lessons.append(Lesson(image.half(), boxes, answers.half(), iou, trust, targets.bool()))
    return lessons


def lesson_loss(
    decoder: ExportedDecoder, lesson: Lesson, truth_weight: float, random: np.random.Generator
) -> tuple[Tensor, float, float]:
    """Return the loss of one picture, and its parts: that of the truth, and of the answers."""
    cells, weights = draw_cells(lesson.boxes, random)
    with cpu_autocast():
        logits, iou = decode_at(decoder, lesson.image.float(), lesson.boxes, cells)
    logits, iou = logits.float(), iou.float()
    wanted = at_cells(lesson.answers, cells).float().sigmoid()
    answers = losses_at(logits, wanted, weights, squared=True).mean() * lesson.trust
    loss = answers + F.mse_loss(iou, lesson.iou) * lesson.trust
    truth = logits.new_zeros(())
    if known := len(lesson.targets):
        logits, iou, weights = logits[-known:], iou[-known:], weights[-known:]
        targets = at_cells(lesson.targets, cells[-known:]).float()
        truth = losses_at(logits, targets, weights, squared=False).mean()
        loss = loss + truth_weight * truth
    return loss, truth.item(), answers.item()


def with_tokens(teacher: SwiftMedSAM, count: int) -> SwiftMedSAM:
    """Return a copy of the teacher with its first `count` mask tokens alone."""
    student = SwiftMedSAM(dataclasses.replace(teacher.architecture, mask_tokens=count))
    known = teacher.state_dict()
    kept = {
        name: known[name][: len(tensor)] if tensor.ndim else known[name]
        for name, tensor in student.state_dict().items()
    }
    student.load_state_dict(kept)
    return student.eval()


def with_its_tokens(path: Path, variant: str) -> SwiftMedSAM:
    """Return the network in `path`: `variant` with as many mask tokens as the file has.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it differs in other things.
    """
    tokens = read_state_dict(path).get("mask_decoder.mask_tokens.weight", torch.zeros(1))
    return load_model(path, dataclasses.replace(VARIANTS[variant], mask_tokens=len(tokens)))


@dataclass
class DecoderRun:
    """A run in a folder. Its learning rate falls to 0 by steps or minutes, whichever is first."""

    folder: Path
    steps: int
    minutes: float  # 0: no limit
    learning_rate: float
    truth_weight: float
    repeats: int  # steps for each batch of new pictures
    seed: int

    def train(
        self, student: SwiftMedSAM, teacher: SwiftMedSAM, batches: Batches, metadata: dict[str, str]
    ) -> None:
        """Train the decoder of `student` in place, and write `student.safetensors`."""
        random = np.random.default_rng(self.seed)
        student.requires_grad_(False)
        student.mask_decoder.requires_grad_(True)
        average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        decoder = ExportedDecoder(student)
        parameters = list(student.mask_decoder.parameters())
        optimizer = Muon(parameters, lr=self.learning_rate, weight_decay=0.01)
        began = time.monotonic()
        sums, marked = np.zeros(3), began
        rows = [",".join(COLUMNS)]
        for step, lessons in enumerate(self._lessons(teacher, batches, random), start=1):
            minutes = (time.monotonic() - began) / 60
            done = min(1.0, max(step / self.steps, minutes / self.minutes if self.minutes else 0.0))
            rate = (
                self.learning_rate * min(1.0, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            known = max(1, sum(bool(len(lesson.targets)) for lesson in lessons))
            for lesson in lessons:
                loss, truth, answers = lesson_loss(decoder, lesson, self.truth_weight, random)
                (loss / len(lessons)).backward()
                sums += [loss.item() / len(lessons), truth / known, answers / len(lessons)]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update_parameters(student)
            if step % REPORT_EVERY == 0 or done == 1:
                count = (step - 1) % REPORT_EVERY + 1
                seconds = (time.monotonic() - marked) / count
                loss, truth, answers = sums / count
                log.info(
                    "step %d: loss %.4f (truth %.4f, answers %.4f), %.2f s a step, %.0f%% done",
                    step, loss, truth, answers, seconds, 100 * done,
                )  # fmt: skip
                rows.append(f"{step},{loss:.5f},{truth:.5f},{answers:.5f},{rate:.3g},{seconds:.2f}")
                sums, marked = np.zeros(3), time.monotonic()
            if step % SAVE_EVERY == 0 or done == 1:
                (self.folder / "log.csv").write_text("\n".join(rows) + "\n")
                save_model(
                    average.module, self.folder / "student.safetensors",
                    metadata=metadata | {"step": str(step)},
                )  # fmt: skip
            if done == 1:
                return

    def _lessons(
        self, teacher: SwiftMedSAM, batches: Batches, random: np.random.Generator
    ) -> Iterator[list[Lesson]]:
        """Yield lessons for each step: of new pictures, and then of earlier ones again."""
        encode = openvino_encoder(teacher, "bf16" if computes_bfloat16() else "f32")
        decoder = ExportedDecoder(teacher)
        kept: list[list[Lesson]] = []
        for i in range(len(batches)):
            # half of the pictures with changed intensities
            lessons = lessons_of(batches[i], ("clean", "pixels")[i % 2], encode, teacher, decoder)
            yield lessons
            if len(kept) < KEPT:
                kept.append(lessons)
            else:
                kept[i % KEPT] = lessons
            for _ in range(self.repeats - 1):
                yield kept[random.integers(len(kept))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.decoder_only", description=__doc__.splitlines()[0]
    )
    parser.add_argument("teacher", type=Path, help="checkpoint with the encoder of the variant")
    parser.add_argument("--variant", choices=sorted(VARIANTS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of tar shards")
    parser.add_argument("--unlabelled-data", type=Path, metavar="DIR", nargs="+", default=[])
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--start", type=Path, help="weights of the student (default: the teacher's)"
    )
    parser.add_argument("--mask-tokens", type=int, help="of the student (default: the teacher's)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, default=0.0, help="0: no limit")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--truth-weight", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=3, help="steps for each new batch")
    parser.add_argument("--favoured", default="", help="as of python -m swiftmedsam.train")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    try:
        options = Options(
            steps=10**6, batch_size=8, unlabelled=4 if arguments.unlabelled_data else 0, taught=8,
            boxes=3, free_boxes=4, pseudo_objects=3, seed=arguments.seed,
            favoured=arguments.favoured,
        )  # fmt: skip
        teacher = with_its_tokens(arguments.teacher, arguments.variant)
        count = arguments.mask_tokens or teacher.architecture.mask_tokens
        student = with_tokens(teacher, count)
        if arguments.start:
            student = load_model(arguments.start, student.architecture)
        source = CorpusSource(
            arguments.data, Augmentation(), arguments.unlabelled_data,
            read_factors(options.favoured),
        )  # fmt: skip
        arguments.out.mkdir(parents=True, exist_ok=True)
        run = DecoderRun(
            arguments.out, arguments.steps, arguments.minutes, arguments.learning_rate,
            arguments.truth_weight, arguments.repeats, arguments.seed,
        )  # fmt: skip
        known = sorted({*trained_on(arguments.teacher), *source.datasets})
        metadata = {"options": options.to_json(), "trained_on": json.dumps(known)}
        run.train(student, teacher, Batches(source, options), metadata)
    except (CheckpointError, CorpusError, OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
