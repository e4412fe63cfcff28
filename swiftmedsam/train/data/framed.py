"""Pictures of a corpus as the network sees them."""

import cv2
import numpy as np

from swiftmedsam.frame import Frame
from swiftmedsam.torch_model.architecture import INPUT_SIZE
from swiftmedsam.train.data.augment import Augmentation, crop_anywhere, crop_around, flip_and_turn
from swiftmedsam.train.data.corpus import (
    MIN_OBJECT_AREA,
    BalancedSampler,
    CorpusError,
    Picture,
    objects_of,
    own_plane,
)

MAX_ANGLE = 45  # degrees
MAX_STRETCH = 0.2  # log of the factor of a side
OTHER_SLICES = 6  # of a volume, whose labels are read along
MOST_DRAWS = 1000  # pictures without an object in a row, until the corpus is taken to have none


def frame_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W[, P]) in the frame of the input, (256, 256[, P]) uint16, 0 in the padding."""
    if labels.ndim == 3:
        return np.stack([frame_labels(plane) for plane in np.moveaxis(labels, 2, 0)], axis=2)
    height, width = Frame(*labels.shape).inner
    framed = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint16)
    framed[:height, :width] = cv2.resize(
        labels.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return framed


def warp(
    image: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W[, 3]) and (H, W[, P]) turned by any angle about the centre, each side stretched.

    The size stays: corners go out of the picture, black comes in.
    """
    height, width = labels.shape[:2]
    angle = np.deg2rad(random.uniform(-MAX_ANGLE, MAX_ANGLE))
    stretch = np.exp(random.uniform(-MAX_STRETCH, MAX_STRETCH, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * stretch  # the x and y of the picture, then turned
    centre = np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([matrix, centre - matrix @ centre])
    size = (width, height)
    image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
    planes = [
        cv2.warpAffine(plane.astype(np.uint16), matrix, size, flags=cv2.INTER_NEAREST)
        for plane in np.moveaxis(labels.reshape(height, width, -1), 2, 0)
    ]
    return image, np.stack(planes, axis=2).reshape(labels.shape)


def _with_other_slices(
    sampler: BalancedSampler, picture: Picture, labels: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """`labels` (H, W), and behind them those of other slices of the volume, (H, W, P), if any."""
    maps = [other.read()[1] for other in sampler.other_slices(picture, OTHER_SLICES, random)]
    others = [other for other in maps if other.shape == labels.shape]
    return np.stack([labels, *others], axis=2) if others else labels


def draw_picture(
    sampler: BalancedSampler, options: Augmentation, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Framed pixels (3, 256, 256) uint8 and labels of a picture, geometry augmented.

    Labels are (256, 256), or (256, 256, P) with those of the volume's other slices behind.

    Raises:
        CorpusError: no picture has an object that is large enough.
    """
    for _ in range(MOST_DRAWS):
        picture = sampler.draw(random)
        image, labels = picture.read()
        ids = objects_of(labels)
        if ids.size:
            break
    else:
        raise CorpusError(
            f"none of {MOST_DRAWS} pictures drawn has an object of {MIN_OBJECT_AREA} pixels or more"
        )
    if random.random() < options.extent:
        labels = _with_other_slices(sampler, picture, labels, random)
    if random.random() < options.warp:
        image, labels = warp(image, labels, random)
        ids = np.intersect1d(ids, objects_of(own_plane(labels)))  # what is still in the picture
    if ids.size and random.random() < options.crop:
        image, labels = crop_around(image, labels, int(random.choice(ids)), random)
    image, labels = flip_and_turn(image, labels, options, random)
    pixels = Frame(*image.shape[:2]).pixels(image)[0]
    return np.round(pixels * 255).astype(np.uint8), frame_labels(labels)


def draw_unlabelled_picture(
    sampler: BalancedSampler, options: Augmentation, random: np.random.Generator
) -> np.ndarray:
    """Framed pixels (3, 256, 256) uint8 of a picture, geometry augmented."""
    image, labels = sampler.draw(random).read()
    if random.random() < options.warp:
        image, labels = warp(image, labels, random)
    if random.random() < options.crop:
        image = crop_anywhere(image, random)
        labels = np.zeros(image.shape[:2], np.uint8)
    image, _ = flip_and_turn(image, labels, options, random)
    pixels = Frame(*image.shape[:2]).pixels(image)[0]
    return np.round(pixels * 255).astype(np.uint8)
