"""Augmentation: changes of a training picture that another scanner or user could have made.

Geometry changes the picture before it is framed; intensity changes the framed pixels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Image = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
Random = np.random.Generator


@dataclass(frozen=True)
class Augmentation:
    """The probability of each change; 0 switches it off."""

    flip: float = 0.5  # left-right and, separately, up-down
    turn: float = 0.5  # by 90, 180 or 270 degrees
    warp: float = 0.3  # turn by any angle, and stretch the sides
    crop: float = 0.4  # a window around one object, from its box to the whole picture
    brightness_contrast: float = 0.4
    gamma: float = 0.3
    colour: float = 0.3  # other gains of red, green and blue; colour pictures only
    noise: float = 0.15
    blur: float = 0.1
    low_resolution: float = 0.1
    invert: float = 0.05  # grey pictures only, since colours have a meaning
    extent: float = 0.5  # slices of volumes only: the box holds the object in other slices, too


CROP_MIN_OVERSIZE = 1.3  # sides of a window, at least, in sides of the object's box
CROP_MIN_SHARE = 0.25  # sides of a window anywhere, at least, in sides of the picture


def flip_and_turn(
    image: Image, labels: Labels, options: Augmentation, random: Random
) -> tuple[Image, Labels]:
    """Mirror and rotate by right angles: both the image (H, W[, 3]) and the labels (H, W[, P])."""
    if random.random() < options.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if random.random() < options.flip:
        image, labels = image[::-1], labels[::-1]
    if random.random() < options.turn:
        quarters = int(random.integers(1, 4))
        image, labels = np.rot90(image, quarters), np.rot90(labels, quarters)
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def crop_around(image: Image, labels: Labels, label: int, random: Random) -> tuple[Image, Labels]:
    """Cut out a random window that holds the whole object `label`.

    `labels` is (H, W), or (H, W, P) with the label maps of other slices: the window then holds the
    object in all of them. The size is log-uniform, from little more than the object to the whole
    picture. So the network sees enlarged crops, as the program shows them for small boxes, and the
    same anatomy at several scales.
    """
    ys, xs = np.nonzero(labels == label)[:2]
    spans = []
    side = max(np.ptp(ys), np.ptp(xs)) + 1
    zoom = np.exp(
        random.uniform(np.log(CROP_MIN_OVERSIZE), np.log(max(labels.shape[:2]) / side + 1))
    )
    for values, length in ((ys, labels.shape[0]), (xs, labels.shape[1])):
        first, last = int(values.min()), int(values.max()) + 1
        size = min(length, max(int(side * zoom), last - first + 2))
        low, high = max(0, last - size), min(first, length - size)
        start = int(random.integers(low, high + 1)) if high >= low else max(0, min(low, high))
        spans.append(slice(start, start + size))
    return image[spans[0], spans[1]], labels[spans[0], spans[1]]


def crop_anywhere(image: Image, random: Random) -> Image:
    """Cut a random window out of `image` (H, W[, 3]): same proportions, 1/4 to 1 of the sides."""
    share = np.exp(random.uniform(np.log(CROP_MIN_SHARE), 0))
    sizes = [max(1, round(share * length)) for length in image.shape[:2]]
    y, x = (
        int(random.integers(0, length - size + 1))
        for length, size in zip(image.shape[:2], sizes, strict=True)
    )
    return image[y : y + sizes[0], x : x + sizes[1]]


def _chance(probability: float, batch: int, random: torch.Generator) -> Tensor:
    return (torch.rand(batch, generator=random) < probability).view(-1, 1, 1, 1)


def _uniform(low: float, high: float, batch: int, random: torch.Generator) -> Tensor:
    return (low + (high - low) * torch.rand(batch, generator=random)).view(-1, 1, 1, 1)


def picture_area(pixels: Tensor) -> Tensor:
    """Return where the picture is, without the padding: bool (B, 1, 256, 256).

    The padding of the frame is at the bottom and the right: all rows and columns after the last one
    that is not all zero. Black pixels before are part of the picture.
    """
    lit = pixels.amax(dim=1, keepdim=True) > 0
    rows, columns = lit.any(dim=3, keepdim=True), lit.any(dim=2, keepdim=True)
    return rows.flip(2).cummax(2).values.flip(2) & columns.flip(3).cummax(3).values.flip(3)


def change_intensity(pixels: Tensor, options: Augmentation, random: torch.Generator) -> Tensor:
    """Change the intensities of `pixels` (B, 3, 256, 256), values 0..1, at random.

    Padding stays 0. Each picture is rescaled to 0..1 afterwards, as in `swiftmedsam.frame`.
    """
    n = pixels.shape[0]
    inside = picture_area(pixels)
    grey = ((pixels[:, :1] - pixels).abs().amax(dim=(1, 2, 3)) < 1e-6).view(-1, 1, 1, 1)

    def apply(x: Tensor, probability: float, changed: Tensor) -> Tensor:
        return torch.where(_chance(probability, n, random), changed, x)

    x = pixels
    mean = x.mean(dim=(2, 3), keepdim=True)
    contrast = _uniform(0.6, 1.5, n, random)
    x = apply(
        x,
        options.brightness_contrast,
        # relative to the mean: a fixed shift would make a dark ultrasound all black
        ((x - mean) * contrast + mean * _uniform(0.5, 1.5, n, random)).clamp(0, 1),
    )
    x = apply(x, options.gamma, x.clamp(1e-4, 1) ** _uniform(0.6, 1.6, n, random))
    gains = 0.7 + 0.6 * torch.rand(n, 3, 1, 1, generator=random)
    tinted = torch.where(grey, x, (x * gains).clamp(0, 1))
    x = apply(x, options.colour, tinted)
    x = apply(x, options.blur, F.avg_pool2d(x, 3, 1, 1))
    coarse = F.interpolate(F.avg_pool2d(x, 3, 3, ceil_mode=True), scale_factor=3, mode="bilinear")
    x = apply(x, options.low_resolution, coarse[..., : x.shape[2], : x.shape[3]])
    noise = torch.randn(n, 1, *x.shape[2:], generator=random) * _uniform(0.01, 0.08, n, random)
    x = apply(x, options.noise, x + noise)
    x = torch.where(grey & _chance(options.invert, n, random), 1 - x, x)
    x = torch.where(inside, x, torch.zeros(()))
    low = x.masked_fill(~inside, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    high = x.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(inside, (x - low) / (high - low).clamp_min(1e-4), torch.zeros(()))
