"""The best that tracking could reach: the prompt of each slice is the box of the truth in it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import IN_PLANE, Boxes, Case
from swiftmedsam.frame import Frame, Patch
from swiftmedsam.masks import Answer
from swiftmedsam.prompts import BoxPrompts, Track
from swiftmedsam.settings import Settings


class TrueBoxes:
    """A `swiftmedsam.prompts.Prompter` that uses the truth."""

    def __init__(self, case: Case, truth: npt.NDArray[np.integer], settings: Settings) -> None:
        """The truth (D, H, W) has the value i + 1 for box i.

        Raises:
            ValueError: two boxes are equal, so their objects cannot be told apart.
        """
        self._labels = {box.tobytes(): i for i, box in enumerate(case.boxes, start=1)}
        if len(self._labels) < len(case.boxes):
            raise ValueError(f"{case.name}: two of its boxes are the same")
        self._truth, self._margin = truth, settings.prompt_margin or 0

    def choose(
        self, frame: Frame, z: int, boxes: Boxes, tracks: Sequence[Track | None]
    ) -> list[BoxPrompts]:
        """Return the box around each object in slice `z`; without the object, the given box."""
        chosen: list[BoxPrompts] = []
        for box in boxes:
            ys, xs = np.nonzero(self._truth[z] == self._labels[box.tobytes()])
            tight = np.array([xs.min(), ys.min(), xs.max(), ys.max()]) if xs.size else box[IN_PLANE]
            prompts = frame.wide_prompts(tight[np.newaxis].astype(float), self._margin)
            chosen.append(BoxPrompts(prompts))
        return chosen

    def track(
        self,
        z: int,
        box: Boxes,
        answers: Sequence[Answer],
        patch: Patch,
        chosen: Sequence[BoxPrompts],
    ) -> Track:
        """Do nothing: the next slice has its own box."""
        return Track(z, {})
