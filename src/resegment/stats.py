"""How sure a number is: over images (bootstrap), over seeds (sd), between two runs (Wilcoxon)."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

from resegment import files, metrics
from resegment.errors import UserError
from resegment.protocols import Protocol, select

RESAMPLES = 2000
BINS = 4096
Interval = tuple[float, float]


def resample(n: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of n images is drawn in each resample: int (resamples, n), rows sum to n.

    Equal n and seed give equal draws, so all metrics, protocols and runs share their resamples.
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> Interval:
    """The central share `level` of the defined samples; (nan, nan) if none is."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_means(draws: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over the drawn images where defined (nan where none is): (resamples,)."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (draws @ np.where(defined, values, 0.0)) / (draws @ defined)


def resampled_auc(draws: np.ndarray, hists: np.ndarray) -> np.ndarray:
    """Exact pooled AUC of every resample, (resamples,), from hists (image, 2, 65536).

    The Mann-Whitney sum is bilinear in the images: with A[i, j] = how often a vessel pixel of
    image i beats a background pixel of image j, resample w has AUC = w'Aw / (w'P)(w'N).
    """
    background, vessel = np.moveaxis(hists, 1, 0).astype(np.float64)
    beats = vessel @ (np.cumsum(background, -1) - 0.5 * background).T
    won = np.einsum("bi,ij,bj->b", draws, beats, draws, optimize=True)
    pairs = (draws @ vessel.sum(-1)) * (draws @ background.sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, won / pairs, np.nan)


def resampled_ap(draws: np.ndarray, hists: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Pooled average precision of every resample, (resamples,), from hists (image, 2, 65536).

    AP is not bilinear, so levels are first merged into at most `bins` bins of equal mass (half
    vessel, half background, over all images). What that does to the AP of the images themselves
    is known, and is taken off every resample; what remains is below 0.1 % of the interval's width.
    """
    total = hists.sum(0, dtype=np.float64)
    share = total / np.maximum(total.sum(-1, keepdims=True), 1)
    mass = np.cumsum(share.sum(0))
    group = np.minimum(np.floor(mass / max(mass[-1], 1) * bins), bins - 1)
    starts = np.flatnonzero(np.append(True, np.diff(group) > 0))
    coarse = np.add.reduceat(hists, starts, axis=-1, dtype=np.float64)
    above = metrics.at_least(coarse)

    def merged_ap(w):
        vessel, tp = w @ coarse[:, 1], w @ above[:, 1]
        both = tp + w @ above[:, 0]
        precision = np.divide(tp, both, out=np.zeros_like(tp), where=both > 0)
        with np.errstate(invalid="ignore"):
            return (vessel * precision).sum(-1) / vessel.sum(-1)

    # 250 resamples at a time bound the memory to 250 x bins doubles, a few times
    chunks = [merged_ap(draws[i : i + 250].astype(np.float64)) for i in range(0, len(draws), 250)]
    return np.concatenate(chunks) + (metrics.ap(total) - merged_ap(np.ones(len(hists))))


def bootstrap(
    hists: np.ndarray, threshold: float, pooling: str, draws: np.ndarray
) -> dict[str, np.ndarray]:
    """Every metric in every resample of the test images, name -> (resamples,).

    hists: (image, 2, 65536). The threshold stays the frozen one: only the test images vary.
    """
    if pooling == "images":
        images = metrics.score(hists, threshold)
        return {k: resampled_means(draws, images[k]) for k in metrics.METRICS}
    return {
        **metrics.from_counts(draws @ metrics.confusion(hists, threshold)),
        "auc": resampled_auc(draws, hists),
        "ap": resampled_ap(draws, hists),
    }


def intervals(
    scores_folder: str | Path, protocol_name: str, observer: bool = False
) -> dict[str, Interval]:
    """95 % image-bootstrap interval of every metric of a run under one protocol.

    Reads histograms.npz, metrics.json and manifest.json of a scores folder. `observer`: of the
    second observer instead (auc and ap undefined). With a single test image all are (nan, nan).
    Raises UserError if the folder does not know the protocol or has no second observer.
    """
    folder = Path(scores_folder)
    described = files.read_json(folder / "manifest.json")["protocols"]
    if protocol_name not in described:
        raise UserError(f"{folder} has no protocol {protocol_name}: score the run again")
    protocol = Protocol(**described[protocol_name])
    with np.load(folder / "histograms.npz") as stored:
        if observer and "observer2" not in stored:
            raise UserError(f"{folder} has no second observer: its data set gives none")
        array = stored["observer2" if observer else "counts"]
        test, spaces = stored["splits"] == "test", list(stored["spaces"])
    chosen = select(array, protocol, spaces)[test]
    undefined = {k: (float("nan"), float("nan")) for k in metrics.METRICS}
    if len(chosen) < 2:
        return undefined
    draws = resample(len(chosen))
    if not observer:
        threshold = files.read_json(folder / "metrics.json")[protocol_name]["threshold"]
        samples = bootstrap(chosen, threshold, protocol.pooling, draws)
    elif protocol.pooling == "images":
        each = metrics.from_counts(chosen)
        samples = {k: resampled_means(draws, v) for k, v in each.items()}
    else:
        samples = metrics.from_counts(draws @ chosen.astype(np.int64))
    return undefined | {k: percentile_interval(v) for k, v in samples.items()}


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof = 1) over seeds; the sd of one seed is nan."""
    values = np.asarray(values, np.float64)
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    return float(values.mean()) if len(values) else float("nan"), float(sd)


def wilcoxon_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the paired Wilcoxon signed-rank test; pairs with a nan are left out.

    1 if all pairs agree, nan if none is left.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return float("nan")
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def compare(folder_a: str | Path, folder_b: str | Path, protocol_name: str, metric: str) -> float:
    """Paired Wilcoxon p over the test images of two scores folders, paired by image id."""
    a, b = (_per_image(folder, protocol_name, metric) for folder in (folder_a, folder_b))
    if a.keys() != b.keys() or not a:
        raise UserError(
            f"{folder_a} and {folder_b} do not hold the same test images under the protocol "
            f"{protocol_name}: compare runs of one data set and split"
        )
    return wilcoxon_p(list(a.values()), [b[i] for i in a])


def _per_image(folder: str | Path, protocol_name: str, metric: str) -> Mapping[str, float]:
    with open(Path(folder) / "images.csv", newline="") as f:
        return {
            row["id"]: float(row[metric] or "nan")
            for row in csv.DictReader(f)
            if row["protocol"] == protocol_name and row["split"] == "test"
        }


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values in the order given (Holm 1979); no nan allowed."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out
