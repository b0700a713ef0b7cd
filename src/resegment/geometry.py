"""From an image's own size to the network's and back: the only place that knows the way.

A geometry is {"resize": [h, w] | None, "pad": [h, w] | None, "width": w | None}; with all three
None the size stays. `width` scales both sides alike, so that eyes of all cameras are alike wide.
"""

import cv2
import numpy as np

from resegment.errors import UserError


def _offsets(size: tuple[int, int], geometry: dict) -> tuple[int, int]:
    """Rows above and columns left of an image centred in the padded frame: rsan-09-padding."""
    (height, width), (h, w) = size, geometry["pad"]
    if height > h or width > w:
        raise UserError(
            f"params.yaml: recipe pad {h}x{w} is smaller than an image of {height}x{width}: "
            "raise it or use resize"
        )
    return (h - height) // 2, (w - width) // 2


def resized(size: tuple[int, int], geometry: dict) -> tuple[int, int] | None:
    """Height and width that a resize makes of an image's, or None without one."""
    if w := geometry["width"]:
        return max(1, round(size[0] * w / size[1])), w
    return tuple(geometry["resize"]) if geometry["resize"] else None


def _place(array: np.ndarray, geometry: dict, interpolation: int) -> np.ndarray:
    if size := resized(array.shape[:2], geometry):
        return cv2.resize(array, size[::-1], interpolation=interpolation)
    if geometry["pad"]:
        top, left = _offsets(array.shape[:2], geometry)
        out = np.zeros((*geometry["pad"], *array.shape[2:]), array.dtype)
        out[top : top + array.shape[0], left : left + array.shape[1]] = array
        return out
    return array


def to_network(image: np.ndarray, geometry: dict) -> np.ndarray:
    """(H, W, 3) uint8 at its own size -> (h, w, 3) uint8. Bilinear (deviation all-01-resize)."""
    return _place(image, geometry, cv2.INTER_LINEAR)


def to_network_mask(mask: np.ndarray, geometry: dict) -> np.ndarray:
    """(H, W) bool -> (h, w) bool: resized as images are, then cut at one half.

    Nearest neighbour would not do: OpenCV's tears thin vessels and moves them by half a pixel of
    the image (deviation all-01-resize).
    """
    return _place(mask.astype(np.uint8) * 255, geometry, cv2.INTER_LINEAR) > 127


def restore(probability: np.ndarray, geometry: dict, size: tuple[int, int]) -> np.ndarray:
    """(h, w) uint16 map of the network -> (H, W) uint16 at the image's own size.

    Padding is undone exactly; a resize is undone bilinearly.
    """
    height, width = size
    if resized(size, geometry):
        return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    if geometry["pad"]:
        top, left = _offsets(size, geometry)
        return probability[top : top + height, left : left + width]
    return probability
