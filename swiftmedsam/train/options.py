"""All choices of a training run. Each checkpoint stores them."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from swiftmedsam.train.data.augment import Augmentation


def read_factors(text: str) -> dict[str, float]:
    """Return the factors in a text like "Endoscopy=3,Endoscopy_CVC-ClinicDB=0.5"; "" has none.

    Raises:
        ValueError: a part of the text is not NAME=FACTOR, or a factor is not above 0.
    """
    factors = {}
    for part in text.split(",") if text else ():
        name, _, number = part.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = 0.0
        if not name or not 0 < factor < math.inf:
            raise ValueError(f"{part!r} in {text!r}: expected NAME=FACTOR, a factor above 0")
        factors[name] = factor
    return factors


@dataclass(frozen=True)
class Options:
    """The choices of one end-to-end run.

    The defaults are our recipe. A network that was repaired block by block starts near its teacher.
    So the steps are small, weights are averaged, and batch-norm statistics are frozen.
    """

    steps: int = 4000
    minutes: float = (
        0.0  # 0: no limit; else the run and its cosine end after these minutes or after `steps`
    )
    batch_size: int = 8  # pictures per process and step
    unlabelled: int = 0  # how many of them have no labels; there the teacher's masks are the target
    # "Endoscopy=3,Endoscopy_CVC-ClinicDB=0.5": pictures of a modality or data set are drawn so many
    # times as often
    favoured: str = ""
    # How many of the unlabelled pictures of a batch are for the second teacher. They are drawn from
    # the modalities and data sets that `second_for` names, labelled or not ("CT_LiTS,CT_BTCV"), and
    # keep their geometry: a teacher may know them upright and whole only.
    second: int = 0
    second_for: str = ""
    boxes: int = 3  # per picture
    free_boxes: int = 2  # per taught picture, anywhere in it; the teacher's mask is the target
    pseudo_objects: int = (
        0  # how many of the free boxes are moved to the object that the teacher finds there
    )
    # how many of the free boxes of a labelled picture are replaced by boxes of its objects, as
    # drawn for the truth; so the teacher's masks of objects are learned, not only its embedding
    labelled_objects: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    # muon learns v3 in far fewer steps (docs/log/2026-11-30-v3.md)
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: int = 50  # steps
    # plateau: ReduceLROnPlateau on the mean loss between two reports
    schedule: Literal["cosine", "plateau"] = "cosine"
    clip_norm: float = 1.0
    teacher_weight: float = 0.5  # of the loss on the teacher's embedding and masks; 0: no teacher
    answers_weight: float = 1.0  # of the teacher's masks, beside its embedding
    taught: int = 2  # pictures of a batch that the teacher sees, too; this takes half of a step
    # Steps on each batch: the first when it is new, the others when it is drawn again from the last
    # ones with other intensities. The teacher is asked for its embedding once.
    repeats: int = 1
    average_decay: float = 0.996  # of the moving average of the weights; 0: no average
    truth_weight: float = 1.0  # of the loss on labels; 0: labels are not used
    freeze_statistics: bool = True  # batch norm keeps the running mean and variance
    # For layers that start with random weights: in these first steps each batch has its own
    # statistics; then they are measured once and frozen. Running statistics would not fit, since
    # a batch holds 8 very different pictures.
    settling: int = 0
    frozen_stages: int = (
        0  # so many first stages of the encoder do not change; 4: the whole encoder
    )
    trained: Literal["all", "encoder"] = "all"  # encoder: the decoder does not change
    augmentation: Augmentation = field(default_factory=Augmentation)
    report_every: int = 25  # steps between two lines of the log
    save_every: int = 50  # steps between two checkpoints
    seed: int = 0
    workers: int = 0  # processes that prepare pictures; 0: the training process itself

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: the length of the run is not positive, there are more unlabelled pictures
                than taught pictures, more pictures for the second teacher than unlabelled pictures
                or no names of their data sets, more labelled objects than boxes, or `favoured` is
                not a list of names with factors.
        """
        read_factors(self.favoured)
        taught = self.taught if self.teacher_weight else 0
        most = min(taught, self.batch_size - 1 if self.truth_weight else self.batch_size)
        if not 0 <= self.unlabelled <= most:
            raise ValueError(
                f"unlabelled {self.unlabelled} of a batch of {self.batch_size}: expected 0 to "
                f"{most}: truth_weight needs a labelled picture, and the teacher answers for "
                f"{taught} (taught; 0 without teacher_weight)"
            )
        seconds = max(0, min(self.unlabelled, taught - 1))  # the first teacher needs a picture, too
        if not 0 <= self.second <= seconds or bool(self.second) != bool(self.second_for):
            raise ValueError(
                f"second {self.second}, second_for {self.second_for!r}: expected 0 to {seconds} "
                "(unlabelled, and less than taught), and names of data sets if not 0"
            )
        if self.steps < 1 or not self.minutes >= 0:  # not (minutes < 0): NaN must fail, too
            raise ValueError(f"steps {self.steps}, minutes {self.minutes}: expected at least 1, 0")
        if not 0 <= self.labelled_objects <= min(self.boxes, self.free_boxes):
            raise ValueError(
                f"labelled_objects {self.labelled_objects}: expected 0 to "
                f"{min(self.boxes, self.free_boxes)}, the smaller of boxes and free_boxes"
            )
        if self.repeats < 1 or (self.repeats > 1 and not taught):
            raise ValueError(
                f"repeats {self.repeats}, {taught} taught pictures: expected at least 1, and more "
                "than 1 only with a teacher, whose embedding it saves"
            )

    def to_json(self) -> str:
        """Return a JSON text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """Read options that `to_json` wrote.

        Raises:
            TypeError: a field is unknown.
        """
        values: dict[str, Any] = json.loads(text)
        values["augmentation"] = Augmentation(**values["augmentation"])
        return cls(**values)


# SwiftMedSAM paper, section 4.1: 26 epochs of 1.5 million pictures with batch 32, on a cluster. On
# repaired weights its learning rate of 0.005 destroys the repair within some dozen steps.
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
