"""What following could reach at best: each slice asked with the box of the truth in it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swiftmedsam import Case
from swiftmedsam.frame import Answer, Frame, Patch, Span
from swiftmedsam.prompts import IN_PLANE, Asked, Boxes, Follower, Found, Mask


class TrueBoxes:
    """Rules of following (`swiftmedsam.prompts.Rules`) that know the truth; the mask is cut as in
    "best".
    """

    def __init__(self, case: Case, truth: npt.NDArray[np.integer]) -> None:
        """The truth (D, H, W) has i + 1 where box i is.

        Raises:
            ValueError: two boxes are the same, so that they cannot be told apart here.
        """
        self._labels = {box.tobytes(): i for i, box in enumerate(case.boxes, start=1)}
        if len(self._labels) < len(case.boxes):
            raise ValueError(f"{case.name}: two of its boxes are the same")
        self._truth = truth
        self._follower = Follower(case.image)

    def ranks(self, boxes: Boxes) -> npt.NDArray[np.intp]:
        """Smaller boxes over larger ones."""
        return self._follower.ranks(boxes)

    def limits(self, box: Boxes, height: int, width: int) -> Span:
        """Rows and columns of the pixels in a box (4,)."""
        return self._follower.limits(box, height, width)

    def prompts(
        self, frame: Frame, z: int, boxes: Boxes, neighbours: Sequence[Found | None]
    ) -> list[Asked]:
        """The box around each object in slice `z`; the given one where the slice has none of it."""
        asked: list[Asked] = []
        for box in boxes:
            ys, xs = np.nonzero(self._truth[z] == self._labels[box.tobytes()])
            tight = np.array([xs.min(), ys.min(), xs.max(), ys.max()]) if xs.size else box[IN_PLANE]
            asked.append((frame.wide_prompts(tight[np.newaxis].astype(float)), None))
        return asked

    def found(
        self, z: int, box: Boxes, answers: Sequence[Answer], patch: Patch,
        carried: Sequence[Mask | None],
    ) -> Found:  # fmt: skip
        """Nothing: the next slice has its own box."""
        return Found(z, {})
