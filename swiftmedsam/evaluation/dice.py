"""The Dice similarity (DSC) of two masks, with numpy only."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def dsc(a: Mask, b: Mask) -> float:
    """Return the Dice similarity, 0..1, of two masks of the same shape.

    It is 1 if both are empty, and 0 if one is.
    """
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0
