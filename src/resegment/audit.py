"""What published rows imply of themselves: which test pixels can have given them, and which cannot.

Only the printed numbers are used, and the labels' counts (data/published/testsets.csv). A printed
number stands for an interval of half a unit of its last digit on either side. Three questions:

1. Pooled pixels. With prevalence pi, r = (1 - pi)/pi (1 - Sp) false positives and Se true positives
   per vessel pixel, precision is Se/(Se + r), F1 is 2 Se/(1 + Se + r), IoU is Se/(1 + r) and
   1 - Acc is pi (1 - Se + r) (from their definitions). At a known pi every printed interval is two
   straight lines in the plane (Se, r): a row is possible if the half planes have a common point.
   Hence pi = (Sp - Acc)/(Sp - Se) and, with precision P in place of Sp,
   pi = (1 - Acc)/(1 - 2 Se + Se/P).
2. Means of images. Each printed mean is the mean over images of points on the surface
   (Se, Sp) -> (Se, Sp, Acc, P, F1, IoU) at the image's own prevalence. Whether there is such a mean
   is a linear programme in the weights of a grid of points for every image (at the measured
   prevalences), a relaxation: what it refuses is impossible. Without a limit on how images differ
   nearly every row would be possible, so the standard deviation over images is limited, to 0.08 for
   Se and 0.5 of the mean for 1 - Sp. The largest over the test images of 24 networks trained here
   on DRIVE and CHASE_DB1, briefly but to an F1 above 0.6, were 0.074 and 0.38, the medians 0.052
   and 0.27.
3. F1 against IoU. F = 2J/(1 + J) is concave and lies above J, so for any images whatever
   mean J <= mean F1 <= 2 mean J/(1 + mean J) (Jensen), with equality on the right for pooled
   pixels.

`impossible` is said of one set of maps at one threshold, and only where no prevalence will do and
no means of images that differ a quarter more than the limits. A row that no measured test set
explains but another prevalence would is undecidable: another split is no contradiction. Of two rows
that print one run, the cell that alone stands against all the others is named, at the limits
themselves (they let Acc leave what the means of Se and Sp make it by 0.0009 on DRIVE's frame; of
the 24 networks none left it by more than 0.0002). Lesions and nuclei, whose area varies without
limit, have the third question only.

The linear test of means is that of Fazekas & Kovacs, mlscorecheck (2024), extended to the ratios;
`referee` asks that package itself.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from resegment import files, paths, published
from resegment.errors import UserError

COLUMNS = ("row", "paper", "table", "method", "dataset", "role", "verdict", "protocol",
           "prevalence", "cells", "sentence", "referee")  # fmt: skip
METRICS = ("se", "sp", "acc", "precision", "f1", "iou")
NAMES = {"se": "Se", "sp": "Sp", "acc": "Acc", "precision": "P", "f1": "F1", "iou": "IoU",
         "auc": "AUC"}  # fmt: skip
REGIONS = {"frame": "whole frame", "fov": "field of view"}
POOLINGS = {"pooled": "pooled pixels", "mean of images": "means of images"}
SPREAD_SE = 0.08  # largest standard deviation over images
SPREAD_FPR = 0.5  # the same of 1 - Sp, as a share of its mean
RESIZE = 0.003  # how far a resize moves a prevalence, relatively (testsets.csv: at most 0.0007)
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
    t = _read(path, "dataset split region space images vessel pixels vessel_per_image "
                    "pixels_per_image source")  # fmt: skip
    out = []
    for row in t.to_dict("records"):
        each = (row[f"{k}_per_image"].split() for k in ("vessel", "pixels"))
        vessel, pixels = (tuple(map(int, counts)) for counts in each)
        said = [int(row[k]) for k in ("images", "vessel", "pixels")]
        if said != [len(vessel), sum(vessel), sum(pixels)] or len(vessel) != len(pixels):
            where = f"{row['dataset']} {row['split']} {row['region']} {row['space']}"
            raise UserError(f"{path}: {where}: the counts of the images do not add up: restore it")
        names = (row[k] for k in ("dataset", "split", "region", "space"))
        out.append(TestSet(*names, vessel, pixels))
    return sorted(out, key=lambda s: s.space != "native")


def _read(path, columns: str) -> pd.DataFrame:
    try:
        t = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it is part of the checkout, restore it") from None
    if list(t.columns) != columns.split():
        raise UserError(f"{path}: the columns must be {', '.join(columns.split())}")
    return t


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
    se, fpr, blur = sum(printed["se"]) / 2, _fpr(printed, pi), 0.0 if "sp" in printed else 0.3
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


def _fpr(printed: Intervals, pi: float) -> float | None:
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


# Verdicts


def judge(printed: Intervals, dataset: str, sets: tuple[TestSet, ...]) -> dict[str, str]:
    """verdict, protocol, cells and sentence of one row: metric -> interval, on `dataset`."""
    own = [s for s in sets if s.dataset == dataset]
    checked = {k: v for k, v in printed.items() if k in METRICS}
    if len(checked) < 3 and not {"f1", "iou"} <= checked.keys():
        only = " and ".join(NAMES[k] for k in printed)
        return _said("undecidable", f"The row prints only {only}, which any test set can give.")
    pair = jaccard(checked, not own)
    if disjoint(checked, not own):
        j, f = _mid(checked, "iou"), _mid(checked, "f1")
        rule = f"IoU {j} allows an F1 of {_digits(pair[0])} to {_digits(pair[1])}, printed is {f}"
        why = "no image has an F1 outside of J to 2J/(1 + J) and averaging can only lower it"
        if own:
            why = "pooled pixels give the upper end, and means of images the rest"
        return _said("impossible", f"{rule}: {why}.", cells="f1 iou")
    if not own:
        kind = "no labels of this dataset were counted and its objects vary too much in area for "
        detail = f"F1 lies within the {_digits(pair[0])} to {_digits(pair[1])} that IoU allows; "
        start = detail if pair and "f1" in checked else ""
        return _said("undecidable", _capital(f"{start}{kind}Se, Sp and Acc to decide anything."))
    found = fits(checked, dataset, sets)
    if found:
        return _consistent(checked, found)
    need = _need(checked, own)
    if prevalence(checked) and pooled_at(checked):
        return _said("undecidable", f"{need}; the numbers agree with each other, and another "
                     "split or mask may have such labels.")  # fmt: skip
    if other := averaged_at(checked, own):
        return _said("undecidable", f"{need}; means of images that differ much, of prevalence "
                     f"{_digits(other)}, can give the row.")  # fmt: skip
    drops = [k for k in checked if _spared(checked, k, dataset, sets)]
    if len(drops) == 1:
        return _blamed(checked, drops[0], fits(_without(checked, drops[0]), dataset, sets))
    need_pi, f1 = prevalence(checked), ""
    if need_pi and {"sp", "f1"} <= checked.keys():
        due = _range(sorted(implied_f1(checked, pi) for pi in need_pi))
        f1 = f" and then pooled F1 would be {due}, printed is {_mid(checked, 'f1')}"
    sentence = (
        f"{need}{f1}: no prevalence gives all of them, nor do means "
        "of images that differ as vessel images do."
    )
    return _said("impossible", sentence, cells=" ".join(checked))


def _said(verdict: str, sentence: str, protocol: str = "", cells: str = "") -> dict[str, str]:
    return {"verdict": verdict, "protocol": protocol, "cells": cells, "sentence": sentence}


def _without(printed: Intervals, metric: str) -> Intervals:
    return {k: v for k, v in printed.items() if k != metric}


def _need(printed: Intervals, own: list[TestSet]) -> str:
    """The prevalence that the row needs, beside those that were measured."""
    have = []
    for region, name in REGIONS.items():
        known = [s.prevalence for s in own if (s.region, s.space) == (region, "native")]
        have += [f"{name} {_range((min(known), max(known)))}"] if known else []
    need = prevalence(printed)
    third = "Sp" if "sp" in printed else "P"
    if not need:
        return f"{_list([NAMES[k] for k in printed])} fit no measured test set ({', '.join(have)})"
    return (
        f"Se, {third} and Acc need a prevalence of {_range(need)}, measured are {', '.join(have)}"
    )


def _consistent(printed: Intervals, found: dict[TestSet, str]) -> dict[str, str]:
    exact = [s for s, how in found.items() if how == "pooled"]
    named = exact or list(found)
    regions = list(dict.fromkeys(s.region for s in found))
    where = " or ".join(
        f"the {REGIONS[s.region]} of {s.split} ({_digits(s.prevalence)})" for s in named
    )
    need = prevalence(printed)
    third = "Sp" if "sp" in printed else "P"
    start = f"Se, {third} and Acc need a prevalence of {_range(need)}: " if need else ""
    pooling = ""
    if exact:
        pooling = ", pooled"
        strict = any(pooled(printed, s.prevalence, s.prevalence) for s in exact)
        to = "" if strict else f", its prevalence being up to {RESIZE:.1%} off (size, mask),"
        sentence = f"{start}pooled pixels of {where}{to} give every printed digit"
        if "f1" in printed and (f1 := implied_f1(printed, named[0].prevalence)):
            sentence += f"; F1 {_digits(f1)} follows, printed is {_mid(printed, 'f1')}"
    elif pooled_at(printed):
        sentence = (f"{start}{where} gives the row if images were averaged, or pooled with a mask "
                    "or labels that differ a little from those measured")  # fmt: skip
    else:
        pooling = ", mean of images"
        sentence = f"{start}means of images over {where} can give the row, pooled pixels cannot"
    if len(regions) > 1:
        return _said("consistent", _capital(sentence) + ". The region stays open.")
    return _said("consistent", _capital(sentence) + ".", protocol=regions[0] + pooling)


def _spared(printed: Intervals, metric: str, dataset: str, sets: tuple[TestSet, ...]) -> bool:
    """Whether the others fit a test set so well that `metric` alone stands against them.

    Four others that fit are enough. Three are where they are Se, Sp and Acc, whose prevalence is
    then the one measured. Without Se only pooled pixels can be tested.
    """
    rest = _without(printed, metric)
    how = fits(rest, dataset, sets).values()
    if "pooled" in how:
        return len(rest) > 3 or rest.keys() == {"se", "sp", "acc"}
    return len(rest) > 3 and metric != "se" and bool(how)


def _blamed(printed: Intervals, metric: str, found: dict[TestSet, str]) -> dict[str, str]:
    """One cell alone stands against the others, which fit a test set."""
    one, rest = next(iter(found.items())), _without(printed, metric)
    where = f"{POOLINGS[one[1]]} of the {REGIONS[one[0].region]} ({_digits(one[0].prevalence)})"
    due = _due(rest, metric, one[0].prevalence)
    force = f" and make {NAMES[metric]} about {_digits(due)}" if due else ""
    others = _list([f"{NAMES[k]} {_mid(printed, k)}" for k in METRICS if k in rest])
    only = ", unless it was taken at another threshold" if metric == "f1" else ""
    sentence = (f"{others} fit {where}{force}; {NAMES[metric]} is printed as "
                f"{_mid(printed, metric)}, which fits none{only}.")  # fmt: skip
    return _said("impossible", sentence, cells=metric)


def _due(rest: Intervals, metric: str, pi: float) -> float | None:
    """The value that `rest` forces on `metric`, pooled at prevalence `pi`."""
    fpr = _fpr(rest, pi) if "se" in rest else None
    if fpr is None:
        return None
    if "precision" in rest and "acc" in rest and "sp" not in rest:
        pi = sum(prevalence(rest)) / 2  # P, Se and Acc are sharper than the labels
        fpr = _fpr(rest, pi)
    se, r = sum(rest["se"]) / 2, (1 - pi) / pi * fpr
    return {"sp": 1 - fpr, "acc": pi * se + (1 - pi) * (1 - fpr), "precision": se / (se + r),
            "f1": 2 * se / (1 + se + r), "iou": se / (1 + r)}.get(metric)  # fmt: skip


def table(names: Iterable[str] = (), referee: bool = False) -> list[dict]:
    """One row per published row that prints a metric of performance: COLUMNS, in the papers' order.

    names: rows or papers, all where empty. referee: ask mlscorecheck too (a second a row).
    Raises UserError for an unknown name and where the files of data/published disagree.
    """
    known = published.cells()
    known = known[known["metric"].isin(published.SHARES)]
    sets, rows, intervals = tuple(testsets()), {}, {}
    for row, group in known.groupby("row", sort=False):
        rows[row] = group.iloc[0]
        each = zip(group["metric"], group["value"], group["resolution"], strict=True)
        intervals[row] = {metric: (v - unit / 2, v + unit / 2) for metric, v, unit in each}
    names, out, twins = _known(names, rows), [], _twins(set(rows))
    for row, first in rows.items():
        if names and not names & {row, first["paper"]}:
            continue
        printed, dataset = intervals[row], first["dataset"]
        said = _across(row, twins[row], intervals, dataset, sets) if row in twins else None
        said = said or judge(printed, dataset, sets)
        need = prevalence(printed)
        out.append({
            **{k: first[k] for k in ("row", "paper")},
            "table": int(first["table"]),
            "method": first["method"] + (f" ({first['variant']})" if first["variant"] else ""),
            "dataset": dataset,
            "role": first["role"],
            "verdict": said["verdict"],
            "protocol": said["protocol"],
            "prevalence": _digits(sum(need) / 2) if need and 0 < sum(need) < 2 else "",
            "cells": said["cells"],
            "sentence": said["sentence"],
            "referee": _referee(printed, dataset, sets) if referee else "",
        })  # fmt: skip
    return out


def _known(names: Iterable[str], rows: Iterable[str]) -> set[str]:
    """The names, which must be rows or papers."""
    if absent := sorted({*names} - {*rows, *published.PAPERS}):
        where = f"a row of {paths.PUBLISHED / 'cells.csv'} with a metric of performance"
        raise UserError(
            f"{absent[0]!r} is neither a paper ({', '.join(published.PAPERS)}) nor {where}"
        )
    return set(names)


def record() -> None:
    """Write `table()` to data/published/audit.csv: it follows from the other files there alone, so
    that it is solved once for everybody (a test holds the two together)."""
    with files.atomic(paths.PUBLISHED / "audit.csv") as tmp:
        pd.DataFrame(table(), columns=COLUMNS).to_csv(tmp, index=False, lineterminator="\n")


def recorded(names: Iterable[str] = ()) -> list[dict]:
    """The rows of data/published/audit.csv: as `table` gives them, in no time."""
    t = _read(paths.PUBLISHED / "audit.csv", " ".join(COLUMNS))
    names = _known(names, t["row"])
    rows = [{**r, "table": int(r["table"])} for r in t.to_dict("records")]
    return [r for r in rows if not names or names & {r["row"], r["paper"]}]


def contradictions(rows: list[dict]) -> dict[str, str]:
    """Cell id -> the sentence that says why it is impossible; rows: as from `table`."""
    return {f"{r['row']}.{m}": r["sentence"].rstrip(".") for r in rows for m in r["cells"].split()}


def _twins(rows: set[str]) -> dict[str, str]:
    """Row -> the other row that prints the same run (data/published/same_run.csv)."""
    path = paths.PUBLISHED / "same_run.csv"
    pairs = _read(path, "row same_as why")
    absent = sorted({*pairs["row"], *pairs["same_as"]} - rows)
    if absent:
        raise UserError(f"{path}: cells.csv has no row {absent[0]} with a metric: correct it")
    both = dict(zip(pairs["row"], pairs["same_as"], strict=True))
    return both | {b: a for a, b in both.items()}


def _across(row: str, twin: str, intervals: dict, dataset: str, sets: tuple) -> dict | None:
    """The verdict on `row` where one of its cells stands against all that it and its twin print."""
    own, other = ({k: v for k, v in intervals[r].items() if k in METRICS} for r in (row, twin))
    every = other | own
    if any(own[k] != other[k] for k in own.keys() & other.keys()):
        return None  # printed differently: which is right cannot be told, each is judged alone
    if every.keys() == own.keys() or fits(every, dataset, sets):
        return None
    drops = [k for k in every if _spared(every, k, dataset, sets)]
    if len(drops) != 1 or drops[0] not in own:
        return None
    said = _blamed(every, drops[0], fits(_without(every, drops[0]), dataset, sets))
    return said | {"sentence": f"The same run is {twin}: {said['sentence']}"}


# For people


def text(rows: list[dict]) -> str:
    """The table as lines: row, method, verdict, protocol, and the sentence below."""
    counts = {v: sum(r["verdict"] == v for r in rows) for v in ("consistent", "impossible",
                                                               "undecidable")}  # fmt: skip
    out = []
    for r in rows:
        wrong = f" [{r['cells']}]" if r["cells"] else ""
        out += [f"{r['row']:18} {r['verdict']:12} {r['protocol'] or '-':22} {r['dataset']:10} "
                f"{r['method']}{wrong}", f"    {r['sentence']}"]  # fmt: skip
        out += [f"    mlscorecheck: {r['referee']}"] if r["referee"] else []
    return "\n".join([*out, ", ".join(f"{n} {v}" for v, n in counts.items())])


def _digits(x: float) -> str:
    return f"{x:.4f}"


def _range(ends) -> str:
    low, high = map(_digits, ends)
    return low if low == high else f"{low} to {high}"


def _mid(printed: Intervals, metric: str) -> str:
    return _digits(sum(printed[metric]) / 2)


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# The referee


def _referee(printed: Intervals, dataset: str, sets: tuple[TestSet, ...]) -> str:
    """What mlscorecheck says of each native test set: pooled, and means of Se, Sp and Acc.

    It takes the counts of testsets.csv to the pixel, IoU is not among its scores, and it sets no
    limit on how images differ: its "means" says less than `averaged`. "" with fewer than three
    scores.
    """
    from mlscorecheck.check.binary import check_1_testset_no_kfold, check_n_testsets_mos_no_kfold

    logging.getLogger("mlscorecheck").setLevel(logging.WARNING)  # it narrates every step
    theirs = {"se": "sens", "sp": "spec", "acc": "acc", "precision": "ppv", "f1": "f1"}
    scores = {theirs[k]: sum(v) / 2 for k, v in printed.items() if k in theirs}
    eps = max(((v[1] - v[0]) / 2 for v in printed.values()), default=0)
    linear = {k: v for k, v in scores.items() if k in ("acc", "sens", "spec")}
    own = [s for s in sets if s.dataset == dataset and s.space == "native"]
    if not own or len(scores) < 3:
        return ""
    found: dict[str, list[str]] = {"pooled": [], "means": []}
    for one in own:
        counts = [{"p": v, "n": n - v} for v, n in zip(one.vessel, one.pixels, strict=True)]
        whole = {"p": sum(one.vessel), "n": sum(one.pixels) - sum(one.vessel)}
        if not check_1_testset_no_kfold(whole, scores, eps)["inconsistency"]:
            found["pooled"].append(f"{one.region} of {one.split}")
        if len(linear) == 3:
            said = check_n_testsets_mos_no_kfold(counts, linear, eps, verbosity=0)
            found["means"] += [] if said["inconsistency"] else [f"{one.region} of {one.split}"]
    means = ", ".join(found["means"]) or "impossible"
    return (f"pooled {', '.join(found['pooled']) or 'impossible'}; means "
            f"{means if len(linear) == 3 else 'not testable without Se, Sp and Acc'}")  # fmt: skip
