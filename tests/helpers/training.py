"""Short runs of training: options, pictures and a device."""

import math

import numpy as np
from lightning_fabric import Fabric

from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.options import Options
from swiftmedsam.train.run import batch_loss
from swiftmedsam.train.teachers import Teacher, answered
from tests.helpers import ellipse

NOTHING = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 0.0))
SMALL = Options(
    steps=2, batch_size=1, boxes=2, warmup=0, report_every=1, save_every=100, teacher_weight=0,
    average_decay=0,
)  # fmt: skip


def cpu():
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    return fabric


class Killed(Exception):
    """What a power cut would be."""


class Ellipses:
    """A `Source` of bright ellipses on dark ground; breaks down after `lasts` pictures."""

    def __init__(self, lasts: float = math.inf) -> None:
        self.left = lasts

    def draw(self, random):
        if self.left == 0:
            raise Killed
        self.left -= 1
        mask = ellipse(256, 256, random.integers(80, 170, 2), random.integers(40, 70, 2))
        image = np.where(mask, 255, random.integers(20, 100)).astype(np.uint8)
        image[0, 0] = 0  # from 0 to 255, as a framed picture is
        return np.stack([image] * 3), mask.astype(np.uint16), None


class PartlyLabelled(Ellipses):
    """Draws plain pictures, too, without labels."""

    def draw_unlabelled(self, random):
        return np.full((3, 256, 256), 77, np.uint8)

    def draw_second(self, random):
        image, mask, _ = self.draw(random)
        return image, mask


def taught_loss(student, batch, teacher, options):
    """The terms of a batch after the teacher was asked, as a run does it."""
    asked = answered(batch, [Teacher(teacher, teacher.encode)], options)
    return batch_loss(student, asked, options)
