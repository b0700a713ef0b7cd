"""How a run is scored: which pixels, at which size, pooled how, at which threshold.

Counts of a whole run are (image, space, part, class, 65536) as in histograms.npz: part 0 lies
inside the field of view, part 1 outside it. One protocol picks (image, 2, 65536) out of them.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from resegment import metrics
from resegment.errors import UserError

_CHOICES = {
    "region": ("fov", "frame"),
    "space": ("native", "network"),
    "pooling": ("pixels", "images"),
}


@dataclass(frozen=True)
class Protocol:
    """region: "fov" counts only pixels in the FOV mask, "frame" all. space: "native" takes the map
    back to the image's own size, "network" takes the label to the network's. pooling: "pixels" sums
    the counts of all test images and scores the sum, "images" scores each and averages where
    defined. threshold: a probability, or "train": the one with the best pooled F1 on the training
    images under the same region and space, frozen before the test images are looked at.
    """

    region: Literal["fov", "frame"]
    space: Literal["native", "network"]
    pooling: Literal["pixels", "images"]
    threshold: float | Literal["train"]

    def __post_init__(self):
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            if value not in allowed:
                raise UserError(f"protocol {key} is {value!r}: it must be {' or '.join(allowed)}")
        t = self.threshold
        number = isinstance(t, int | float) and not isinstance(t, bool)
        if t != "train" and not (number and 0 <= t <= 1):
            raise UserError(f"protocol threshold is {t!r}: it must be train or from 0 to 1")


COMMON = Protocol("fov", "native", "pixels", "train")


def every() -> list[Protocol]:
    """The 16 ways in which papers measure: region x space x pooling x threshold (0.5, "train")."""
    return [Protocol(*c) for c in itertools.product(*_CHOICES.values(), (0.5, "train"))]


def select(array: np.ndarray, protocol: Protocol, spaces: Sequence[str]) -> np.ndarray:
    """The region and space of a protocol out of (image, space, part, ...): (image, ...)."""
    there = array[:, list(spaces).index(protocol.space)]
    return there[:, 0] if protocol.region == "fov" else there.sum(1, dtype=array.dtype)


def choose_threshold(protocol: Protocol, training: np.ndarray) -> float:
    """The protocol's threshold; "train" needs training images with vessels.

    training: (2, 65536), the sum of `select` over the training images.
    """
    if protocol.threshold != "train":
        return float(protocol.threshold)
    if not training.any():
        raise UserError(
            "protocol threshold is train, but no image of the split is in train: "
            "predict the training images too, or give a number"
        )
    chosen = metrics.best_threshold(training)
    if np.isnan(chosen):
        raise UserError(
            "protocol threshold is train, but no training label has a vessel pixel "
            f"in region {protocol.region}: check the labels, or give a number"
        )
    return chosen


def pool(pooling: str, pooled: dict, images: dict) -> dict:
    """One value per metric: of the pooled counts, or the mean over images where it is defined.

    pooled: name -> number. images: name -> (image,). Counts stay sums under both.
    """
    if pooling == "pixels":
        return pooled
    return {k: v if k in metrics.COUNTS else mean(images[k]) for k, v in pooled.items()}


def mean(values: np.ndarray) -> float:
    """Mean of the defined (not nan) values; nan if there is none."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def evaluate(
    protocol: Protocol,
    counts: np.ndarray,
    splits: Sequence[str],
    spaces: Sequence[str],
) -> tuple[dict, dict[str, np.ndarray], np.ndarray]:
    """Score a run under one protocol.

    counts: (image, space, part, class, 65536), or what gives slices of it. splits: one per image.
    spaces: names of axis 1. Returns the values on the test images (threshold, n_images, prevalence
    of the pooled pixels, counts and metrics), the same counts and metrics for every image (name ->
    (image,)), and the pooled test histogram (2, 65536). Raises UserError if there is no test image.
    """
    splits = np.asarray(splits)
    test = splits == "test"
    if not test.any():
        raise UserError("the split has no test image: nothing can be scored")
    sums = {"train": 0, "test": 0} | {s: 0 for s in splits}
    for hists, parts in _chunks(counts, splits, protocol, spaces):
        for part in set(parts):
            sums[part] = sums[part] + hists[parts == part].sum(0, dtype=np.int64)
    pooled_hist, training = sums["test"], np.asarray(sums["train"])
    threshold = choose_threshold(protocol, training)
    each = [metrics.score(h, threshold) for h, _ in _chunks(counts, splits, protocol, spaces)]
    images = {k: np.concatenate([chunk[k] for chunk in each]) for k in each[0]}
    pooled = metrics.score(pooled_hist, threshold)
    values = pool(protocol.pooling, pooled, {k: v[test] for k, v in images.items()})
    sums = [pooled[k] for k in metrics.COUNTS]
    extra = {
        "threshold": threshold,
        "n_images": int(test.sum()),
        "prevalence": metrics.prevalence(sums),
    }
    return {**extra, **values}, images, pooled_hist


def _chunks(
    counts: np.ndarray, splits: np.ndarray, protocol: Protocol, spaces: Sequence[str], n: int = 8
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(`select`, splits) of n images at a time: memory does not grow with the set."""
    for k in range(0, len(counts), n):
        yield select(counts[k : k + n], protocol, spaces), splits[k : k + n]


def sensitivity(counts: np.ndarray, splits: Sequence[str], spaces: Sequence[str]) -> list[dict]:
    """The test images under `every()` protocol: how far the protocol alone moves each metric.

    Arguments as of `evaluate`; both spaces are needed. Returns a row per protocol and metric of
    metrics.METRICS: region, space, pooling, threshold (0.5 or "train"), metric, value (nan where
    undefined); the values are those of `evaluate`. The curves of a histogram are swept once, not
    once a protocol. Raises UserError as `evaluate`.
    """
    splits, rows = np.asarray(splits), []
    test = splits == "test"
    if not test.any():
        raise UserError("the split has no test image: nothing can be scored")
    for region, space in itertools.product(_CHOICES["region"], _CHOICES["space"]):
        hists = select(counts, Protocol(region, space, "pixels", 0.5), spaces)
        parts = hists[test].sum(0, dtype=np.int64), hists[test]
        training = hists[splits == "train"].sum(0, dtype=np.int64)
        swept = [metrics.unthresholded(h) for h in parts]
        for kind, pooling in itertools.product((0.5, "train"), _CHOICES["pooling"]):
            protocol = Protocol(region, space, pooling, kind)
            threshold = choose_threshold(protocol, training)
            pooled, images = (
                metrics.thresholded(h, threshold) | known
                for h, known in zip(parts, swept, strict=True)
            )
            values = pool(pooling, pooled, images)
            rows += [{**vars(protocol), "metric": m, "value": values[m]} for m in metrics.METRICS]
    return rows


def evaluate_masks(protocol: Protocol, counts: np.ndarray, spaces: Sequence[str]) -> dict:
    """Score binary masks (a second observer) under a protocol: no threshold, and None for what
    needs probabilities (auc, ap, ece, brier).

    counts: tp, fp, fn, tn of the test images, (image, space, part, 4).
    """
    chosen = select(counts, protocol, spaces).astype(np.int64)
    total = chosen.sum(0)
    named = dict(zip(metrics.COUNTS, total, strict=True))
    values = pool(
        protocol.pooling,
        {**named, **metrics.from_counts(total)},
        metrics.from_counts(chosen),
    )
    extra = {
        "threshold": None,
        "n_images": len(chosen),
        "prevalence": metrics.prevalence(total),
    }
    return {**extra, **values, **dict.fromkeys(metrics.PROBABILISTIC)}
