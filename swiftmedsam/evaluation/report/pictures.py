"""What the report shows of a case: small pictures, and contours as SVG paths to lay over them.

Contours are kept apart from the pixels, so that the page can switch them on and off. All of a case
must fit in `CASE_BYTES`: what the contours leave is for the pixels.
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

PAGE_BYTES = 20_000_000  # a page of CASES_PER_PAGE is to stay below this
CASES_PER_PAGE = 200
CASE_BYTES = 90_000  # of text, pictures in base64; the rest of the page has 10,000 a case
IMAGE_SIDE, SLICE_SIDE, THUMBNAIL_SIDE = 640, 256, 96  # pixels of the longer side, at most
MAX_SLICES, WORST_SLICES = 12, 3  # the second by DSC, of the first
# What the sides of pictures are divided by, and the quality of their WebP: the first that fits.
QUALITIES = ((1, 80), (1, 65), (1, 50), (1, 35), (1, 20), (2, 20), (4, 20))
LINE_BYTES = CASE_BYTES // 2  # for contours; many cells have many
COARSER = (1, 2, 4)  # times `TOLERANCE`, until they fit
THUMBNAIL_QUALITY = 60
TOLERANCE = 0.5  # picture pixels that a contour may leave the mask's, so that it has fewer corners

PLANES = ("coronal plane, row", "sagittal plane, column")  # across y and x of a volume

Picture = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max


def _box(x_min: float, y_min: float, x_max: float, y_max: float) -> Box:
    """For the type checker, which cannot count a list."""
    return (x_min, y_min, x_max, y_max)


@dataclass(frozen=True)
class Panel:
    """One picture, and the lines over it in pixels of the stored slice (height, width)."""

    name: str  # such as "slice 17, DSC 71.3 %"; "" for an image
    height: int
    width: int
    aspect: float  # width / height as it is to be shown; pixels need not be square
    uri: str  # of the picture, data:image/webp
    boxes: tuple[Box, ...]
    mask: str  # the path of the contours; "" where there are none
    truth: str


@dataclass(frozen=True)
class Shown:
    """What the page has of a case."""

    objects: int  # boxes
    shape: tuple[int, ...]  # (H, W) or (D, H, W)
    thumbnail: str  # data URI
    middle: int  # the slice that the thumbnail is of
    slices: tuple[Panel, ...]  # of a volume up to `MAX_SLICES`, lowest first; an image is one
    planes: tuple[Panel, ...]  # of a volume the coronal and the sagittal one


def path_of(labels: Labels | None, pixel: float = 1.0) -> str:
    """The SVG path of the contours of all labels of a slice (H, W), holes too.

    "" where there is no label, or where `labels` is None.

    The path runs through the middles of the objects' outermost pixels. The middle of pixel (x, y)
    is (x, y) here, so that the page has to move it by half a pixel. `pixel` is the size of a pixel
    of the picture in those of the slice.
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
        # two levels: an object, and the holes in it
        outlines, _ = cv2.findContours(
            mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset
        )  # fmt: skip
        for outline in outlines:
            corners = cv2.approxPolyDP(outline, TOLERANCE * pixel, True)[:, 0]  # (K, 2)
            # steps instead of places, and a minus parts numbers as a space does: shorter
            steps = " ".join(f"{x} {y}" for x, y in np.diff(corners, axis=0).tolist())
            steps = steps.replace(" -", "-")
            x, y = corners[0].tolist()
            parts.append(f"M{x} {y}" + (f"l{steps}z" if steps else "h0"))  # h0: a dot
    return "".join(parts)


def shrink(image: Picture, side: int) -> Picture:
    """`image` (H, W) or (H, W, 3) with its longer side at most `side` pixels; never enlarged."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def data_uri(image: Picture, quality: int) -> str:
    """`image` (H, W) or RGB (H, W, 3) as WebP of this quality, 0..100, in base64."""
    channels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, encoded = cv2.imencode(".webp", channels, [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done, "WebP takes any picture of up to 16383 pixels a side"
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()


def encode(pictures: Sequence[Picture], limit: int) -> list[str]:
    """Data URIs of all pictures, of the best quality that keeps them within `limit` bytes.

    Where none does, they are made smaller, too; where that is not enough, the smallest.
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
    """The paths of mask and truth of each view, of the finest tolerance that fits in `LINE_BYTES`.

    Where none does, of the coarsest. `pixels` are the views' `pixel` for `path_of`.
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
    """Up to `most` whole numbers from `first` to `last`, both among them, evenly apart."""
    return [int(z) for z in np.linspace(first, last, min(most, last - first + 1)).round()]


def slices_shown(case: Case, dscs: npt.NDArray[np.float64]) -> list[int]:
    """Up to `MAX_SLICES` indices z, the worst by `dscs` (D,) among them.

    The others are even steps from the lowest to the highest slice that has a box. NaN is no DSC.
    """
    low, high = 0, case.image.shape[0] - 1
    if len(case.boxes):
        low, high = int(case.boxes[:, 2].min()), int(case.boxes[:, 5].max())
    order = np.argsort(dscs, kind="stable").tolist()  # NaN last
    worst = [z for z in order[:WORST_SLICES] if not np.isnan(dscs[z])]
    choices = (sorted({*evenly(low, high, most), *worst}) for most in range(MAX_SLICES, 0, -1))
    return next(choice for choice in choices if len(choice) <= MAX_SLICES)


def middle_of(case: Case) -> tuple[int, int]:
    """Row y and column x in the middle of the boxes of a volume; its own where it has none."""
    _, height, width = case.image.shape
    if not len(case.boxes):
        return height // 2, width // 2
    (x, y), (x_max, y_max) = case.boxes[:, :2].min(axis=0), case.boxes[:, 3:5].max(axis=0)
    # a box may end at the height or the width itself
    return min(int((y + y_max) / 2), height - 1), min(int((x + x_max) / 2), width - 1)


def spacing_of(files: Sequence[Path]) -> tuple[float, float, float]:
    """Spacing in mm of a volume's axes (z, y, x), from the first file that has one that can be.

    All 1 where none has: inputs may lack it (docs/formats.md), and here only the looks depend on
    it.
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
    """A slice through a case in any of three directions, not yet encoded."""

    name: str
    aspect: float  # width / height as it is to be shown
    image: Picture  # (H, W) or (H, W, 3); of a volume rows and columns may be along other axes
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
    """The slice `index` of a volume across `axis`, 0 to 2 for z, y, x."""
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
    """The slices of a volume that are shown, lowest first, then one across y and one across x.

    Where there is an output and its truth, the names of slices have their DSC.
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
    """The labels of an output or a truth, None where there is none."""
    if path is None:
        return None
    labels = read(path)
    if labels.shape != case.label_shape:
        raise ScoreError(f"{path}: should be {case.label_shape} like the image, got {labels.shape}")
    return labels


def show(source: Path, output: Path | None, truth_file: Path | None) -> Shown:
    """What to show of the case in the file `source`, whose output and truth may be missing.

    Raises:
        CaseError: the case cannot be read.
        ScoreError: its output or truth cannot be read, or is of another shape.
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
