"""Compare torch and OpenVINO on real slices; without the same masks there is no manifest."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from swiftmedsam.case import IN_PLANE, Case
from swiftmedsam.evaluation.dice import dsc
from swiftmedsam.frame import FloatArray, Frame, every_cell
from swiftmedsam.memory import MANY_PROMPTS
from swiftmedsam.network import Network
from swiftmedsam.npz import read_case
from swiftmedsam.schedule import middle_slices
from swiftmedsam.torch_model import SwiftMedSAM

MIN_SLICES = 8
SLICES_PER_VOLUME = 3  # at most; they are middle slices of its boxes
# Torch and OpenVINO add in different orders, so they round differently: float32 has 7 digits,
# logits go up to 40 and are sums of some hundred terms. INT8 changes logits that are far from
# 0, and moves the border of a mask by single pixels.
MAX_LOGIT_DIFFERENCE = {"fp32": 1e-2, "fp16": 1.0, "int8": math.inf}
# DSC of the masks of a slice, all its boxes together; each slice must reach it.
MIN_DSC = {"fp32": 0.99, "fp16": 0.99, "int8": 0.9}


class ParityError(ValueError):
    """The converted network does not return the masks of the checkpoint."""


@dataclass(frozen=True)
class Parity:
    """How far both networks agree on the compared slices."""

    slices: int
    cases: list[str]
    max_logit_difference: float
    mean_logit_difference: float
    min_dsc: float
    mean_dsc: float


def slices_of(case: Case) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield pixels and prompts of an image, or of middle slices of the boxes of a volume."""
    frame = Frame(*case.label_shape[-2:])
    if not case.is_volume:
        yield frame.pixels(case.image), frame.prompts(case.boxes)
        return
    middles = middle_slices(case.boxes)
    for z in np.unique(middles)[:SLICES_PER_VOLUME]:
        boxes = case.boxes[middles == z][:, IN_PLANE]
        yield frame.pixels(case.image[z]), frame.prompts(boxes)


def verify(model: SwiftMedSAM, network: Network, cases: Path, stored: str) -> Parity:
    """Compare `model` (torch) with `network` (OpenVINO) on the cases of a folder.

    `stored` says how close they have to be: "fp32", "fp16" or "int8".

    Raises:
        ParityError: there are too few slices, or the difference is too large.
    """
    names, differences, means, agreements = [], [], [], []
    for path in sorted(cases.glob("[23]DBox_*.npz")):
        case = read_case(path)
        for pixels, prompts in slices_of(case):
            if len(prompts) == 0:
                continue
            with torch.inference_mode():
                wanted, _ = model.decode(
                    model.encode(torch.from_numpy(pixels)), torch.from_numpy(prompts)
                )
            embedding = network.encode(pixels)
            found, _ = network.decode(embedding, prompts, every_cell(len(prompts)))
            difference = np.abs(found - wanted.numpy())
            if len(prompts) < MANY_PROMPTS:  # the decoder for many boxes has to agree, too
                again = np.resize(prompts, (MANY_PROMPTS, 4))
                found_again, _ = network.decode(embedding, again, every_cell(MANY_PROMPTS))
                other = np.abs(found_again[: len(prompts)] - wanted.numpy())
                difference = np.maximum(difference, other)
            names.append(case.name)
            differences.append(float(difference.max()))
            means.append(float(difference.mean()))
            agreements.append(dsc(found > 0, wanted.numpy() > 0))
    if len(names) < MIN_SLICES:
        raise ParityError(
            f"{cases}: {len(names)} slices to compare, expected at least {MIN_SLICES}"
        )
    parity = Parity(
        slices=len(names),
        cases=sorted(set(names)),
        max_logit_difference=float(np.max(differences)),
        mean_logit_difference=float(np.mean(means)),
        min_dsc=min(agreements),
        mean_dsc=float(np.mean(agreements)),
    )
    limit, least = MAX_LOGIT_DIFFERENCE[stored], MIN_DSC[stored]
    if not parity.max_logit_difference <= limit or not parity.min_dsc >= least:
        raise ParityError(f"expected logits within {limit}, DSC >= {least}; got {asdict(parity)}")
    return parity
