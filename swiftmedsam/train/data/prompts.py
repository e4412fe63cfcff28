"""Boxes to train with: as users draw them, and as tracking through a volume makes them."""

import numpy as np
import torch
from torch import Tensor

from swiftmedsam.torch_model.architecture import INPUT_SIZE
from swiftmedsam.train.data.augment import picture_area
from swiftmedsam.train.data.corpus import MIN_OBJECT_AREA, objects_of, own_plane, tight_box

# Each side of a box is moved outward by up to so many input pixels. For each box one of the two
# limits is drawn: that of the paper's training (section 4.1), or of the challenge's cases.
MAX_SHIFTS = (10, 5)
LOOSE_SHARE = 0.2  # of the boxes; a 3D box is as loose in a slice near the end of its object
MAX_LOOSENESS = 1.0  # in sizes of the object: what is added to a loose box, both sides together
MIN_FREE_SIDE = 12  # input pixels


def _draw_shifts(random: np.random.Generator) -> np.ndarray:
    """Draw how far (4,) the sides of a box are moved outward, in input pixels."""
    return random.integers(0, random.choice(MAX_SHIFTS) + 1, 4).astype(float)


def boxes_around(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a box (4,) in input pixels around `mask` (256, 256)."""
    low, high = tight_box(mask).reshape(2, 2)
    shifts = _draw_shifts(random).reshape(2, 2)
    if random.random() < LOOSE_SHARE:
        shifts += random.uniform(0, MAX_LOOSENESS / 2, (2, 2)) * (high - low)
    return np.concatenate([low - shifts[0], high + shifts[1]]).clip(0, INPUT_SIZE).round()


def draw_prompts(
    labels: np.ndarray, count: int, random: np.random.Generator
) -> tuple[Tensor, Tensor] | None:
    """Draw boxes (count, 4) and their targets (count, 256, 256), objects of `labels` (256, 256).

    `labels` may be (256, 256, P) with the label maps of other slices. A box then holds its object
    in all of them, as the box of a volume does; the target is the object in the first. An object is
    drawn more than once only if there are fewer than `count`. Returns None if no object is large
    enough.
    """
    planes = labels.reshape(*labels.shape[:2], -1)
    own = own_plane(labels)
    ids = objects_of(own)
    if ids.size == 0:
        return None
    chosen = random.choice(ids, count, ids.size < count)
    boxes = np.stack([boxes_around((planes == label).any(axis=2), random) for label in chosen])
    masks = np.stack([own == label for label in chosen])
    return torch.from_numpy(boxes).float(), torch.from_numpy(masks).float()


def draw_free_boxes(pixels: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """Draw boxes (count, 4) anywhere in the picture `pixels` (3, 256, 256), without its padding.

    Sides are log-uniform, from `MIN_FREE_SIDE` to the sides of the picture.
    """
    area = picture_area(pixels.unsqueeze(0))[0, 0]
    limits = np.array([max(1, int(area[0].sum())), max(1, int(area[:, 0].sum()))])  # width, height
    least = np.minimum(MIN_FREE_SIDE, limits)
    sides = np.exp(random.uniform(np.log(least), np.log(limits), (count, 2)))
    low = random.uniform(0, 1, (count, 2)) * (limits - sides)
    return torch.from_numpy(np.concatenate([low, low + sides], axis=1).round()).float()


def draw_shifts(count: int, random: np.random.Generator) -> Tensor:
    """Draw the shifts (count, 4) for `pseudo_boxes`, in input pixels."""
    shifts = np.array([_draw_shifts(random) for _ in range(count)]).reshape(count, 4)
    return torch.from_numpy(shifts).float()


def pseudo_boxes(logits: Tensor, shifts: Tensor, otherwise: Tensor) -> Tensor:
    """Return boxes (N, 4) around the masks `logits` > 0 (N, 256, 256), moved outward by `shifts`.

    `shifts` and `otherwise` are (N, 4), in input pixels. A mask that is too small to learn from
    gets its box of `otherwise`.
    """
    masks = logits > 0
    ends = []
    for across in (1, 2):  # x: columns with mask pixels; y: rows with mask pixels
        line = masks.any(dim=across).byte()
        ends.append((line.argmax(dim=1), INPUT_SIZE - 1 - line.flip(1).argmax(dim=1)))
    (x_min, x_max), (y_min, y_max) = ends
    outward = shifts * shifts.new_tensor([-1, -1, 1, 1])
    boxes = torch.stack([x_min, y_min, x_max, y_max], dim=1) + outward
    large = masks.sum(dim=(1, 2)) >= MIN_OBJECT_AREA
    return torch.where(large.unsqueeze(1), boxes.clamp(0, INPUT_SIZE), otherwise)
