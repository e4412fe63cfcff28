"""Repair of the shortened decoder on cached teacher embeddings: truth and the teacher's logits.

The encoder does not run, so a step costs a twentieth of one end to end.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from swiftmedsam import SwiftMedSAM
from train.features import read_cache
from train.losses import iou_of, teacher_loss, truth_loss
from train.prompts import draw_prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecoderOptions:
    """Recipe of the decoder's repair."""

    steps: int = 800
    batch_size: int = 4  # pictures
    boxes: int = 4  # per picture
    learning_rate: float = 3e-4
    teacher_weight: float = 1.0
    held_back: int = 32
    report_every: int = 50
    seed: int = 0


def _prompted(
    rows: dict[str, np.ndarray], indices: np.ndarray, boxes: int, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (N, C, 64, 64), boxes (N, 4), targets (N, 256, 256); N = pictures * boxes."""
    embeddings, prompts, targets = [], [], []
    for index in indices:
        drawn = draw_prompts(rows["labels"][index], boxes, random)
        if drawn is not None:
            embedding = torch.from_numpy(rows["embedding"][index].astype(np.float32))
            embeddings.append(embedding.expand(boxes, -1, -1, -1))
            prompts.append(drawn[0])
            targets.append(drawn[1])
    return torch.cat(embeddings), torch.cat(prompts), torch.cat(targets)


def repair_decoder(
    student: SwiftMedSAM, teacher: SwiftMedSAM, cache: Path, options: DecoderOptions
) -> float:
    """Train the decoder of `student` in place; return its mean IoU on the held-back pictures."""
    rows = read_cache(cache)
    decoder = student.mask_decoder
    student.requires_grad_(False)
    decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.steps, pct_start=0.1
    )
    random = np.random.default_rng(options.seed)

    def evaluate(model: SwiftMedSAM) -> float:
        held, fixed = np.arange(options.held_back), np.random.default_rng(0)
        scores = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for batch in np.split(held, options.held_back // options.batch_size):
                embeddings, boxes, targets = _prompted(rows, batch, options.boxes, fixed)
                scores.append(iou_of(model.decode(embeddings, boxes)[0], targets))
        return float(torch.cat(scores).mean())

    log.info("teacher: IoU %.4f; before: %.4f", evaluate(teacher), evaluate(student))
    began = time.monotonic()
    for step in range(1, options.steps + 1):
        batch = random.integers(options.held_back, len(rows["labels"]), options.batch_size)
        embeddings, boxes, targets = _prompted(rows, batch, options.boxes, random)
        with torch.autocast("cpu", torch.bfloat16):
            logits, iou = student.decode(embeddings, boxes)
            with torch.no_grad():
                wanted, _ = teacher.decode(embeddings, boxes)
        loss = truth_loss(logits.float(), iou.float(), targets)
        loss = loss + options.teacher_weight * teacher_loss(logits.float(), wanted.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % options.report_every == 0 or step == options.steps:
            seconds = (time.monotonic() - began) / step
            log.info(
                "step %d/%d: loss %.3f, IoU %.4f held back, %.2f s a step",
                step, options.steps, loss.item(), evaluate(student), seconds,
            )  # fmt: skip
    return evaluate(student)
