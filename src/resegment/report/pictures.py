"""Pictures as the page holds them: what was drawn to the pixel, photographs smaller.

A label or a mask is where its pixels are: a vessel one pixel wide must not blur into its
neighbours. A photograph need not be exact. So a picture with both becomes two layers of one size,
drawn over each other: a lossy one below, and above it an exact one, transparent where the
photograph shows through. A photograph is where pixels are neither gray nor one of a mask's colours.
Beside a photograph, grays (probability maps) are rounded to GRAYS steps: half the bytes.
"""

import base64
from pathlib import Path

import cv2
import numpy as np

from resegment.errors import UserError

QUALITY = 75  # of photographs, 1 to 100
EXACT = 101  # OpenCV's word for lossless WebP
FEW = 256  # colours: a picture with no more is drawn, whatever they are
GRAYS = 32
HOLE = np.ones((5, 5), np.uint8)  # gray specks in a photograph, smaller than this, belong to it


def layers(picture: np.ndarray) -> list[bytes]:
    """The WebP files to draw over each other to see (H, W, 3) uint8 BGR: one exact one where there
    is no photograph, else the photograph and, over it, (H, W, 4) with the rest."""
    photo = photograph(picture)
    if not photo.any():
        return [_webp(picture, EXACT)]
    below = np.where(photo[..., None], picture, 255).astype(np.uint8)
    gray = picture.min(axis=-1, keepdims=True) == picture.max(axis=-1, keepdims=True)
    steps = (GRAYS - 1) / 255
    drawn = np.where(gray, np.rint(np.rint(picture * steps) / steps), picture).astype(np.uint8)
    above = np.dstack([drawn, np.where(photo, 0, 255).astype(np.uint8)])
    return [_webp(below, QUALITY), _webp(above, EXACT)]


def photograph(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of (H, W, 3) uint8 that need not be exact."""
    codes = picture.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    if len(np.unique(codes)) <= FEW:
        return np.zeros(picture.shape[:2], bool)
    low, high = picture.min(axis=-1), picture.max(axis=-1)
    mask = (high == 255) & (picture.astype(int).sum(axis=-1) == 255)  # pure red, green or blue
    coloured = (low != high) & ~mask
    return cv2.morphologyEx(coloured.astype(np.uint8), cv2.MORPH_CLOSE, HOLE) > 0


def inside(folder: Path) -> dict[str, list[str]]:
    """Data URIs, lowest layer first, of everything in figures/ and pictures/ by its name."""
    drawn = {f"figures/{p.name}": [("svg+xml", p.read_bytes())]
             for p in sorted(folder.glob("figures/*.svg"))}  # fmt: skip
    for path in sorted(folder.glob("pictures/*.png")):
        if (picture := cv2.imread(str(path))) is None:
            raise UserError(f"{path} is no image: run `resegment figures {folder.name}`")
        drawn[f"pictures/{path.name}"] = [("webp", data) for data in layers(picture)]
    return {
        name: [
            f"data:image/{kind};base64,{base64.b64encode(data).decode()}" for kind, data in files
        ]
        for name, files in drawn.items()
    }


def _webp(picture: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, quality))[1].tobytes()
