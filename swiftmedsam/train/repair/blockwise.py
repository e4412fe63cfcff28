"""Repair a shortened stage of the encoder: train it to return the teacher's features.

This is quick, because nothing before or after the stage is computed. Each stage is trained on the
teacher's input to it. The small errors of several stages add up; end-to-end training (`train.run`)
corrects them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.train.machine.precision import cpu_autocast
from swiftmedsam.train.repair.features import read_cache
from swiftmedsam.train.repair.one_cycle import RepairOptions, fit


@dataclass(frozen=True)
class Part:
    """A part of the encoder, with the names of its cached inputs and targets."""

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


def _batch(array: np.ndarray, rows: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(array[np.sort(rows)])).float()
    x = x / 255 if array.dtype == np.uint8 else x
    return x.to(memory_format=torch.channels_last)


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error / variance of the target; the best constant would have 1."""
    return (output.float() - target).square().mean() / target.var()


def repair(student: SwiftMedSAM, part: Part, cache: Path, options: RepairOptions) -> float:
    """Train `part` of `student` in place; return its relative error on the held-back rows.

    Batch norms keep the teacher's statistics: those of batches of 8 would be noise.
    """
    rows = read_cache(cache)
    source, target = rows[part.source], rows[part.target]
    chain = nn.Sequential(*part.modules(student)).to(memory_format=torch.channels_last)
    student.requires_grad_(False)
    chain.requires_grad_(True)

    def loss_of(batch: np.ndarray) -> Tensor:
        with cpu_autocast():
            output = chain(_batch(source, batch))
        return relative_error(output, _batch(target, batch))

    def evaluate() -> float:
        held, size = np.arange(options.held_back), options.batch_size
        with torch.inference_mode():
            errors = [loss_of(held[start : start + size]) for start in range(0, held.size, size)]
        return float(torch.stack(errors).mean())

    return fit(chain, loss_of, evaluate, len(source), options)
