"""Values of DICOM pixels: what the tags around them declare is used, or refused with its name.

The way of a grey sample (DICOM PS3.3 C.7.6.3, C.11.1 and PS3.5 8.1.1): the bits that are stored in
its word, its sign, the modality's table or slope, and then turned where low values show bright.
Pixels of padding are no values: they count as the lowest that there is. docs/properties.md has what
becomes of each tag.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from swiftmedsam.messages import printable
from swiftmedsam.scans.dicom import jpeg as dicom_jpeg
from swiftmedsam.scans.dicom.colour import colours_of, is_colour
from swiftmedsam.scans.dicom.decode import KEYWORDS, Sample, Stored, decoded, sample_of
from swiftmedsam.scans.dicom.slices import Slice
from swiftmedsam.scans.dicom.tags import (
    MOST_SHOWN,
    TagError,
    group_of,
    number_of,
    numbers_of,
    readable,
    shown,
    text_of,
    value_of,
    whole_of,
)
from swiftmedsam.scans.scan import ScanError, Voxels

log = logging.getLogger(__name__)

GREY = ("MONOCHROME1", "MONOCHROME2")
# Units of a CT's rescaled values that are Hounsfield units; older files say "unspecified".
HOUNSFIELD = ("HU", "HU_MOD", "US", "")
# VRs of a slope or intercept; UN is that of a tag which the writer did not know. Others are damage:
# US can hold no -1024.
DECIMAL = ("DS", "UN")

Slopes = tuple[float, float]  # slope and intercept
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Padding:
    """Pixels that are no values: those from `low` to `high`."""

    low: float
    high: float
    in_words: bool = False  # of whole words, since the stored bits cannot hold it

    def mask(self, words: Stored, stored: Stored) -> Mask:
        """Which pixels of a plane (rows, columns) are padding."""
        looked_at = words if self.in_words else stored
        if np.isnan(self.low):
            return np.isnan(looked_at)
        return np.asarray((looked_at >= self.low) & (looked_at <= self.high))


def padding_of(dataset: Any, sample: Sample) -> Padding | None:
    """The padding that a file declares; None if it declares none.

    Vendors write a negative value as an unsigned number and the other way round, or one that only a
    whole word can hold; each is taken as the bits that it stands for.

    Raises:
        TagError: it is no number, or has a limit but no value.
    """
    keyword = {
        "PixelData": "PixelPaddingValue", "FloatPixelData": "FloatPixelPaddingValue",
        "DoubleFloatPixelData": "DoubleFloatPixelPaddingValue",
    }[sample.keyword]  # fmt: skip
    limit_keyword = keyword.replace("Value", "RangeLimit")
    if sample.keyword != "PixelData":
        value, limit = (value_of(dataset, one) for one in (keyword, limit_keyword))
        if value is None and limit is None:
            return None
        if value is None:
            raise TagError(f"{limit_keyword} is given without {keyword}")
        low, high = sorted((float(value), float(value if limit is None else limit)))
        return Padding(low, high)
    ends = [number_of(dataset, one) for one in (keyword, limit_keyword)]
    if ends[0] is None:
        if ends[1] is not None:
            raise TagError(f"{limit_keyword} is given without {keyword}")
        return None
    given = [whole_of(dataset, keyword), whole_of(dataset, limit_keyword, round(ends[0]))]
    words = np.array([value % (1 << sample.allocated) for value in given], sample.word)
    stored = sample.stored(words)
    size = 1 << sample.allocated
    fits = all((int(a) - b) % size == 0 for a, b in zip(stored, given, strict=True))
    low, high = sorted((stored if fits else words).tolist())
    return Padding(low, high, in_words=not fits)


def check_pixels(header: Any) -> None:
    """Look at what a header declares of its pixels, before they are read.

    Raises:
        TagError: something is missing, contradicts another, or is of a kind that is not read.
    """
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise TagError("TransferSyntaxUID is missing")
    if not syntax.is_transfer_syntax:
        raise TagError(f"TransferSyntaxUID {shown(syntax)} is not known")
    for keyword in ("Rows", "Columns"):
        size = whole_of(header, keyword)
        if not 0 < size < 1 << 16:
            raise TagError(f"{keyword} should be 1..65535, found {size}")
    photometric = text_of(header, "PhotometricInterpretation")
    if not photometric:
        raise TagError("PhotometricInterpretation is missing")
    in_colour = is_colour(header)
    if not in_colour and photometric not in GREY:
        raise TagError(f"PhotometricInterpretation {shown(photometric)} is not read")
    samples = whole_of(header, "SamplesPerPixel")
    wanted = 3 if in_colour and photometric != "PALETTE COLOR" else 1
    if samples != wanted:
        raise TagError(
            f"SamplesPerPixel should be {wanted} where PhotometricInterpretation is {photometric}, "
            f"found {samples}"
        )
    allocated = whole_of(header, "BitsAllocated")
    if allocated not in (1, 8, 16, 32, 64):
        raise TagError(f"BitsAllocated should be 1, 8, 16, 32 or 64, found {allocated}")
    if value_of(header, "BitsStored") is not None:  # else floats, or `decoded` refuses it
        sample_of(header)


@dataclass
class Found:
    """What there is to say of the files of a scan, all together."""

    padded: int = 0  # voxels
    notes: dict[str, None] = field(default_factory=dict)  # each once, in order
    slopes: set[Slopes] = field(default_factory=set)
    rescaled: set[bool] = field(default_factory=set)  # whether tags say how
    units: set[str] = field(default_factory=set)  # of RescaleType, where it is given
    # Of each slice, what its values were subtracted from to turn them; None where they were not.
    turned_at: list[float | None] = field(default_factory=list)
    real_world: set[Slopes] = field(default_factory=set)


def read_values(runs: Iterable[Sequence[Slice]], name: str, pydicom: Any) -> Voxels:
    """Values (K, rows, columns[, 3]) of slices, in their order; each run is of one file.

    Grey ones are float32 in the unit of the modality. `name` is that of the scan, for messages.

    Raises:
        ScanError: a file is damaged, or declares what cannot be used; it is named. Or slices say
            different things of what their values are.
    """
    pieces: list[Voxels] = []
    found = Found()
    for run in runs:
        file = printable(run[0].path.name)
        with readable(file, pydicom):
            dataset = pydicom.dcmread(run[0].path)
            pieces.append(_of_one_file(run, dataset, file, pydicom, found))
    if len(found.slopes) == 1 and len(found.real_world) > 1:
        found.notes["RealWorldValueSlope differs between slices, and is not applied"] = None
    _require_one_unit(found, name)
    for note in found.notes:
        log.warning("%s: %s", name, note)
    _turn_alike(pieces, found.turned_at, name)
    if found.padded:
        _fill_padding(pieces, name)
        log.info("%s: %d voxels are padding, and count as the lowest value", name, found.padded)
    return np.concatenate(pieces)


def _of_one_file(
    slices: Sequence[Slice], dataset: Any, file: str, pydicom: Any, found: Found
) -> Voxels:
    """Values (K, rows, columns[, 3]) of frames of one file; padding is NaN, or infinite for 0."""
    if not any(keyword in dataset for keyword in KEYWORDS):
        # of a file that is cut off pydicom may keep nothing
        raise TagError("PixelData is missing: the file has no pixels, or is cut off")
    check_pixels(dataset)
    frames = [one.frame for one in slices]
    words: Stored
    if is_colour(dataset):
        return colours_of(dataset, frames, pydicom)
    if dicom_jpeg.is_of_12_bits(dataset):
        sample = sample_of(dataset)
        words = dicom_jpeg.samples_of(dataset, file, pydicom)
    else:
        sample, words = decoded(dataset, pydicom)
    padding = padding_of(dataset, sample)
    turned = is_turned(dataset, found.notes)
    if text_of(dataset, "PixelPresentation") in ("COLOR", "MIXED"):
        found.notes["PixelPresentation has colours, which are left out; grey values are taken"] = (
            None
        )
    out = np.empty((len(frames), *words.shape[1:]), np.float32)
    unused = False
    for target, frame in zip(out, frames, strict=True):
        plane = words[frame]
        stored = sample.stored(plane)
        mask = None if padding is None else padding.mask(sample.unsigned(plane), stored)
        unused = unused or sample.loses(plane, stored, mask)
        holder = group_of(dataset, frame, "PixelValueTransformationSequence")
        slopes = rescale_of(holder)
        target[...], turned_at = _modality_values(stored, dataset, slopes, sample, turned=turned)
        found.turned_at.append(turned_at)
        found.slopes.add(slopes)
        found.rescaled.add(
            any(value_of(at, tag) is not None for at, tag in (
                (holder, "RescaleSlope"), (holder, "RescaleIntercept"),
                (dataset, "ModalityLUTSequence"),
            ))
        )  # fmt: skip
        found.units |= {text_of(holder, "RescaleType")} - {""}
        found.real_world |= _real_world(dataset, frame)
        if mask is not None:
            # what is 0 can stay so if nothing is lower: percentiles leave it out
            target[mask] = np.where(target[mask] == 0, np.inf, np.nan)
            found.padded += int(mask.sum())
    if unused and not sample.overlays:
        found.notes[
            f"bits outside of BitsStored {sample.bits} and HighBit {sample.high} are set, and left "
            "out"
        ] = None
    return out


def _require_one_unit(found: Found, name: str) -> None:
    """Raise ScanError where slices of a volume are values of different units."""
    if len(found.rescaled) > 1 and len(found.slopes) > 1:
        raise ScanError(
            f"{name}: slices should all be rescaled, found some with RescaleSlope and "
            "RescaleIntercept, and some without"
        )
    if len(found.units) > 1:
        units = " and ".join(printable(unit[:MOST_SHOWN]) for unit in sorted(found.units))
        raise ScanError(f"{name}: slices should be of one unit, found RescaleType {units}")


def _turn_alike(planes: Sequence[Voxels], turned_at: Sequence[float | None], name: str) -> None:
    """Make turned values comparable from slice to slice: all are subtracted from one number.

    Each slice was turned within its own range, which depends on its slope and its bits.

    Raises:
        ScanError: some slices are turned and some are not.
    """
    ends = [end for end in turned_at if end is not None]
    if 0 < len(ends) < len(turned_at):
        raise ScanError(
            f"{name}: slices should be of one kind, found low values that show bright in "
            f"{len(ends)} of {len(turned_at)} slices "
            "(PhotometricInterpretation, PresentationLUTShape)"
        )
    if len(set(ends)) > 1:
        every = [plane for part in planes for plane in part]
        for plane, end in zip(every, ends, strict=True):
            plane += max(ends) - end


def _fill_padding(planes: Sequence[Voxels], name: str) -> None:
    """Put the lowest value where `_of_one_file` left padding."""
    every = [plane for part in planes for plane in part]
    lowest = min(float(np.min(one, where=np.isfinite(one), initial=np.inf)) for one in every)
    if lowest == np.inf:
        raise ScanError(f"{name}: PixelPaddingValue is the value of every pixel")
    for plane in every:
        plane[np.isinf(plane)] = min(lowest, 0)
        plane[np.isnan(plane)] = lowest


def _real_world(dataset: Any, frame: int) -> set[Slopes]:
    """Slope and intercept that map stored values to a unit of the real world; at most one pair."""
    keyword = "RealWorldValueMappingSequence"
    item = group_of(dataset, frame, keyword)
    if item is dataset:
        items = value_of(dataset, keyword)
        if items is None:
            return set()
        item = items[0]
    slope, intercept = (number_of(item, f"RealWorldValue{one}") for one in ("Slope", "Intercept"))
    return set() if slope is None else {(slope, intercept or 0.0)}


def is_turned(dataset: Any, notes: dict[str, None]) -> bool:
    """Whether low values show bright; never in colour. What contradicts itself is noted.

    PS3.3 C.8.11.3: MONOCHROME1 goes with the shape INVERSE, which is one inversion and not two, and
    MONOCHROME2 with IDENTITY. Where they contradict each other one of them says that it is turned.
    """
    photometric = text_of(dataset, "PhotometricInterpretation")
    shape = text_of(dataset, "PresentationLUTShape")
    if photometric not in GREY:
        return False
    wanted = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[photometric]
    if shape in ("INVERSE", "IDENTITY") and shape != wanted:
        notes[
            f"PhotometricInterpretation {photometric} and PresentationLUTShape {shape} contradict "
            "each other; low values are taken as bright"
        ] = None
        return True
    return photometric == "MONOCHROME1"


def _modality_values(
    stored: Stored, dataset: Any, slopes: Slopes, sample: Sample, *, turned: bool
) -> tuple[Voxels, float | None]:
    """Values (rows, columns) in the modality's unit of stored ones; PS3.3 C.11.1.

    And, where they are turned, what they were subtracted from.
    """
    slope, intercept = slopes
    table = value_of(dataset, "ModalityLUTSequence")
    turned_at = None
    if table is None:
        if turned:
            turned_at = 2 * intercept + slope * sum(sample.range_of(stored))
            slope, intercept = -slope, turned_at - intercept
        if (slope, intercept) == (1, 0):
            return stored, turned_at
        values = stored.astype(np.float64)
        values *= slope
        values += intercept
        return values, turned_at
    if (slope, intercept) != (1, 0):
        raise TagError("ModalityLUTSequence and RescaleSlope are both given, expected one of them")
    entries, top = lut_of(table[0], dataset)
    _, first, _ = lut_descriptor(table[0])
    found = entries[np.clip(stored.astype(np.int64) - first, 0, len(entries) - 1)]
    return (top - found.astype(np.float64), float(top)) if turned else (found, None)


def rescale_of(holder: Any) -> Slopes:
    """Slope and intercept; 1 and 0 where they are missing or empty, as anonymisers leave them.

    Raises:
        TagError: one is no number, or of another VR than DS, or the slope is 0.
    """
    slope, intercept = (number_of(holder, f"Rescale{one}") for one in ("Slope", "Intercept"))
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in holder and holder[keyword].VR not in DECIMAL:
            raise TagError(
                f"{keyword} should be decimal text (VR DS), found VR {holder[keyword].VR}"
            )
    if slope == 0:
        raise TagError("RescaleSlope should not be 0")
    return 1.0 if slope is None else slope, intercept or 0.0


def in_hounsfield(header: Any) -> tuple[bool, bool]:
    """Whether the values of a CT are in Hounsfield units, and whether they can be.

    Only a slope says that they are. Maps of iodine or of effective atomic numbers, say, are CT by
    their modality and in another unit by their RescaleType.
    """
    holder = group_of(header, 0, "PixelValueTransformationSequence")
    kind = text_of(holder, "RescaleType")
    given = number_of(holder, "RescaleSlope") is not None
    return given and kind in ("HU", ""), kind in HOUNSFIELD or not given


def lut_descriptor(item: Any) -> tuple[int, int, int]:
    """Entries, the stored value of the first of them, and their bits."""
    numbers = numbers_of(item, "LUTDescriptor", 3)
    if numbers is None:
        raise TagError("LUTDescriptor is missing")
    entries, first, bits = (round(number) for number in numbers.tolist())
    return entries % (1 << 16) or 1 << 16, first, bits


def lut_of(item: Any, dataset: Any) -> tuple[Voxels, int]:
    """Entries (N,) of a table of the modality, and the highest value that they may have.

    Raises:
        TagError: there are not as many as its descriptor says.
    """
    count, _, bits = lut_descriptor(item)
    data = value_of(item, "LUTData")
    if data is None:
        raise TagError("LUTData is missing")
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        # of 8 bits they may be packed, two in a word
        width = 1 if bits <= 8 and len(data) < 2 * count else 2
        data = np.frombuffer(data[: len(data) // width * width], f"{order}u{width}")
    entries = np.atleast_1d(np.asarray(data))
    if not 8 <= bits <= 16 or len(entries) < count:
        raise TagError(
            f"LUTData should have {count} entries of 8..16 bits, found {len(entries)} of {bits}"
        )
    return entries[:count], (1 << bits) - 1
