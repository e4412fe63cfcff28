"""Slices of DICOM files: the position of each, and the tags that tell volumes apart.

Classic files have these tags at the top level. Enhanced files have them in the functional groups of
a frame, or in the shared functional groups, or at the top level.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from swiftmedsam.scans.dicom.tags import TagError, frames_of, group_of, number_of, numbers_of
from swiftmedsam.scans.scan import Float64Array

Mark = float | str | tuple[float, ...]  # the value of a tag, in a form that can be sorted
PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
GRIDS_OF_SLICES = ("MOSAIC", "VFRAME")  # in ImageType: many slices in one picture (Siemens, UIH)
SLICE_VECTOR = "SliceVector"
FRAMES_OF_TIME = ("FrameTimeVector",)  # durations, which do not identify a frame
PALETTE = "PALETTE COLOR"

# Tags that have one value within a volume. By the name in messages; with the keywords that the tag
# may have, that of enhanced files first.
OF_A_VOLUME: dict[str, tuple[str, ...]] = {
    **{keyword: (keyword,) for keyword in (
        "Modality", "PatientID", "StudyInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
        "StackID", "EchoNumbers", "ComplexImageComponent", "DiffusionBValue", "Units",
        "CorrectedImage",
    )},
    "ImageType": ("FrameType", "ImageType"),
    "EchoTime": ("EffectiveEchoTime", "EchoTime"),
}  # fmt: skip
# Tags that may also vary within a volume. If several slices lie at one position, such a tag can
# tell volumes apart when it has the same values at every position. The first such tag is used.
OF_A_TIME: dict[str, tuple[str, ...]] = {
    "TemporalPosition": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    **{keyword: (keyword,) for keyword in (
        "DiffusionGradientOrientation", "DiffusionDirectionality", "TriggerTime",
        "NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime",
        "NominalPercentageOfCardiacPhase", "NominalRespiratoryTriggerDelayTime",
        "NominalPercentageOfRespiratoryPhase", "TemporalPositionTimeOffset",
    )},
    "InversionTime": ("InversionTimes", "InversionTime"),
    **{keyword: (keyword,) for keyword in (
        "FlipAngle", "RepetitionTime", "KVP", "ConvolutionKernel", "ReconstructionDiameter",
        "SliceThickness", "SequenceName", "ProtocolName", "SeriesDescription",
        "ContrastBolusAgent", "FrameReferenceTime", "SeriesTime",
    )},
    "AcquisitionNumber": ("FrameAcquisitionNumber", "AcquisitionNumber"),
}  # fmt: skip
# Times of day, by their keyword: the keywords of date and time in one, and the one of the date.
CLOCKS = {
    "AcquisitionTime": (("FrameAcquisitionDateTime", "AcquisitionDateTime"), "AcquisitionDate"),
    "ContentTime": ((), "ContentDate"),
}
# Private tags of facts that other vendors write to public tags: group, element, creator.
PRIVATE = (
    (0x0019, 0x0C, "SIEMENS MR HEADER"),  # b-value
    (0x0019, 0x0E, "SIEMENS MR HEADER"),  # direction of the gradient
    (0x0043, 0x39, "GEMS_PARM_01"),  # b-value
    (0x0043, 0x2F, "GEMS_PARM_01"),  # magnitude, phase, real or imaginary
    (0x2001, 0x03, "Philips Imaging DD 001"),  # b-value
    (0x2005, 0x11, "Philips MR Imaging DD 001"),  # magnitude, phase, real or imaginary
    (0x2005, 0x13, "Philips MR Imaging DD 005"),  # number of the gradient
)
WANTED = {
    keyword
    for table in (OF_A_VOLUME, OF_A_TIME)
    for keywords in table.values()
    for keyword in keywords
} | {"FrameAcquisitionDateTime", "AcquisitionDateTime"}
# The dimensions of an enhanced file that are positions of a frame.
PLACES = (
    "ImagePositionPatient", "ImageOrientationPatient", "InStackPositionNumber", "SliceLocation",
    "PlanePositionSequence", "PlaneOrientationSequence", "ImagePositionVolume",
)  # fmt: skip
# Sequences with these words in their names hold tags of other images.
OF_OTHERS = re.compile("Referenc|Source|Derivation")
TIME_OF_DAY = re.compile(r"([0-9]{2})([0-9]{2})?([0-9]{2}(?:\.[0-9]*)?)?")
DAY = 86400  # s


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a series: a file, or a frame of a file."""

    path: Path
    frame: int  # of the file, counted from 0
    size: tuple[int, int]  # rows, columns
    spacing_mm: tuple[float, float] | None  # between rows, between columns
    position: Float64Array | None  # (3,) of the first pixel, LPS
    orientation: Float64Array | None  # (6,) cosines along a row and along a column
    thickness_mm: float = 1.0
    marks: dict[str, Mark] = field(default_factory=dict)  # values of the tags above, by name


def slices_of(path: Path, header: Any, pydicom: Any) -> Iterator[Slice]:
    """The slices of one file.

    The frames of a multi-frame file without functional groups, for example a film, have no
    position.

    Raises:
        TagError: the file is one picture of many slices, or tiles of a slide; or a tag of the
            position is wrong.
    """
    frames = frames_of(header)
    _refuse_grid_of_slices(header)
    _refuse_slide(header, frames)
    grouped = bool(header.get(PER_FRAME))
    if grouped and len(header[PER_FRAME].value) != frames:
        found = len(header[PER_FRAME].value)
        raise TagError(f"{PER_FRAME} should have {frames} items, found {found}")
    shared = _flat((header.get(SHARED) or [None])[0])
    common = _marks(header, shared, {})
    common |= _private_marks(header)
    dimensions = _dimensions(header, pydicom) if grouped else {}
    vectors = {} if grouped or frames == 1 else _vectors(header, frames, pydicom)
    for frame in range(frames):
        measures = group_of(header, frame, "PixelMeasuresSequence")
        marks = common
        if grouped:
            marks = _marks(header, shared, _flat(header[PER_FRAME].value[frame]), common)
            content = group_of(header, frame, "FrameContentSequence")
            marks |= _of_dimensions(content, dimensions)
        elif vectors:
            marks = common | {keyword: float(values[frame]) for keyword, values in vectors.items()}
        plane = group_of(header, frame, "PlanePositionSequence")
        orientation = group_of(header, frame, "PlaneOrientationSequence")
        yield Slice(
            path, frame, (int(header.Rows), int(header.Columns)), _spacing_mm(measures, header),
            numbers_of(plane, "ImagePositionPatient", 3) if grouped or frames == 1 else None,
            numbers_of(orientation, "ImageOrientationPatient", 6),
            _thickness_mm(measures), marks,
        )  # fmt: skip


def _spacing_mm(measures: Any, header: Any) -> tuple[float, float] | None:
    """Distances in mm between rows and between columns; None if no tag has them."""
    for holder, keyword in ((measures, "PixelSpacing"), (header, "ImagerPixelSpacing")):
        spacing = numbers_of(holder, keyword, 2)
        if spacing is not None:
            if (spacing <= 0).any():
                raise TagError(f"{keyword} should be above 0, found {spacing.tolist()}")
            return float(spacing[0]), float(spacing[1])
    return None


def _thickness_mm(measures: Any) -> float:
    """The thickness of a slice, for a volume of one slice."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        if thickness := number_of(measures, keyword):
            return abs(thickness)  # PS3.3 C.8.4.15: the sign is a direction
    return 1.0


def _refuse_grid_of_slices(header: Any) -> None:
    """Raise TagError if the file is one picture with many slices side by side."""
    kinds = header.get("ImageType") or ()
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if grid := next((kind for kind in GRIDS_OF_SLICES if kind in kinds), None):
        found = f"ImageType {grid}"
    else:
        try:
            count = int(header.get_private_item(0x0019, 0x0A, "SIEMENS MR HEADER").value)
        except (KeyError, TypeError, ValueError):  # missing, or a form that pydicom does not decode
            return
        if count <= 1:
            return
        found = f"(0019,100a) NumberOfImagesInMosaic {count}"
    raise TagError(f"expected one slice, found a mosaic of many slices in one picture ({found})")


def _refuse_slide(header: Any, frames: int) -> None:
    """Raise TagError for tiles of a slide; a slide in one piece can be read as a picture."""
    total = header.get("TotalPixelMatrixRows"), header.get("TotalPixelMatrixColumns")
    in_pieces = None not in total and total != (header.Rows, header.Columns)
    is_slide = header.get("SOPClassUID") == WHOLE_SLIDE or None not in total
    for holder in (PER_FRAME, SHARED):
        groups = header.get(holder) or []
        is_slide = is_slide or bool(groups and "PlanePositionSlideSequence" in groups[0])
    if is_slide and (frames > 1 or in_pieces):
        size = "" if None in total else f" of {total[1]}x{total[0]} pixels (TotalPixelMatrix)"
        raise TagError(
            f"expected slices, found {frames} of the tiles of a slide{size}; a picture of "
            "the part that is wanted (PNG, TIFF) can be read"
        )


def _flat(item: Any) -> dict[str, Any]:
    """The tags in `WANTED` of an item and of the sequences in it, by keyword."""
    found: dict[str, Any] = {}
    for element in item or ():
        if element.VR != "SQ":
            if element.keyword in WANTED:
                found[element.keyword] = element.value
        elif element.value and not element.tag.is_private and not OF_OTHERS.search(element.keyword):
            found |= {key: value for key, value in _flat(element.value[0]).items()
                      if key not in found}  # fmt: skip
    return found


def _mark(value: Any) -> Mark | None:
    """The value of a tag as a number, a text or numbers; None if it is empty."""
    if isinstance(value, bytes):
        value = value.rstrip(b"\0 ").decode("latin-1")
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (int, float)):
        return float(f"{value:.6g}")  # values that differ only by rounding become equal
    if value is None or not len(value):
        return None
    if all(isinstance(one, (int, float)) for one in value):
        numbers = tuple(float(f"{one:.4g}") for one in value)
        return numbers if len(numbers) > 1 else numbers[0]
    return "\\".join(map(str, value))


def _marks(
    header: Any, shared: dict[str, Any], own: dict[str, Any], common: dict[str, Mark] | None = None
) -> dict[str, Mark]:
    """The marks of a frame: from its `own` tags, else from `shared` tags, else from the header.

    `common` are the marks that do not come from its own tags, if they are known already.
    """
    marks = dict(common or {})
    for name, keywords in (*OF_A_VOLUME.items(), *OF_A_TIME.items()):
        if common is None or not own.keys().isdisjoint(keywords):
            for keyword in keywords:
                value = own.get(keyword, shared.get(keyword))
                mark = _mark(header.get(keyword) if value is None else value)
                if mark is not None:
                    marks[name] = mark
                    break
    for name, (moments, day) in CLOCKS.items():
        holders = (own, shared, header) if common is None else (own,)
        moment = next((str(holder.get(key)) for holder in holders for key in moments
                       if holder.get(key)), "")  # fmt: skip
        if moment:
            seconds = _seconds(moment[:8], moment[8:])
        elif common is None:
            seconds = _seconds(header.get(day), header.get(name))
        else:
            continue
        if seconds is not None:
            marks[name] = seconds
    if common is None:
        marks["SamplesPerPixel"] = float(header.get("SamplesPerPixel") or 1)
        if header.get("PhotometricInterpretation") == PALETTE:
            marks["SamplesPerPixel"] = PALETTE
    return marks


def _seconds(day: Any, time: Any) -> float | None:
    """Seconds since the year 1, or since midnight if there is no date; None without a time."""
    match = TIME_OF_DAY.match(str(time or "").replace(":", "").strip())
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    digits = str(day or "").replace(".", "").strip()
    try:
        days = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).toordinal()
    except ValueError:
        days = 0
    return days * DAY + hours * 3600 + minutes * 60 + seconds


def _private_marks(header: Any) -> dict[str, Mark]:
    marks: dict[str, Mark] = {}
    for group, element, creator in PRIVATE:
        try:
            value = header.get_private_item(group, element, creator).value
        except KeyError:
            continue
        if (mark := _mark(value)) is not None:
            marks[f"({group:04x},xx{element:02x}) of {creator}"] = mark
    return marks


def _dimensions(header: Any, pydicom: Any) -> dict[int, str]:
    """The dimensions that are not positions: index in DimensionIndexValues, and name."""
    found = {}
    for index, item in enumerate(header.get("DimensionIndexSequence") or []):
        pointer = item.get("DimensionIndexPointer")
        keyword = pydicom.datadict.keyword_for_tag(pointer) if pointer is not None else ""
        if keyword not in PLACES:
            found[index] = f"DimensionIndexValues of {keyword or pointer}"
    return found


def _of_dimensions(content: Any, dimensions: dict[int, str]) -> dict[str, Mark]:
    values = content.get("DimensionIndexValues")
    if values is None:
        return {}
    indices = [values] if isinstance(values, int) else list(values)
    return {name: float(indices[at]) for at, name in dimensions.items() if at < len(indices)}


def _vectors(header: Any, frames: int, pydicom: Any) -> dict[str, Any]:
    """The vectors that number the frames of a nuclear medicine file (PS3.3 C.8.4.8), by keyword."""
    pointers = header.get("FrameIncrementPointer")
    if pointers is None:
        return {}
    found = {}
    for pointer in [pointers] if isinstance(pointers, int) else list(pointers):
        keyword = pydicom.datadict.keyword_for_tag(pointer)
        values = header.get(keyword) if keyword.endswith("Vector") else None
        if keyword in FRAMES_OF_TIME or values is None or isinstance(values, (int, float)):
            continue
        if len(values) == frames:
            found[keyword] = values
    return found
