"""Every choice of a training run, in one place; stored in each checkpoint."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from swiftmedsam.train.data.augment import Augmentation


@dataclass(frozen=True)
class Options:
    """One end-to-end run.

    The defaults are our recipe: a network that was repaired block by block starts near its
    teacher, so small steps on truth, an average of the weights, and frozen batch-norm statistics.
    """

    steps: int = 4000
    minutes: float = 0.0  # at most: a run and its cosine end with these or `steps`; 0: no limit
    batch_size: int = 8  # pictures per process and step
    unlabelled: int = 0  # of them: pictures without labels, for the teacher to answer
    boxes: int = 3  # per picture
    free_boxes: int = 2  # per taught picture, anywhere: there the teacher's mask is the target
    pseudo_objects: int = 0  # of those boxes: moved to what the teacher sees in them
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup: int = 50  # steps
    # plateau: ReduceLROnPlateau on the mean loss of a report
    schedule: Literal["cosine", "plateau"] = "cosine"
    clip_norm: float = 1.0
    teacher_weight: float = 0.5  # of the distance to its embedding and answers; 0: no teacher
    taught: int = 2  # pictures of a batch that the teacher looks at, too: it costs half a step
    average_decay: float = 0.996  # of the exponential moving average of the weights; 0: none
    truth_weight: float = 1.0  # of the loss on labels; 0: labels are not looked at
    freeze_statistics: bool = True  # batch norm keeps the running mean and variance
    # For layers that start from nothing: steps with each batch's own statistics, which are then
    # measured once and kept. Running ones never fit: a batch holds 8 very different pictures.
    settling: int = 0
    frozen_stages: int = 0  # first stages of the encoder that keep their weights; 4: all of it
    augmentation: Augmentation = field(default_factory=Augmentation)
    report_every: int = 25  # steps: a line of the log
    save_every: int = 50  # steps: a checkpoint to resume from
    seed: int = 0
    workers: int = 0  # processes that prepare pictures; 0: the training process itself

    def __post_init__(self) -> None:
        """Refuse what no run can have.

        Raises:
            ValueError: the length of the run is not positive, or there are more unlabelled pictures
                than the teacher is asked about.
        """
        taught = self.taught if self.teacher_weight else 0
        most = min(taught, self.batch_size - 1 if self.truth_weight else self.batch_size)
        if not 0 <= self.unlabelled <= most:
            raise ValueError(
                f"unlabelled {self.unlabelled} of a batch of {self.batch_size}: expected 0 to "
                f"{most}: truth_weight needs a labelled picture, and the teacher answers for "
                f"{taught} (taught; 0 without teacher_weight)"
            )
        if self.steps < 1 or not self.minutes >= 0:  # also where minutes are not a number
            raise ValueError(f"steps {self.steps}, minutes {self.minutes}: expected at least 1, 0")

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """Options as they were stored.

        Raises:
            TypeError: a field is unknown.
        """
        values: dict[str, Any] = json.loads(text)
        values["augmentation"] = Augmentation(**values["augmentation"])
        return cls(**values)


# SwiftMedSAM paper, section 4.1: 26 epochs of 1.5 million pictures at batch 32 on a cluster. Kept
# for whoever has both; lr 0.005 on repaired weights undoes the repair within some dozen steps.
PAPER = Options(
    steps=26 * 1_500_000 // 32,
    batch_size=32,
    boxes=1,
    free_boxes=0,
    learning_rate=0.005,
    warmup=0,
    schedule="plateau",
    teacher_weight=0.0,
    average_decay=0.0,
    freeze_statistics=False,
    augmentation=Augmentation(
        turn=0,
        warp=0,
        crop=0,
        brightness_contrast=0,
        gamma=0,
        colour=0,
        noise=0,
        blur=0,
        low_resolution=0,
        invert=0,
        extent=0,
    ),  # fmt: skip
)
RECIPES = {"ours": Options(), "paper": PAPER}
