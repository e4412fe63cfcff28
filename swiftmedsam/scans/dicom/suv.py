"""Standardised uptake values (SUV) of PET: activity per decayed dose and body weight.

The rule is QIBA's vendor-neutral pseudo-code ("happy path"). If a tag that it needs is missing,
nothing is guessed.
"""

import logging
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from swiftmedsam.messages import one_line, printable

log = logging.getLogger(__name__)

SUV, BQML = "SUV", "Bq/ml"
GRAMS_PER_KILOGRAM = 1000
MOST_HALF_LIVES = 20  # between injection and scan; a millionth of the dose is left then
# A date, and a time down to the hour, the minute or the second; fractions do not matter.
MOMENT = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2}) ([0-9]{2})([0-9]{2})?([0-9]{2})?(?:\.[0-9]*)?")
GE_CREATOR, GE_SCAN_START = "GEMS_PETD_01", 0x0D  # of (0009,100d), a date and time


class _NoSuvError(ValueError):
    """A tag is missing or wrong, so that there is no SUV."""

    def __init__(self, what: str, wanted: str, found: Any) -> None:
        shown = "" if found is None else str(found)
        super().__init__(f"{what} should {wanted}, found {shown or 'nothing'}")


def uptake(headers: Sequence[Any], name: str) -> tuple[float, str]:
    """The factor for rescaled values of a PET series, and the unit that they have then.

    Both are logged. `headers` are those of all its images. Bq/ml become SUV by body weight if they
    are corrected for attenuation and decay, and dose, half-life, times and weight are given. Values
    in g/ml are SUV already. Values in other units are kept, with the unit "".
    """
    units = headers[0].get("Units")
    if units == "GML":
        log.info("%s: PET in g/ml, which is SUV", name)
        return 1.0, SUV
    if units != "BQML":
        log.info("%s: PET without SUV, its units are %s", name, printable(str(units)))
        return 1.0, ""
    try:
        factor = _factor(headers)
    except _NoSuvError as error:
        log.warning("%s: PET stays in Bq/ml, without SUV: %s", name, one_line(error))
        return 1.0, BQML
    log.info("%s: PET from Bq/ml to SUV by body weight, times %.4g", name, factor)
    return factor, SUV


def _factor(headers: Sequence[Any]) -> float:
    """SUV by body weight per Bq/ml.

    Raises:
        _NoSuvError: a tag is missing or wrong.
    """
    header = headers[0]
    tracer: Any = next(iter(header.get("RadiopharmaceuticalInformationSequence") or []), {})
    dose = _number(tracer, "RadionuclideTotalDose")
    half_life = _number(tracer, "RadionuclideHalfLife")  # in s
    grams = _number(header, "PatientWeight") * GRAMS_PER_KILOGRAM
    corrections = header.get("CorrectedImage")
    if not {"ATTN", "DECY"} <= set(corrections or ()):
        raise _NoSuvError("CorrectedImage", "have ATTN and DECY", corrections)
    corrected_to = header.get("DecayCorrection")
    if corrected_to == "ADMIN":
        return grams / dose
    if corrected_to != "START":
        raise _NoSuvError("DecayCorrection", "be START or ADMIN", corrected_to)
    scan = _scan_start(headers)
    waited = (scan - _injection(header, tracer, scan)).total_seconds()
    if not 0 <= waited <= MOST_HALF_LIVES * half_life:
        wanted = f"be 0..{MOST_HALF_LIVES} half-lives of {half_life:g} s after the injection"
        raise _NoSuvError("the scan", wanted, f"{waited:g} s")
    return float(grams / (dose * 2 ** (-waited / half_life)))


def _number(holder: Any, keyword: str) -> float:
    """The value of a tag, which must be a number above 0."""
    found, number = None, math.nan
    try:
        found = holder.get(keyword)
        number = float(found)
    except (TypeError, ValueError):  # missing, several, or no number
        pass
    if not 0 < number < math.inf:
        raise _NoSuvError(keyword, "be a number above 0", found)
    return number


def _moment(what: str, date: Any, time: Any) -> datetime:
    """Parse a date and a time; `what` names them in the message."""
    found = f"{date or 'no date'} {time or 'no time'}"
    if match := MOMENT.fullmatch(found):
        try:
            year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
            return datetime(year, month, day, hour, minute, second)
        except ValueError:  # the 13th month
            pass
    raise _NoSuvError(what, "be YYYYMMDD HHMMSS", found)


def _of(header: Any, what: str) -> datetime:
    """Date and time of a "Series" or an "Acquisition"."""
    date, time = f"{what}Date", f"{what}Time"
    return _moment(f"{date} {time}", header.get(date), header.get(time))


def _scan_start(headers: Sequence[Any]) -> datetime:
    """The moment to which decay is corrected.

    It is the time of the series, unless that is later than an acquisition: then the series was made
    from another one. For this case GE has its own tag with the start of the scan.
    """
    series = _of(headers[0], "Series")
    acquired = min(_of(header, "Acquisition") for header in headers)
    if series <= acquired:
        return series
    try:
        private = headers[0].get_private_item(0x0009, GE_SCAN_START, GE_CREATOR).value
    except KeyError:
        wanted = f"begin no later than its acquisition, {acquired}"
        raise _NoSuvError("the series", wanted, series) from None
    text = private.decode("ascii", "replace") if isinstance(private, bytes) else str(private)
    return _moment("(0009,100d)", text[:8], text[8:])


def _injection(header: Any, tracer: Any, scan: datetime) -> datetime:
    """The moment when the dose was given."""
    keyword = "RadiopharmaceuticalStartDateTime"
    if moment := str(tracer.get(keyword) or ""):
        # remove the file's time zone; a moment in another zone does not parse
        moment = moment.removesuffix(str(header.get("TimezoneOffsetFromUTC") or ""))
        return _moment(keyword, moment[:8], moment[8:])
    keyword = "RadiopharmaceuticalStartTime"
    start = _moment(keyword, scan.strftime("%Y%m%d"), tracer.get(keyword))
    # A time of day without a date: if it is later than the scan, it was on the day before.
    return start if start <= scan else start - timedelta(days=1)
