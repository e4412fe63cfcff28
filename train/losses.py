"""Losses on mask logits and predicted IoU.

Truth: Dice and binary cross entropy, and mean squared error of the predicted IoU (paper, section
3; LiteMedSAM's training code). Teacher: cross entropy with the teacher's probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1.0  # pixels; an empty target with an empty answer is right


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, mean over the batch, of `logits` and `target` (N, 256, 256), target 0..1."""
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = 2 * (p * t).sum(1) + DICE_SMOOTHING
    return (1 - overlap / (p.sum(1) + t.sum(1) + DICE_SMOOTHING)).mean()


def iou_of(logits: Tensor, target: Tensor) -> Tensor:
    """IoU (N,) of the masks `logits` > 0 with `target` (N, 256, 256), 1 where both are empty."""
    found, wanted = (logits > 0).flatten(1), (target > 0.5).flatten(1)
    union = (found | wanted).sum(1)
    overlap = (found & wanted).sum(1)
    return torch.where(union > 0, overlap / union.clamp_min(1), 1.0)


def truth_loss(logits: Tensor, iou: Tensor, target: Tensor) -> Tensor:
    """Dice + cross entropy + IoU error; `logits` and `target` (N, 256, 256), `iou` (N,)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    with torch.no_grad():
        reached = iou_of(logits, target)
    return dice_loss(logits, target) + cross_entropy + F.mse_loss(iou, reached)


def teacher_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross entropy with the teacher's probabilities; both (N, 256, 256).

    No Dice: with probabilities for a target it is not smallest where the two agree.
    """
    return F.binary_cross_entropy_with_logits(logits, teacher_logits.sigmoid())
