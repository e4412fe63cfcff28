"""Finds the modality of a scan: as the user, else the file says, else guessed from its values."""

import logging

import numpy as np

from swiftmedsam.chunks import chunks_of
from swiftmedsam.modality import CT, UNKNOWN, Modality, find_modality
from swiftmedsam.scans.scan import Scan, Voxels

log = logging.getLogger(__name__)

# Ranges of Hounsfield units. Air is -1000 in every calibrated CT, and almost every CT has some air.
AIR = (-1100, -950)
LUNG = (-950, -850)  # just above air; if it has as many voxels as AIR, air is no peak
MIRRORED = (950, 1100)  # phase and field maps have as many voxels here as in AIR, a CT has few
LEAST_AIR = 0.01  # share of air in the voxels without padding
STRAY = 0.05  # most voxels below AIR, as a share of air (metal streaks); without padding
LOWEST_ELSE = -500  # a scan with lower values that is not taken for CT gets a warning


def modality_of(scan: Scan, chosen: Modality | None) -> Modality:
    """The `chosen` modality, else the one in the file, else a guess from the values; logged."""
    if chosen is not None:
        return chosen
    if scan.modality:
        log.info("%s: modality %s, as the file says", scan.name, scan.modality)
        return find_modality(scan.modality)
    if scan.voxels.dtype == np.uint8:
        return UNKNOWN
    air = share_of_air(scan.voxels)
    if air >= LEAST_AIR:
        log.info("%s: taken for CT, since %.0f%% of it is air at -1000 (--modality)",
                 scan.name, 100 * air)  # fmt: skip
        return CT
    is_odd = scan.voxels.dtype.kind in "if" and bool(np.less(scan.voxels, LOWEST_ELSE).any())
    log.log(
        logging.WARNING if is_odd else logging.INFO,
        "%s: no CT by its values, percentiles are used (--modality)", scan.name,
    )  # fmt: skip
    return UNKNOWN


def share_of_air(voxels: Voxels) -> float:
    """The share of air in the voxels, if the values look like Hounsfield units; 0 otherwise.

    They do if air is a peak of their histogram, and the lowest one. A single lower value counts as
    padding.
    """
    if voxels.dtype.kind not in "if":
        return 0.0
    lowest = min(float(np.fmin.reduce(chunk, axis=None)) for chunk in chunks_of(voxels))
    if not lowest < AIR[1]:
        return 0.0
    padding = _count(voxels, lowest, np.nextafter(lowest, np.inf)) if lowest < AIR[0] else 0
    stray = _count(voxels, -np.inf, AIR[0]) - padding
    air, lung, mirrored = (_count(voxels, *ends) for ends in (AIR, LUNG, MIRRORED))
    if air <= lung or air <= 2 * mirrored or stray > STRAY * air:
        return 0.0
    return air / (voxels.size - padding)


def _count(voxels: Voxels, low: float, high: float) -> int:
    """The number of voxels with `low` <= value < `high`; NaN does not count."""
    return sum(
        int(np.count_nonzero((chunk >= np.float64(low)) & (chunk < np.float64(high))))
        for chunk in chunks_of(voxels)
    )
