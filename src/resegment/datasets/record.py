"""What every reader yields: one image with its label, its field of view and a second observer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Record:
    """One image of a dataset, in its native resolution.

    image: (H, W, 3) uint8 RGB. label, fov, observer2: (H, W) bool, True inside.
    subject: whose eye it is; nothing is learnt from a subject of whom the test split has an image.
    fov_source: "given" by the dataset, "derived" from the image, or "frame": there is none.
    part: "train", "val" or "test" where the ids, and so the split, are known from the files alone.
    file: the file that `image` was decoded from, where keeping its bytes is worth trying.
    """

    id: str
    subject: str
    image: np.ndarray
    label: np.ndarray
    fov: np.ndarray
    fov_source: str
    observer2: np.ndarray | None = None
    part: str = ""
    file: Path | None = None
