"""Standardised uptake values of PET: what a voxel holds, per dose and body weight."""

import logging
from datetime import datetime, timedelta
from typing import Any

log = logging.getLogger(__name__)

GRAMS_PER_KILOGRAM = 1000


def suv_factor(header: Any) -> float:
    """What rescaled values of a PET file are multiplied by to be SUV by body weight; else 1.

    For Bq/ml that are corrected for attenuation and decay, with dose, half-life, times and weight
    (the rule of QIBA's vendor-neutral pseudo-code). Values in g/ml are SUV already.
    """
    if header.get("Modality") != "PT" or header.get("Units") != "BQML":
        return 1.0
    corrections = header.get("CorrectedImage") or ()
    try:
        tracer = header.RadiopharmaceuticalInformationSequence[0]
        dose = float(tracer.RadionuclideTotalDose)
        half_life = float(tracer.RadionuclideHalfLife)
        grams = float(header.PatientWeight) * GRAMS_PER_KILOGRAM
        if not {"ATTN", "DECY"} <= set(corrections) or min(dose, half_life, grams) <= 0:
            return 1.0
        if header.DecayCorrection == "ADMIN":
            return grams / dose
        if header.DecayCorrection != "START":
            return 1.0
        waited = _scan_start(header) - _injection(header, tracer)
    except (AttributeError, IndexError, TypeError, ValueError):  # tags missing, or no numbers
        return 1.0
    if waited < timedelta(0):
        return 1.0
    left = 2 ** (-waited.total_seconds() / half_life)
    return float(grams / (dose * left))


def _moment(date: str, time: str) -> datetime:
    return datetime.strptime(f"{date}{time.partition('.')[0]}", "%Y%m%d%H%M%S")


def _scan_start(header: Any) -> datetime:
    return _moment(str(header.SeriesDate), str(header.SeriesTime))


def _injection(header: Any, tracer: Any) -> datetime:
    moment = tracer.get("RadiopharmaceuticalStartDateTime")
    if moment:
        return _moment(str(moment)[:8], str(moment)[8:14])
    start = _moment(str(header.SeriesDate), str(tracer.RadiopharmaceuticalStartTime))
    # a time of day without a date: what would lie after the scan was the day before
    return start if start <= _scan_start(header) else start - timedelta(days=1)
