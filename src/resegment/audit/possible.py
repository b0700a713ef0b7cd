"""Which test pixels can have given printed numbers: the three questions of `resegment.audit`."""

import math
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from resegment import files, paths
from resegment.errors import UserError

METRICS = ("se", "sp", "acc", "precision", "f1", "iou")
SPREAD_SE = 0.08  # largest standard deviation over images
SPREAD_FPR = 0.5  # the same of 1 - Sp, as a share of its mean
RESIZE = 0.003  # how far a resize moves a prevalence, relatively (testsets.csv: at most 0.0021)
BEYOND = 1.25  # how far beyond these limits a row must lie to be called impossible
GRID = 0.0005  # the chord between two grid points leaves the surface by less than this
JOINED = 0.0002  # images of like prevalence share their mean: Acc moves by less than this
STEP = 0.001  # between the prevalences tried where none is known: Acc moves by less than JOINED
SE_STEPS = np.array([-0.4, -0.3, -0.2, -0.15, -0.1, -0.05, 0, 0.05, 0.1, 0.15, 0.2, 0.3])
FPR_STEPS = np.array([0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5])
Intervals = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class TestSet:
    """The labels of some test images: vessel and all pixels of each, in one region and space."""

    __test__ = False  # no test of pytest's
    dataset: str
    split: str
    region: str
    space: str
    vessel: tuple[int, ...]
    pixels: tuple[int, ...]

    @property
    def prevalence(self) -> float:
        return sum(self.vessel) / sum(self.pixels)

    @property
    def groups(self) -> np.ndarray:
        """Prevalences of its images in order, (images,); those in a tenth of the range are one."""
        each = np.sort(np.array(self.vessel) / np.array(self.pixels))
        tenth = np.digitize(each, np.linspace(each[0], each[-1], 11)[1:-1])
        return np.array([each[tenth == t].mean() for t in tenth])


def testsets() -> list[TestSet]:
    """The known test sets of data/published/testsets.csv, those in native size first."""
    path = paths.PUBLISHED / "testsets.csv"
    t = read(path, "dataset split region space images vessel pixels vessel_per_image "
                    "pixels_per_image source")  # fmt: skip
    out = []
    for row in t.to_dict("records"):
        where = f"{row['dataset']} {row['split']} {row['region']} {row['space']}"
        one = [row[k] for k in ("images", "vessel", "pixels")]
        many = [row[f"{k}_per_image"] for k in ("vessel", "pixels")]
        if not all(re.fullmatch("[0-9]{1,18}", n) for n in (*one, *" ".join(many).split())):
            raise UserError(f"{path}: {where}: counts are whole numbers: restore it")
        vessel, pixels = (tuple(map(int, counts.split())) for counts in many)
        said = [int(n) for n in one]
        whole = len(vessel) == len(pixels) and all(
            v <= p > 0 for v, p in zip(vessel, pixels, strict=True)
        )
        if not whole or said != [len(vessel), sum(vessel), sum(pixels)]:
            raise UserError(f"{path}: {where}: the counts of the images do not add up: restore it")
        names = (row[k] for k in ("dataset", "split", "region", "space"))
        out.append(TestSet(*names, vessel, pixels))
    return sorted(out, key=lambda s: s.space != "native")


def read(path, columns: str) -> pd.DataFrame:
    try:
        rows = files.table(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it is part of the checkout, restore it") from None
    if not rows or list(rows[0]) != columns.split():
        raise UserError(f"{path}: the columns must be {', '.join(columns.split())}")
    return pd.DataFrame(rows, columns=columns.split(), dtype=str)


# Pooled pixels


def pooled(printed: Intervals, low: float, high: float) -> bool:
    """Whether one pooled confusion matrix of prevalence `low` to `high` can have given `printed`.

    printed: metric -> (lowest, highest) value that is printed so. Exact where low equals high,
    a little generous otherwise.
    """
    planes = [(-1, 0, 0), (1, 0, 1), (0, -1, 0), (0, 1, 1 / low)]  # a Se + b r <= c
    for metric, (least, most) in printed.items():
        if metric == "se":
            planes += [(-1, 0, -least), (1, 0, most)]
        elif metric == "sp":
            planes += [(0, -1, -(1 - high) / high * (1 - most)),
                       (0, 1, (1 - low) / low * (1 - least))]  # fmt: skip
        elif metric == "acc":
            planes += [(1, -1, 1 - (1 - most) / high), (-1, 1, (1 - least) / low - 1)]
        elif metric == "precision":
            planes += [(least - 1, least, 0), (1 - most, -most, 0)]
        elif metric == "f1":
            planes += [(least - 2, least, -least), (2 - most, -most, most)]
        else:
            planes += [(-1, least, -least), (1, -most, most)]
    lines = np.array(planes, float)
    first, second = np.triu_indices(len(lines), 1)
    a, b = lines[first], lines[second]
    det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    a, b, det = a[det != 0], b[det != 0], det[det != 0]
    x = (a[:, 2] * b[:, 1] - a[:, 1] * b[:, 2]) / det
    y = (a[:, 0] * b[:, 2] - a[:, 2] * b[:, 0]) / det
    inside = np.outer(lines[:, 0], x) + np.outer(lines[:, 1], y) <= lines[:, 2:] + 1e-9
    return bool(inside.all(axis=0).any())


def prevalence(printed: Intervals) -> tuple[float, float] | None:
    """The prevalences that Se, Acc and Sp (else precision) need of pooled pixels, or None."""
    third = "sp" if "sp" in printed else "precision"
    if not {"se", "acc", third} <= printed.keys():
        return None
    corners = []
    for se in printed["se"]:
        for acc in printed["acc"]:
            for other in printed[third]:
                over, under = (
                    (other - acc, other - se)
                    if third == "sp"
                    else (1 - acc, 1 - 2 * se + se / other)
                )
                corners.append(over / under if under > 0 else math.nan)
    return None if any(map(math.isnan, corners)) else (min(corners), max(corners))


def implied_f1(printed: Intervals, pi: float) -> float | None:
    """F1 of pooled pixels with the printed Se and Sp at prevalence `pi`, or None without them."""
    if not {"se", "sp"} <= printed.keys():
        return None
    se, sp = (sum(printed[k]) / 2 for k in ("se", "sp"))
    return 2 * se / (1 + se + (1 - pi) / pi * (1 - sp))


# Means of images


def averaged(printed: Intervals, each: np.ndarray, slack: float = 1) -> bool:
    """Whether the means over images of prevalences `each`, (N,), can be `printed`.

    Images differ by no more than `slack` times SPREAD_SE and SPREAD_FPR. Without Se: always True.
    """
    return _averaged(tuple(sorted(printed.items())), tuple(map(float, each)), slack)


@cache
def _averaged(items: tuple, each: tuple[float, ...], slack: float) -> bool:
    printed, se_limit, fpr_limit = dict(items), SPREAD_SE * slack, SPREAD_FPR * slack
    if "se" not in printed:
        return True
    pi = sum(each) / len(each)
    groups, images = np.unique(each, return_counts=True)
    se, fpr, blur = sum(printed["se"]) / 2, rate(printed, pi), 0.0 if "sp" in printed else 0.3
    if not 0.02 < se < 1 or fpr is None:
        return True
    if "sp" in printed and "acc" in printed:  # the covariances are all that can bend Acc
        bend = np.std(each) * (se_limit + fpr_limit * fpr) + JOINED
        bare = pi * se + (1 - pi) * (1 - fpr)
        if not printed["acc"][0] - bend <= bare <= printed["acc"][1] + bend:
            return False
        if printed.keys() <= {"se", "sp", "acc"}:
            return True
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    offsets = np.append(SE_STEPS, 1 - se)
    hit = np.unique(np.clip(se + offsets, 0.02, 1))
    s, f, p = (x.ravel() for x in np.meshgrid(hit, np.minimum(fpr * FPR_STEPS, 1), groups))
    r = (1 - p) / p * f
    values = {"se": s, "sp": 1 - f, "acc": p * s + (1 - p) * (1 - f), "precision": s / (s + r),
              "f1": 2 * s / (1 + s + r), "iou": s / (1 + r)}  # fmt: skip
    rows, limits = [], []
    for metric, (least, most) in printed.items():
        reach = {"se": 1e-9, "sp": 1e-9, "acc": JOINED}.get(metric, GRID)
        rows += [values[metric], -values[metric]]
        limits += [most + reach, reach - least]
    rows += [(s - se) ** 2 / se_limit**2, (f / fpr - 1) ** 2 / (fpr_limit**2 + blur**2)]
    limits += [1.001, 1.001]  # half a unit of the last digit moves the mean itself
    which = np.searchsorted(groups, p)
    member = coo_array((np.ones(len(p)), (which, np.arange(len(p)))), (len(groups), len(p)))
    share = images / len(each)
    for method in ("highs-ds", "highs-ipm"):
        found = linprog(np.zeros(len(p)), A_ub=coo_array(np.array(rows)).tocsr(), b_ub=limits,
                        A_eq=member.tocsr(), b_eq=share, method=method)  # fmt: skip
        if found.status in (0, 2):
            break
    return found.status != 2  # anything but a proof that there is none


def rate(printed: Intervals, pi: float) -> float | None:
    """1 - Sp as printed, or as any of the others would have it; None where nothing tells."""
    se = sum(printed["se"]) / 2
    mid = {k: sum(v) / 2 for k, v in printed.items()}
    if "sp" in mid:
        return max(1 - mid["sp"], 1e-5)
    r = None
    if "precision" in mid:
        r = se * (1 / mid["precision"] - 1)
    elif "f1" in mid:
        r = 2 * se / mid["f1"] - 1 - se
    elif "iou" in mid:
        r = se / mid["iou"] - 1
    elif "acc" in mid:
        r = (1 - mid["acc"]) / pi - 1 + se
    return None if r is None or r <= 0 else r * pi / (1 - pi)


# What fits


def _resized(pi: float) -> tuple[float, float]:
    """The prevalences that labels of prevalence `pi` may have at another size."""
    return pi * (1 - RESIZE), pi * (1 + RESIZE)


@cache
def _fits(items: tuple, dataset: str, sets: tuple[TestSet, ...]) -> dict[TestSet, str]:
    printed, native = dict(items), [s for s in sets if (s.dataset, s.space) == (dataset, "native")]
    exact = [s for s in native if pooled(printed, *_resized(s.prevalence))]
    settled = {s.region for s in exact}  # pooled pixels explain it: means need not be asked
    means = [s for s in native if s.region not in settled and averaged(printed, s.groups)]
    return dict.fromkeys(exact, "pooled") | dict.fromkeys(means, "mean of images")


def fits(printed: Intervals, dataset: str, sets: tuple[TestSet, ...]) -> dict[TestSet, str]:
    """The test sets of `dataset` whose labels can have given `printed` -> how (POOLINGS).

    Only labels of native size are asked: RESIZE covers the other sizes.
    """
    return _fits(tuple(sorted(printed.items())), dataset, sets)


def pooled_at(printed: Intervals) -> tuple[float, float] | None:
    """The prevalences between .01 and .6 at which pooled pixels give `printed`, or None."""
    low, end = 0.01, 0.6
    if need := prevalence(printed):
        low, end = max(low, need[0] * 0.99), min(end, need[1] * 1.01)
    found = []
    while low < end:
        high = low * (1 + RESIZE)
        if pooled(printed, low, high):
            found += [low, high]
        low = high
    return (min(found), max(found)) if found else None


def averaged_at(printed: Intervals, own: list[TestSet]) -> float | None:
    """A prevalence at which means of images can give `printed`, generously, or None.

    That nearest to what pooled pixels need. The images' prevalences vary as in that one of the
    measured test sets `own` where they vary most, the images by BEYOND times the limits.
    """
    shape = max((s.groups / s.groups.mean() for s in own), key=np.std)
    need = prevalence(printed) or (0.02, 0.3)
    scan = np.arange(max(need[0] * 0.7, 0.01), min(need[1] * 1.4, 0.6), STEP)
    near = sorted(scan, key=lambda pi: abs(pi - sum(need) / 2))
    return next((pi for pi in near if averaged(printed, pi * shape, BEYOND)), None)


def jaccard(printed: Intervals, varied: bool) -> tuple[float, float] | None:
    """The F1 that the printed IoU allows, (lowest, highest), or None without IoU.

    varied: the objects' area varies without limit (lesions, nuclei), so that only
    J <= F1 <= 2J/(1 + J) is sure. Else IoU varies no more than Se may (its standard deviation was
    0.051 at most, as above) and no image lies 0.4 below the mean, and Taylor's remainder f'' s^2/2
    with f'' = -4/(1 + J)^3 is all that F1 can lose.
    """
    if "iou" not in printed:
        return None
    low, high = (2 * j / (1 + j) for j in printed["iou"])
    if varied:
        return printed["iou"][0], high
    return low - 2 * (BEYOND * SPREAD_SE) ** 2 / (1 + max(printed["iou"][0] - 0.4, 0)) ** 3, high


def disjoint(printed: Intervals, varied: bool) -> bool:
    """Whether F1 and IoU exclude each other."""
    allowed = jaccard(printed, varied)
    if not allowed or "f1" not in printed:
        return False
    least, most = printed["f1"]
    return most < allowed[0] - 1e-9 or least > allowed[1] + 1e-9
