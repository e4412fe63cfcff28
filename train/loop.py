"""End-to-end training on truth and teacher: one loop for a CPU, a GPU and many of them.

Lightning Fabric does devices, precision and gradient exchange (Accelerate was weighed: it does the
same, and wants its own configuration files). A run folder holds `log.csv`, `last.ckpt` to resume
from, and `student.safetensors`, the averaged weights.
"""

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from swiftmedsam import SwiftMedSAM, save_model
from train.blockwise import relative_error
from train.losses import teacher_loss, truth_loss
from train.options import Options
from train.prompts import boxes_of
from train.stream import Batch, Batches, Source

log = logging.getLogger(__name__)

LAST = "last.ckpt"
WEIGHTS = "student.safetensors"
TERMS = ("loss", "truth", "teacher", "answers")
COLUMNS = ("step", *TERMS, "learning_rate", "pictures_per_second")


class Student(nn.Module):
    """The network as it is trained: several boxes in each picture of a batch."""

    def __init__(self, model: SwiftMedSAM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixels: Tensor, boxes: Tensor, free_boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embedding, logits and IoU of `boxes` (B, K, 4), logits of `free_boxes` (T, F, 4).

        Shapes: (B, C, 64, 64), (B * K, 256, 256), (B * K,), (T * F, 256, 256). The free boxes are
        in the first T pictures.
        """
        embedding = self.model.encode(pixels)
        (taught, free), own = free_boxes.shape[:2], boxes.shape[1]
        each = [embedding.repeat_interleave(own, 0), embedding[:taught].repeat_interleave(free, 0)]
        prompts = torch.cat([boxes.flatten(0, 1), free_boxes.flatten(0, 1)])
        logits, iou = self.model.decode(torch.cat(each), prompts)
        n = boxes.shape[0] * own
        return embedding, logits[:n], iou[:n], logits[n:]


def _answers_of(
    teacher: SwiftMedSAM, embedding: Tensor, free_boxes: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor]:
    """The boxes to ask with (T, F, 4) and the teacher's logits of them (T * F, 256, 256).

    As many free boxes of a picture as it has `shifts` (T, O, 4) are moved to what the teacher sees
    in them, as a user's box would be: a box anywhere hardly ever holds an organ.
    """
    boxes = free_boxes.clone()
    if objects := shifts.shape[1]:
        moved = boxes[:, :objects].flatten(0, 1)
        seen, _ = teacher.decode(embedding.repeat_interleave(objects, 0), moved)
        moved = boxes_of(seen, shifts.flatten(0, 1), moved)
        boxes[:, :objects] = moved.unflatten(0, (-1, objects))
    each = embedding.repeat_interleave(boxes.shape[1], 0)
    return boxes, teacher.decode(each, boxes.flatten(0, 1))[0]


def batch_loss(
    student: nn.Module, batch: Batch, teacher: SwiftMedSAM | None, options: Options
) -> dict[str, Tensor]:
    """Terms of the loss of one batch; "loss" is their weighted sum.

    "teacher" is the relative error of the embedding, "answers" the cross entropy with the teacher's
    masks of free boxes: what it knows of whatever the truth does not name.
    """
    wanted = batch.get("embedding")
    if options.teacher_weight and wanted is None and teacher is None:
        raise ValueError("teacher_weight is set, but there is neither teacher nor cache")
    taught = options.taught if options.teacher_weight else 0
    free_boxes = batch["free_boxes"][: taught if teacher is not None else 0]
    with torch.no_grad():
        if taught:
            wanted = teacher.encode(batch["clean"][:taught]) if wanted is None else wanted[:taught]
        if free_boxes.numel():
            shifts = batch["shifts"][:taught]
            free_boxes, teachers = _answers_of(teacher, wanted, free_boxes, shifts)
    embedding, logits, iou, answers = student(batch["pixels"], batch["boxes"], free_boxes)
    truth = truth_loss(logits.float(), iou.float(), batch["targets"].flatten(0, 1))
    distance = answer = truth.new_zeros(())
    if taught:
        distance = relative_error(embedding[:taught], wanted.float())
    if free_boxes.numel():
        answer = teacher_loss(answers.float(), teachers.float())
    loss = truth + options.teacher_weight * (distance + answer)
    return {"loss": loss, "truth": truth, "teacher": distance, "answers": answer}


def _schedule(optimizer: torch.optim.Optimizer, options: Options) -> LambdaLR | ReduceLROnPlateau:
    """Sets the learning rate: "cosine" after every step, "plateau" after a report, by its loss."""
    if options.schedule == "plateau":
        return ReduceLROnPlateau(optimizer)

    def cosine(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, options.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))

    return LambdaLR(optimizer, cosine)


def _average(decay: float) -> Callable[[list[Tensor], list[Tensor], int], None]:
    """Exponential moving average of weights and statistics; counters and indices are copied.

    torch's own averages integers too, and truncates: 0.9 * 3 + 0.1 * 3 became 2.
    """
    blend = get_ema_multi_avg_fn(decay)

    def update(averages: list[Tensor], values: list[Tensor], count: int) -> None:
        if averages[0].is_floating_point():
            return blend(averages, values, count)
        for average, value in zip(averages, values, strict=True):
            average.copy_(value)

    return update


def set_trainable(model: SwiftMedSAM, options: Options) -> None:
    """Training mode by `options`: what is frozen gets no gradient and keeps its statistics."""
    model.train()
    model.requires_grad_(True)
    model.prompt_encoder.requires_grad_(False)  # shared with the teacher, and a box is a box
    # the three masks for ambiguous prompts are not computed, so they cannot learn
    model.mask_decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
    encoder, frozen = model.image_encoder, options.frozen_stages
    parts = [encoder.patch_embed, *encoder.layers, encoder.neck]
    for part in parts if frozen == len(encoder.layers) else parts[: frozen + 1] if frozen else ():
        part.requires_grad_(False).eval()
    if options.freeze_statistics:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


@dataclass
class Run:
    """A training run in a folder."""

    folder: Path
    options: Options
    fabric: Fabric

    def train(
        self,
        model: SwiftMedSAM,
        source: Source,
        teacher: SwiftMedSAM | None = None,
        *,
        resume: bool = False,
    ) -> SwiftMedSAM:
        """Train `model`; return the averaged weights. With `resume`, go on from `last.ckpt`."""
        fabric, options = self.fabric, self.options
        set_trainable(model, options)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=options.learning_rate, weight_decay=options.weight_decay
        )
        blend = _average(options.average_decay)
        average = AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
        model = model.to(memory_format=torch.channels_last)
        schedule = _schedule(optimizer, options)
        student, optimizer = fabric.setup(Student(model), optimizer)
        if teacher is not None:
            teacher = teacher.to(memory_format=torch.channels_last)
            teacher = fabric.to_device(teacher.eval().requires_grad_(False))
        average = fabric.to_device(average)
        state = {
            "student": student, "average": average, "optimizer": optimizer, "schedule": schedule,
            "step": 0,
        }  # fmt: skip
        if resume and (self.folder / LAST).exists():
            fabric.load(self.folder / LAST, state)
            log.info("resumed at step %d", state["step"])
            self._forget_after(state["step"])

        batches = Batches(source, options, fabric.global_rank)
        loader = fabric.setup_dataloaders(
            DataLoader(
                batches, None, sampler=range(state["step"], options.steps),
                num_workers=options.workers, pin_memory=fabric.device.type == "cuda",
            ),
            use_distributed_sampler=False,
        )  # fmt: skip
        sums: dict[str, Tensor] = {}
        count, began = 0, time.monotonic()
        for batch in loader:
            with fabric.autocast():  # for the teacher; the student brings its own
                terms = batch_loss(student, batch, teacher, options)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(terms["loss"])
            fabric.clip_gradients(student, optimizer, max_norm=options.clip_norm)
            optimizer.step()
            average.update_parameters(model)
            state["step"] += 1
            step = state["step"]
            for name, value in terms.items():  # left on the device: reading one waits for it
                sums[name] = sums.get(name, 0) + value.detach()
            count += 1
            if isinstance(schedule, LambdaLR):
                schedule.step()
            if step % options.report_every == 0 or step == options.steps:
                means = self._means(sums, count)
                if isinstance(schedule, ReduceLROnPlateau):
                    schedule.step(means["loss"])
                speed = count * options.batch_size * fabric.world_size / (time.monotonic() - began)
                rate = optimizer.param_groups[0]["lr"]
                self._report(step, means, rate, speed)
                sums, count, began = {}, 0, time.monotonic()
            if step % options.save_every == 0 or step == options.steps:
                self._save(state, average.module if options.average_decay else model)
        return average.module if options.average_decay else model

    def _means(self, sums: Mapping[str, Tensor], count: int) -> dict[str, float]:
        """Means over `count` steps and all processes: each must set the same learning rate."""
        means = {name: total / count for name, total in sums.items()}
        return {name: mean.item() for name, mean in self.fabric.all_reduce(means).items()}

    def _forget_after(self, step: int) -> None:
        """Take rows of the log back that a killed run wrote after its last checkpoint."""
        path = self.folder / "log.csv"
        if self.fabric.is_global_zero and path.exists():
            header, *rows = path.read_text().splitlines(keepends=True)
            kept = [row for row in rows if int(row.partition(",")[0]) <= step]
            path.write_text("".join([header, *kept]))

    def _report(self, step: int, means: dict[str, float], rate: float, speed: float) -> None:
        if not self.fabric.is_global_zero:
            return
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            values = (*(f"{means[name]:.5f}" for name in TERMS), f"{rate:.3g}")
            writer.writerow((step, *values, f"{speed:.3f}"))
        pictures = (self.options.steps - step) * self.options.batch_size * self.fabric.world_size
        left = pictures / max(speed, 1e-9) / 60  # minutes
        log.info(
            "step %d/%d: loss %.3f (truth %.3f, teacher %.3f, answers %.3f), "
            "%.2f pictures/s, %.0f min left",
            step, self.options.steps, *(means[name] for name in TERMS), speed, left,
        )  # fmt: skip

    def _save(self, state: dict[str, object], best: SwiftMedSAM) -> None:
        """A checkpoint that is whole at any instant, and the weights to use."""
        partial = self.folder / (LAST + ".partial")
        self.fabric.save(partial, state)
        if self.fabric.is_global_zero:
            partial.replace(self.folder / LAST)
            metadata = {"options": self.options.to_json(), "step": str(state["step"])}
            save_model(best, self.folder / WEIGHTS, metadata=metadata)
        self.fabric.barrier()
