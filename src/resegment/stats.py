"""How sure a number is. Three questions, three answers, never mixed into one interval.

Would another training come out alike? Initialisation and the order of the data vary from seed to
  seed: the trial variance of the Deep Learning Tuning Playbook (Godbole et al. 2023), which
  recommends to look at it before a change is believed. `over_seeds`, `seed_interval`: of the mean
  over seeds, the test images held fixed. Blind to which images were tested.
Would other test images give the same? `intervals`, a bootstrap over images with the weights and
  the threshold held fixed: what sampling these 20 eyes and not others did. Blind to the seed.
Is one method better than another? `paired`, on the same images, with seeds averaged first. The
  difficulty of an image hits both methods and cancels, so that differences far smaller than either
  interval above can be told apart. `holm` where several such questions are asked at once.

Images are the unit, never pixels, for those of one eye are not independent; and where a subject has
several test images (CHASE_DB1: both eyes of a child) the subject is, for the same reason: it is
drawn with all its images, and has one difference.
"""

import math
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy

from resegment import files, metrics
from resegment.errors import UserError
from resegment.protocols import Protocol, mean, select

RESAMPLES = 2000
BINS = 4096
Interval = tuple[float, float]


def resample(subjects: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each resample: int (resamples, image).

    subjects: whose each image is. As many subjects are drawn as there are, each with all its images
    (the cluster bootstrap, Davison and Hinkley 1997, section 3.8). Equal subjects and seed give
    equal draws, so all metrics, protocols and runs share their resamples.
    """
    names, whose = np.unique(subjects, return_inverse=True)
    n = len(names)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)[:, whose]


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
    won_against = np.cumsum(background, -1) - 0.5 * background
    # einsum, not @: a product this flat takes BLAS a second where its threads must share cores
    beats = np.einsum("iv,jv->ij", vessel, won_against)
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
        drawn = np.stack([coarse[:, 1], above[:, 1], above[:, 0]])
        vessel, tp, fp = np.einsum("...i,kiv->k...v", w, drawn)  # not @: see resampled_auc
        both = tp + fp
        precision = np.divide(tp, both, out=np.zeros_like(tp), where=both > 0)
        with np.errstate(invalid="ignore"):
            return (vessel * precision).sum(-1) / vessel.sum(-1)

    # 32 resamples at a time: what is made of them stays in the processor's cache
    chunks = [merged_ap(draws[i : i + 32].astype(np.float64)) for i in range(0, len(draws), 32)]
    return np.concatenate(chunks) + (metrics.ap(total) - merged_ap(np.ones(len(hists))))


def resampled_ece(draws: np.ndarray, hists: np.ndarray) -> np.ndarray:
    """Exact pooled calibration error of every resample, (resamples,): its bins are sums."""
    sums = metrics.binned(hists)
    pooled = (draws @ sums.reshape(len(sums), -1)).reshape(-1, *sums.shape[1:])
    return metrics.ece_of(pooled)


def resampled_brier(draws: np.ndarray, hists: np.ndarray) -> np.ndarray:
    """Exact pooled Brier score of every resample, (resamples,): a mean over pixels."""
    pixels = hists.sum((1, 2), dtype=np.float64)
    squares = np.where(pixels > 0, metrics.brier(hists) * pixels, 0)
    with np.errstate(invalid="ignore"):
        return (draws @ squares) / (draws @ pixels)


RESAMPLED = {
    "auc": resampled_auc,
    "ap": resampled_ap,
    "ece": resampled_ece,
    "brier": resampled_brier,
}


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
        **{k: function(draws, hists) for k, function in RESAMPLED.items()},
    }


def intervals(
    scores_folder: str | Path, protocol_name: str, observer: bool = False
) -> dict[str, Interval]:
    """95 % bootstrap interval over test images of every metric of a run under one protocol.

    Of metrics.METRICS and of metrics.STRUCTURE, whose score is a mean over images under either
    pooling. Reads histograms.npz, metrics.json, manifest.json and images.csv of a scores folder.
    `observer`: of the second observer instead (what needs probabilities is undefined). With a
    single subject all are (nan, nan). Raises UserError if the folder does not know the protocol
    or has no second observer.
    """
    folder = Path(scores_folder)
    protocol, arrays = _protocol(folder, protocol_name), stored(folder)
    if observer and "observer2" not in arrays:
        raise UserError(f"{folder} has no second observer: its data set gives none")
    array, test = arrays["observer2" if observer else "counts"], arrays["splits"] == "test"
    undefined = dict.fromkeys((*metrics.METRICS, *metrics.STRUCTURE), (math.nan, math.nan))
    images = _images(folder, protocol_name, "observer2.csv" if observer else "images.csv")
    subjects = _subjects(images, folder)
    if len(set(subjects)) < 2:
        return undefined
    chosen = select(array, protocol, list(arrays["spaces"]))[test]
    draws = resample(subjects)
    if not observer:
        threshold = files.read_json(folder / "metrics.json")[protocol_name]["threshold"]
        samples = bootstrap(chosen, threshold, protocol.pooling, draws)
    elif protocol.pooling == "images":
        each = metrics.from_counts(chosen)
        samples = {k: resampled_means(draws, v) for k, v in each.items()}
    else:
        samples = metrics.from_counts(draws @ chosen.astype(np.int64))
    for name in metrics.STRUCTURE:
        samples[name] = resampled_means(draws, _column(images, name, folder))
    return undefined | {k: percentile_interval(v) for k, v in samples.items()}


def _protocol(folder: Path, name: str) -> Protocol:
    """What a protocol's name meant when a scores folder was written."""
    described = files.read_json(folder / "manifest.json")["protocols"]
    if name not in described:
        raise UserError(f"{folder} has no protocol {name}: score the run again")
    return Protocol(**described[name])


def stored(folder: str | Path) -> dict[str, np.ndarray]:
    """The arrays of histograms.npz. Those of one run are kept, for its other protocols."""
    path = Path(folder) / "histograms.npz"
    return _arrays(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _arrays(path: Path, written: int) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:  # never a pickle: allow_pickle is False
            found = dict(stored)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(f"{path} is not whole ({e}): score the run again") from None
    if lost := [k for k in ("ids", "splits", "spaces", "counts") if k not in found]:
        raise UserError(f"{path} has no {lost[0]}: score the run again")
    return found


def _images(folder: Path, protocol_name: str, name: str = "images.csv") -> list[dict[str, str]]:
    """The rows of a protocol's test images."""
    return [
        row
        for row in files.table(folder / name, "protocol", "id")
        if row["protocol"] == protocol_name and row.get("split", "test") == "test"
    ]


def _column(images: list[dict[str, str]], metric: str, folder: Path) -> np.ndarray:
    """One number per image, nan where undefined."""
    if images and metric not in images[0]:
        raise UserError(f"{folder} has no {metric}: score the run again")
    return np.array([float(row[metric] or "nan") for row in images])


def _subjects(images: list[dict[str, str]], folder: Path) -> list[str]:
    """Whose each image is."""
    if images and "subject" not in images[0]:
        raise UserError(f"{folder} does not say whose its images are: score the run again")
    return [row["subject"] for row in images]


def decimals(value: float | None) -> str:
    """Six decimals, never -0; empty for what is undefined."""
    if value is None or math.isnan(value):
        return ""
    return f"{round(value, 6) + 0.0:.6f}"


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof = 1) over seeds; the sd of one seed is nan."""
    values = np.asarray(values, np.float64)
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    return float(values.mean()) if len(values) else float("nan"), float(sd)


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's interval of the mean over seeds, mean -+ t sd / sqrt(n); None for one seed."""
    n = len(values)
    if n < 2:
        return None
    centre, sd = over_seeds(values)
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return centre - half, centre + half


def wilcoxon_p(difference: Sequence[float]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test of paired differences, nan left out.

    1 if all are 0, nan if none is left.
    """
    difference = np.asarray(difference, np.float64)
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return float("nan")
    return float(scipy.stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def paired(
    folders_a: Sequence[str | Path],
    folders_b: Sequence[str | Path] | None,
    protocol_name: str,
    metric: str,
) -> dict[str, float]:
    """What sets two experiments apart on the same test images: difference, low, high, p, n_images,
    n_subjects, n_seeds.

    folders_a, folders_b: the scores folders of each one's seeds, as many as there are; None: b is
    the second observer. metric: one of metrics.METRICS or metrics.STRUCTURE. Values are averaged
    over seeds before anything is compared, and the difference is a - b.

    Where the protocol averages images (and for STRUCTURE): the mean over images of the difference,
    where both are defined, and its bootstrap. Where it pools pixels: the difference of the pooled
    metrics; each resample draws the same images for both and pools them anew.

    p is of the two-sided Wilcoxon signed-rank test on the images' own values under either pooling,
    averaged over the images of a subject: the subject is what can be exchanged between a and b. It
    asks whether one is better on images in general. Twenty give a minimum of 2e-6, four one of
    .125, where a permutation of pooled counts would need a partner for every seed. It can differ
    from the interval where one large difference, or one image rich in vessels, carries the pooled
    metric.

    n_images, n_subjects: those compared (defined in both, for a mean). n_seeds: of the experiment
    with fewer. The interval is (nan, nan) for fewer than two subjects. Raises UserError if the
    folders do not hold the same images under the same protocol.
    """
    groups = [[Path(f) / "images.csv" for f in folders] for folders in (folders_a, folders_b or [])]
    if folders_b is None:
        groups[1] = [f.with_name("observer2.csv") for f in groups[0][:1]]  # all seeds met the same
    everyone = [*groups[0], *groups[1]]
    if not all(groups):
        raise UserError("a comparison needs a scored run on either side: score both experiments")
    tables = {f: _images(f.parent, protocol_name, f.name) for f in everyone}
    meant = {f: _protocol(f.parent, protocol_name) for f in everyone}
    first = everyone[0]
    for f in everyone:
        ids = [[row["id"] for row in tables[g]] for g in (first, f)]
        if not ids[0] or sorted(ids[0]) != sorted(ids[1]):
            raise UserError(
                f"{first.parent} and {f.parent} do not hold the same test images under the "
                f"protocol {protocol_name}: compare runs of one data set and split"
            )
        ways = [(meant[g].region, meant[g].space, meant[g].pooling) for g in (first, f)]
        if ways[0] != ways[1]:
            raise UserError(
                f"{first.parent} and {f.parent} do not mean the same by the protocol "
                f"{protocol_name}: score both again"
            )
        tables[f].sort(key=lambda row: row["id"])  # pairs by id, and equal draws for both
    per_image = [
        np.array(
            [mean(v) for v in zip(*(_column(tables[f], metric, f.parent) for f in g), strict=True)]
        )
        for g in groups
    ]
    delta = per_image[0] - per_image[1]
    subjects = np.array(_subjects(tables[first], first.parent))
    draws = np.vstack([np.ones(len(delta), int), resample(subjects)])  # first the images as are
    met = np.full(len(delta), True)
    if metric in metrics.METRICS and meant[first].pooling == "pixels":
        pooled = [
            [_pooled(f.parent, tables[f], meant[f], metric, draws) for f in g] for g in groups
        ]
        samples = np.mean(pooled[0], axis=0) - np.mean(pooled[1], axis=0)
    else:
        met = ~np.isnan(delta)
        samples = resampled_means(draws, delta)
    names = np.unique(subjects[met])
    low, high = percentile_interval(samples[1:]) if len(names) > 1 else (math.nan, math.nan)
    return {
        "difference": float(samples[0]),
        "low": low,
        "high": high,
        "p": wilcoxon_p([mean(delta[subjects == name]) for name in names]),
        "n_images": int(met.sum()),
        "n_subjects": len(names),
        "n_seeds": min(len(group) for group in (groups[:1] if folders_b is None else groups)),
    }


def _pooled(
    folder: Path, images: list[dict[str, str]], protocol: Protocol, metric: str, draws: np.ndarray
) -> np.ndarray:
    """A pooled metric of one run in every resample of `images`: (resamples,)."""
    if metric not in RESAMPLED:
        counts = np.array([[int(row[k]) for k in metrics.COUNTS] for row in images])
        return metrics.from_counts(draws @ counts)[metric]
    arrays = stored(folder)
    ids = arrays["ids"].tolist()
    counts = arrays["counts"][[ids.index(row["id"]) for row in images]]
    return RESAMPLED[metric](draws, select(counts, protocol, list(arrays["spaces"])))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values in the order given (Holm 1979); no nan allowed."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out


def seed_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval | None:
    """Welch's interval of mean(a) - mean(b) over independent seeds; None with fewer than two each.

    Where neither varies it is the difference itself.
    """
    if min(len(a), len(b)) < 2:
        return None
    if not np.ptp(a) and not np.ptp(b):
        difference = float(np.mean(a) - np.mean(b))
        return difference, difference
    bounds = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    return float(bounds.low), float(bounds.high)
