"""The Dice similarity of two masks; numpy alone."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def dsc(a: Mask, b: Mask) -> float:
    """Dice similarity, 0..1, of two masks of one shape.

    1 when both are empty, 0 when one is.
    """
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0
