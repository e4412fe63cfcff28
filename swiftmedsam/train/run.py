"""End-to-end training on truth and teacher, on a CPU, a GPU or several GPUs.

Lightning Fabric handles devices, precision and the exchange of gradients. (Accelerate does the
same, but needs configuration files of its own.) A run folder holds `log.csv`, the checkpoint
`last.ckpt`, and the averaged weights `student.safetensors`.
"""

import csv
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from swiftmedsam.torch_model import SwiftMedSAM, save_model
from swiftmedsam.train.data.replay import Replay
from swiftmedsam.train.data.stream import Batch, Batches, Source
from swiftmedsam.train.losses import teacher_loss, truth_loss
from swiftmedsam.train.machine.encoder import Encode, openvino_encoder
from swiftmedsam.train.machine.lean import make_lean
from swiftmedsam.train.muon import OPTIMIZERS
from swiftmedsam.train.options import Options
from swiftmedsam.train.repair.blockwise import relative_error
from swiftmedsam.train.teachers import Teacher, answered

log = logging.getLogger(__name__)

MOMENTUM = 0.1  # of batch norms, torch's default
SETTLING_BATCHES = 25  # to measure statistics: 200 pictures in batches of 8

LAST = "last.ckpt"
WEIGHTS = "student.safetensors"
TERMS = ("loss", "truth", "teacher", "answers")
COLUMNS = ("step", *TERMS, "learning_rate", "pictures_per_second")


class Student(nn.Module):
    """The network for training: each picture of a batch has several boxes."""

    def __init__(self, model: SwiftMedSAM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixels: Tensor, boxes: Tensor, free_boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return embedding, logits and IoU of `boxes`, and logits of `free_boxes`.

        `boxes` (L, K, 4) belong to the last L of the B pictures, `free_boxes` (T, F, 4) to the
        first T. The embedding is (B, C, 64, 64), logits and IoU of the boxes are (L * K, 256, 256)
        and (L * K,), logits of the free boxes are (T * F, 256, 256).
        """
        embedding = self.model.encode(pixels)
        (taught, free), (labelled, own) = free_boxes.shape[:2], boxes.shape[:2]
        each = [
            embedding[len(embedding) - labelled :].repeat_interleave(own, 0),
            embedding[:taught].repeat_interleave(free, 0),
        ]
        # Fabric passes boxes in bfloat16, which holds whole pixels but no fractions
        prompts = torch.cat([boxes.flatten(0, 1), free_boxes.flatten(0, 1)]).float()
        if not len(prompts):
            none = embedding.new_zeros(0)
            return embedding, none, none, none
        logits, iou = self.model.decode(torch.cat(each), prompts)
        n = labelled * own
        return embedding, logits[:n], iou[:n], logits[n:]


def batch_loss(student: nn.Module, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Return the terms of the loss of one batch, by name; "loss" is their weighted sum.

    The batch has what a teacher says of it (`answered`), or embeddings of a cache, or neither.
    "teacher" is the relative error of the embedding. "answers" is the difference from the teacher's
    masks of free boxes: the student learns what the teacher knows about unlabelled objects.

    Raises:
        ValueError: the embedding counts by `options`, and the batch has none.
    """
    taught = options.taught if options.teacher_weight else 0
    if taught and batch.get("embedding") is None:
        raise ValueError("teacher_weight is set, but there is neither teacher nor cache")
    free_boxes = batch.get("answered_boxes", batch["free_boxes"][:0])
    boxes = batch["boxes"] if options.truth_weight else batch["boxes"][:0]
    embedding, logits, iou, found = student(batch["pixels"], boxes, free_boxes)
    truth = distance = difference = embedding.new_zeros((), dtype=torch.float32)
    if options.truth_weight:
        truth = truth_loss(logits.float(), iou.float(), batch["targets"].flatten(0, 1))
    if taught:
        followed = embedding[options.second : taught]  # the others have another teacher
        distance = relative_error(followed, batch["embedding"][: len(followed)].float())
    if len(free_boxes):
        difference = teacher_loss(found.float(), batch["answers"].float(), batch["trust"])
    teaching = distance + options.answers_weight * difference
    loss = options.truth_weight * truth + options.teacher_weight * teaching
    return {"loss": loss, "truth": truth, "teacher": distance, "answers": difference}


State = dict[str, Any]  # the state of a run, as a checkpoint stores it


def _done(state: State, options: Options) -> float:
    """Return the part of a run, 0..1, that is done: by steps or by time, whichever is more."""
    by_time = state["minutes"] / options.minutes if options.minutes else 0.0
    return min(1.0, max(state["step"] / options.steps, by_time))


def _schedule(
    optimizer: torch.optim.Optimizer, options: Options, done: Callable[[], float]
) -> LambdaLR | ReduceLROnPlateau:
    """Return the schedule of the learning rate: "cosine" by step, "plateau" by the loss."""
    if options.schedule == "plateau":
        return ReduceLROnPlateau(optimizer)

    def cosine(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, options.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * done()))

    return LambdaLR(optimizer, cosine)


def _average(decay: float) -> Callable[[list[Tensor], list[Tensor], int], None]:
    """Return a moving average of weights and statistics that copies integers.

    torch's own average truncates integers, such as counters: 0.9 * 3 + 0.1 * 3 became 2.
    """
    blend = get_ema_multi_avg_fn(decay)

    def update(averages: list[Tensor], values: list[Tensor], count: int) -> None:
        if averages[0].is_floating_point():
            return blend(averages, values, count)
        for average, value in zip(averages, values, strict=True):
            average.copy_(value)

    return update


def set_trainable(model: SwiftMedSAM, options: Options) -> None:
    """Set the training mode; frozen layers get no gradient and keep their statistics."""
    model.train()
    model.requires_grad_(True)
    model.prompt_encoder.requires_grad_(
        False
    )  # it has the teacher's weights, and boxes do not change
    # the three masks for ambiguous prompts are not computed, so they get no gradient
    model.mask_decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
    if options.trained == "encoder":
        model.mask_decoder.requires_grad_(False)
    encoder, frozen = model.image_encoder, options.frozen_stages
    parts = [encoder.patch_embed, *encoder.layers, encoder.neck]
    for part in parts if frozen == len(encoder.layers) else parts[: frozen + 1] if frozen else ():
        part.requires_grad_(False).eval()
    if options.freeze_statistics and not options.settling:
        keep_statistics(model)


def _batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def keep_statistics(model: nn.Module) -> None:
    """Freeze mean and variance of every batch norm."""
    for norm in _batch_norms(model):
        norm.eval()


@torch.no_grad()
def measure_statistics(model: SwiftMedSAM, batches: Iterable[Tensor]) -> None:
    """Measure mean and variance of every batch norm over `batches` of pixels (B, 3, 256, 256)."""
    for norm in _batch_norms(model):
        norm.reset_running_stats()
        norm.momentum = None  # in torch: the mean over all batches
    for pixels in batches:
        model.encode(pixels)
    for norm in _batch_norms(model):
        norm.momentum = MOMENTUM
    keep_statistics(model)


@dataclass
class Run:
    """A training run in a folder."""

    folder: Path
    options: Options
    fabric: Fabric
    trained_on: Sequence[str] = ()  # data sets whose labels the weights were trained on

    def train(
        self,
        model: SwiftMedSAM,
        source: Source,
        teacher: SwiftMedSAM | None = None,
        second_teacher: SwiftMedSAM | None = None,
        *,
        resume: bool = False,
    ) -> SwiftMedSAM:
        """Train `model`; return the averaged weights. With `resume`, continue from `last.ckpt`.

        The second teacher answers for the pictures that `options.second` says. `model` and both
        teachers are changed in place; `make_lean` changes their modules.

        Raises:
            ValueError: `options.second` is set, and there are not two teachers.
        """
        fabric, options = self.fabric, self.options
        if options.second and (teacher is None or second_teacher is None):
            raise ValueError(f"second {options.second}: expected two teachers")
        set_trainable(model, options)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[options.optimizer](
            trainable, lr=options.learning_rate, weight_decay=options.weight_decay
        )
        blend = _average(options.average_decay)
        average = AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
        model = model.to(memory_format=torch.channels_last)
        state: State = {"average": average, "step": 0, "minutes": 0.0}
        schedule = _schedule(optimizer, options, lambda: _done(state, options))
        make_lean(model)
        student, optimizer = fabric.setup(Student(model), optimizer)
        teachers = [self._teacher(each) for each in (teacher, second_teacher) if each is not None]
        average = fabric.to_device(average)
        state |= {"student": student, "optimizer": optimizer, "schedule": schedule}
        if resume and (self.folder / LAST).exists():
            fabric.load(self.folder / LAST, state)
            log.info("resumed at step %d", state["step"])
            self._forget_after(state["step"])
        if options.settling and state["step"] >= options.settling:
            keep_statistics(model)

        going_on = _done(state, options) < 1
        steps = range(state["step"], options.steps, options.repeats) if going_on else range(0)
        batches = Batches(source, options, fabric.global_rank)
        loader = fabric.setup_dataloaders(
            DataLoader(
                batches, None, sampler=steps,
                num_workers=options.workers, pin_memory=fabric.device.type == "cuda",
            ),
            use_distributed_sampler=False,
        )  # fmt: skip
        sums: dict[str, Tensor] = {}
        count, began = 0, time.monotonic()
        start = began - 60 * state["minutes"]
        for batch in self._repeated(loader, teachers):
            terms = batch_loss(student, batch, options)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(terms["loss"])
            fabric.clip_gradients(student, optimizer, max_norm=options.clip_norm)
            optimizer.step()
            average.update_parameters(model)
            state["step"] += 1
            step = state["step"]
            if step == options.settling:
                with fabric.autocast():
                    measure_statistics(model, self._pixels(batches, step))
                average.module.load_state_dict(model.state_dict())
            if options.minutes:  # all processes must end with the same step
                state["minutes"] = fabric.broadcast((time.monotonic() - start) / 60)
            last = _done(state, options) == 1
            for (
                name,
                value,
            ) in terms.items():  # they stay on the device: reading a value would wait for it
                sums[name] = sums.get(name, 0) + value.detach()
            count += 1
            if isinstance(schedule, LambdaLR):
                schedule.step()
            if step % options.report_every == 0 or last:
                means = self._means(sums, count)
                if isinstance(schedule, ReduceLROnPlateau):
                    schedule.step(means["loss"])
                speed = count * options.batch_size * fabric.world_size / (time.monotonic() - began)
                rate = optimizer.param_groups[0]["lr"]
                self._report(state, means, rate, speed)
                sums, count, began = {}, 0, time.monotonic()
            if step % options.save_every == 0 or last:
                self._save(state, average.module if options.average_decay else model)
            if last:
                break
        return average.module if options.average_decay else model

    def encoder_of(self, teacher: SwiftMedSAM) -> Encode:
        """Return the fastest encoder of `teacher` on this device."""
        bf16 = self.fabric.strategy.precision.precision == "bf16-mixed"
        # a folder that was packed for a lent machine has neither of them
        is_there = all(find_spec(name) for name in ("openvino", "swiftmedsam.convert"))
        if self.fabric.device.type == "cpu" and bf16 and is_there:
            return openvino_encoder(teacher, "bf16")
        return teacher.encode

    def _teacher(self, model: SwiftMedSAM) -> Teacher:
        """Return `model` on the device, ready to answer."""
        encode = self.encoder_of(model)
        make_lean(model)
        model = model.to(memory_format=torch.channels_last)
        return Teacher(self.fabric.to_device(model.eval().requires_grad_(False)), encode)

    def _repeated(self, loader: Iterable[Batch], teachers: Sequence[Teacher]) -> Iterator[Batch]:
        """Yield each batch with what the teachers say of it, and then earlier ones again."""
        options = self.options
        replay = Replay(options.augmentation, options.seed)
        for batch in loader:
            if teachers:
                with self.fabric.autocast():
                    batch = answered(batch, teachers, options)
            yield batch
            if options.repeats > 1:
                replay.add(batch)
            for _ in range(options.repeats - 1):
                yield {name: self.fabric.to_device(t) for name, t in replay.draw().items()}

    def _pixels(self, batches: Batches, first: int) -> Iterator[Tensor]:
        """Yield the changed pixels (B, 3, 256, 256) of the batches, from batch `first`."""
        for step in range(first, first + SETTLING_BATCHES):
            yield self.fabric.to_device(batches[step]["pixels"])

    def _means(self, sums: Mapping[str, Tensor], count: int) -> dict[str, float]:
        """Return means over `count` steps of all processes: all must set the same learning rate."""
        means = {name: total / count for name, total in sums.items()}
        return {name: mean.item() for name, mean in self.fabric.all_reduce(means).items()}

    def _forget_after(self, step: int) -> None:
        """Remove the rows that a killed run wrote to the log after its last checkpoint."""
        path = self.folder / "log.csv"
        if self.fabric.is_global_zero and path.exists():
            header, *rows = path.read_text().splitlines(keepends=True)
            kept = [row for row in rows if int(row.partition(",")[0]) <= step]
            path.write_text("".join([header, *kept]))

    def _report(self, state: State, means: dict[str, float], rate: float, speed: float) -> None:
        if not self.fabric.is_global_zero:
            return
        step, options = state["step"], self.options
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            values = (*(f"{means[name]:.5f}" for name in TERMS), f"{rate:.3g}")
            writer.writerow((step, *values, f"{speed:.3f}"))
        pictures = (options.steps - step) * options.batch_size * self.fabric.world_size
        left = pictures / max(speed, 1e-9) / 60  # minutes
        if options.minutes:
            left = min(left, options.minutes - state["minutes"])
        log.info(
            "step %d/%d: loss %.3f (truth %.3f, teacher %.3f, answers %.3f), "
            "%.2f pictures/s, %.0f min left",
            step, options.steps, *(means[name] for name in TERMS), speed, left,
        )  # fmt: skip

    def _save(self, state: State, best: SwiftMedSAM) -> None:
        """Write the checkpoint, as an atomic file, and the averaged weights."""
        partial = self.folder / (LAST + ".partial")
        self.fabric.save(partial, state)
        if self.fabric.is_global_zero:
            partial.replace(self.folder / LAST)
            metadata = {
                "options": self.options.to_json(),
                "step": str(state["step"]),
                "trained_on": json.dumps(self.trained_on),
            }
            save_model(best, self.folder / WEIGHTS, metadata=metadata)
        self.fabric.barrier()
