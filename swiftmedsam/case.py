"""A case: an image or volume with its boxes, checked. The rest of the program trusts it."""

import functools
import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swiftmedsam.chunks import chunks_of, extent
from swiftmedsam.display import DEFAULT_WINDOW, Window, to_display
from swiftmedsam.modality import UNKNOWN, Modality, find_modality

log = logging.getLogger(__name__)

MAX_VALUE = 1e30  # of a pixel; sums and products of larger values overflow float32
IN_PLANE = [0, 1, 3, 4]  # columns of boxes (N, 6) without z: x_min, y_min, x_max, y_max

Boxes = npt.NDArray[np.float64]


class CaseError(ValueError):
    """A case cannot be segmented; the message names file, key, expected and found values."""


@dataclass(frozen=True, eq=False)
class Case:
    """One image or volume with its boxes, made and checked by `read_case` or `make_case`.

    Box i gets label i + 1. Box coordinates are pixels, the first and the last both inclusive.
    """

    name: str
    image: npt.NDArray[np.uint8]  # (H, W) or (H, W, 3); a volume is (D, H, W)
    # (N, 4) x_min, y_min, x_max, y_max; volume: (N, 6) x_min, y_min, z_min, x_max, y_max, z_max
    boxes: npt.NDArray[np.float64]
    is_volume: bool
    warnings: tuple[str, ...] = ()  # faults that were corrected, one line each

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of the labels: (H, W) or (D, H, W)."""
        return self.image.shape if self.is_volume else self.image.shape[:2]


def check_shape(shape: tuple[int, ...], name: str, *, is_volume: bool) -> None:
    """Raise CaseError if an image, or a volume, cannot have this shape."""
    wanted = "(D, H, W)" if is_volume else "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    right_rank = len(shape) == 3 if is_volume else len(shape) in (2, 3)
    if not is_volume and len(shape) == 3 and shape[2] not in (1, 3, 4):
        right_rank = False
    if not right_rank or 0 in shape:
        raise CaseError(f"{name}: 'imgs' should be {wanted}, got {shape}")


def check_ends(low: float, high: float, name: str) -> None:
    """Raise CaseError if floating-point pixels of the range `low`..`high` cannot be used.

    `low` and `high` are NaN if any pixel is NaN.
    """
    if not np.isfinite([low, high]).all():
        raise CaseError(f"{name}: 'imgs' should be finite, found NaN or infinity")
    if max(-low, high) > MAX_VALUE:
        raise CaseError(
            f"{name}: 'imgs' should be within {MAX_VALUE:g} of 0, found {low:g}..{high:g}"
        )


def _check_boxes(
    boxes: npt.NDArray[np.generic], name: str, shape: tuple[int, ...], *, is_volume: bool
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Boxes (N, 4) or (N, 6) as float64, cut to the image; and warnings.

    `shape` is (H, W) or (D, H, W). A box without a common pixel with the image is an error.
    """
    corners = 6 if is_volume else 4
    if boxes.size == 0:
        return np.zeros((0, corners)), []
    if boxes.ndim != 2 or boxes.shape[1] != corners:
        kind = "a volume" if is_volume else "an image"
        raise CaseError(f"{name}: 'boxes' should be (N, {corners}) for {kind}, got {boxes.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, refused below
        checked = boxes.astype(np.float64)
    if not np.isfinite(checked).all():
        raise CaseError(f"{name}: 'boxes' should be finite, found NaN or infinity")
    low, high = checked[:, : corners // 2], checked[:, corners // 2 :]
    sizes = np.array(shape[::-1], np.float64)  # (W, H[, D]), the order of a box
    for wrong, problem in (
        ((low > high).any(axis=1), "has a minimum above its maximum"),
        (((high < 0) | (low >= sizes)).any(axis=1), f"lies outside the image of {shape}"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise CaseError(f"{name}: 'boxes' row {row} {problem}: {boxes[row].tolist()}")
    # The challenge's own boxes are clipped to 0..W, so x_max = W is allowed. In z the last slice
    # is the limit.
    last = sizes.copy()
    if is_volume:
        checked[:, 2::3] = np.trunc(checked[:, 2::3])
        last[2] -= 1
    inside = np.concatenate([low.clip(0, last), high.clip(0, last)], axis=1, dtype=np.float64)
    moved = int((inside != checked).any(axis=1).sum())
    if moved:
        return inside, [f"{name}: {moved} boxes reached outside the image and were cut to it"]
    return inside, []


def make_case(
    image: npt.ArrayLike,
    boxes: npt.ArrayLike,
    *,
    is_volume: bool | None = None,
    modality: str | Modality = "",
    window: Window = DEFAULT_WINDOW,
    raw: bool = False,
    name: str = "array",
) -> Case:
    """Make a checked case from arrays.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a volume is (D, H, W). Any real dtype.
        boxes: (N, 4) x_min, y_min, x_max, y_max, or (N, 6) x_min, y_min, z_min, x_max, y_max,
            z_max; inclusive, in pixels.
        is_volume: None: a volume if `boxes` has 6 columns.
        modality: as in the challenge's file names, "CT" or "MR"; it selects the rule by which raw
            values become 0..255 (`display`).
        window: the range of Hounsfield units that is shown of a CT.
        raw: the values come from a scanner, even if they happen to lie in 0..255.
        name: of the case, for messages.

    Raises:
        CaseError: shape, dtype, values or boxes are wrong; the message names the key.
    """
    pixels, raw_boxes = np.asarray(image), np.asarray(boxes)
    if is_volume is None:
        is_volume = raw_boxes.ndim == 2 and raw_boxes.shape[1] == 6
    for key, array in (("imgs", pixels), ("boxes", raw_boxes)):
        if array.dtype.kind not in "biuf":
            raise CaseError(f"{name}: '{key}' should hold real numbers, got dtype {array.dtype}")
    check_shape(pixels.shape, name, is_volume=is_volume)
    if pixels.dtype.kind == "f":
        check_ends(*extent(functools.partial(chunks_of, pixels)), name)
    if not is_volume and pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]  # without alpha
        pixels = np.ascontiguousarray(pixels)
    shape = pixels.shape if is_volume else pixels.shape[:2]
    checked, warnings = _check_boxes(raw_boxes, name, shape, is_volume=is_volume)
    if isinstance(modality, Modality):
        kind = modality
    elif (kind := find_modality(modality)) is UNKNOWN:
        warnings.append(f"{name}: unknown modality '{modality}', the general rule is used")
    for warning in warnings:
        log.warning("%s", warning)
    display = to_display(pixels, kind, window, raw=raw, name=name)
    return Case(name, display, checked, is_volume, tuple(warnings))
