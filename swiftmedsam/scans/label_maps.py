"""Makes boxes from a label map, one around each label, for example from rough masks."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.memory import estimate_labels_peak
from swiftmedsam.messages import printable
from swiftmedsam.scans.boxes.drawn import Drawn
from swiftmedsam.scans.dicom import labels as dicom_labels
from swiftmedsam.scans.formats import itk
from swiftmedsam.scans.formats.by_suffix import read_scan, stem_of
from swiftmedsam.scans.formats.slicer import Declared
from swiftmedsam.scans.scan import (
    MAX_LABELS,
    Colour,
    Float64Array,
    MemoryLimit,
    Scan,
    ScanError,
    SeveralError,
    Voxels,
)

log = logging.getLogger(__name__)

SAME_GRID_VOXELS = 0.01  # two grids are the same if all their corners are closer
MOST_JSON = 32 << 20  # bytes of the names beside a label map
CHUNK_VOXELS = 1 << 15  # searched at a time; each needs 70 bytes

VoxelArray = npt.NDArray[np.int64]


def _corners(scan: Scan) -> Float64Array:
    """The grid's corner voxels (8, 4), (i, j, k, 1)."""
    return np.array(list(product(*((0, size - 1) for size in scan.grid), [1])), np.float64)


def same_grid(one: Scan, other: Scan) -> bool:
    """Whether voxels of the same index lie at the same place in the world."""
    if one.grid != other.grid:
        return False
    voxels = _corners(one) @ (np.linalg.inv(one.affine) @ other.affine).T
    return bool(np.abs(voxels - _corners(one)).max() < SAME_GRID_VOXELS)


def _as_labels(label_map: Scan) -> Scan:
    """The label map with voxels in uint16.

    Raises:
        ScanError: the voxels are no labels.
    """
    name, labels = label_map.name, label_map.voxels
    if labels.ndim != 3 or (labels.dtype.kind == "f" and (labels != np.rint(labels)).any()):
        raise ScanError(f"{name}: expected a label map of whole numbers")
    low, high = labels.min(), labels.max()
    if not 0 <= low <= high <= MAX_LABELS:  # NaN compares as neither
        raise ScanError(f"{name}: expected labels 1..{MAX_LABELS}, found {low}..{high}")
    return replace(label_map, voxels=labels.astype(np.uint16))


def _read_layers(path: Path, memory_limit: MemoryLimit | None) -> tuple[list[Scan], list[Declared]]:
    """Read the label maps at `path`, one per layer, and the segments that the file declares.

    The voxels are uint16, and some are not 0. A file that is no segmentation declares no segments.

    Raises:
        ScanError: the file cannot be read, is no label map, or would need more than `memory_limit`.
    """
    segments = itk.segments(path)
    if segments:
        read = itk.read_layers(path, memory_limit)
    else:
        try:
            read = [read_scan(path, memory_limit=memory_limit, as_labels=True)]
        except SeveralError as error:  # --volume and --series are for the scan
            raise ScanError(f"{error.found}, a label map should have one") from error
    layers = [_as_labels(layer) for layer in read]
    if not any(layer.voxels.any() for layer in layers):
        raise ScanError(f"{layers[0].name}: expected labels 1..{MAX_LABELS}, found 0..0")
    return layers, segments


def read_labels(path: Path, scan: Scan | None = None, *, memory_limit: int | None = None) -> Scan:
    """Read the label map at `path`; its voxels are uint16, and some are not 0.

    A DICOM segmentation is placed on the grid of `scan`.

    Raises:
        ScanError: the file cannot be read, is no label map of one layer, or would need more than
            `memory_limit` bytes.
    """
    # a case is made beside the label map, so the estimate of a scan is used
    limit = None if memory_limit is None else MemoryLimit(memory_limit)
    if scan is not None and dicom_labels.is_segmentation(path):
        return dicom_labels.label_map_of(path, scan, limit)
    layers, _ = _read_layers(path, limit)
    if len(layers) > 1:
        raise ScanError(
            f"{layers[0].name}: expected one label per voxel, found a segmentation of "
            f"{len(layers)} layers, which may overlap"
        )
    return layers[0]


def boxes_around_labels(
    path: Path, scan: Scan, margin: int, *, memory_limit: int | None = None
) -> list[Drawn]:
    """A box around each label of the label map at `path`, in the order of their values.

    The boxes of a 3D Slicer segmentation (all layers) or of a DICOM segmentation have its order,
    names and colours. A segment without a voxel is left out, with a warning. `margin` voxels of the
    label map are added on every side.

    A DICOM segmentation must lie on the scan's grid. Any other label map may have another grid, if
    both have mm: then each box is the space that its voxels fill.

    Raises:
        ScanError: the file cannot be read, is no label map, cannot be placed on the scan, or would
            need more than `memory_limit` bytes.
    """
    limit = None if memory_limit is None else MemoryLimit(memory_limit, estimate_labels_peak)
    if dicom_labels.is_segmentation(path):
        return dicom_labels.boxes_of_segments(path, scan, margin, limit)
    layers, segments = _read_layers(path, limit)
    label_map = layers[0]
    name = label_map.name
    in_mm = not same_grid(label_map, scan)
    if in_mm and not (label_map.has_mm and scan.has_mm):
        raise other_grid(label_map, scan)
    if in_mm:
        log.info("%s: on another grid than %s, placed on it by mm", name, scan.name)
    found = {
        (number, value): ends
        for number, layer in enumerate(layers)
        for value, ends in extents(layer.voxels, margin)
    }
    if not segments:
        segments = [Declared(f"label {value}", None, 0, value) for _, value in found]
    if nameless := set(found) - {(one.layer, one.value) for one in segments}:
        layer, value = min(nameless)
        raise ScanError(f"{name}: layer {layer} holds the value {value}, which no segment has")
    drawn = []
    for one in segments:
        ends = found.get((one.layer, one.value))
        if ends is None:
            log.warning("%s: '%s' has no voxel, and is left out", name, one.name)
            continue
        points = _in_world(label_map, *ends) if in_mm else np.stack(ends)
        drawn.append(Drawn(one.name, points, in_mm, one.colour))
    return drawn


def objects_of(
    path: Path, scan: Scan, *, memory_limit: int | None = None
) -> Iterator[tuple[str, Colour | None, npt.NDArray[np.bool_]]]:
    """Name, colour and mask (I, J, K) of each object of the label map at `path`, on `scan`'s grid.

    Names and colours are those of a 3D Slicer or DICOM segmentation, or of the JSON that lies
    beside labels of this program. Objects of a segmentation may overlap. Those without voxels are
    left out.

    Raises:
        ScanError: the file cannot be read, is no label map, lies on another grid, or would need
            more than `memory_limit` bytes.
    """
    limit = None if memory_limit is None else MemoryLimit(memory_limit, estimate_labels_peak)
    if dicom_labels.is_segmentation(path):
        for described, voxels in dicom_labels.voxels_of_segments(path, scan, limit):
            mask = np.zeros(scan.grid, np.bool_)
            mask[tuple(voxels.T)] = True
            yield described.name, described.colour, mask
        return
    layers, segments = _read_layers(path, limit)
    if layers[0].grid != scan.grid:
        raise other_grid(layers[0], scan)
    if layers[0].has_mm and scan.has_mm and not same_grid(layers[0], scan):
        raise ScanError(
            f"{layers[0].name}: has the size of {scan.name}, but lies elsewhere, by their affines"
        )
    if not segments:
        named = _named_beside(path)
        segments = [
            Declared(*named.get(value, (f"label {value}", None)), number, value)
            for number, layer in enumerate(layers)
            for value in np.setdiff1d(layer.voxels, [0]).tolist()
        ]
    for one in segments:
        mask = np.asarray(layers[one.layer].voxels == one.value)
        if mask.any():
            yield one.name, one.colour, mask


def _named_beside(path: Path) -> dict[int, tuple[str, Colour | None]]:
    """Name and colour by value, from the JSON that this program writes beside labels; {}: none."""
    beside = path.with_name(f"{stem_of(path)}.labels.json")
    try:
        with beside.open("rb") as stream:
            content = json.loads(stream.read(MOST_JSON))
        found: dict[int, tuple[str, Colour | None]] = {}
        for one in content["labels"]:
            red, green, blue = (min(255, max(0, int(part))) for part in one["colour"])
            found[int(one["value"])] = printable(str(one["name"])), (red, green, blue)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found


def other_grid(label_map: Scan, scan: Scan) -> ScanError:
    """The error for a label map that does not have the grid of a scan."""
    return ScanError(
        f"{label_map.name}: expected the grid of {scan.name}, {scan.grid}, got {label_map.grid}"
    )


def extents(
    labels: Voxels, margin: int = 0
) -> Iterator[tuple[int, tuple[Float64Array, Float64Array]]]:
    """For each label, the first and last voxel (3,) of its extent, inclusive.

    The extent is wider by `margin` on every side, inside the grid. `labels` (I, J, K) are uint16 or
    smaller; 0 is the background.
    """
    shape = (int(labels.max()) + 1, 3)  # by value
    lows, highs = np.full(shape, max(labels.shape)), np.full(shape, -1)
    for corner, piece in _pieces(labels, np.zeros(3, np.int64)):
        voxels = np.argwhere(piece)
        if len(voxels) == 0:
            continue
        values = piece[tuple(voxels.T)]
        order = np.argsort(values, kind="stable")
        present, starts = np.unique(values[order], return_index=True)
        voxels = voxels[order] + corner
        lows[present] = np.minimum(lows[present], np.minimum.reduceat(voxels, starts))
        highs[present] = np.maximum(highs[present], np.maximum.reduceat(voxels, starts))
    top = np.array(labels.shape) - 1
    for value in np.flatnonzero(highs[:, 0] >= 0).tolist():
        first, last = (lows[value] - margin).clip(0, top), (highs[value] + margin).clip(0, top)
        yield value, (first.astype(np.float64), last.astype(np.float64))


def _pieces(labels: Voxels, corner: VoxelArray) -> Iterator[tuple[VoxelArray, Voxels]]:
    """Cut `labels` (I, J, K) into parts of at most `CHUNK_VOXELS`, each with its first voxel (3,).

    `corner` is the first voxel of `labels` itself.
    """
    if labels.size <= CHUNK_VOXELS:
        yield corner, labels
        return
    axis = int(np.argmax(labels.shape))
    half = labels.shape[axis] // 2
    one, other = np.split(labels, [half], axis)
    yield from _pieces(one, corner)
    yield from _pieces(other, corner + half * (np.arange(3) == axis))


def _in_world(scan: Scan, first: Float64Array, last: Float64Array) -> Float64Array:
    """The corners (8, 3), in mm, of the space that the voxels `first` to `last` fill."""
    sides = zip(first - 0.5, last + 0.5, strict=True)
    corners = np.array(list(product(*sides, [1])))
    return np.asarray((corners @ scan.affine.T)[:, :3], np.float64)
