"""The flips and rotations of a recipe: as they stand on disk, and as training makes them itself.

Rotations fill with black, sample the image bilinearly and a mask by nearest neighbour, and keep 360
degrees, the identity once more (deviation rga-10-rotations).
"""

import cv2
import numpy as np


def operations(recipe: dict) -> list[tuple[str, float]]:
    """(operation, angle in degrees) of every variant of one image, the untouched one first."""
    flips = [("hflip", 0.0), ("vflip", 0.0)] if recipe["flips"] else []
    n = recipe["rotations"]
    turned = ("rotate", "rotate-hflip", "rotate-vflip") if recipe["flip_rotations"] else ("rotate",)
    angles = [360 * k / n for k in range(1, n + 1)]
    return [("none", 0.0), *flips, *((way, angle) for angle in angles for way in turned)]


def apply(array: np.ndarray, operation: str, angle: float, interpolation: int) -> np.ndarray:
    """One operation on an (h, w[, 3]) array; angles turn counter-clockwise about the centre."""
    if angle % 360:
        h, w = array.shape[:2]
        array = cv2.warpAffine(array, rotation(angle, h, w), (w, h), flags=interpolation)
    if operation.endswith("flip"):
        return cv2.flip(array, 1 if operation.endswith("hflip") else 0)
    return array


def rotation(angle: float, h: int, w: int) -> np.ndarray:
    """(2, 3): where a rotation about the centre takes a pixel's (x, y)."""
    return cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, 1.0)


def matrix(operation: str, angle: float, h: int, w: int) -> np.ndarray:
    """(2, 3): where `apply` takes a pixel's (x, y)."""
    found = rotation(angle, h, w) if angle % 360 else np.eye(2, 3)
    if operation.endswith("flip"):
        axis, side = (0, w) if operation.endswith("hflip") else (1, h)
        found[axis] *= -1
        found[axis, 2] += side - 1
    return found
