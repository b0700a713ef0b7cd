"""Every score from one histogram per image: how often each of 65,536 probabilities occurs.

A probability map is stored in 16 bits: p = v / 65535, v in 0..65535. A pixel is called vessel
iff p > t (strictly), compared in float64. A histogram is an integer array (..., 2, 65536): axis -2
is the class (0 background, 1 vessel), axis -1 the level v. Counts are (..., 4): tp, fp, fn, tn.
All functions work over the leading axes (images, resamples) at once.

Undefined is nan: a ratio whose denominator is zero is nan, never 0 or 1. So, in the named case,
  no vessel in the label     se, auc, ap, mcc are nan; f1 and iou are 0, or nan if none predicted
  no background in the label sp, auc, mcc are nan
  nothing predicted          precision, mcc are nan; f1 and iou are 0 if the label has vessels
  everything predicted       mcc is nan
  no pixel at all            everything is nan
scikit-learn returns 0 (mcc, ap, and f1 with its default zero_division) in these cases.
"""

import numpy as np

LEVELS = 65536
COUNTS = ("tp", "fp", "fn", "tn")
THRESHOLDED = ("se", "sp", "acc", "precision", "f1", "iou", "mcc")
PROBABILISTIC = ("auc", "ap", "ece", "brier")  # a binary mask has none of these
METRICS = (*THRESHOLDED, *PROBABILISTIC)
# What structure.py measures on masks: per image only, so under either pooling a mean over images.
STRUCTURE = ("cldice", "betti0_error", "betti1_error", "se_thin", "se_thick")
CURVE_POINTS = 512
CALIBRATION_BINS = 15

_PROBABILITY = np.arange(LEVELS) / (LEVELS - 1)


def histogram(probability: np.ndarray, label: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Count the levels of a map inside a region, background and vessel apart.

    probability: uint16 (H, W). label, region: bool (H, W). Returns uint32 (2, 65536).
    """
    if probability.dtype != np.uint16 or label.dtype != bool or region.dtype != bool:
        raise TypeError("histogram needs a uint16 map, a bool label and a bool region")
    index = probability[region] + label[region] * np.int64(LEVELS)
    return np.bincount(index, minlength=2 * LEVELS).astype(np.uint32).reshape(2, LEVELS)


def confusion(hist: np.ndarray, threshold: float) -> np.ndarray:
    """Counts tp, fp, fn, tn (int64, (..., 4)) when vessel iff v / 65535 > threshold."""
    first = _first_above(threshold)
    above = hist[..., first:].sum(-1, dtype=np.int64)
    below = hist[..., :first].sum(-1, dtype=np.int64)
    return np.stack([above[..., 1], above[..., 0], below[..., 1], below[..., 0]], -1)


def above(probability: np.ndarray, threshold: float) -> np.ndarray:
    """The pixels of a uint16 map that `confusion` calls vessel: bool, of the same shape."""
    return probability >= _first_above(threshold)


def _first_above(threshold: float) -> int:
    """The lowest level v with v / 65535 > threshold; 65536 if none is."""
    return int(np.searchsorted(_PROBABILITY, threshold, side="right"))


def counts_of_mask(prediction: np.ndarray, label: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Counts tp, fp, fn, tn (int64, (4,)) of a bool mask against a bool label in a bool region."""
    code = 2 * label[region] + prediction[region]
    tn, fp, fn, tp = np.bincount(code, minlength=4)
    return np.array([tp, fp, fn, tn], np.int64)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, np.divide(top, bottom), np.nan)[()]


def from_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The threshold metrics of counts (..., 4): se, sp, acc, precision, f1, iou, mcc, each (...).

    float64 throughout: the product of the four margins in MCC overflows int64 at 6 Mpixel.
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return {
        "se": _ratio(tp, tp + fn),
        "sp": _ratio(tn, tn + fp),
        "acc": _ratio(tp + tn, tp + fp + fn + tn),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "iou": _ratio(tp, tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, np.sqrt(margins)),
    }


def prevalence(counts: np.ndarray) -> np.ndarray:
    """Share of vessel pixels in the label, (...), from counts (..., 4)."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return _ratio(tp + fn, tp + fp + fn + tn)


def auc(hist: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, exact: the Mann-Whitney statistic, a tie counting one half.

    hist: (..., 2, 65536). Returns float64 (...); nan unless both classes occur.
    """
    background, vessel = hist[..., 0, :], hist[..., 1, :]
    won = np.cumsum(background, -1, dtype=np.float64)
    total = won[..., -1].copy()
    won -= 0.5 * background
    return _ratio(
        np.einsum("...v,...v", vessel.astype(np.float64), won),
        total * vessel.sum(-1, dtype=np.float64),
    )


def ap(hist: np.ndarray) -> np.ndarray:
    """Average precision, sum over thresholds of (recall step) * precision (no interpolation).

    As scikit-learn's average_precision_score. hist: (..., 2, 65536). nan without vessels.
    """
    vessel = hist[..., 1, :].astype(np.float64)
    tp, both = at_least(vessel), at_least(hist[..., 0, :])
    both += tp
    precision = np.divide(tp, both, out=tp, where=both > 0)
    return _ratio(np.einsum("...v,...v", vessel, precision), vessel.sum(-1))


def at_least(values: np.ndarray) -> np.ndarray:
    """Sum of the last axis from each position to the end (float64): counts with level >= v."""
    return np.cumsum(values[..., ::-1], -1, dtype=np.float64)[..., ::-1]


def brier(hist: np.ndarray) -> np.ndarray:
    """Mean squared distance of the probability from the label (Brier 1950): (...), exact.

    hist: (..., 2, 65536).
    """
    p = _PROBABILITY
    squares = hist[..., 0, :] @ p**2 + hist[..., 1, :] @ (1 - p) ** 2
    return _ratio(squares, hist.sum((-2, -1), dtype=np.float64))


def binned(hist: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Pixels, sum of probabilities and vessel pixels in `bins` equal parts of [0, 1].

    hist: (..., 2, 65536). Returns float64 (..., 3, bins). A bin holds (b / bins, (b + 1) / bins],
    as in Guo et al. 2017; the first holds 0 as well.
    """
    starts = np.arange(bins) * (LEVELS - 1) // bins + 1
    starts[0] = 0
    both = hist.sum(-2, dtype=np.float64)
    rows = np.stack([both, both * _PROBABILITY, hist[..., 1, :]], -2)
    return np.add.reduceat(rows, starts, axis=-1)


def calibration(hist: np.ndarray, bins: int = CALIBRATION_BINS) -> dict[str, np.ndarray]:
    """The calibration curve: bin_low, bin_high, n, predicted (mean), observed (vessel share).

    hist: (..., 2, 65536). Bins as in `binned`; the last three are (..., bins), and predicted and
    observed nan in a bin without pixels.
    """
    n, probability, vessel = np.moveaxis(binned(hist, bins), -2, 0)
    edges = np.arange(bins + 1) / bins
    return {
        "bin_low": edges[:-1],
        "bin_high": edges[1:],
        "n": n.astype(np.int64),
        "predicted": _ratio(probability, n),
        "observed": _ratio(vessel, n),
    }


def ece_of(sums: np.ndarray) -> np.ndarray:
    """The expected calibration error of `binned` sums (..., 3, bins): (...).

    The pixel-weighted mean of |vessel share - mean probability| over the bins (Naeini et al. 2015),
    of the probability of vessel itself, not of the more probable class.
    """
    n, probability, vessel = np.moveaxis(sums, -2, 0)
    return _ratio(np.abs(vessel - probability).sum(-1), n.sum(-1))


def unthresholded(hist: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of histograms (..., 2, 65536) that need no threshold, each (...)."""
    return {"auc": auc(hist), "ap": ap(hist), "ece": ece_of(binned(hist)), "brier": brier(hist)}


def thresholded(hist: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Counts and the metrics of counts of histograms (..., 2, 65536), each (...)."""
    counts = confusion(hist, threshold)
    named = dict(zip(COUNTS, np.moveaxis(counts, -1, 0), strict=True))
    return {**named, **from_counts(counts)}


def score(hist: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Counts and all metrics of histograms (..., 2, 65536) at one threshold, each (...)."""
    return {**thresholded(hist, threshold), **unthresholded(hist)}


def best_threshold(hist: np.ndarray) -> float:
    """The threshold with the highest F1 on one histogram (2, 65536); nan if it has no vessel.

    All 65,536 cuts "v > k" are tried. Where neighbouring cuts give the same F1 the middle of the
    first such run is taken. The value lies between two levels, (k + 0.5) / 65535, so that printing
    it with nine digits and reading it again cannot move a pixel.
    """
    positives = hist[1].sum(dtype=np.float64)
    if positives == 0:
        return float("nan")
    tp, fp = np.append(at_least(hist), [[0.0], [0.0]], axis=1)[::-1, 1:]
    f1 = 2 * tp / (tp + fp + positives)
    first = int(np.argmax(f1))
    differs = np.flatnonzero(f1[first:] != f1[first])
    last = first + (int(differs[0]) if len(differs) else LEVELS - first) - 1
    return ((first + last) // 2 + 0.5) / (LEVELS - 1)


def roc_curve(hist: np.ndarray, points: int = CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr) from (0, 0) to (1, 1) of one histogram, at most `points`; empty for one class."""
    fp, tp = _swept(hist)
    if fp[-1] == 0 or tp[-1] == 0:
        return np.empty(0), np.empty(0)
    return _thin(np.append(0, fp) / fp[-1], np.append(0, tp) / tp[-1], points)


def pr_curve(hist: np.ndarray, points: int = CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """(recall, precision) of one histogram, recall rising, at most `points`; empty without vessels.

    Begins at the conventional (0, 1), as scikit-learn's precision_recall_curve ends.
    """
    fp, tp = _swept(hist)
    if tp[-1] == 0:
        return np.empty(0), np.empty(0)
    return _thin(np.append(0, tp / tp[-1]), np.append(1, tp / (tp + fp)), points)


def _swept(hist: np.ndarray) -> np.ndarray:
    """fp and tp (2, n) as the threshold falls past each level that occurs (one zero if none)."""
    occurs = np.flatnonzero(hist.any(0))[::-1]
    return at_least(hist)[:, occurs] if len(occurs) else np.zeros((2, 1))


def _thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep both ends and points about equally spaced along the curve (city-block length)."""
    if len(x) <= points:
        return x, y
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)))
    return x[keep], y[keep]
