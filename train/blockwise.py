"""Repair of one shortened encoder stage: its output pulled to the teacher's, on cached features.

Cheap because nothing before or after the stage is computed. The stages are independent, so each is
trained on the teacher's input to it; small errors that then add up are left to `loop`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from swiftmedsam import SwiftMedSAM
from train.features import read_cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What to train, from which cached rows to which."""

    source: str
    target: str
    modules: Callable[[SwiftMedSAM], list[nn.Module]]


PARTS = {
    "stage0": Part(
        "pixels", "after_0", lambda m: [m.image_encoder.patch_embed, m.image_encoder.layers[0]]
    ),
    "stage2": Part("after_1", "after_2", lambda m: [m.image_encoder.layers[2]]),
    "tail": Part(
        "after_1", "embedding", lambda m: [*m.image_encoder.layers[2:], m.image_encoder.neck]
    ),
}


@dataclass(frozen=True)
class BlockwiseOptions:
    """Recipe of one repair (docs: train/NOTES.md)."""

    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 1e-3
    held_back: int = 32  # rows of the cache that measure, never train
    report_every: int = 50
    seed: int = 0


def _batch(array: np.ndarray, rows: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(array[np.sort(rows)])).float()
    x = x / 255 if array.dtype == np.uint8 else x
    return x.to(memory_format=torch.channels_last)


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the variance of the target: 1 is what a constant would reach."""
    return (output.float() - target).square().mean() / target.var()


def repair(student: SwiftMedSAM, part: Part, cache: Path, options: BlockwiseOptions) -> float:
    """Train `part` of `student` in place; return its relative error on the held-back rows.

    Batch-norm statistics stay the teacher's: with a batch of 8 new ones would be noise.
    """
    rows = read_cache(cache)
    source, target = rows[part.source], rows[part.target]
    chain = nn.Sequential(*part.modules(student)).to(memory_format=torch.channels_last)
    student.requires_grad_(False)
    chain.requires_grad_(True)
    optimizer = torch.optim.AdamW(chain.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.steps, pct_start=0.2
    )
    random = np.random.default_rng(options.seed)
    held = np.arange(options.held_back)

    def evaluate() -> float:
        errors = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for start in range(0, held.size, options.batch_size):
                batch = held[start : start + options.batch_size]
                errors.append(relative_error(chain(_batch(source, batch)), _batch(target, batch)))
        return float(torch.stack(errors).mean())

    log.info("before: relative error %.3f", evaluate())
    began = time.monotonic()
    for step in range(1, options.steps + 1):
        batch = random.integers(options.held_back, len(source), options.batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            output = chain(_batch(source, batch))
        loss = relative_error(output, _batch(target, batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(chain.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % options.report_every == 0 or step == options.steps:
            seconds = (time.monotonic() - began) / step
            log.info(
                "step %d/%d: train %.3f, held back %.3f, %.2f s a step",
                step, options.steps, loss.item(), evaluate(), seconds,
            )  # fmt: skip
    return evaluate()
