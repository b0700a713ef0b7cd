"""What counts of pixels do not see: is a mask connected as its label is, are thin vessels there.

All masks are bool (H, W) of one image. A protocol's region acts by emptying both masks outside it.
Every measure is one number per image and whole image, not per patch: papers that average Betti
errors over patches (e.g. 64 x 64, as Shit et al. 2021) print smaller ones. None has a pooled form.

cldice        centreline Dice, Shit et al., CVPR 2021: the harmonic mean of the share of the
              prediction's skeleton inside the label and of the label's skeleton inside the
              prediction; skeletons by scikit-image, as in the authors' code.
betti0_error  |b0(prediction) - b0(label)|, b0 the number of 8-connected pieces.
betti1_error  |b1(prediction) - b1(label)|, b1 the number of holes: 4-connected pieces of the
              background that do not reach the outside. 8 for pieces and 4 for holes belong together
              (digital Jordan theorem).
se_thin, se_thick  share of the pixels of thin and of thick vessels of the label that are predicted.

A vessel's width is measured at the label's skeleton, by the distance to the background; a label
pixel has the width of the nearest skeleton pixel. Thin is at most 3 pixels in DRIVE's images, the
width at which Yan, Yang and Cheng (IEEE JBHI 2019) part them, and as much of the field of view's
width in others (`thin_limit`). Width is taken before the region cuts vessels, so that it is the
same in all regions.

Undefined is nan, as in metrics.py:
  no pixel in the region     everything is nan
  label or prediction empty  cldice is 0, or nan if both are; the Betti numbers of the empty are 0
  no field of view           se_thin, se_thick are nan: nothing says what thin is
  nothing thin (thick)       se_thin (se_thick) is nan
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, wraps

import cv2
import numpy as np
from skimage import morphology

from resegment.metrics import STRUCTURE

DRIVE_DIAMETER = 540  # pixels across DRIVE's field of view, as its authors say
DRIVE_THIN = 3


def remembered(size: int) -> Callable:
    """Remember what a function said of the last `size` masks: regions and spaces are often equal.

    What it returns is shared, not to be written to.
    """

    def decorate(function: Callable) -> Callable:
        @lru_cache(maxsize=size)
        def of(shape: tuple[int, int], content: bytes):
            return function(np.frombuffer(content, bool).reshape(shape).copy())

        return wraps(function)(lambda mask: of(mask.shape, mask.tobytes()))

    return decorate


@remembered(4)  # label and prediction, in the field of view and in the frame
def skeletonize(mask: np.ndarray) -> np.ndarray:
    """The centreline of a mask, one pixel wide, by scikit-image: bool (H, W)."""
    return morphology.skeletonize(mask)


@remembered(4)
def betti(mask: np.ndarray) -> tuple[int, int]:
    """Number of 8-connected pieces and of holes (4-connected) of a mask."""
    pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
    around = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    return pieces, cv2.connectedComponents(around, connectivity=4)[0] - 2


@remembered(1)
def width(mask: np.ndarray) -> np.ndarray:
    """The width in pixels of the vessel that each pixel of a mask belongs to: float32 (H, W).

    0 outside the mask. Measured in the mask at twice its size, where an even width has a middle
    too: a straight vessel of w pixels has the width w. What lies outside the image is background.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    twice = np.pad(np.repeat(np.repeat(mask, 2, 0), 2, 1), 1).astype(np.uint8)
    distance = cv2.distanceTransform(twice, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    rows, columns = np.nonzero(skeletonize(mask))
    at = distance.reshape(mask.shape[0], 2, mask.shape[1], 2)[rows, :, columns].max((1, 2))
    off = np.ones(mask.shape, np.uint8)
    off[rows, columns] = 0
    _, nearest = cv2.distanceTransformWithLabels(
        off, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(len(rows) + 1, np.float32)
    of_label[nearest[rows, columns]] = at
    return np.where(mask, of_label[nearest], np.float32(0))


def thin_limit(fov: np.ndarray) -> int:
    """The greatest width in whole pixels that is thin, at least 1; 0 without a field of view, as
    in sets that have none: their mask is the whole frame.

    3 pixels of the 540 across DRIVE's field of view, scaled by this one's extent in columns (a
    camera cuts discs at top and bottom): DRIVE 3, CHASE_DB1 5.
    """
    columns = np.flatnonzero(fov.any(0))
    if not len(columns) or fov.all():
        return 0
    across = columns[-1] - columns[0] + 1
    return max(1, round(DRIVE_THIN * int(across) / DRIVE_DIAMETER))


@dataclass(frozen=True)
class Truth:
    """What masks of an image are compared with in one region (bool (H, W) each)."""

    region: np.ndarray
    label: np.ndarray
    skeleton: np.ndarray
    thin: np.ndarray
    thick: np.ndarray
    betti: tuple[int, int]


def truths(label: np.ndarray, fov: np.ndarray, regions: Iterable[str]) -> dict[str, Truth]:
    """A label's `Truth` in each of the regions asked for, "fov" and "frame" as in protocols.py."""
    limit, across = thin_limit(fov), width(label)
    thin = (across > 0) & (across <= limit)
    thick = (across > limit) & (limit > 0)
    out = {}
    for name in regions:
        r = fov if name == "fov" else np.ones_like(fov)
        inside = label & r
        out[name] = Truth(r, inside, skeletonize(inside), thin & r, thick & r, betti(inside))
    return out


def measure(prediction: np.ndarray, truth: Truth) -> dict[str, float]:
    """The five measures of a mask, bool (H, W), named as metrics.STRUCTURE; nan if undefined."""
    if not truth.region.any():
        return dict.fromkeys(STRUCTURE, float("nan"))
    inside = prediction & truth.region
    pieces, holes = betti(inside)
    return {
        "cldice": cldice(inside, truth.label, truth.skeleton),
        "betti0_error": float(abs(pieces - truth.betti[0])),
        "betti1_error": float(abs(holes - truth.betti[1])),
        "se_thin": _share(truth.thin, inside),
        "se_thick": _share(truth.thick, inside),
    }


def cldice(
    prediction: np.ndarray, label: np.ndarray, label_skeleton: np.ndarray | None = None
) -> float:
    """Centreline Dice of two masks; `label_skeleton` where it is known already."""
    lines = skeletonize(label) if label_skeleton is None else label_skeleton
    precision = _share(skeletonize(prediction), label)
    sensitivity = _share(lines, prediction)
    if np.isnan(precision) or np.isnan(sensitivity):
        return float("nan") if np.isnan(precision) and np.isnan(sensitivity) else 0.0
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def _share(of: np.ndarray, inside: np.ndarray) -> float:
    """Share of the pixels of one mask that lie in another; nan if there are none."""
    n = np.count_nonzero(of)
    return float(np.count_nonzero(of & inside) / n) if n else float("nan")
