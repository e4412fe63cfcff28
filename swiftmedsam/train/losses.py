"""Losses on mask logits and predicted IoU.

Truth: Dice, binary cross entropy, and mean squared error of the predicted IoU (paper, section 3;
LiteMedSAM's training code). Teacher: cross entropy with the teacher's probabilities, and the
relative squared difference of the probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1.0  # pixels; an empty mask for an empty target has a loss of 0


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice, the mean over N; `logits` and `target` (0..1) are (N, 256, 256)."""
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = 2 * (p * t).sum(1) + DICE_SMOOTHING
    return (1 - overlap / (p.sum(1) + t.sum(1) + DICE_SMOOTHING)).mean()


def iou_of(logits: Tensor, target: Tensor) -> Tensor:
    """Return the IoU (N,) of `logits` > 0 with `target` (N, 256, 256); 1 if both are empty."""
    found, wanted = (logits > 0).flatten(1), (target > 0.5).flatten(1)
    union = (found | wanted).sum(1)
    overlap = (found & wanted).sum(1)
    return torch.where(union > 0, overlap / union.clamp_min(1), 1.0)


def dice_of(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the Dice (N,) of boolean masks (N, H, W); 1 if both are empty."""
    a, b = found.flatten(1), wanted.flatten(1)
    total = a.sum(1) + b.sum(1)
    return torch.where(total > 0, 2 * (a & b).sum(1) / total.clamp_min(1), 1.0)


def truth_loss(logits: Tensor, iou: Tensor, target: Tensor) -> Tensor:
    """Return Dice + cross entropy + IoU error; `logits`, `target` (N, 256, 256), `iou` (N,)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    with torch.no_grad():
        reached = iou_of(logits, target)
    return dice_loss(logits, target) + cross_entropy + F.mse_loss(iou, reached)


def teacher_loss(logits: Tensor, teacher_logits: Tensor, trust: Tensor | float = 1.0) -> Tensor:
    """Return the cross entropy with the teacher's probabilities, plus a squared difference.

    `logits` and `teacher_logits` are (N, 256, 256); `trust` (N,) is the weight of each mask, 0..1.
    The squared difference of the probabilities is divided by the size of both masks, as in Dice, so
    that small and large objects count the same. Unlike Dice, it is smallest where student and
    teacher agree.
    """
    p, t = logits.sigmoid().flatten(1), teacher_logits.sigmoid().flatten(1)
    difference = (p - t).square().sum(1) / (p.square() + t.square()).sum(1).add(DICE_SMOOTHING)
    cross_entropy = F.binary_cross_entropy_with_logits(logits.flatten(1), t, reduction="none")
    return (trust * (cross_entropy.mean(1) + difference)).mean()


def trust_in(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the trust (B,), 0..1, in a teacher's masks of B pictures.

    `logits` and `targets` (B, K, 256, 256) are its masks of the objects whose truth is known. Trust
    is 0 for a mean Dice of up to one half, and 1 if all masks are right. If the teacher is wrong
    about these objects, to learn its other masks would work against the truth.
    """
    found = (logits > 0).flatten(2).float()
    overlap = 2 * (found * targets.flatten(2)).sum(2)
    dice = overlap / (found.sum(2) + targets.flatten(2).sum(2)).clamp_min(1)
    return (2 * dice.mean(1) - 1).clamp(0, 1)
