"""Pictures of a corpus as the network sees them; the only part of the loop that needs OpenCV."""

import cv2
import numpy as np

from app.frame import Frame
from swiftmedsam.architecture import INPUT_SIZE
from train.augment import Augmentation, crop_around, flip_and_turn
from train.data import BalancedSampler, objects_of


def frame_labels(labels: np.ndarray) -> np.ndarray:
    """Label map (H, W) in the frame of the input, (256, 256) uint16, 0 in the padding."""
    height, width = Frame(*labels.shape).inner
    framed = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint16)
    framed[:height, :width] = cv2.resize(
        labels.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return framed


def draw_picture(
    sampler: BalancedSampler, options: Augmentation, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Framed pixels (3, 256, 256) uint8 and labels (256, 256) of a picture, geometry augmented."""
    while True:
        image, labels = sampler.draw(random).read()
        ids = objects_of(labels)
        if ids.size:
            break
    if random.random() < options.crop:
        image, labels = crop_around(image, labels, int(random.choice(ids)), random)
    image, labels = flip_and_turn(image, labels, options, random)
    pixels = Frame(*image.shape[:2]).pixels(image)[0]
    return np.round(pixels * 255).astype(np.uint8), frame_labels(labels)
