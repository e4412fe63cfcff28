"""The modality of a scan: what somebody says, else its file, else what its values look like."""

import logging

import numpy as np

from swiftmedsam.chunks import chunks_of
from swiftmedsam.modality import CT, UNKNOWN, Modality, find_modality
from swiftmedsam.scans.scan import Scan, Voxels

log = logging.getLogger(__name__)

# Hounsfield units. Air is -1000 in every CT that is calibrated, and some lies in almost every one.
AIR = (-1100, -950)
LUNG = (-950, -850)  # just above air: less of it is there than of air, else air is no peak
MIRRORED = (950, 1100)  # phase and field maps have as much there as in AIR, CT next to nothing
LEAST_AIR = 0.01  # share of the voxels that are no padding
STRAY = 0.05  # of air may lie below it, as in the streaks of metal; padding is one value and aside
LOWEST_ELSE = -500  # a scan with values below it that is not taken for CT gets a warning


def modality_of(scan: Scan, asked: Modality | None) -> Modality:
    """What is asked for, else what the file says, else what its values look like; logged."""
    if asked is not None:
        return asked
    if scan.modality:
        log.info("%s: modality %s, as the file says", scan.name, scan.modality)
        return find_modality(scan.modality)
    if scan.voxels.dtype == np.uint8:
        return UNKNOWN
    air = share_of_air(scan.voxels)
    if air >= LEAST_AIR:
        log.info("%s: taken for CT, for %.0f%% of it is air at -1000 (--modality)",
                 scan.name, 100 * air)  # fmt: skip
        return CT
    is_odd = scan.voxels.dtype.kind in "if" and bool(np.less(scan.voxels, LOWEST_ELSE).any())
    log.log(
        logging.WARNING if is_odd else logging.INFO,
        "%s: no CT by its values, taken as they are spread (--modality)", scan.name,
    )  # fmt: skip
    return UNKNOWN


def share_of_air(voxels: Voxels) -> float:
    """The share of voxels that are air, if the values look like Hounsfield units; 0 if they do not.

    They do where air is a peak of their histogram and the lowest one, but for a single value that
    the file may be padded with.
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
    """How many voxels are `low` or more and below `high`; NaN is neither."""
    return sum(
        int(np.count_nonzero((chunk >= np.float64(low)) & (chunk < np.float64(high))))
        for chunk in chunks_of(voxels)
    )
