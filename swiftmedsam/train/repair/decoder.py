"""Repair the shortened decoder: train it on cached embeddings, with truth and the teacher's masks.

The encoder does not run, so a step takes a twentieth of an end-to-end step.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.train.data.corpus import objects_of
from swiftmedsam.train.data.prompts import draw_prompts
from swiftmedsam.train.losses import iou_of, teacher_loss, truth_loss
from swiftmedsam.train.machine.precision import cpu_autocast
from swiftmedsam.train.repair.features import read_cache
from swiftmedsam.train.repair.one_cycle import RepairOptions, fit

log = logging.getLogger(__name__)

BOXES = 4  # per picture
DECODER_REPAIR = RepairOptions(steps=250, batch_size=4, learning_rate=5e-4)


def _prompted(
    rows: dict[str, np.ndarray], indices: np.ndarray, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings (N, C, 64, 64), boxes (N, 4), targets (N, 256, 256): `BOXES` a picture."""
    drawn = [draw_prompts(rows["labels"][index], BOXES, random) for index in indices]
    boxes, targets = zip(*drawn, strict=True)
    embeddings = torch.from_numpy(rows["embedding"][indices].astype(np.float32))
    return embeddings.repeat_interleave(BOXES, dim=0), torch.cat(boxes), torch.cat(targets)


def repair_decoder(
    student: SwiftMedSAM, teacher: SwiftMedSAM, cache: Path, options: RepairOptions
) -> float:
    """Train the decoder of `student` in place; return its mean IoU on the held-back pictures.

    The loss is the sum of `truth_loss` and `teacher_loss`.
    """
    rows = read_cache(cache)
    usable = np.array([i for i, labels in enumerate(rows["labels"]) if objects_of(labels).size])
    student.requires_grad_(False)
    student.mask_decoder.requires_grad_(True)
    random = np.random.default_rng(options.seed)

    def loss_of(batch: np.ndarray) -> Tensor:
        embeddings, boxes, targets = _prompted(rows, usable[batch], random)
        with cpu_autocast():
            logits, iou = student.decode(embeddings, boxes)
            with torch.no_grad():
                wanted, _ = teacher.decode(embeddings, boxes)
        truth = truth_loss(logits.float(), iou.float(), targets)
        return truth + teacher_loss(logits.float(), wanted.float())

    def evaluate(model: SwiftMedSAM = student) -> float:
        fixed = np.random.default_rng(0)  # the same boxes each time
        scores = []
        with torch.inference_mode(), cpu_autocast():
            for row in usable[: options.held_back]:
                embeddings, boxes, targets = _prompted(rows, np.array([row]), fixed)
                scores.append(iou_of(model.decode(embeddings, boxes)[0], targets))
        return float(torch.cat(scores).mean())

    log.info("teacher: IoU %.4f", evaluate(teacher))
    return fit(student.mask_decoder, loss_of, evaluate, len(usable), options)
