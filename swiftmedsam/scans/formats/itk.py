"""Reads and writes NRRD and MetaImage with SimpleITK, also 3D Slicer's .seg.nrrd."""

import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from swiftmedsam.messages import printable
from swiftmedsam.scans.formats.itk_headers import HeaderFacts, read_header
from swiftmedsam.scans.formats.slicer import Declared, declared, fields_of
from swiftmedsam.scans.quiet import complaints
from swiftmedsam.scans.scan import (
    RAS_OF_LPS,
    Float64Array,
    MemoryLimit,
    Scan,
    ScanError,
    Segment,
    Voxels,
    choose_volume,
    extra,
    made_scan,
    require_memory,
)

log = logging.getLogger(__name__)

NRRD = (".nrrd", ".nhdr")
SUFFIXES = (*NRRD, ".mha", ".mhd")
SEGMENTATION = ".seg.nrrd"
FEWEST_AXES, MOST_AXES = 2, 5  # that SimpleITK can read
LEAST_COSINE = 1e-30  # ITK complains of its own arithmetic where a direction has smaller numbers
COLOURS = (3, 4)  # this many components of bytes are RGB or RGBA, not several volumes

T = TypeVar("T")


def _affine(image: Any, facts: HeaderFacts) -> Float64Array:
    """The affine (4, 4), voxel to mm in RAS, of SimpleITK's image; a 2-D image gets a z axis."""
    flat = min(image.GetDimension(), 3)
    full = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(full, full)[:flat, :flat]
    affine = np.eye(4)
    affine[:flat, :flat] = direction * np.array(image.GetSpacing())[:flat]
    affine[:flat, 3] = np.array(image.GetOrigin())[:flat]
    affine[:3] *= facts.to_mm
    return RAS_OF_LPS @ affine


def _in_file(step: Callable[[], T], path: Path, part: str = "header") -> T:
    """Call `step`, which reads a `part` of `path` with SimpleITK, and suppress its messages.

    Raises:
        ScanError: the file is broken.
    """
    messages: list[bytes] = []
    try:
        with complaints(messages):
            found = step()
    except RuntimeError as error:
        if "determinant" in str(error) or "spacing" in str(error):
            raise ScanError(
                f"{printable(path.name)}: the affine should have an inverse, its directions lie in "
                "a plane or a spacing is not above 0"
            ) from error
        raise _damaged(path, part) from error
    if any(b"failed" in line or b"not read completely" in line for line in messages):
        raise _damaged(path, part)
    return found


def _damaged(path: Path, part: str) -> ScanError:
    return ScanError(
        f"{printable(path.name)}: not a readable file of its kind (its {part} is damaged, cut "
        "short, or of a variant that SimpleITK does not read)"
    )


def _open(path: Path) -> Any:
    """SimpleITK's reader of a file, with the header read, but no voxel.

    Raises:
        ScanError: the file is broken, or SimpleITK is not installed.
    """
    sitk = extra("SimpleITK", printable(path.name))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    _in_file(reader.ReadImageInformation, path)
    return reader


def _volumes(header: Any) -> int:
    """The number of volumes, or components, of a file by its header."""
    return int(header.GetNumberOfComponents() * math.prod(header.GetSize()[3:]))


def segments(path: Path) -> list[Declared]:
    """The segments that a NRRD file declares; [] if it is not a segmentation of 3D Slicer.

    A missing file gives [], too: the function that reads it raises the error.

    Raises:
        ScanError: the file is broken, or its segments contradict each other.
    """
    if path.suffix.lower() not in NRRD or not path.is_file():
        return []
    read_header(path, is_nrrd=True)  # its error messages are clearer than SimpleITK's
    header = _open(path)
    fields = {key: header.GetMetaData(key) for key in header.GetMetaDataKeys()}
    return declared(fields, _volumes(header), printable(path.name))


def read(path: Path, volume: int | None, memory_limit: MemoryLimit | None = None) -> Scan:
    """Read the scan of a file with SimpleITK; `volume` counts from 0.

    Raises:
        OSError: the file cannot be read.
        ScanError: the file is broken, has several volumes and none is chosen, or would need more
            than `memory_limit`.
    """
    name = printable(path.name)
    volumes, image, facts = _read(path, memory_limit)
    for doubt in facts.doubts:
        log.warning("%s: %s", name, doubt)
    voxels: Voxels
    if _is_colour(
        image.GetNumberOfComponentsPerPixel(), volumes.dtype, image.GetDimension(), facts
    ):
        choose_volume(1, volume, name)
        voxels = np.stack(list(volumes[:3]), axis=-1)
    else:
        voxels = volumes[choose_volume(len(volumes), volume, name)]
        if len(volumes) > 1:
            voxels = voxels.copy("K")  # a view would keep the other volumes in memory
    return made_scan(
        path, voxels, _affine(image, facts), modality=facts.modality, files=facts.files
    )


def read_layers(path: Path, memory_limit: MemoryLimit | None = None) -> list[Scan]:
    """Read all layers of a segmentation of 3D Slicer, each as a scan; all have the same grid.

    Raises:
        ScanError: the file is broken, or would need more than `memory_limit`.
    """
    volumes, image, facts = _read(path, memory_limit, as_layers=True)
    return [made_scan(path, voxels, _affine(image, facts), files=facts.files) for voxels in volumes]


def _is_colour(components: int, dtype: np.dtype[np.generic], axes: int, facts: HeaderFacts) -> bool:
    """Whether the components of voxels are colours, and not several volumes."""
    colours = facts.is_colour if facts.is_colour is not None else dtype == np.uint8
    return components in COLOURS and colours and axes < 4 and dtype.kind in "uif"


def _read(
    path: Path, memory_limit: MemoryLimit | None, *, as_layers: bool = False
) -> tuple[Voxels, Any, HeaderFacts]:
    """Read a file: volumes or components (V, I, J, K), SimpleITK's image, and facts of the header.

    With `as_layers` the memory estimate counts all volumes; otherwise one of them is kept.
    """
    name = printable(path.name)
    sitk = extra("SimpleITK", name)
    facts = read_header(path, is_nrrd=path.suffix.lower() in NRRD)
    header = _open(path)
    axes = header.GetDimension()
    if not FEWEST_AXES <= axes <= MOST_AXES:
        raise ScanError(
            f"{name}: expected a grid of {FEWEST_AXES}..{MOST_AXES} dimensions, found {axes}"
        )
    small = _in_file(lambda: sitk.Image([1] * axes, header.GetPixelID()), path)
    dtype = sitk.GetArrayViewFromImage(small).dtype
    size = header.GetSize()
    values = math.prod(size) * header.GetNumberOfComponents()
    # SimpleITK's image, its array, and for several components an array with them as first axis
    copies = 2 + (header.GetNumberOfComponents() > 1)
    shape = (*size[:3], *(1,) * (3 - len(size)))
    if as_layers and _volumes(header) > 1:
        shape = (*shape, _volumes(header))
    elif _is_colour(header.GetNumberOfComponents(), dtype, axes, facts):
        shape = (*shape, 3)
    require_memory(name, shape, dtype, copies * values * dtype.itemsize, memory_limit)
    image = _in_file(header.Execute, path, "data")
    voxels: Voxels = sitk.GetArrayFromImage(image)  # (..., K, J, I) or (..., K, J, I, components)
    if image.GetNumberOfComponentsPerPixel() == 1:
        voxels = voxels[..., np.newaxis]
    voxels = np.moveaxis(voxels, -1, 0)  # (components, ..., K, J, I)
    spatial = min(image.GetDimension(), 3)
    voxels = voxels.reshape(-1, *voxels.shape[-spatial:])
    voxels = voxels.transpose(0, *range(spatial, 0, -1))
    return (voxels if spatial == 3 else voxels[..., np.newaxis]), image, facts


def encoded(labels: Voxels, scan: Scan, path: Path, segments: list[Segment]) -> bytes:
    """The content of `path`: labels (I, J, K) on the grid of `scan`.

    A .seg.nrrd also has the names and colours of `segments`, as 3D Slicer stores them.
    """
    sitk = extra("SimpleITK", printable(path.name))
    image = sitk.GetImageFromArray(np.ascontiguousarray(labels.T))
    affine = RAS_OF_LPS @ scan.affine
    spacing = scan.spacing_mm
    directions = affine[:3, :3] / spacing
    directions[np.abs(directions) < LEAST_COSINE] = 0
    image.SetSpacing(spacing.tolist())
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    if path.name.lower().endswith(SEGMENTATION):
        for key, value in fields_of(segments, scan.grid).items():
            image.SetMetaData(key, value)
    suffix = path.suffix.lower()
    with tempfile.TemporaryDirectory() as folder:  # SimpleITK can only write to a file name
        temporary = Path(folder) / f"labels{suffix}"
        sitk.WriteImage(image, str(temporary), useCompression=True)
        return temporary.read_bytes()
