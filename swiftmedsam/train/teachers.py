"""What teachers say of a batch: the embedding of the first one, and masks of free boxes of both.

The student learns the embedding and the answers of the first teacher. A second teacher may be
better in some kinds of pictures: LiteMedSAM is better than v1 in abdominal CT. Of such pictures the
student learns the answers of the second teacher alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swiftmedsam.torch_model import SwiftMedSAM
from swiftmedsam.train.data.prompts import pseudo_boxes
from swiftmedsam.train.data.stream import Batch
from swiftmedsam.train.losses import trust_in
from swiftmedsam.train.machine.encoder import Encode
from swiftmedsam.train.options import Options


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode, and the fastest way to its embedding."""

    model: SwiftMedSAM
    encode: Encode


@dataclass(frozen=True)
class Answers:
    """The masks of a teacher for F boxes in each of T pictures."""

    boxes: Tensor  # (T, F, 4)
    logits: Tensor  # (T, F, 256, 256)
    trust: Tensor  # (T,), from `trust_in`


def _decode(model: SwiftMedSAM, embedding: Tensor, boxes: Tensor) -> Tensor:
    """Return the logits (T, K, 256, 256) of `boxes` (T, K, 4) in T pictures."""
    count = boxes.shape[1]
    logits, _ = model.decode(embedding.repeat_interleave(count, 0), boxes.flatten(0, 1))
    return logits.unflatten(0, (-1, count))


def answers_of(
    teacher: SwiftMedSAM,
    embedding: Tensor,
    boxes: Tensor,
    shifts: Tensor,
    truth: tuple[Tensor, Tensor],
    labelled_objects: int = 0,
) -> Answers:
    """Return the teacher's masks of `boxes` (T, F, 4) in T pictures; `embedding` (T, C, 64, 64).

    The first boxes of each picture, one for each of its `shifts` (T, O, 4), are first moved to the
    object that the teacher finds in them. They are then like boxes of users; a box at a random
    place hardly ever holds an organ. `truth` are boxes (L, K, 4) and targets (L, K, 256, 256) of
    objects in the last L pictures. There the last `labelled_objects` boxes are replaced by the
    first boxes of these objects.
    """
    if objects := shifts.shape[1]:
        first = boxes[:, :objects]
        seen = _decode(teacher, embedding, first).flatten(0, 1)
        moved = pseudo_boxes(seen, shifts.flatten(0, 1), first.flatten(0, 1))
        boxes = torch.cat([moved.unflatten(0, (-1, objects)), boxes[:, objects:]], dim=1)
    known, targets = truth
    without = len(boxes) - len(known)
    if len(known) and labelled_objects:
        boxes = boxes.clone()
        boxes[without:, -labelled_objects:] = known[:, :labelled_objects]
    logits = _decode(teacher, embedding, boxes)
    trust = logits.new_ones(len(boxes))  # without truth, the teacher is trusted
    if len(known):
        trust[without:] = trust_in(_decode(teacher, embedding[without:], known), targets)
    return Answers(boxes, logits, trust)


@torch.no_grad()
def answered(batch: Batch, teachers: Sequence[Teacher], options: Options) -> Batch:
    """Return `batch` with what its teachers say of it, as far as it is wanted and missing.

    The second of `teachers` is asked about the first S pictures, `options.second`, and the first
    one about the other taught pictures. The batch gets

    - "embedding" (T - S, C, 64, 64): that of the first teacher;
    - "answered_boxes" (T, F, 4), "answers" (T * F, 256, 256) and "trust" (T * F,): masks of free
      boxes, and their weights.
    """
    taught = options.taught if options.teacher_weight else 0
    second = options.second
    batch = dict(batch)
    if taught and batch.get("embedding") is None:
        batch["embedding"] = teachers[0].encode(batch["clean"][second:taught])
    if not (taught and options.free_boxes) or "answers" in batch:
        return batch
    boxes, shifts = batch["free_boxes"][:taught], batch["shifts"][:taught]
    labelled = max(0, taught - (len(batch["pixels"]) - len(batch["boxes"])))
    truth = batch["boxes"][:labelled], batch["targets"][:labelled]
    parts = [
        answers_of(
            teachers[0].model, batch["embedding"][: taught - second], boxes[second:],
            shifts[second:], truth, options.labelled_objects,
        )
    ]  # fmt: skip
    if second:
        embedding = teachers[1].encode(batch["clean"][:second])
        no_truth = batch["boxes"][:0], batch["targets"][:0]
        of_second = answers_of(
            teachers[1].model, embedding, boxes[:second], shifts[:second], no_truth
        )
        parts.insert(0, of_second)
    batch["answered_boxes"] = torch.cat([part.boxes for part in parts])
    batch["answers"] = torch.cat([part.logits for part in parts]).flatten(0, 1)
    trust = torch.cat([part.trust for part in parts])
    batch["trust"] = trust.repeat_interleave(boxes.shape[1])
    return batch
