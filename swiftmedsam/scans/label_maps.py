"""Boxes from a label map, one around each label: somebody's rough masks, or another program's."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.memory import estimate_labels_peak
from swiftmedsam.scans.boxes.drawn import Drawn
from swiftmedsam.scans.dicom import labels as dicom_labels
from swiftmedsam.scans.formats import itk
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.formats.slicer import Declared
from swiftmedsam.scans.scan import (
    MAX_LABELS,
    Float64Array,
    MemoryLimit,
    Scan,
    ScanError,
    SeveralError,
    Voxels,
)

log = logging.getLogger(__name__)

SAME_GRID_VOXELS = 0.01  # corners of two grids that are closer are the same
CHUNK_VOXELS = 1 << 15  # whose places are looked for together: 70 bytes each

VoxelArray = npt.NDArray[np.int64]


def _corners(scan: Scan) -> Float64Array:
    """Centres (8, 4) of the grid's corner voxels, homogeneous."""
    return np.array(list(product(*((0, size - 1) for size in scan.grid), [1])), np.float64)


def same_grid(one: Scan, other: Scan) -> bool:
    """Whether voxels of the same index lie in the same place."""
    if one.grid != other.grid:
        return False
    voxels = _corners(one) @ (np.linalg.inv(one.affine) @ other.affine).T
    return bool(np.abs(voxels - _corners(one)).max() < SAME_GRID_VOXELS)


def _as_labels(label_map: Scan) -> Scan:
    """The same with voxels in uint16.

    Raises:
        ScanError: they are no labels.
    """
    name, labels = label_map.name, label_map.voxels
    if labels.ndim != 3 or (labels.dtype.kind == "f" and (labels != np.rint(labels)).any()):
        raise ScanError(f"{name}: expected a label map of whole numbers")
    low, high = labels.min(), labels.max()
    if not 0 <= low <= high <= MAX_LABELS:  # NaN compares as neither
        raise ScanError(f"{name}: expected labels 1..{MAX_LABELS}, found {low}..{high}")
    return replace(label_map, voxels=labels.astype(np.uint16))


def _read_layers(path: Path, memory_limit: MemoryLimit | None) -> tuple[list[Scan], list[Declared]]:
    """The label maps at `path`, several of a segmentation with layers, and what it says of them.

    Their voxels are uint16, and some are not 0; what is no segmentation declares nothing.

    Raises:
        ScanError: it cannot be read, is no label map, or would take more than `memory_limit`.
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
    """The label map at `path`; its voxels are uint16, and some are not 0.

    A DICOM segmentation is one on the grid of `scan`.

    Raises:
        ScanError: it cannot be read, is no label map of one layer, or would take more than
            `memory_limit` bytes.
    """
    # beside it a case is made: it counts as a scan
    limit = None if memory_limit is None else MemoryLimit(memory_limit)
    if scan is not None and dicom_labels.is_segmentation(path):
        return dicom_labels.label_map_of(path, scan, limit)
    layers, _ = _read_layers(path, limit)
    if len(layers) > 1:
        raise ScanError(
            f"{layers[0].name}: expected one label a voxel, found a segmentation of {len(layers)} "
            "layers, which may overlap"
        )
    return layers[0]


def boxes_around_labels(
    path: Path, scan: Scan, margin: int, *, memory_limit: int | None = None
) -> list[Drawn]:
    """A box around each label of the label map at `path`, in order of their values.

    Those of a 3D Slicer segmentation, of all its layers, and of a DICOM one are in its own order,
    with its names and colours; a segment without a voxel is left out, with a warning. A DICOM one
    has to lie on the scan's grid. Another on another grid than the scan's,
    which needs a place in the world, voxels are taken over as the space they fill. `margin` voxels
    of the label map are added on every side.

    Raises:
        ScanError: it cannot be read, is no label map, cannot be laid over the scan, or would take
            more than `memory_limit` bytes.
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
        log.info("%s: on another grid than %s, laid over it by mm", name, scan.name)
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


def other_grid(label_map: Scan, scan: Scan) -> ScanError:
    """What to raise where a label map should have the grid of a scan."""
    return ScanError(
        f"{label_map.name}: expected the grid of {scan.name}, {scan.grid}, got {label_map.grid}"
    )


def extents(
    labels: Voxels, margin: int = 0
) -> Iterator[tuple[int, tuple[Float64Array, Float64Array]]]:
    """Each label with its first and last voxel (3,), moved apart by `margin` inside the grid.

    `labels` (I, J, K) are uint16 or smaller; 0 is none.
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
    """Parts of (I, J, K) of `CHUNK_VOXELS` at most, each with the place (3,) of its first voxel.

    That of `labels` is `corner`.
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
    """Corners (8, 3) in mm of the space that voxels from `first` to `last` fill."""
    sides = zip(first - 0.5, last + 0.5, strict=True)
    corners = np.array(list(product(*sides, [1])))
    return np.asarray((corners @ scan.affine.T)[:, :3], np.float64)
