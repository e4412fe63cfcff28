"""Reads DICOM segmentations (SEG) on the grid of a scan: boxes around segments, or a label map.

A SEG has frames only where a segment is, in any order, and may cover only a part of its images. So
each frame is placed on the scan's grid by its own position. If the scan has no positions, the image
that the frame refers to gives its place. A frame that does not fit the grid is refused. Nothing is
resampled.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from swiftmedsam.messages import printable
from swiftmedsam.scans.boxes.drawn import Drawn
from swiftmedsam.scans.dicom.decode import Stored, check_frames
from swiftmedsam.scans.dicom.reader import is_dicom
from swiftmedsam.scans.dicom.tags import (
    DAMAGED,
    TagError,
    frames_of,
    group_of,
    numbers_of,
    readable,
    shown,
    text_of,
    value_of,
    whole_of,
)
from swiftmedsam.scans.dicom.values import check_pixels
from swiftmedsam.scans.scan import (
    MAX_LABELS,
    RAS_OF_LPS,
    Colour,
    Float64Array,
    MemoryLimit,
    Scan,
    ScanError,
    extra,
    made_scan,
    require_peak,
)

log = logging.getLogger(__name__)

# Segmentation Storage and Label Map Segmentation Storage.
CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
# Tolerance of positions. Evenly spaced slices may differ by 0.02 (`stack.EVEN`).
SAME_PLACE_VOXELS = 0.05
PIXEL_BYTES = 64  # of memory for each pixel of a frame, while its voxels are computed

VoxelArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Described:
    """Name and colour of a segment, as the SEG describes it."""

    name: str
    colour: Colour | None


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation.

    Raises:
        ScanError: the file is DICOM and damaged, or pydicom is not installed.
    """
    if not is_dicom(path):
        return False
    name = printable(path.name)
    pydicom = extra("pydicom", name)
    with readable(name, pydicom):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return text_of(header, "SOPClassUID") in CLASSES


def boxes_of_segments(
    path: Path, scan: Scan, margin: int, memory_limit: MemoryLimit | None = None
) -> list[Drawn]:
    """A box around each segment of a SEG, in their order, with name and colour.

    The boxes are in voxels of `scan`, wider by `margin` voxels on every side, and cut to the grid.
    A segment without a voxel is left out, with a warning.

    Raises:
        ScanError: the SEG is damaged, does not lie on the scan's grid, or needs too much memory.
    """
    name = printable(path.name)
    segments, marked = _read(path, scan, memory_limit)
    ends: dict[int, list[VoxelArray]] = {}
    for number, voxels in marked:
        low, high = ends.get(number, [voxels[0], voxels[0]])
        ends[number] = [
            np.minimum(low, voxels.min(axis=0)), np.maximum(high, voxels.max(axis=0))
        ]  # fmt: skip
    if not ends:
        raise ScanError(f"{name}: expected segments with voxels, found none")
    top = np.array(scan.grid) - 1
    drawn = []
    for number, one in segments.items():
        if number not in ends:
            log.warning("%s: '%s' has no voxel, and is left out", name, one.name)
            continue
        low, high = ends[number]
        points = np.stack([(low - margin).clip(0, top), (high + margin).clip(0, top)])
        drawn.append(Drawn(one.name, points.astype(np.float64), colour=one.colour))
    return drawn


def label_map_of(path: Path, scan: Scan, memory_limit: MemoryLimit | None = None) -> Scan:
    """The label map (I, J, K) uint16 of a SEG on the grid of `scan`; values are segment numbers.

    Raises:
        ScanError: segments overlap, or an error that `boxes_of_segments` names.
    """
    name = printable(path.name)
    segments, marked = _read(path, scan, memory_limit)
    labels = np.zeros(scan.grid, np.uint16)
    for number, voxels in marked:
        where = tuple(voxels.T)
        others = labels[where]
        if (both := others[(others != 0) & (others != number)]).size:
            raise ScanError(
                f"{name}: expected one label per voxel, found '{segments[int(both[0])].name}' and "
                f"'{segments[number].name}', which overlap"
            )
        labels[where] = number
    if not labels.any():
        raise ScanError(f"{name}: expected segments with voxels, found none")
    return made_scan(path, labels, scan.affine, has_mm=scan.has_mm)


def voxels_of_segments(
    path: Path, scan: Scan, memory_limit: MemoryLimit | None = None
) -> Iterator[tuple[Described, VoxelArray]]:
    """Each segment of a SEG that has voxels, in their order, with its voxels (N, 3) of `scan`.

    Segments may overlap.

    Raises:
        ScanError: an error that `boxes_of_segments` names.
    """
    segments, marked = _read(path, scan, memory_limit)
    found: dict[int, list[VoxelArray]] = {}
    for number, voxels in marked:
        found.setdefault(number, []).append(voxels)
    if not found:
        raise ScanError(f"{printable(path.name)}: expected segments with voxels, found none")
    for number, one in segments.items():
        if number in found:
            yield one, np.concatenate(found[number])


def _read(
    path: Path, scan: Scan, memory_limit: MemoryLimit | None
) -> tuple[dict[int, Described], Iterator[tuple[int, VoxelArray]]]:
    """The descriptions of a SEG's segments, by number, and their voxels, see `_marked`."""
    name = printable(path.name)
    pydicom = extra("pydicom", name)
    with readable(name, pydicom):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        check_pixels(header)
        size = whole_of(header, "Rows") * whole_of(header, "Columns")
        frames = frames_of(header)
        stored = max(path.stat().st_size, size * frames * whole_of(header, "BitsAllocated") // 8)
        if memory_limit is not None:
            peak = memory_limit.estimate(
                (1, 1, 1), np.dtype(np.uint8), 2 * stored + PIXEL_BYTES * size
            )
            require_peak(name, f"{frames} frames", peak, memory_limit)
        dataset = pydicom.dcmread(path)
        segments = _segments(dataset, name)
        _check_space(dataset, scan, pydicom)
    return segments, _marked(dataset, segments, scan, name, pydicom)


def _segments(dataset: Any, name: str) -> dict[int, Described]:
    """The description of each segment, by number; without 0, the background of a label map."""
    found: dict[int, Described] = {}
    for item in value_of(dataset, "SegmentSequence") or []:
        number = whole_of(item, "SegmentNumber")
        if number in found or not 0 <= number <= MAX_LABELS:
            raise TagError(
                f"SegmentNumber should be one of 1..{MAX_LABELS}, each once, found {number}"
            )
        segment_name = printable(text_of(item, "SegmentLabel")) or f"segment {number}"
        lab = numbers_of(item, "RecommendedDisplayCIELabValue", 3)
        found[number] = Described(segment_name, None if lab is None else _colour(lab, name))
    found.pop(0, None)
    if not found:
        raise TagError("SegmentSequence is missing")
    return found


def _colour(lab: Float64Array, name: str) -> Colour:
    """RGB of a CIELab colour (3,), given in whole numbers of 16 bits (PS3.3 C.10.7.1.1)."""
    lightness, a, b = lab / 65535 * [100, 255, 255] - [0, 128, 128]
    colours = extra("highdicom", name).color
    red, green, blue = colours.CIELabColor(lightness, a, b).to_rgb(clip=True)
    return int(red), int(green), int(blue)


def _check_space(dataset: Any, scan: Scan, pydicom: Any) -> None:
    """Raise TagError if a SEG and a DICOM scan have different frames of reference."""
    if not scan.sources or not scan.has_mm:
        return
    keyword = "FrameOfReferenceUID"
    header = pydicom.dcmread(scan.sources[0][0], specific_tags=[keyword], stop_before_pixels=True)
    ours, theirs = text_of(dataset, keyword), text_of(header, keyword)
    if ours and theirs and ours != theirs:
        raise TagError(f"{keyword} should be that of {scan.name}, {theirs}, found {ours}")


def _marked(
    dataset: Any, segments: dict[int, Described], scan: Scan, name: str, pydicom: Any
) -> Iterator[tuple[int, VoxelArray]]:
    """For each segment in each frame, its number and its voxels (N, 3) of the scan.

    Raises:
        ScanError: a frame is damaged, or does not lie on the grid.
    """
    with readable(name, pydicom):
        kind = text_of(dataset, "SegmentationType")
        if kind not in TYPES:
            raise TagError(
                f"SegmentationType should be one of {', '.join(TYPES)}, found {shown(kind)}"
            )
        most = whole_of(dataset, "MaximumFractionalValue", 255)
        if kind == "FRACTIONAL":
            log.warning("%s: fractions; a voxel is a segment's from one half on", name)
        padding = whole_of(dataset, "PixelPaddingValue", 0)
        check_frames(dataset, pydicom)
        places = _Places(dataset, scan, pydicom)
        try:
            for frame, plane in enumerate(_planes(dataset, pydicom)):
                if kind == "LABELMAP":
                    present = [int(one) for one in np.unique(plane) if one not in (0, padding)]
                    masks = {number: plane == number for number in present}
                else:
                    group = group_of(dataset, frame, "SegmentIdentificationSequence")
                    number = whole_of(group, "ReferencedSegmentNumber")
                    inside = plane > 0 if kind == "BINARY" else 2.0 * plane >= most
                    masks = {number: inside}
                for number, mask in masks.items():
                    if number not in segments:
                        raise TagError(f"segment {number} of a frame is none of SegmentSequence")
                    pixels = np.argwhere(mask)
                    if len(pixels):
                        yield number, places.voxels(frame, pixels)
        except TagError:
            raise
        except DAMAGED as error:
            raise TagError("PixelData cannot be decoded: it is damaged") from error


def _planes(dataset: Any, pydicom: Any) -> Iterator[Stored]:
    """The stored values (rows, columns) of each frame; a palette is not applied."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if whole_of(dataset, "BitsAllocated") != 1 or syntax.is_encapsulated:
        yield from pydicom.pixels.iter_pixels(dataset, raw=True)
        return
    if not syntax.is_little_endian:
        raise TagError(f"TransferSyntaxUID {syntax.name} is not read where pixels are single bits")
    # frames follow each other without a gap, and may begin inside a byte (PS3.5 8.1.1)
    rows, columns = whole_of(dataset, "Rows"), whole_of(dataset, "Columns")
    content = np.frombuffer(dataset.PixelData, np.uint8)
    for frame in range(frames_of(dataset)):
        byte, bit = divmod(frame * rows * columns, 8)
        part = content[byte : byte + (bit + rows * columns + 7) // 8]
        bits = np.unpackbits(part, bitorder="little")
        yield bits[bit : bit + rows * columns].reshape(rows, columns)


class _Places:
    """Places the frames of a SEG on the grid of a scan."""

    def __init__(self, dataset: Any, scan: Scan, pydicom: Any) -> None:
        self._dataset, self._scan = dataset, scan
        self._size = np.array([whole_of(dataset, "Rows"), whole_of(dataset, "Columns")])
        self._to_voxel = np.linalg.inv(scan.affine)
        self._images: dict[tuple[str, int], int] = {}  # slice of the scan by image and frame
        if not scan.has_mm:
            uids: dict[Path, str] = {}
            for k, (path, frame) in enumerate(scan.sources):
                if path not in uids:
                    header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"])
                    uids[path] = text_of(header, "SOPInstanceUID")
                self._images[uids[path], frame] = k

    def voxels(self, frame: int, pixels: VoxelArray) -> VoxelArray:
        """The scan's voxels (N, 3) at the pixels (N, 2), row and column, of a frame.

        Raises:
            TagError: the pixels lie between voxels, or outside the grid.
        """
        scan, where = self._scan, f"frame {frame + 1} of {frames_of(self._dataset)}"
        grid = np.array(scan.grid)
        steps = self._by_position(frame) if scan.has_mm else self._by_image(frame, where)
        corners = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]) * [*(self._size - 1), 1]
        whole = np.rint(steps)
        if (
            np.abs(corners @ (steps - whole)).max() > SAME_PLACE_VOXELS
            or not (np.abs(whole[:2]).sum(axis=1) == 1).all()
        ):
            raise TagError(f"{where} does not lie on the voxels of {scan.name}")
        ends = corners @ whole
        if (ends < 0).any() or (ends >= grid).any():
            raise TagError(f"{where} reaches out of the grid of {scan.name}, {scan.grid}")
        return np.column_stack([pixels, np.ones(len(pixels))]).astype(np.int64) @ whole.astype(
            np.int64
        )

    def _by_position(self, frame: int) -> Float64Array:
        """Vectors (3, 3) in voxels: to the next row, to the next column, to the first pixel."""
        measures = group_of(self._dataset, frame, "PixelMeasuresSequence")
        plane = group_of(self._dataset, frame, "PlaneOrientationSequence")
        place = group_of(self._dataset, frame, "PlanePositionSequence")
        found = []
        for holder, keyword, count in (
            (measures, "PixelSpacing", 2), (plane, "ImageOrientationPatient", 6),
            (place, "ImagePositionPatient", 3),
        ):  # fmt: skip
            numbers = numbers_of(holder, keyword, count)
            if numbers is None:
                raise TagError(f"{keyword} of a frame is missing")
            found.append(numbers)
        spacing, orientation, position = found
        steps = np.zeros((3, 4))
        steps[0, :3] = orientation[3:] * spacing[0]
        steps[1, :3] = orientation[:3] * spacing[1]
        steps[2] = [*position, 1]
        return np.asarray((steps @ (self._to_voxel @ RAS_OF_LPS).T)[:, :3], np.float64)

    def _by_image(self, frame: int, where: str) -> Float64Array:
        """The same vectors, from the image that the frame is derived from."""
        group = group_of(self._dataset, frame, "DerivationImageSequence")
        sources = value_of(group, "SourceImageSequence") or [None]
        uid = "" if sources[0] is None else text_of(sources[0], "ReferencedSOPInstanceUID")
        number = 1 if sources[0] is None else whole_of(sources[0], "ReferencedFrameNumber", 1)
        k = self._images.get((uid, number - 1))
        if k is None:
            raise TagError(f"{where} refers to no image of {self._scan.name}")
        if tuple(self._size) != self._scan.grid[1::-1]:
            raise TagError(f"{where} has another size than {self._scan.name}, {self._scan.grid}")
        return np.array([[0, 1, 0], [1, 0, 0], [0, 0, k]], np.float64)
