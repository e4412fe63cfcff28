"""Values of DICOM pixels. Each tag that describes pixels is applied, or refused with its name.

The steps for a grey sample (PS3.3 C.7.6.3, C.11.1 and PS3.5 8.1.1): take its stored bits from the
word, apply its sign, apply the modality's table or slope, and invert it if low values are shown
bright. Padding pixels have no value; they get the lowest value of the volume. docs/properties.md
lists the treatment of each tag.
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
# RescaleType of a CT in Hounsfield units; older files have US, "unspecified".
HOUNSFIELD = ("HU", "HU_MOD", "US", "")
# VRs of a slope or intercept; UN is that of a tag unknown to the writer. Another VR is a fault: US,
# for example, cannot hold -1024.
DECIMAL = ("DS", "UN")

Slopes = tuple[float, float]  # slope and intercept
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Padding:
    """The range of values that mark padding pixels: `low` to `high`, both inclusive."""

    low: float
    high: float
    in_words: bool = False  # compare whole words, since the stored bits cannot hold the value

    def mask(self, words: Stored, stored: Stored) -> Mask:
        """The padding pixels of a plane, given as words and as samples (rows, columns)."""
        values = words if self.in_words else stored
        if np.isnan(self.low):
            return np.isnan(values)
        return np.asarray((values >= self.low) & (values <= self.high))


def padding_of(dataset: Any, sample: Sample) -> Padding | None:
    """The padding that a file declares; None if it declares none.

    Vendors write a negative value as an unsigned number, an unsigned value as a negative number, or
    a value that only a whole word can hold. The bits of the value count.

    Raises:
        TagError: the padding is no number, or has a limit but no value.
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
    """Check the tags of a header that describe its pixels, before the pixels are read.

    Raises:
        TagError: a tag is missing, contradicts another, or has a value that is not supported.
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
    if value_of(header, "BitsStored") is not None:  # otherwise floats, or `decoded` refuses it
        sample_of(header)


@dataclass
class Facts:
    """Facts about the files of a scan, collected while they are read."""

    padded: int = 0  # voxels of padding
    notes: dict[str, None] = field(default_factory=dict)  # warnings, each once, in order
    slopes: set[Slopes] = field(default_factory=set)
    rescaled: set[bool] = field(default_factory=set)  # whether a slice has tags for rescaling
    units: set[str] = field(default_factory=set)  # values of RescaleType
    # For each slice: inverted values are this number minus the value; None: not inverted.
    inverted_from: list[float | None] = field(default_factory=list)
    real_world: set[Slopes] = field(default_factory=set)


def read_values(runs: Iterable[Sequence[Slice]], name: str, pydicom: Any) -> Voxels:
    """Values (K, rows, columns[, 3]) of slices, in their order; each of `runs` is of one file.

    Grey values are float32 in the unit of the modality. `name` is that of the scan, for messages.

    Raises:
        ScanError: a file is damaged or not supported; the message names it. Or slices have
            different units, or only some are inverted.
    """
    pieces: list[Voxels] = []
    facts = Facts()
    for run in runs:
        file = printable(run[0].path.name)
        with readable(file, pydicom):
            dataset = pydicom.dcmread(run[0].path)
            pieces.append(_of_one_file(run, dataset, file, pydicom, facts))
    if len(facts.slopes) == 1 and len(facts.real_world) > 1:
        facts.notes["RealWorldValueSlope differs between slices, and is not applied"] = None
    _require_one_unit(facts, name)
    for note in facts.notes:
        log.warning("%s: %s", name, note)
    _invert_alike(pieces, facts.inverted_from, name)
    if facts.padded:
        _fill_padding(pieces, name)
        log.info("%s: %d voxels are padding, and count as the lowest value", name, facts.padded)
    return np.concatenate(pieces)


def _of_one_file(
    slices: Sequence[Slice], dataset: Any, file: str, pydicom: Any, facts: Facts
) -> Voxels:
    """Values (K, rows, columns[, 3]) of frames of one file.

    Padding is infinity if its value is 0, otherwise NaN.
    """
    if not any(keyword in dataset for keyword in KEYWORDS):
        # pydicom may keep no pixels of a truncated file
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
    inverted = is_inverted(dataset, facts.notes)
    if text_of(dataset, "PixelPresentation") in ("COLOR", "MIXED"):
        facts.notes["PixelPresentation has colours, which are left out; grey values are taken"] = (
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
        target[...], inverted_from = _modality_values(
            stored, dataset, slopes, sample, inverted=inverted
        )
        facts.inverted_from.append(inverted_from)
        facts.slopes.add(slopes)
        facts.rescaled.add(
            any(value_of(at, tag) is not None for at, tag in (
                (holder, "RescaleSlope"), (holder, "RescaleIntercept"),
                (dataset, "ModalityLUTSequence"),
            ))
        )  # fmt: skip
        facts.units |= {text_of(holder, "RescaleType")} - {""}
        facts.real_world |= _real_world(dataset, frame)
        if mask is not None:
            # padding of value 0 stays 0 if no value is lower, since percentiles ignore 0
            target[mask] = np.where(target[mask] == 0, np.inf, np.nan)
            facts.padded += int(mask.sum())
    if unused and not sample.overlays:
        facts.notes[
            f"bits outside of BitsStored {sample.bits} and HighBit {sample.high} are set, and left "
            "out"
        ] = None
    return out


def _require_one_unit(facts: Facts, name: str) -> None:
    """Raise ScanError if slices of a volume have different units."""
    if len(facts.rescaled) > 1 and len(facts.slopes) > 1:
        raise ScanError(
            f"{name}: slices should all be rescaled, found some with RescaleSlope and "
            "RescaleIntercept, and some without"
        )
    if len(facts.units) > 1:
        units = " and ".join(printable(unit[:MOST_SHOWN]) for unit in sorted(facts.units))
        raise ScanError(f"{name}: slices should be of one unit, found RescaleType {units}")


def _invert_alike(
    planes: Sequence[Voxels], inverted_from: Sequence[float | None], name: str
) -> None:
    """Make inverted values comparable between slices: subtract all from one number.

    Each slice was inverted within its own range, which depends on its slope and its bits.

    Raises:
        ScanError: some slices are inverted and some are not.
    """
    ends = [end for end in inverted_from if end is not None]
    if 0 < len(ends) < len(inverted_from):
        raise ScanError(
            f"{name}: slices should be of one kind, found low values shown bright in "
            f"{len(ends)} of {len(inverted_from)} slices "
            "(PhotometricInterpretation, PresentationLUTShape)"
        )
    if len(set(ends)) > 1:
        every = [plane for part in planes for plane in part]
        for plane, end in zip(every, ends, strict=True):
            plane += max(ends) - end


def _fill_padding(planes: Sequence[Voxels], name: str) -> None:
    """Give padding pixels, marked by `_of_one_file`, the lowest value."""
    every = [plane for part in planes for plane in part]
    lowest = min(float(np.min(one, where=np.isfinite(one), initial=np.inf)) for one in every)
    if lowest == np.inf:
        raise ScanError(f"{name}: PixelPaddingValue is the value of every pixel")
    for plane in every:
        plane[np.isinf(plane)] = min(lowest, 0)
        plane[np.isnan(plane)] = lowest


def _real_world(dataset: Any, frame: int) -> set[Slopes]:
    """Slope and intercept of the RealWorldValueMappingSequence; at most one pair."""
    keyword = "RealWorldValueMappingSequence"
    item = group_of(dataset, frame, keyword)
    if item is dataset:
        items = value_of(dataset, keyword)
        if items is None:
            return set()
        item = items[0]
    slope, intercept = (number_of(item, f"RealWorldValue{one}") for one in ("Slope", "Intercept"))
    return set() if slope is None else {(slope, intercept or 0.0)}


def is_inverted(dataset: Any, notes: dict[str, None]) -> bool:
    """Whether low values are shown bright, so that values are inverted; never in colour.

    PS3.3 C.8.11.3: MONOCHROME1 goes with the shape INVERSE, which is one inversion and not two, and
    MONOCHROME2 with IDENTITY. If they contradict each other, one of them asks for an inversion:
    values are inverted, and a warning is added to `notes`.
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
    stored: Stored, dataset: Any, slopes: Slopes, sample: Sample, *, inverted: bool
) -> tuple[Voxels, float | None]:
    """Convert stored values (rows, columns) to the modality's unit (PS3.3 C.11.1).

    Also returns the number that inverted values were subtracted from; None if not inverted.
    """
    slope, intercept = slopes
    table = value_of(dataset, "ModalityLUTSequence")
    inverted_from = None
    if table is None:
        if inverted:
            inverted_from = 2 * intercept + slope * sum(sample.range_of(stored))
            slope, intercept = -slope, inverted_from - intercept
        if (slope, intercept) == (1, 0):
            return stored, inverted_from
        values = stored.astype(np.float64)
        values *= slope
        values += intercept
        return values, inverted_from
    if (slope, intercept) != (1, 0):
        raise TagError("ModalityLUTSequence and RescaleSlope are both given, expected one of them")
    entries, top = lut_of(table[0], dataset)
    _, first, _ = lut_descriptor(table[0])
    looked_up = entries[np.clip(stored.astype(np.int64) - first, 0, len(entries) - 1)]
    return (top - looked_up.astype(np.float64), float(top)) if inverted else (looked_up, None)


def rescale_of(holder: Any) -> Slopes:
    """Slope and intercept; 1 and 0 if they are missing, or empty (as anonymisers leave them).

    Raises:
        TagError: one is no number or has a VR that is not in `DECIMAL`, or the slope is 0.
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
    """Whether the values of a CT are certainly in Hounsfield units, and whether they can be.

    They certainly are only if there is a slope. Maps of iodine or of effective atomic numbers, for
    example, have the modality CT but another unit, by their RescaleType.
    """
    holder = group_of(header, 0, "PixelValueTransformationSequence")
    kind = text_of(holder, "RescaleType")
    given = number_of(holder, "RescaleSlope") is not None
    return given and kind in ("HU", ""), kind in HOUNSFIELD or not given


def is_rescaled(header: Any) -> bool:
    """Whether the header says how stored values become those of the modality."""
    holder = group_of(header, 0, "PixelValueTransformationSequence")
    slope = number_of(holder, "RescaleSlope")
    return slope is not None or value_of(header, "ModalityLUTSequence") is not None


def lut_descriptor(item: Any) -> tuple[int, int, int]:
    """The number of entries of a table, the stored value of the first one, and their bits."""
    numbers = numbers_of(item, "LUTDescriptor", 3)
    if numbers is None:
        raise TagError("LUTDescriptor is missing")
    entries, first, bits = (round(number) for number in numbers.tolist())
    return entries % (1 << 16) or 1 << 16, first, bits


def lut_of(item: Any, dataset: Any) -> tuple[Voxels, int]:
    """Entries (N,) of a modality table, and the highest value that they can have.

    Raises:
        TagError: the table contradicts its descriptor.
    """
    count, _, bits = lut_descriptor(item)
    data = value_of(item, "LUTData")
    if data is None:
        raise TagError("LUTData is missing")
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        # entries of 8 bits may be packed, two in a word
        width = 1 if bits <= 8 and len(data) < 2 * count else 2
        data = np.frombuffer(data[: len(data) // width * width], f"{order}u{width}")
    entries = np.atleast_1d(np.asarray(data))
    if not 8 <= bits <= 16 or len(entries) < count:
        raise TagError(
            f"LUTData should have {count} entries of 8..16 bits, found {len(entries)} of {bits}"
        )
    return entries[:count], (1 << bits) - 1
