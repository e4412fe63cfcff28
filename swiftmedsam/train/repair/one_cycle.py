"""The training loop that both repairs share: AdamW, one cycle of the learning rate, a log."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
WARMUP_SHARE = 0.2  # the part of the steps in which the learning rate rises


@dataclass(frozen=True)
class RepairOptions:
    """The choices of a repair on the rows of a cache."""

    steps: int = 400
    batch_size: int = 8  # rows
    learning_rate: float = 1e-3  # its highest value
    held_back: int = 32  # so many first rows of the cache are for measuring only
    report_every: int = 50  # steps
    seed: int = 0


def fit(
    module: nn.Module,
    loss_of: Callable[[np.ndarray], Tensor],
    evaluate: Callable[[], float],
    rows: int,
    options: RepairOptions,
) -> float:
    """Train `module` in place; return the result of `evaluate` (on held-back rows) afterwards.

    `loss_of` returns the loss of a batch, an array of row numbers below `rows`.
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=options.learning_rate, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.steps, pct_start=WARMUP_SHARE
    )
    random = np.random.default_rng(options.seed)
    log.info("before: %.4f held back", evaluate())
    began = time.monotonic()
    for step in range(1, options.steps + 1):
        loss = loss_of(random.integers(options.held_back, rows, options.batch_size))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        if step % options.report_every == 0 or step == options.steps:
            seconds = (time.monotonic() - began) / step
            log.info(
                "step %d/%d: loss %.3f, %.4f held back, %.2f s a step",
                step, options.steps, loss.item(), evaluate(), seconds,
            )  # fmt: skip
    return evaluate()
