"""A session: an image or volume that is opened once and segmented many times.

This is for interactive programs. Embeddings are kept, so another box in the same slices costs only
the decoder. A box of an array is x_min, y_min(, z_min), x_max, y_max(, z_max), where x is the last
axis; a box of a file is in its i, j(, k).
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.display import DEFAULT_WINDOW, Window
from swiftmedsam.embeddings import Embeddings
from swiftmedsam.extend import extend_boxes, extend_objects, given_by_boxes
from swiftmedsam.follow import Given
from swiftmedsam.frame import Frame
from swiftmedsam.memory import (
    EMBEDDING_BYTES,
    SCAN_PROGRAM_BYTES,
    available_memory,
    estimate_scan_peak,
)
from swiftmedsam.messages import one_line
from swiftmedsam.modality import parse_modality
from swiftmedsam.result import Clock, Labels, Progress, Result
from swiftmedsam.scans.boxes.drawn import Meaning, drawn_box, on_grid
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.infer_modality import modality_of
from swiftmedsam.scans.orientation import (
    ACQUIRED,
    affine_of,
    choose_orientation,
    plane_along,
)
from swiftmedsam.scans.outputs import (
    check_places,
    outputs_of,
    refuse_foreign_outputs,
    refuse_inputs,
)
from swiftmedsam.scans.place import boxes_in_slices, case_of, to_grid
from swiftmedsam.scans.scan import (
    MemoryLimit,
    Scan,
    ScanError,
    Segment,
    made_scan,
    require_memory,
)
from swiftmedsam.scans.write import check_encoding, write
from swiftmedsam.segment import EMBEDDINGS_KEPT, NetworkLike, default_settings, segment
from swiftmedsam.settings import Settings

COLOURS = (3, 4)  # an array with a last axis of this length is a picture in colour
LEAST_KEPT = 8  # embeddings of an image that is opened along another axis, however short memory is


def embeddings_within(size: int) -> int:
    """The number of embeddings that fit into `size` bytes; at least 1."""
    return max(1, min(EMBEDDINGS_KEPT, size // EMBEDDING_BYTES))


def scan_of_array(
    array: npt.ArrayLike,
    spacing_mm: Sequence[float] | None = None,
    *,
    is_volume: bool | None = None,
    directions: str = "LPS",
    name: str = "array",
) -> Scan:
    """A scan of an array (H, W), (H, W, 3 or 4) or (D, H, W).

    `spacing_mm` has the order of the array's axes. Slices lie along the axis of the longest
    spacing, else along D. If `is_volume` is None, an array with a last axis of 3 or 4 is a picture
    in colour. `directions` says where W, H and D run to: L or R, A or P, I or S.

    Raises:
        ScanError: the array has another shape, or the spacing does not fit it.
        ValueError: these are no directions.
    """
    pixels = np.asarray(array)
    if is_volume is None:
        is_volume = pixels.ndim == 3 and pixels.shape[2] not in COLOURS
    axes = 3 if is_volume else 2
    if pixels.ndim != axes and (is_volume or pixels.ndim != 3 or pixels.shape[2] not in COLOURS):
        wanted = "(D, H, W)" if is_volume else "(H, W), (H, W, 3) or (H, W, 4)"
        raise ScanError(f"{name}: expected {wanted}, got {pixels.shape}")
    if is_volume:
        voxels = pixels.T
    else:
        plane = pixels[..., :3] if pixels.ndim == 3 else pixels  # without alpha
        voxels = plane.swapaxes(0, 1)[:, :, np.newaxis]
    sides = np.ones(axes) if spacing_mm is None else np.asarray(spacing_mm, np.float64)
    if sides.shape != (axes,) or not (np.isfinite(sides) & (sides > 0)).all():
        raise ScanError(f"{name}: spacing_mm should be {axes} lengths above 0, got {spacing_mm}")
    along_ijk = [*sides[::-1], *[1.0] * (4 - axes)]
    affine = affine_of(directions) @ np.diag(along_ijk)
    # an array has spacing, but no place in the world, so a box cannot be in mm
    return made_scan(Path(name), voxels, affine, slice_axis=None if is_volume else 2, has_mm=False)


class OpenImage:
    """An open image or volume that can be segmented many times; made by `open_image`.

    Several threads may use one: each gets the labels of its own boxes.
    """

    def __init__(
        self, scan: Scan, network: NetworkLike, settings: Settings | None, meaning: Meaning, *,
        modality: str, window: Window, plane: str, memory_limit: int,
        embeddings_limit: int | None = None,
    ) -> None:  # fmt: skip
        """`open_image` describes the arguments."""
        self._scan, self._network, self._settings, self._meaning = scan, network, settings, meaning
        self._orientation = choose_orientation(scan, plane)
        self._kind = modality_of(scan, parse_modality(modality) if modality else None)
        self._case = case_of(scan, [], self._orientation, self._kind, window)
        image = self._case.image if self._case.is_volume else self._case.image[np.newaxis]
        peak = estimate_scan_peak(scan.voxels.shape, scan.voxels.dtype, 0)
        free = memory_limit - peak
        most = embeddings_within(free if embeddings_limit is None else min(free, embeddings_limit))
        self._embeddings = Embeddings(image, network, most)
        # for `along`: what is left for embeddings of slices in the other two planes
        left = free - most * EMBEDDING_BYTES
        wanted = 2 * most * EMBEDDING_BYTES if self._case.is_volume else 0
        self._spare = max(0, min(left, wanted))
        self._reserved = peak - SCAN_PROGRAM_BYTES + most * EMBEDDING_BYTES + self._spare

    @property
    def scan(self) -> Scan:
        """The scan that was opened: its voxels, its affine and its files."""
        return self._scan

    @property
    def is_volume(self) -> bool:
        """Whether there is more than one slice."""
        return self._case.is_volume

    @property
    def display(self) -> npt.NDArray[np.uint8]:
        """What the network sees, 0..255, in the order of `shape`; (J, I, 3) of a colour picture.

        It is a view, not a copy.
        """
        image = self._case.image
        if not self._case.is_volume:
            image = image[np.newaxis]
        grid = self._orientation.to_grid(image)
        placed = grid.transpose(2, 1, 0, *range(3, grid.ndim))
        return placed.reshape(*self.shape, *placed.shape[3:])

    @property
    def embeddings_kept(self) -> int:
        """How many embeddings of its slices fit into memory."""
        return self._embeddings.most

    @property
    def reserved_bytes(self) -> int:
        """The memory that it may come to need, with embeddings in all planes."""
        return self._reserved

    def along(self, axis: int) -> "OpenImage":
        """The same image with slices along `axis` of the labels, 0 to 2: see `slice_axis`.

        Boxes and labels are as before. The voxels are shared; embeddings are not.

        Raises:
            ScanError: the image is one slice.
        """
        if not self._case.is_volume:
            raise ScanError(f"{self._scan.name}: expected a volume, found one slice")
        other = copy.copy(self)
        other._orientation = choose_orientation(self._scan, plane_along(self._scan, 2 - axis))
        slices = other._orientation.to_slices(self._orientation.to_grid(self._case.image))
        other._case = dataclasses.replace(self._case, image=slices)
        most = max(LEAST_KEPT, embeddings_within(self._spare))
        self._spare -= most * EMBEDDING_BYTES
        other._embeddings = Embeddings(slices, self._network, most)
        return other

    def windowed(self, window: Window) -> "OpenImage":
        """The same image, if it is a CT in another window. Nothing of it is encoded yet."""
        other = copy.copy(self)
        other._case = case_of(self._scan, [], self._orientation, self._kind, window)
        image = other._case.image if other._case.is_volume else other._case.image[np.newaxis]
        other._embeddings = Embeddings(image, self._network, self._embeddings.most)
        return other

    def prepare(self, index: int) -> None:
        """Encode the labels' slice `index`, unless it is known: a box in it is then quicker."""
        sides = self._case.image.shape[1:] if self._case.is_volume else self._case.image.shape
        self._embeddings.get(Frame(sides[0], sides[1]), self._z(index), Clock())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the labels: (D, H, W) of an array, (K, J, I) of a file; two axes of an image."""
        i, j, k = self._scan.grid
        return (j, i) if k == 1 else (k, j, i)

    @property
    def slice_axis(self) -> int:
        """Axis of the labels along which the slices lie, 0 to 2; 0 where there is only one slice.

        A box is one slice thick if its ends along this axis are the same.
        """
        return 2 - self._orientation.axes[0] if self._case.is_volume else 0

    def segment(
        self,
        boxes: npt.ArrayLike,
        progress: Progress | None = None,
        *,
        extend: bool = False,
        crops: bool = True,
    ) -> Result:
        """Segment the boxes; the labels of the result have `shape`, and box i has the value i + 1.

        By default, the smaller box wins where masks overlap, and of equal boxes the later. Each
        slice is encoded when it is first needed; a small box may need a crop that is encoded, too.

        Args:
            boxes: (N, 4) or (N, 6), in the units of `open_image`; first and last both inclusive.
            progress: called with the number of steps done, and of all steps.
            extend: a box that is one slice thick marks an object that goes on in other slices: it
                is followed upwards and downwards to its ends. A thicker box is a bound, as without
                `extend`. For more than one box of the same object call the method `extend`.
            crops: False: ask each slice as a whole, without crops and mirrored views. That is less
                exact for small boxes, but encodes each slice only once.

        Raises:
            ScanError: a box has the wrong form, or lies outside.
        """
        placed = self._placed(boxes, extend=extend)
        case = dataclasses.replace(self._case, boxes=placed)
        settings = self._settings or default_settings(self._network)
        if not crops:
            settings = dataclasses.replace(
                settings, image_crops=0, volume_crops=0, mirror_images=False
            )
        result = (extend_boxes if extend else segment)(
            case, self._network, settings, progress=progress, embeddings=self._embeddings
        )
        return self._on_grid(result)

    def extend(
        self,
        boxes: npt.ArrayLike,
        masks: Mapping[int, npt.ArrayLike] | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Segment one object of a volume; the labels of the result have `shape`, and are 1 in it.

        The object is followed from each given slice to the next given one, or to its end. Call this
        again with one more box, or with a mask that was corrected by hand: the slices around it
        change, up to the next given ones. Only slices that are new are encoded.

        Args:
            boxes: (N, 6), all of the object, one slice thick each.
            masks: the whole mask of the object in some slices, by index along `slice_axis`;
                `masks[n]` has the shape of `labels.take(n, slice_axis)`. Boxes in the same slice do
                not count. An empty mask says that the object ends before this slice.
            progress: called with the number of slices done, and the most that there can be. If it
                raises `extend.Enough`, the result has what was found until then, and says so.

        Raises:
            ScanError: a box has the wrong form, is thicker than one slice, or lies outside; a mask
                has another shape, or there is no such slice; the image is not a volume.
        """
        if not self._case.is_volume:
            raise ScanError(f"{self._scan.name}: expected a volume to extend in, found one slice")
        placed = self._placed(boxes, extend=True)
        thick = np.flatnonzero(placed[:, 2] != placed[:, 5])
        if thick.size:
            raise ScanError(
                f"{self._scan.name}: box {thick[0] + 1} should be one slice thick along "
                f"{'kji'[self.slice_axis]}, to be extended"
            )
        by_mask = [self._given(index, mask) for index, mask in (masks or {}).items()]
        slices = {one.z for one in by_mask}
        by_box = given_by_boxes(placed, [0] * len(placed)) or [[]]
        given = [*by_mask, *(one for one in by_box[0] if one.z not in slices)]
        result = extend_objects(
            self._case, self._network, self._settings, [given], progress=progress,
            embeddings=self._embeddings,
        )  # fmt: skip
        return self._on_grid(result)

    def _placed(self, boxes: npt.ArrayLike, *, extend: bool) -> npt.NDArray[np.float64]:
        """Boxes in the slices of the segmentation; to be extended, they may be one slice thick."""
        segments = self._segments(boxes, (), self._orientation.axes[0] if extend else None)
        return boxes_in_slices(segments, self._orientation).astype(np.float64)

    def _given(self, index: int, mask: npt.ArrayLike) -> Given:
        """A mask of the labels' slice `index`, in the slices of the segmentation."""
        axis, depth = self.slice_axis, self.shape[self.slice_axis]
        plane = np.asarray(mask) != 0
        wanted = tuple(np.delete(self.shape, axis).tolist())
        where = f"{self._scan.name}: the mask of slice {index}"
        if not 0 <= index < depth:
            raise ScanError(f"{where} should be of one of the slices 0 to {depth - 1}")
        if plane.shape != wanted:
            raise ScanError(f"{where} should have the shape {wanted}, got {plane.shape}")
        thin = np.expand_dims(plane, axis).T  # (I, J, K), one of them 1
        return Given(self._z(index), np.zeros((0, 4)), self._orientation.to_slices(thin)[0])

    def _z(self, index: int) -> int:
        """The slice of the segmentation that is slice `index` of the labels."""
        if not self._case.is_volume:
            return 0
        return len(self._case.image) - 1 - index if self._orientation.flipped[0] else index

    def _on_grid(self, result: Result) -> Result:
        """The result with labels of `shape`."""
        labels = to_grid(result.labels, self._orientation).T.reshape(self.shape)
        return dataclasses.replace(result, labels=labels)

    def write(
        self, path: Path | str, labels: Labels, boxes: npt.ArrayLike, names: Sequence[str] = ()
    ) -> None:
        """Write labels that `segment` made for `boxes`, on the grid of the opened file.

        Args:
            path: of the output; its suffix chooses the format.
            labels: of `shape`.
            boxes: the boxes of these labels.
            names: of the boxes; a box without one gets its number.

        Raises:
            OSError: the file cannot be written.
            ScanError: the format is unknown or cannot hold these labels, the file cannot be written
                or is an input, or a file beside it (names, overlay) is not this program's.
        """
        self.write_segments(path, labels, self._segments(boxes, names))

    def write_segments(self, path: Path | str, labels: Labels, segments: list[Segment]) -> None:
        """Write labels, as `write` does; `segments` have their values, names, boxes and colours."""
        outputs = outputs_of(self._scan.path, Path(path))
        refuse_inputs(outputs.all(), [self._scan.path, *self._scan.files])
        check_places(outputs, self._scan.name)
        refuse_foreign_outputs(outputs, self._scan.name)
        check_encoding(outputs, self._scan, segments)
        on_its_grid = labels.T.reshape(self._scan.grid)
        write(outputs, on_its_grid, self._scan, segments, self._orientation, self._case)

    def _segments(
        self, boxes: npt.ArrayLike, names: Sequence[str], thin_along: int | None = None
    ) -> list[Segment]:
        """Boxes (N, 4) or (N, 6), or a single one, on the grid; default names are numbers."""
        where = self._scan.name
        try:
            corners = np.asarray(boxes, np.float64)
        except (TypeError, ValueError) as error:
            raise ScanError(f"{where}: boxes should be numbers ({one_line(error)})") from None
        all_ends = np.atleast_2d(corners).tolist() if corners.size else []
        known = dict(enumerate(names, start=1))
        return [
            on_grid(
                drawn_box(
                    known.get(value, f"box {value}"), ends, self._meaning.units,
                    self._meaning.space, where,
                ),
                self._scan, value, thin_along=thin_along,
            )
            for value, ends in enumerate(all_ends, start=1)
        ]  # fmt: skip


def open_image(
    source: Path | str | npt.ArrayLike,
    network: NetworkLike,
    settings: Settings | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    is_volume: bool | None = None,
    modality: str = "",
    window: Window = DEFAULT_WINDOW,
    plane: str = ACQUIRED,
    directions: str = "LPS",
    units: str = "voxel",
    space: str | None = None,
    volume: int | None = None,
    series: str | None = None,
    memory_limit: int | None = None,
    embeddings_limit: int | None = None,
) -> OpenImage:
    """Open an image or volume that is to be segmented many times.

    Args:
        source: a file or a DICOM folder (docs/formats.md), or an array (H, W), (H, W, 3 or 4) or
            (D, H, W).
        network: from `load`.
        settings: how boxes become masks; None: those of the network's weights, else `BEST`.
        spacing_mm: of an array, in the order of its axes; slices lie along the axis of the longest
            spacing. None: along D.
        is_volume: of an array; None: a last axis of 3 or 4 means colour.
        modality: "CT", "MR", ...; "": from the file, else guessed from the values.
        window: the range of Hounsfield units that is shown of a CT.
        plane: "axial", "coronal", "sagittal", or "acquired".
        directions: of an array: where its axes W, H and D run to, each L or R, A or P, or I or S.
            The network knows axial slices with W to the left and H to the back.
        units: of boxes, "voxel" or "mm".
        space: of boxes in mm, "RAS" or "LPS".
        volume: which volume, counted from 0, if the file has several.
        series: number or UID of the series, if a DICOM folder has several.
        memory_limit: bytes that this process may use; None: all that it has.
        embeddings_limit: bytes of it that the embeddings of the slices in one plane may take; None:
            as many as help.

    Raises:
        ScanError: the source cannot be read, or would need more than `memory_limit`.
        ValueError: no modality has that name, or these are no directions.
    """
    limit = available_memory() if memory_limit is None else memory_limit
    if isinstance(source, str | Path):
        scan = read_scan(Path(source), volume, series, memory_limit=limit)
    else:
        scan = scan_of_array(source, spacing_mm, is_volume=is_volume, directions=directions)
        require_memory(scan.name, scan.voxels.shape, scan.voxels.dtype, 0, MemoryLimit(limit))
    return OpenImage(
        scan, network, settings, Meaning(units, space), modality=modality, window=window,
        plane=plane, memory_limit=limit, embeddings_limit=embeddings_limit,
    )  # fmt: skip
