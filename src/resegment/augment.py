"""Augmentation while training: one warp an item, drawn from its own random generator."""

from dataclasses import dataclass

import cv2
import numpy as np

GRAY = np.float32([[0.299, 0.587, 0.114]])  # ITU-R BT.601


@dataclass(frozen=True)
class View:
    """One look at a pair: where its pixels go, and what becomes of their colours."""

    size: tuple[int, int]  # height, width of the result
    matrix: np.ndarray  # (2, 3): from a pixel's (x, y) to its place in the result
    gain: np.ndarray | None  # (3,): factors of RGB; None: colours stay
    offset: float  # added after that, in levels of 255
    jitter: tuple[tuple[str, float], ...]  # (kind, relative change), in this order


def draw(
    how: dict,
    rng: np.random.Generator,
    height: int,
    width: int,
    corners: np.ndarray | None = None,
) -> View | None:
    """A random view of a height x width pair; None where the parameters leave it alone.

    how: the parameters of `schema.Augment`. With `crop` c the result is c x c, cut from a corner on
    the pixel grid so that an unrotated crop stays inside; `corners` are the numbers top * W + left
    of those to choose from (default: all). The same generator state gives the same view.
    """
    if leaves_alone(how):
        return None
    h = w = how["crop"]
    if h is None:
        h, w = height, width
    left = int(rng.integers(0, max(width - w, 0) + 1))
    top = int(rng.integers(0, max(height - h, 0) + 1))
    if corners is not None:
        top, left = divmod(int(corners[rng.integers(len(corners))]), width)
    centre = np.array([left + w / 2, top + h / 2])
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-how["rotate"], how["rotate"]), 1.0)[:, :2]
    scale = 1 + rng.uniform(-how["scale"], how["scale"])
    aspect = 1 + rng.uniform(-how["aspect"], how["aspect"])
    shift = rng.uniform(-how["shift"], how["shift"], 2) * (w, h)
    flip = rng.random(2) < 0.5
    if rng.random() >= how["warp"]:
        turn, scale, aspect, shift = np.eye(2), 1.0, 1.0, np.zeros(2)
    turn = turn * (scale * np.array([[aspect**0.5], [aspect**-0.5]]))
    matrix = np.column_stack([turn, np.array([w / 2, h / 2]) + shift - turn @ centre])
    if how["flips"]:
        for axis, side in ((0, w), (1, h)):
            if flip[axis]:
                matrix[axis] *= -1
                matrix[axis, 2] += side - 1
    gain, offset = None, 0.0
    if how["gain"] or how["offset"]:
        gain = 1 + rng.uniform(-how["gain"], how["gain"], 3)
        offset = 255 * rng.uniform(-how["offset"], how["offset"])
    kinds = sorted(k for k, limit in how["jitter"].items() if limit)
    jitter = tuple((k, rng.uniform(-how["jitter"][k], how["jitter"][k]))
                   for k in (rng.permutation(kinds).tolist() if kinds else ()))  # fmt: skip
    return View((h, w), matrix, gain, offset, jitter)


def see(image: np.ndarray, label: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (H, W) uint8 {0, 1} through a view: both move together.

    The image is sampled bilinearly, the label by nearest neighbour; outside is black and
    background.
    """
    size = view.size[::-1]
    image = cv2.warpAffine(image, view.matrix, size, flags=cv2.INTER_LINEAR)
    label = cv2.warpAffine(label, view.matrix, size, flags=cv2.INTER_NEAREST)
    if view.gain is not None:
        table = np.arange(256)[:, None] * view.gain + view.offset
        table = np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]
        image = cv2.LUT(image, np.ascontiguousarray(table))
    return recolour(image, view.jitter), label


def recolour(image: np.ndarray, changes: tuple[tuple[str, float], ...]) -> np.ndarray:
    """Brightness, contrast, saturation and hue changed in turn, as torchvision's ColorJitter.

    Each change is a share (hue: of its circle); brightness blends with black, contrast with the
    mean gray, saturation with the gray image.
    """
    if not changes:
        return image
    x = image.astype(np.float32)
    for name, change in changes:
        if name == "hue":
            hsv = cv2.cvtColor(np.rint(x).astype(np.uint8), cv2.COLOR_RGB2HSV_FULL)
            hsv[..., 0] += np.uint8(round(256 * change) % 256)  # wraps: a circle
            x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL).astype(np.float32)
            continue
        other = 0.0 if name == "brightness" else cv2.transform(x, GRAY)[..., None]
        if name == "contrast":
            other = other.mean()
        x = np.clip(other + (x - other) * np.float32(1 + change), 0, 255)
    return np.rint(x).astype(np.uint8)


def corners_inside(fov: np.ndarray, crop: int) -> np.ndarray:
    """Numbers top * W + left of the crop x crop squares that lie wholly in (H, W) bool."""
    sums = cv2.integral(fov.astype(np.uint8))
    held = sums[crop:, crop:] - sums[:-crop, crop:] - sums[crop:, :-crop] + sums[:-crop, :-crop]
    top, left = np.nonzero(held == crop * crop)
    return (top * fov.shape[1] + left).astype(np.int32)


def leaves_alone(how: dict) -> bool:
    """True where `augment` would return its input."""
    moves = ("crop", "flips", "rotate", "scale", "aspect", "shift", "gain", "offset")
    return not any(how[k] for k in moves) and not any(how["jitter"].values())
