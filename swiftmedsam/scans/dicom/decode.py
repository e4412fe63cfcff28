"""Decodes DICOM pixels to stored samples: which bits of a word are the sample, and the decoders."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from swiftmedsam.scans.dicom.tags import DAMAGED, TagError, frames_of, text_of, value_of, whole_of

KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
OVERLAYS = range(0x6000, 0x6020, 2)  # groups
RLE = "1.2.840.10008.1.2.5"  # RLE keeps whole words
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
START_OF_JPEG, START_OF_JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Markers of JPEG and JPEG-LS that begin the header of a frame (ITU-T T.81 B.1.1.3, T.87 C.1.1).
FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
END_OF_IMAGE = b"\xff\xd9"
# The start-of-scan marker of JPEG and JPEG-LS, and the start-of-data marker of JPEG 2000, by
# transfer syntax.
STARTS_OF_SCAN = {
    f"1.2.840.10008.1.2.4.{end}": start
    for start, ends in ((b"\xff\xda", (50, 51, 57, 70, 80, 81)), (b"\xff\x93", (90, 91)))
    for end in ends
}

Stored = npt.NDArray[Any]  # words or samples: integers; or floats, if the file has them


@dataclass(frozen=True)
class Sample:
    """The place of a sample in its word (PS3.5 8.1.1)."""

    keyword: str  # of the element that has the pixels
    allocated: int  # bits of a word
    bits: int  # bits of a sample
    high: int  # the highest bit of the sample, counted from 0
    signed: bool
    overlays: bool  # whether other bits of the word are an overlay

    @property
    def word(self) -> Any:
        """The dtype of whole words."""
        return np.dtype(f"u{max(1, self.allocated // 8)}")

    def unsigned(self, words: Stored) -> Stored:
        """Whole words as unsigned integers; floats stay as they are."""
        return words if words.dtype.kind == "f" else words.view(self.word)

    def stored(self, words: Stored) -> Stored:
        """The samples in `words`, of the same shape, with their sign."""
        if words.dtype.kind == "f":
            return words
        width = 8 * words.dtype.itemsize
        signed = np.dtype(f"i{words.dtype.itemsize}")
        plain = words.view(self.word)
        if self.bits < width and self.allocated > 1:
            plain = plain << (width - 1 - self.high)  # drops the bits above the sample
            return np.asarray((plain.view(signed) if self.signed else plain) >> (width - self.bits))
        return np.asarray(plain.view(signed) if self.signed else plain)

    def loses(self, words: Stored, stored: Stored, mask: Any) -> bool:
        """Whether words (rows, columns) have bits that are not part of `stored`, outside `mask`.

        Copies of the sign bit above it do not count.
        """
        if words.dtype.kind == "f" or self.bits >= self.allocated:
            return False
        low = self.high + 1 - self.bits
        plain = words.view(self.word)
        others = self.word.type((1 << self.allocated) - 1 - (((1 << self.bits) - 1) << low))
        lost = (plain & others) != 0
        if lost.any():
            lost &= stored.view(self.word) << low != plain  # equal: copies of the sign bit
        return bool((lost if mask is None else lost & ~mask).any())

    def range_of(self, stored: Stored) -> tuple[float, float]:
        """The lowest and highest possible value of a sample; for floats those that occur."""
        if stored.dtype.kind == "f":
            return float(np.nanmin(stored)), float(np.nanmax(stored))
        if self.signed:
            return -float(1 << (self.bits - 1)), float((1 << (self.bits - 1)) - 1)
        return 0.0, float((1 << self.bits) - 1)


def sample_of(header: Any) -> Sample:
    """The layout of integer pixels, from a header.

    Raises:
        TagError: a tag is missing or contradicts another.
    """
    allocated, bits = (whole_of(header, f"Bits{one}") for one in ("Allocated", "Stored"))
    if not 1 <= bits <= allocated:
        raise TagError(f"BitsStored should be 1..{allocated} (BitsAllocated), found {bits}")
    high = whole_of(header, "HighBit", bits - 1)
    if not bits - 1 <= high < allocated:
        raise TagError(
            f"HighBit should be {bits - 1}..{allocated - 1} (BitsStored, BitsAllocated), "
            f"found {high}"
        )
    syntax = header.file_meta.TransferSyntaxUID
    if high != bits - 1 and (not keeps_words(syntax) or whole_of(header, "SamplesPerPixel") > 1):
        raise TagError(
            f"HighBit should be {bits - 1} where pixels are compressed or in colour, found {high}"
        )
    sign = whole_of(header, "PixelRepresentation")
    if sign not in (0, 1):
        raise TagError(f"PixelRepresentation should be 0 or 1, found {sign}")
    positions = _overlay_positions(header)
    low = high + 1 - bits
    for position in positions:
        if position and low <= position <= high:
            raise TagError(
                f"OverlayBitPosition should lie outside of the stored bits {low}..{high}, "
                f"found {position}"
            )
    return Sample("PixelData", allocated, bits, high, sign == 1, bool(positions))


def _overlay_positions(header: Any) -> list[int]:
    """The bits of a word that hold overlays (PS3.3 C.9.2, retired): those without OverlayData."""
    return [
        int(header[group, 0x0102].value or 0)
        for group in OVERLAYS
        if (group, 0x0102) in header and (group, 0x3000) not in header
    ]


def decoded(dataset: Any, pydicom: Any) -> tuple[Sample, Stored]:
    """Decode a file: the layout of its samples, and its words (frames, rows, columns[, 3]).

    For a file in colour the words are samples, and YBR is converted to RGB.

    Raises:
        TagError: the number of frames is not that of the header, or the pixels are damaged.
    """
    keyword = next(one for one in KEYWORDS if one in dataset)
    if keyword == "PixelData":
        sample = sample_of(dataset)
    else:
        allocated = whole_of(dataset, "BitsAllocated")
        sample = Sample(keyword, allocated, allocated, allocated - 1, False, False)
    samples = whole_of(dataset, "SamplesPerPixel")
    syntax = dataset.file_meta.TransferSyntaxUID
    check_frames(dataset, pydicom, keyword)
    whole_words = samples == 1 and keeps_words(syntax)
    try:
        words: Stored = pydicom.pixels.pixel_array(
            dataset, **({"correct_unused_bits": False} if whole_words else {})
        )
    except DAMAGED as error:
        raise TagError(
            f"{keyword} cannot be decoded as {syntax.name}: it is damaged, or not what its tags say"
        ) from error
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    return sample, words.reshape(-1, *words.shape[-3 if samples > 1 else -2 :])


def keeps_words(syntax: Any) -> bool:
    """Whether a transfer syntax stores whole words, with bits that are not part of a sample."""
    return not syntax.is_encapsulated or syntax == RLE


def check_frames(dataset: Any, pydicom: Any, keyword: str = "PixelData") -> None:
    """Raise TagError if there are fewer or more pixels than the header says; nothing is decoded.

    Uncompressed pixels may be followed by padding of less than a frame.
    """
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return check_streams(dataset, pydicom)
    frames = frames_of(dataset)
    bits = 1
    for size in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"):
        bits *= whole_of(dataset, size)
    if text_of(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits // 3 * 2  # two pixels share their colour
    wanted = -(-bits * frames // 8)
    found = len(value_of(dataset, keyword) or b"")
    if found < wanted:
        raise TagError(f"{keyword} should have {wanted} bytes, found {found}: it is cut off")
    if 8 * found >= bits * (frames + 1):
        raise TagError(
            f"{keyword} has the bytes of {8 * found // bits} frames, NumberOfFrames is {frames}"
        )


def check_streams(dataset: Any, pydicom: Any) -> None:
    """Check the compressed frames of a file before they are decoded.

    Decoders fill the missing part of a truncated stream without an error.

    Raises:
        TagError: there is not one complete stream for each frame.
    """
    frames = frames_of(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEG_BASELINE and (allocated := whole_of(dataset, "BitsAllocated")) != 8:
        raise TagError(
            f"BitsAllocated should be 8 where pixels are {syntax.name}, found {allocated}"
        )
    scan = STARTS_OF_SCAN.get(syntax)
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    count = 0
    try:
        for stream in pydicom.encaps.generate_frames(
            dataset.PixelData, number_of_frames=frames, extended_offsets=offsets
        ):
            count += 1
            # neither marker can occur in the data between them
            if scan is not None and stream.rfind(END_OF_IMAGE) <= stream.rfind(scan):
                raise TagError(f"PixelData is cut off: frame {count} of {frames} has no end")
            _check_size(stream, dataset, f"frame {count} of {frames}")
    except TagError:
        raise
    except DAMAGED as error:
        raise TagError("PixelData is damaged: its frames cannot be told apart") from error
    if count != frames:
        raise TagError(f"PixelData has {count} frames, NumberOfFrames is {frames}")


def _check_size(stream: bytes, dataset: Any, which: str) -> None:
    """Raise TagError if a compressed frame has another size than its file.

    Decoders compare only the number of pixels, so rows and columns could be exchanged.
    """
    wanted = whole_of(dataset, "Rows"), whole_of(dataset, "Columns")
    found = size_of_stream(stream)
    if found is not None and found != wanted:
        raise TagError(
            f"PixelData should be {wanted[1]} x {wanted[0]} pixels (Columns, Rows), found "
            f"{found[1]} x {found[0]} in {which}"
        )


def size_of_stream(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream declares; None if it has none."""
    if stream.startswith(START_OF_JPEG_2000) and len(stream) >= 24:  # ITU-T T.800 A.5.1
        right, lower, left, upper = struct.unpack_from(">4I", stream, 8)
        return lower - upper, right - left
    if not stream.startswith(START_OF_JPEG):
        return None
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in FRAME_HEADERS:
            rows, columns = struct.unpack_from(">2H", stream, at + 5)
            return (rows, columns) if rows and columns else None  # 0: given later, or elsewhere
        if marker == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + struct.unpack_from(">H", stream, at + 2)[0]
    return None
