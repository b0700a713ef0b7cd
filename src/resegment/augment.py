"""Augmentation while training: one warp an item, drawn from its own random generator."""

import cv2
import numpy as np


def augment(
    image: np.ndarray, label: np.ndarray, how: dict, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random view of (H, W, 3) uint8 and (H, W) uint8 {0, 1}: both move together.

    how: the parameters of `config.Augment`. With `crop` c both come back c x c, cut from a
    corner on the pixel grid so that an unrotated crop stays inside. The image is sampled
    bilinearly, the label by nearest neighbour; outside is black and background. The same
    generator state gives the same bytes.
    """
    height, width = label.shape
    h = w = how["crop"]
    if h is None:
        h, w = height, width
    left = int(rng.integers(0, max(width - w, 0) + 1))
    top = int(rng.integers(0, max(height - h, 0) + 1))
    centre = (left + w / 2, top + h / 2)
    angle = rng.uniform(-how["rotate"], how["rotate"])
    scale = 1 + rng.uniform(-how["scale"], how["scale"])
    flip = rng.random(2) < 0.5
    matrix = cv2.getRotationMatrix2D(centre, angle, scale)
    matrix[:, 2] += [w / 2 - centre[0], h / 2 - centre[1]]
    if how["flips"]:
        for axis, side in ((0, w), (1, h)):
            if flip[axis]:
                matrix[axis] *= -1
                matrix[axis, 2] += side - 1
    image = cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR)
    label = cv2.warpAffine(label, matrix, (w, h), flags=cv2.INTER_NEAREST)
    if how["gain"] or how["offset"]:
        gain = 1 + rng.uniform(-how["gain"], how["gain"], 3)
        offset = 255 * rng.uniform(-how["offset"], how["offset"])
        table = np.arange(256)[:, None] * gain + offset
        table = np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]
        image = cv2.LUT(image, np.ascontiguousarray(table))
    return image, label


def leaves_alone(how: dict) -> bool:
    """True where `augment` would return its input."""
    return not any(how.values())
