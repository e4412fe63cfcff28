"""Masks at some cells of the frame alone, to train a decoder with a fraction of the work.

The decoder has the form in which it is exported (`swiftmedsam.convert.rewrite`): it scales up only
the cells that are asked for.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swiftmedsam.convert.rewrite import CELLS, ExportedDecoder
from swiftmedsam.frame import CELL, every_cell
from swiftmedsam.torch_model.architecture import EMBEDDING_SIZE, INPUT_SIZE
from swiftmedsam.train.losses import DICE_SMOOTHING

DRAWN_CELLS = 1024  # of each mask and step
DRAWN_OUTSIDE = 256  # of them outside the window around the box
WINDOW_MARGIN = 16  # input pixels that the window extends beyond each side of the box


def draw_cells(boxes: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw cells (N, P) int32 for `boxes` (N, 4), and for how many cells (N, P) each stands.

    Most of them are in a window around the box, where errors matter: a weighted sum over the drawn
    cells has the expectation of the sum over all cells.
    """
    rows, columns = np.divmod(np.arange(CELLS), EMBEDDING_SIZE)
    cells, weights = [], []
    for x_min, y_min, x_max, y_max in boxes.numpy():
        x, y = columns * CELL + CELL / 2, rows * CELL + CELL / 2
        inside = (x > x_min - WINDOW_MARGIN) & (x < x_max + WINDOW_MARGIN)
        inside &= (y > y_min - WINDOW_MARGIN) & (y < y_max + WINDOW_MARGIN)
        near, far = np.flatnonzero(inside), np.flatnonzero(~inside)
        outer = min(len(far), max(DRAWN_OUTSIDE, DRAWN_CELLS - len(near)))
        parts = [(near, DRAWN_CELLS - outer), (far, outer)]
        drawn = [random.choice(part, count, replace=False) for part, count in parts]
        stands = [np.full(count, len(part) / max(1, count)) for part, count in parts]
        cells.append(np.concatenate(drawn))
        weights.append(np.concatenate(stands))
    return torch.from_numpy(np.stack(cells)).int(), torch.from_numpy(np.stack(weights)).float()


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Return the pixels (N, P, 16) of `maps` (N, 256, 256) in `cells` (N, P)."""
    size = EMBEDDING_SIZE
    blocks = maps.unflatten(2, (size, CELL)).unflatten(1, (size, CELL)).transpose(2, 3)
    return blocks.reshape(len(maps), CELLS, -1).take_along_dim(cells.long().unsqueeze(2), 1)


def decode_at(
    decoder: ExportedDecoder, image: Tensor, boxes: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor]:
    """Return logits (N, P, 16) of `cells` (N, P), and predicted IoU (N,), for `boxes` (N, 4).

    `image` (1, 4096, C) is an embedding with the code of "no mask prompt", cells row by row.
    """
    logits, iou = decoder(image, boxes, cells.unsqueeze(1))  # (N, 4, 4 P)
    return logits.unflatten(2, (-1, CELL)).transpose(1, 2).flatten(2), iou


def decode(decoder: ExportedDecoder, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, 256, 256) and predicted IoU (N,) of `boxes` (N, 4)."""
    return decoder(image, boxes, torch.from_numpy(every_cell(len(boxes))))


def losses_at(logits: Tensor, wanted: Tensor, weights: Tensor, *, squared: bool) -> Tensor:
    """Return cross entropy plus error of the area (N,), as `truth_loss` or `teacher_loss` have it.

    `logits` (N, P, 16) are compared with the probabilities `wanted` (N, P, 16) at cells that stand
    for `weights` (N, P) cells. `squared`: the relative squared difference of `teacher_loss`, else
    Dice.
    """
    weights = weights.unsqueeze(2)

    def total(x: Tensor) -> Tensor:
        return (x * weights).sum((1, 2))

    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    if squared:
        error = total((p - wanted).square()) / (
            total(p.square() + wanted.square()) + DICE_SMOOTHING
        )
    else:
        overlap = 2 * total(p * wanted) + DICE_SMOOTHING
        error = 1 - overlap / (total(p + wanted) + DICE_SMOOTHING)
    return total(entropy) / INPUT_SIZE**2 + error
