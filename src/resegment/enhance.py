"""What a recipe does to an image's values before its size: the steps of BCDU-Net's code.

That code turns RGB to gray, standardises by mean and deviation of the whole set, stretches every
image to 0..255, equalises adaptively (CLAHE) and applies a gamma. The stretch of each image undoes
the standardisation of the set, whatever its mean and deviation, so there is no such step here:
deviation bcdu-10-standardisation.
"""

import cv2
import numpy as np


def gray(image: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma, on all three channels."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def stretch(image: np.ndarray) -> np.ndarray:
    """The darkest value of the image becomes 0, the brightest 255."""
    low, high = int(image.min()), int(image.max())
    scaled = (np.arange(256) - low) * 255 / max(high - low, 1)
    return cv2.LUT(image, np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def clahe(image: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of every channel, clip 2, 8 x 8 tiles."""
    equalise = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    return np.dstack([equalise.apply(np.ascontiguousarray(c)) for c in cv2.split(image)])


def gamma(image: np.ndarray) -> np.ndarray:
    """255 (v / 255) ** (1 / 1.2): lighter, as in the code."""
    table = 255 * (np.arange(256) / 255) ** (1 / 1.2)
    return cv2.LUT(image, np.rint(table).astype(np.uint8))


STEPS = {"gray": gray, "stretch": stretch, "clahe": clahe, "gamma": gamma}


def enhance(image: np.ndarray, steps: list[str]) -> np.ndarray:
    """The named steps in order on (H, W, 3) uint8 RGB -> (H, W, 3) uint8."""
    for step in steps:
        image = STEPS[step](image)
    return image
