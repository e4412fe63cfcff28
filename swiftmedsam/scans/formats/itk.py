"""NRRD and MetaImage (.nrrd, .nhdr, .mha, .mhd) with SimpleITK, and 3D Slicer's .seg.nrrd."""

import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from swiftmedsam.messages import printable
from swiftmedsam.scans.formats.itk_headers import Said, read_header
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
FEWEST_AXES, MOST_AXES = 2, 5  # that SimpleITK makes an image of
COLOURS = (3, 4)  # components of bytes that are RGB or RGBA, not several volumes

T = TypeVar("T")


def _affine(image: Any, said: Said) -> Float64Array:
    """Voxel to mm in RAS of SimpleITK's image; a 2-D one gets a third axis, to the head."""
    flat = min(image.GetDimension(), 3)
    full = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(full, full)[:flat, :flat]
    affine = np.eye(4)
    affine[:flat, :flat] = direction * np.array(image.GetSpacing())[:flat]
    affine[:flat, 3] = np.array(image.GetOrigin())[:flat]
    affine[:3] *= said.to_mm
    return RAS_OF_LPS @ affine


def _in_file(step: Callable[[], T], path: Path, part: str = "header") -> T:
    """What `step` returns, which reads that part of `path` with SimpleITK, without its words.

    Raises:
        ScanError: the file is broken.
    """
    said: list[bytes] = []
    try:
        with complaints(said):
            found = step()
    except RuntimeError as error:
        if "determinant" in str(error) or "spacing" in str(error):
            raise ScanError(
                f"{printable(path.name)}: the affine should have an inverse, its directions lie in "
                "a plane or a spacing is not above 0"
            ) from error
        raise _damaged(path, part) from error
    if any(b"failed" in line or b"not read completely" in line for line in said):
        raise _damaged(path, part)
    return found


def _damaged(path: Path, part: str) -> ScanError:
    return ScanError(
        f"{printable(path.name)}: not a readable file of its kind (its {part} is damaged, cut "
        "short, or of a variant that SimpleITK does not read)"
    )


def _open(path: Path) -> Any:
    """SimpleITK's reader of a file, which knows its header; no voxel is read yet.

    Raises:
        ScanError: the file is broken, or SimpleITK is not installed.
    """
    sitk = extra("SimpleITK", printable(path.name))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    _in_file(reader.ReadImageInformation, path)
    return reader


def _volumes(header: Any) -> int:
    """How many volumes, or components, a file has by its header."""
    return int(header.GetNumberOfComponents() * math.prod(header.GetSize()[3:]))


def segments(path: Path) -> list[Declared]:
    """The segments that a NRRD file declares; [] if it is none of 3D Slicer's segmentations.

    Nor is what is no file: whoever reads it says so.

    Raises:
        ScanError: the file is broken, or they contradict each other.
    """
    if path.suffix.lower() not in NRRD or not path.is_file():
        return []
    read_header(path, is_nrrd=True)  # its own words for what is wrong
    header = _open(path)
    fields = {key: header.GetMetaData(key) for key in header.GetMetaDataKeys()}
    return declared(fields, _volumes(header), printable(path.name))


def read(path: Path, volume: int | None, memory_limit: MemoryLimit | None = None) -> Scan:
    """The scan of a file that SimpleITK reads.

    Raises:
        OSError: the file cannot be read.
        ScanError: the file is broken, has several volumes and none is chosen, or would take more
            than `memory_limit`.
    """
    name = printable(path.name)
    volumes, image, said = _read(path, memory_limit)
    for doubt in said.doubts:
        log.warning("%s: %s", name, doubt)
    voxels: Voxels
    if _is_colour(image.GetNumberOfComponentsPerPixel(), volumes.dtype, image.GetDimension(), said):
        choose_volume(1, volume, name)
        voxels = np.stack(list(volumes[:3]), axis=-1)
    else:
        voxels = volumes[choose_volume(len(volumes), volume, name)]
        if len(volumes) > 1:
            voxels = voxels.copy("K")  # a view would hold the others
    return made_scan(path, voxels, _affine(image, said), modality=said.modality, files=said.files)


def read_layers(path: Path, memory_limit: MemoryLimit | None = None) -> list[Scan]:
    """Every layer of one of 3D Slicer's segmentations, a scan each, all on the same grid.

    Raises:
        ScanError: the file is broken, or would take more than `memory_limit`.
    """
    volumes, image, said = _read(path, memory_limit, as_layers=True)
    return [made_scan(path, voxels, _affine(image, said), files=said.files) for voxels in volumes]


def _is_colour(components: int, dtype: np.dtype[np.generic], axes: int, said: Said) -> bool:
    """Whether voxels of so many components are one volume of colours, not several volumes."""
    colours = said.is_colour if said.is_colour is not None else dtype == np.uint8
    return components in COLOURS and colours and axes < 4 and dtype.kind in "uif"


def _read(
    path: Path, memory_limit: MemoryLimit | None, *, as_layers: bool = False
) -> tuple[Voxels, Any, Said]:
    """Volumes or components (V, I, J, K) of a file, SimpleITK's image, and what its header says.

    Not one but all of them are kept `as_layers`.
    """
    name = printable(path.name)
    sitk = extra("SimpleITK", name)
    said = read_header(path, is_nrrd=path.suffix.lower() in NRRD)
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
    # SimpleITK's own, an array of it, and one with components that lie apart
    copies = 2 + (header.GetNumberOfComponents() > 1)
    shape = (*size[:3], *(1,) * (3 - len(size)))
    if as_layers and _volumes(header) > 1:
        shape = (*shape, _volumes(header))
    elif _is_colour(header.GetNumberOfComponents(), dtype, axes, said):
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
    return (voxels if spatial == 3 else voxels[..., np.newaxis]), image, said


def encoded(labels: Voxels, scan: Scan, path: Path, segments: list[Segment]) -> bytes:
    """The content of `path`, a file of labels (I, J, K) on the grid of `scan`.

    As .seg.nrrd it has the names and colours of `segments`, as 3D Slicer stores them.
    """
    sitk = extra("SimpleITK", printable(path.name))
    image = sitk.GetImageFromArray(np.ascontiguousarray(labels.T))
    affine = RAS_OF_LPS @ scan.affine
    spacing = scan.spacing_mm
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    if path.name.lower().endswith(SEGMENTATION):
        for key, value in fields_of(segments, scan.grid).items():
            image.SetMetaData(key, value)
    suffix = path.suffix.lower()
    with tempfile.TemporaryDirectory() as folder:  # SimpleITK writes to names only
        temporary = Path(folder) / f"labels{suffix}"
        sitk.WriteImage(image, str(temporary), useCompression=True)
        return temporary.read_bytes()
