"""The encoder in INT8: post-training quantization by NNCF, calibrated on slices of cases.

The decoder stays in floats: it takes some milliseconds a box, and has no large products.
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
    """There are too few slices to calibrate on."""


def even_slices(cases: Path, most: int) -> list[tuple[FloatArray, FloatArray]]:
    """Return up to `most` network inputs (1, 3, 256, 256) with their prompts (N, 4).

    The slices are of the cases of a folder: one case of each modality in turn, by name.

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
    """Return up to `most` network inputs (1, 3, 256, 256): the pixels of `even_slices`.

    Raises:
        CaseError: a file is not a case.
        CalibrationError: there are fewer than `MIN_CALIBRATION` slices.
    """
    slices = [pixels for pixels, _ in even_slices(cases, most)]
    if len(slices) < MIN_CALIBRATION:
        raise CalibrationError(
            f"{cases}: {len(slices)} slices to calibrate on, expected at least {MIN_CALIBRATION}"
        )
    return slices


def quantize(encoder: ov.Model, slices: Sequence[Any], **changes: Any) -> ov.Model:
    """Return `encoder` with the weights and inputs of its products and convolutions in INT8.

    `slices` are network inputs (1, 3, 256, 256) to calibrate on; `changes` replace arguments of
    `nncf.quantize`. The choices (docs/log/2026-11-26-int8-and-avx2.md):

    - Preset "mixed": weights are symmetric by channel, activations have a zero point. Symmetric
      activations are no faster and lose 0.2 DSC points.
    - Model type "transformer": SmoothQuant moves outliers of the attention's inputs into the
      weights. The scores on `val` are with it; a few slices agree as well without.
    - Weights have 7 bits: the sum of two products then fits into 16 bits, which is what a CPU
      without VNNI has for it.
    """
    import nncf  # here, because its import takes seconds and only INT8 needs it
    from nncf.quantization.advanced_parameters import OverflowFix

    settings = {
        "subset_size": len(slices),
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "advanced_parameters": nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    }
    return nncf.quantize(encoder, nncf.Dataset(slices), **(settings | changes))
