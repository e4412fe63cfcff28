"""Pictures of a corpus, changed and framed to the input of the network."""

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
OTHER_SLICES = 6  # slices of the same volume whose labels are read, too
MOST_DRAWS = 1000  # after so many pictures without an object, the corpus has none


def frame_picture(image: np.ndarray) -> np.ndarray:
    """Frame an image (H, W[, 3]) to pixels (3, 256, 256) uint8."""
    pixels = Frame(*image.shape[:2]).pixels(image)[0]
    return np.round(pixels * 255).astype(np.uint8)


def frame_labels(labels: np.ndarray) -> np.ndarray:
    """Frame labels (H, W[, P]) to (256, 256[, P]) uint16, 0 in the padding."""
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
    """Turn image (H, W[, 3]) and labels (H, W[, P]) about the centre, and stretch their sides.

    The size stays. Corners may leave the picture; empty places become 0.
    """
    height, width = labels.shape[:2]
    angle = np.deg2rad(random.uniform(-MAX_ANGLE, MAX_ANGLE))
    stretch = np.exp(random.uniform(-MAX_STRETCH, MAX_STRETCH, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * stretch  # stretch along x and y of the picture, then turn
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
    """Return `labels` (H, W), or with the labels of other slices after them, (H, W, P)."""
    maps = [other.read()[1] for other in sampler.other_slices(picture, OTHER_SLICES, random)]
    others = [other for other in maps if other.shape == labels.shape]
    return np.stack([labels, *others], axis=2) if others else labels


def draw_picture(
    sampler: BalancedSampler, options: Augmentation, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture, change its geometry, and frame it; return pixels and labels.

    Pixels are (3, 256, 256) uint8. Labels are (256, 256), or (256, 256, P) where those after the
    first are of other slices of the volume.

    Raises:
        CorpusError: `MOST_DRAWS` pictures have no object that is large enough.
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
        ids = np.intersect1d(
            ids, objects_of(own_plane(labels))
        )  # the objects that are still in the picture
    if ids.size and random.random() < options.crop:
        image, labels = crop_around(image, labels, int(random.choice(ids)), random)
    image, labels = flip_and_turn(image, labels, options, random)
    return frame_picture(image), frame_labels(labels)


def draw_unlabelled_picture(
    sampler: BalancedSampler, options: Augmentation, random: np.random.Generator
) -> np.ndarray:
    """Draw a picture, change its geometry, and frame it; return pixels (3, 256, 256) uint8."""
    image, labels = sampler.draw(random).read()
    if random.random() < options.warp:
        image, labels = warp(image, labels, random)
    if random.random() < options.crop:
        image = crop_anywhere(image, random)
        labels = np.zeros(image.shape[:2], np.uint8)
    image, _ = flip_and_turn(image, labels, options, random)
    return frame_picture(image)


def draw_upright(
    sampler: BalancedSampler, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture and frame it as it is; return pixels (3, 256, 256) uint8 and labels.

    Labels are (256, 256), all 0 where the picture has none.
    """
    image, labels = sampler.draw(random).read()
    return frame_picture(image), frame_labels(labels)
