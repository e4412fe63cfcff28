"""The encoder in INT8: post-training quantization by NNCF, calibrated on slices of cases.

The decoder stays as it is: a box costs it some milliseconds, and no product in it is large.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import openvino as ov

from swiftmedsam.convert.verify import slices_of
from swiftmedsam.frame import FloatArray
from swiftmedsam.npz import read_case

MIN_CALIBRATION = 8  # slices; the shipped weights saw 330

log = logging.getLogger(__name__)


class CalibrationError(ValueError):
    """Cases that cannot tell what an encoder's values are like."""


def even_slices(cases: Path, most: int) -> list[tuple[FloatArray, FloatArray]]:
    """Up to `most` network inputs (1, 3, 256, 256) with prompts (N, 4) of the cases of a folder.

    Each modality's cases in turn, by name.

    Raises:
        CaseError: a file is not a case.
    """
    by_modality: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(cases.glob("[23]DBox_*.npz")):
        by_modality[path.name.split("_")[1]].append(path)
    turns = zip_longest(*by_modality.values())
    paths = [path for turn in turns for path in turn if path is not None]
    return [found for path in paths[:most] for found in slices_of(read_case(path))][:most]


def calibration_slices(cases: Path, most: int) -> list[FloatArray]:
    """The pixels of `even_slices`.

    Raises:
        CaseError: a file is not a case.
        CalibrationError: there are fewer than `MIN_CALIBRATION`.
    """
    slices = [pixels for pixels, _ in even_slices(cases, most)]
    if len(slices) < MIN_CALIBRATION:
        raise CalibrationError(
            f"{cases}: {len(slices)} slices to calibrate on, at least {MIN_CALIBRATION} wanted"
        )
    return slices


def quantize(encoder: ov.Model, slices: Sequence[Any], **changes: Any) -> ov.Model:
    """`encoder` with weights and activations of its products and convolutions in INT8.

    Weights symmetric by channel, activations with a zero point (preset "mixed"): symmetric ones are
    no faster and lose 0.2 DSC points. SmoothQuant moves outliers of the attention's inputs into the
    weights (model type "transformer"); it is what was scored on `val`, though a few slices agree as
    well without. Weights have 7 bits, so that the sum of two products fits into the 16 in which a
    CPU without VNNI keeps it. `changes` are other arguments of `nncf.quantize`. See
    benchmarks/NOTES.md.
    """
    import nncf  # needs seconds, and nothing else of the conversion needs it
    from nncf.quantization.advanced_parameters import OverflowFix

    settings = {
        "subset_size": len(slices),
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "advanced_parameters": nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    }
    return nncf.quantize(encoder, nncf.Dataset(slices), **(settings | changes))
