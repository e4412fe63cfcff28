"""The pictures of a case in the report: small pictures, and contours over them as SVG paths.

Contours are not drawn into the pixels, so that the page can switch them on and off. Contours and
pixels of a case together fit into `CASE_BYTES`.
"""

import base64
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from swiftmedsam.case import Case
from swiftmedsam.evaluation.metrics import Labels, array_spacing_mm, slice_dscs
from swiftmedsam.evaluation.score import MAX_LABEL, ScoreError, read_output, read_truth
from swiftmedsam.npz import read_case

PAGE_BYTES = 20_000_000  # limit of a page of CASES_PER_PAGE cases
CASES_PER_PAGE = 200
CASE_BYTES = 90_000  # contours and pictures in base64; the rest of the page takes 10,000 a case
IMAGE_SIDE, SLICE_SIDE, THUMBNAIL_SIDE = 640, 256, 96  # limits of the longer side in pixels
MAX_SLICES, WORST_SLICES = 12, 3  # shown slices; those among them with the lowest DSC
# Divisor of the sides of pictures, and quality of WebP; the first pair that fits is used.
QUALITIES = ((1, 80), (1, 65), (1, 50), (1, 35), (1, 20), (2, 20), (4, 20))
LINE_BYTES = CASE_BYTES // 2  # limit of the contours of a case
COARSER = (1, 2, 4)  # factors of `TOLERANCE`; the first with which the contours fit is used
THUMBNAIL_QUALITY = 60
TOLERANCE = 0.5  # picture pixels between contour and mask, at most; saves corners

PLANES = ("coronal plane, row", "sagittal plane, column")  # across y and x of a volume

Picture = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max


def _box(x_min: float, y_min: float, x_max: float, y_max: float) -> Box:
    """Make a tuple of four; the type checker does not know the length of a list."""
    return (x_min, y_min, x_max, y_max)


@dataclass(frozen=True)
class Panel:
    """A picture, and the lines over it in pixels of the stored slice (height, width)."""

    name: str  # such as "slice 17, DSC 71.3 %"; "" for an image
    height: int
    width: int
    aspect: float  # width / height as it is to be shown; pixels need not be square
    uri: str  # the picture, data:image/webp
    boxes: tuple[Box, ...]
    mask: str  # SVG path of the contours; "" without contours
    truth: str


@dataclass(frozen=True)
class Shown:
    """The pictures and numbers of a case on the page."""

    objects: int  # number of boxes
    shape: tuple[int, ...]  # (H, W) or (D, H, W)
    thumbnail: str  # data URI
    middle: int  # index of the slice of the thumbnail
    slices: tuple[Panel, ...]  # up to `MAX_SLICES` of a volume, lowest first; one for an image
    planes: tuple[Panel, ...]  # a coronal and a sagittal one of a volume; none for an image


def path_of(labels: Labels | None, pixel: float = 1.0) -> str:
    """Return the SVG path of the contours of all labels of a slice (H, W), with their holes.

    It is "" if there is no label, or if `labels` is None. The path runs through the centres of the
    outermost pixels of objects. The centre of pixel (x, y) is (x, y), so the page moves the path by
    half a pixel. `pixel` is the size of a pixel of the picture, in pixels of the slice.
    """
    if labels is None:
        return ""
    parts = []
    largest = min(int(labels.max(initial=0)), MAX_LABEL)
    for label, region in enumerate(ndimage.find_objects(labels, largest), start=1):
        if region is None:
            continue
        offset = (region[1].start, region[0].start)
        mask = (labels[region] == label).astype(np.uint8)
        # two levels: objects, and holes in them
        outlines, _ = cv2.findContours(
            mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset
        )  # fmt: skip
        for outline in outlines:
            corners = cv2.approxPolyDP(outline, TOLERANCE * pixel, True)[:, 0]  # (K, 2)
            # relative steps are shorter; a minus needs no space before it
            steps = " ".join(f"{x} {y}" for x, y in np.diff(corners, axis=0).tolist())
            steps = steps.replace(" -", "-")
            x, y = corners[0].tolist()
            parts.append(f"M{x} {y}" + (f"l{steps}z" if steps else "h0"))  # h0: a dot
    return "".join(parts)


def shrink(image: Picture, side: int) -> Picture:
    """Shrink `image` (H, W[, 3]) until its longer side is at most `side` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def data_uri(image: Picture, quality: int) -> str:
    """Return `image` (H, W) or RGB (H, W, 3) as WebP of a quality of 0..100, in base64."""
    channels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, encoded = cv2.imencode(".webp", channels, [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done, "WebP takes any picture of up to 16383 pixels a side"
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()


def encode(pictures: Sequence[Picture], limit: int) -> list[str]:
    """Return data URIs of all pictures, in the best quality with at most `limit` bytes together.

    If no quality is enough, the pictures are shrunk. If this is not enough either, the smallest
    ones are returned.
    """
    uris: list[str] = []
    for divisor, quality in QUALITIES:
        smaller = [shrink(each, max(1, max(each.shape[:2]) // divisor)) for each in pictures]
        uris = [data_uri(picture, quality) for picture in smaller]
        if sum(map(len, uris)) <= limit:
            break
    return uris


def contours(
    maps: Sequence[tuple[Labels | None, Labels | None]], pixels: Sequence[float]
) -> list[tuple[str, str]]:
    """Return the paths of mask and truth of each panel, as fine as `LINE_BYTES` allows.

    If no tolerance of `COARSER` fits, the coarsest is used. `pixels` holds `pixel` of `path_of` for
    each panel.
    """
    paths: list[tuple[str, str]] = []
    for coarser in COARSER:
        paths = [
            (path_of(found, coarser * pixel), path_of(truth, coarser * pixel))
            for (found, truth), pixel in zip(maps, pixels, strict=True)
        ]
        if sum(len(path) for of_panel in paths for path in of_panel) <= LINE_BYTES:
            break
    return paths


def evenly(first: int, last: int, most: int) -> list[int]:
    """Return up to `most` evenly spaced whole numbers from `first` to `last`, with both ends."""
    return [int(z) for z in np.linspace(first, last, min(most, last - first + 1)).round()]


def slices_shown(case: Case, dscs: npt.NDArray[np.float64]) -> list[int]:
    """Choose up to `MAX_SLICES` indices z; `WORST_SLICES` of them have the lowest `dscs` (D,).

    The others are evenly spaced between the lowest and highest slice with a box. NaN is no DSC.
    """
    low, high = 0, case.image.shape[0] - 1
    if len(case.boxes):
        low, high = int(case.boxes[:, 2].min()), int(case.boxes[:, 5].max())
    order = np.argsort(dscs, kind="stable").tolist()  # NaN last
    worst = [z for z in order[:WORST_SLICES] if not np.isnan(dscs[z])]
    choices = (sorted({*evenly(low, high, most), *worst}) for most in range(MAX_SLICES, 0, -1))
    return next(choice for choice in choices if len(choice) <= MAX_SLICES)


def middle_of(case: Case) -> tuple[int, int]:
    """Return row y and column x in the middle of all boxes; without boxes, of the volume."""
    _, height, width = case.image.shape
    if not len(case.boxes):
        return height // 2, width // 2
    (x, y), (x_max, y_max) = case.boxes[:, :2].min(axis=0), case.boxes[:, 3:5].max(axis=0)
    # a box may end at y = height or x = width
    return min(int((y + y_max) / 2), height - 1), min(int((x + x_max) / 2), width - 1)


def spacing_of(files: Sequence[Path]) -> tuple[float, float, float]:
    """Return the spacing in mm of axes (z, y, x), from the first file with a valid one.

    Without any it is 1: inputs may lack it (docs/formats.md), and here it changes only the
    proportions of pictures.
    """
    for file in files:
        with np.load(file, allow_pickle=False) as archive:
            try:
                x, y, z = np.asarray(archive["spacing"], np.float64).tolist()
            except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile, zlib.error):
                continue
        if all(math.isfinite(length) and length > 0 for length in (x, y, z)):
            return array_spacing_mm((x, y, z), official=False)
    return (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Cut:
    """A slice through a case along one of three axes, not yet encoded."""

    name: str
    aspect: float  # width / height as it is to be shown
    image: Picture  # (H, W[, 3]); in a volume H and W may be other axes
    boxes: tuple[Box, ...]
    found: Labels | None  # (H, W)
    truth: Labels | None


def _image_cut(case: Case, found: Labels | None, truth: Labels | None) -> Cut:
    height, width = case.label_shape
    boxes = tuple(_box(*box) for box in case.boxes.tolist())
    return Cut("", width / height, case.image, boxes, found, truth)


def _volume_cut(
    case: Case,
    found: Labels | None,
    truth: Labels | None,
    spacing_mm: Sequence[float],
    name: str,
    axis: int,
    index: int,
) -> Cut:
    """Return the slice `index` of a volume along `axis`; 0, 1, 2 are z, y, x."""
    rows, columns = (each for each in range(3) if each != axis)
    lows, highs = case.boxes[:, 2::-1], case.boxes[:, :2:-1]  # (N, 3) z, y, x
    boxes = tuple(
        _box(low[columns], low[rows], high[columns], high[rows])
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
        if low[axis] <= index <= high[axis]
    )
    size_mm = [length * mm for length, mm in zip(case.image.shape, spacing_mm, strict=True)]
    image, found, truth = (
        None if array is None else np.take(array, index, axis)
        for array in (case.image, found, truth)
    )
    assert image is not None
    return Cut(name, size_mm[columns] / size_mm[rows], image, boxes, found, truth)


def _volume_cuts(
    case: Case, found: Labels | None, truth: Labels | None, spacing_mm: Sequence[float]
) -> list[Cut]:
    """Return the shown slices of a volume, lowest first, then one along y and one along x.

    If there are an output and its truth, the names of slices contain their DSC.
    """
    dscs: npt.NDArray[np.float64] = np.full(len(case.image), np.nan)
    if found is not None and truth is not None:
        dscs = slice_dscs(truth, found)
    known = {z: f", DSC {100 * dscs[z]:.1f} %" for z in np.flatnonzero(~np.isnan(dscs)).tolist()}
    places = [(f"slice {z}{known.get(z, '')}", 0, z) for z in slices_shown(case, dscs)]
    places += [
        (f"{plane} {index}", axis, index)
        for axis, (plane, index) in enumerate(zip(PLANES, middle_of(case), strict=True), start=1)
    ]
    return [_volume_cut(case, found, truth, spacing_mm, *place) for place in places]


def _labels(path: Path | None, read: Callable[[Path], Labels], case: Case) -> Labels | None:
    """Read the labels of an output or a truth; None if there is no file."""
    if path is None:
        return None
    labels = read(path)
    if labels.shape != case.label_shape:
        raise ScoreError(f"{path}: should be {case.label_shape} like the image, got {labels.shape}")
    return labels


def show(source: Path, output: Path | None, truth_file: Path | None) -> Shown:
    """Make the pictures of the case in the file `source`; output and truth may be None.

    Raises:
        CaseError: the case cannot be read.
        ScoreError: output or truth cannot be read, or has another shape.
    """
    case = read_case(source)
    found, truth = _labels(output, read_output, case), _labels(truth_file, read_truth, case)
    if case.is_volume:
        spacing_mm = spacing_of([file for file in (truth_file, source) if file is not None])
        cuts = _volume_cuts(case, found, truth, spacing_mm)
        side, slices = SLICE_SIDE, len(cuts) - len(PLANES)
    else:
        cuts, side, slices = [_image_cut(case, found, truth)], IMAGE_SIDE, 1
    pictures = [shrink(cut.image, side) for cut in cuts]
    pixels = [
        max(cut.image.shape[:2]) / max(picture.shape[:2])
        for cut, picture in zip(cuts, pictures, strict=True)
    ]
    paths = contours([(cut.found, cut.truth) for cut in cuts], pixels)
    middle = slices // 2
    thumbnail = data_uri(shrink(pictures[middle], THUMBNAIL_SIDE), THUMBNAIL_QUALITY)
    lines = sum(len(path) for of_panel in paths for path in of_panel)
    uris = encode(pictures, CASE_BYTES - len(thumbnail) - lines)
    views = [
        Panel(
            cut.name, cut.image.shape[0], cut.image.shape[1], cut.aspect, uri, cut.boxes, *of_panel
        )
        for cut, uri, of_panel in zip(cuts, uris, paths, strict=True)
    ]
    return Shown(
        len(case.boxes), case.label_shape, thumbnail, middle,
        slices=tuple(views[:slices]), planes=tuple(views[slices:]),
    )  # fmt: skip
