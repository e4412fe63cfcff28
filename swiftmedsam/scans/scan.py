"""A scan, as every reader returns it: voxels on the file's grid, and the affine to the world."""

import colorsys
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from swiftmedsam.case import CaseError
from swiftmedsam.extras import how_to_install
from swiftmedsam.memory import estimate_scan_peak
from swiftmedsam.messages import printable

Float64Array = npt.NDArray[np.float64]
Voxels = npt.NDArray[np.generic]
MAX_LABELS = 65535  # of a label map: 16 bits
Colour = tuple[int, int, int]  # red, green and blue, 0..255

RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # converts LPS (ITK, DICOM) to RAS, and RAS to LPS
# Pictures have no place in the world. With this affine, columns run to the patient's left and rows
# to the back, so that the axial slice is the picture as it is.
PICTURE_AFFINE = RAS_OF_LPS
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV has it
RIGHT_ANGLE = np.deg2rad(0.5)  # tolerance of right angles; a smaller deviation is rounding
GOLDEN_RATIO = 0.618034  # multiples of it give hues that are far from each other


class ScanError(CaseError):
    """A scan, or a box in it, cannot be used; the message names the file."""


class SeveralError(ScanError):
    """A file or folder has several images, and none is chosen."""

    def __init__(self, message: str, found: str) -> None:
        """`message` names the option that chooses one; `found` only has the file and the number."""
        super().__init__(message)
        self.found = found


@dataclass(frozen=True, eq=False)
class Scan:
    """An image or volume on the grid of its file; made by a reader."""

    path: Path
    voxels: Voxels  # (I, J, K) or (I, J, K, 3): the file's grid, fastest index first; image: K = 1
    affine: Float64Array  # (4, 4): voxel (i, j, k, 1) to mm in RAS (right, anterior, superior)
    modality: str = ""  # from the file; "": unknown
    slice_axis: int | None = None  # axis along which slices were acquired; None: unknown
    has_mm: bool = True  # whether the affine is from the file, and not `PICTURE_AFFINE`
    sources: tuple[tuple[Path, int], ...] = ()  # for DICOM: file and frame of each k
    unit: str = ""  # of the values: HU, SUV or Bq/ml; "": unknown
    files: tuple[Path, ...] = ()  # all files that it was read from; for DICOM also other series

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return printable(self.path.name)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Voxels along i, j and k."""
        i, j, k = self.voxels.shape[:3]
        return i, j, k

    @property
    def spacing_mm(self) -> Float64Array:
        """Distances (3,) between neighbouring voxels along i, j and k."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), np.float64)

    @property
    def is_sheared(self) -> bool:
        """Whether i, j and k are not at right angles, for example because of a tilted gantry."""
        directions = self.affine[:3, :3] / self.spacing_mm
        cosines = directions.T @ directions - np.eye(3)
        return bool(np.abs(cosines).max() > np.sin(RIGHT_ANGLE))


@dataclass(frozen=True)
class Segment:
    """One object of a label map: its value, name, box and colour."""

    value: int  # in the label map
    name: str
    first: tuple[int, int, int]  # corners of its box: voxels (i, j, k), both inclusive
    last: tuple[int, int, int]
    own_colour: Colour | None = None  # from a file, if it has one

    @property
    def colour(self) -> Colour:
        """Its own colour; else a colour that depends on its value only."""
        if self.own_colour is not None:
            return self.own_colour
        red, green, blue = colorsys.hsv_to_rgb(self.value * GOLDEN_RATIO % 1, 0.75, 1)
        return round(red * 255), round(green * 255), round(blue * 255)


def made_scan(
    path: Path,
    voxels: Voxels,
    affine: npt.ArrayLike,
    *,
    modality: str = "",
    slice_axis: int | None = None,
    has_mm: bool = True,
    sources: tuple[tuple[Path, int], ...] = (),
    unit: str = "",
    files: tuple[Path, ...] = (),
) -> Scan:
    """A checked scan of voxels (I, J, K) or (I, J, K, 3); `Scan` describes the arguments.

    Raises:
        ScanError: the grid is empty, voxels are no real numbers, or the affine has no inverse.
    """
    name = printable(path.name)
    if 0 in voxels.shape:
        raise ScanError(f"{name}: expected voxels, found a grid of {voxels.shape}")
    if voxels.dtype.kind not in "biuf":
        raise ScanError(f"{name}: voxels should be real numbers, found {voxels.dtype}")
    to_world = np.asarray(affine, np.float64)
    sides = np.linalg.norm(to_world[:3, :3], axis=0)
    # the volume of unit vectors, so that small voxels do not count as degenerate
    if not np.isfinite(to_world).all() or (sides == 0).any():
        volume = 0.0
    else:
        volume = abs(float(np.linalg.det(to_world[:3, :3] / sides)))
    if volume < 1e-3:
        rows = to_world[:3].round(4).tolist()
        raise ScanError(f"{name}: the affine should have an inverse, found {rows}")
    return Scan(path, voxels, to_world, modality, slice_axis, has_mm, sources, unit, files)


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that a file and its case may need, and the function that estimates this need."""

    size: int  # bytes
    estimate: Callable[[tuple[int, ...], np.dtype[np.generic], int], int] = estimate_scan_peak


def require_memory(
    name: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    reading: int,
    limit: MemoryLimit | None,
) -> None:
    """Refuse a scan that is too large, before its voxels are read; see `swiftmedsam.memory`.

    Args:
        name: of the file.
        shape: (I, J, K) or (I, J, K, 3), of the voxels.
        dtype: of the voxels, once they are read.
        reading: peak in bytes while they are read.
        limit: None is no limit.

    Raises:
        ScanError: the scan would need more.
    """
    if limit is None:
        return
    size = "x".join(map(str, shape))
    peak = limit.estimate(shape, np.dtype(dtype), reading)
    require_peak(name, f"{size} voxels of {np.dtype(dtype)}", peak, limit)


def require_peak(name: str, what: str, peak: int, limit: MemoryLimit) -> None:
    """Raise ScanError if `peak` bytes exceed `limit`; `name` and `what` are for the message."""
    if peak > limit.size:
        raise ScanError(
            f"{name}: {what} need about {peak / 1e9:.1f} GB, "
            f"the memory limit is {limit.size / 1e9:.1f} GB"
        )


def grey(colour: Voxels) -> Voxels:
    """The luminance (...) of colours (..., 3), in the same dtype."""
    precise = np.float32 if colour.dtype.itemsize <= 2 else np.float64
    mean = colour.astype(precise) @ np.array(LUMINANCE, precise)
    whole = colour.dtype.kind in "iu"
    return np.asarray(np.rint(mean) if whole else mean).astype(colour.dtype)


def choose_volume(count: int, chosen: int | None, name: str) -> int:
    """The number of the volume (or component) to use: the chosen one, or the only one.

    Raises:
        ScanError: there are several and none is chosen, or `chosen` is not below `count`.
    """
    if chosen is None and count > 1:
        found = f"{name}: has {count} volumes"
        raise SeveralError(f"{found}, --volume should name one of 0..{count - 1}", found)
    if chosen is not None and not 0 <= chosen < count:
        raise ScanError(f"{name}: --volume should be one of 0..{count - 1}, got {chosen}")
    return chosen or 0


def extra(module: str, name: str) -> ModuleType:
    """Import an optional library, which the container does not have; file `name` needs it.

    Raises:
        ScanError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise ScanError(
            f"{name}: this kind of file needs {library}, which is not installed: "
            f"{how_to_install('scans')}"
        ) from None
