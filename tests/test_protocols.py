"""Protocols: what they pick, how they pool, where their threshold comes from."""

import itertools

import numpy as np
import pytest
import sklearn.metrics as sk

from resegment import metrics
from resegment.errors import UserError
from resegment.protocols import (
    COMMON,
    Protocol,
    choose_threshold,
    evaluate,
    evaluate_masks,
    every,
    mean,
    sensitivity,
)

SPLITS = ["train", "train", "val", "test", "test", "test"]
SPACES = ["native", "network"]


@pytest.fixture(scope="module")
def pixels():
    """Per image and space: (map, label, fov), small, and the same as histograms."""
    rng = np.random.default_rng(1)
    raw, counts = {}, np.zeros((6, 2, 2, 2, metrics.LEVELS), np.uint32)
    for i, s in np.ndindex(6, 2):
        label = rng.random((20, 30 + 5 * i)) < 0.2
        p = np.clip(rng.normal(np.where(label, 0.6, 0.3 + 0.1 * s), 0.2), 0, 1)
        v, fov = np.rint(p * 65535).astype(np.uint16), rng.random(label.shape) < 0.7
        raw[i, s] = v, label, fov
        counts[i, s] = [metrics.histogram(v, label, r) for r in (fov, ~fov)]
    return raw, counts


def taken(raw, protocol, images):
    """The maps (0..1) and labels a protocol scores, one pair per image."""
    out = []
    for i in images:
        v, label, fov = raw[i, SPACES.index(protocol.space)]
        keep = fov if protocol.region == "fov" else np.ones_like(fov)
        out.append((v[keep] / 65535, label[keep]))
    return out


def expected_calibration_error(p, y):
    bins = np.clip(np.ceil(p * 15) - 1, 0, 14)
    parts = [bins == b for b in np.unique(bins)]
    return sum(k.mean() * abs(p[k].mean() - y[k].mean()) for k in parts)


ALL = [
    Protocol(*p)
    for p in itertools.product(
        ("fov", "frame"), ("native", "network"), ("pixels", "images"), (0.45, "train")
    )
]


@pytest.mark.parametrize("protocol", ALL, ids=lambda p: "-".join(map(str, vars(p).values())))
def test_each_of_the_sixteen_agrees_with_sklearn(pixels, protocol):
    raw, counts = pixels
    values, images, hist = evaluate(protocol, counts, SPLITS, SPACES)
    t = 0.45
    if protocol.threshold == "train":
        p, label = map(np.concatenate, zip(*taken(raw, protocol, [0, 1]), strict=True))
        precision, recall, cuts = sk.precision_recall_curve(label, p)  # of every cut there is
        with np.errstate(invalid="ignore"):
            f1 = 2 * precision * recall / (precision + recall)
        t = values["threshold"]
        assert sk.f1_score(label, p > t) == sk.f1_score(label, p >= cuts[np.nanargmax(f1[:-1])])
    groups = taken(raw, protocol, [3, 4, 5])
    if protocol.pooling == "pixels":
        groups = [tuple(map(np.concatenate, zip(*groups, strict=True)))]
    expected = {
        "se": lambda p, y: sk.recall_score(y, p > t),
        "sp": lambda p, y: sk.recall_score(~y, p <= t),
        "acc": lambda p, y: sk.accuracy_score(y, p > t),
        "precision": lambda p, y: sk.precision_score(y, p > t),
        "f1": lambda p, y: sk.f1_score(y, p > t),
        "iou": lambda p, y: sk.jaccard_score(y, p > t),
        "mcc": lambda p, y: sk.matthews_corrcoef(y, p > t),
        "auc": lambda p, y: sk.roc_auc_score(y, p),
        "ap": lambda p, y: sk.average_precision_score(y, p),
        "ece": expected_calibration_error,
        "brier": lambda p, y: sk.brier_score_loss(y, p),
    }
    assert set(expected) == set(metrics.METRICS)
    for name, function in expected.items():
        assert values[name] == pytest.approx(np.mean([function(*g) for g in groups]), abs=1e-9)
    assert values["n_images"] == 3 and values["threshold"] == t
    pixels_scored = sum(values[k] for k in metrics.COUNTS)
    assert pixels_scored == hist.sum() == sum(len(y) for _, y in taken(raw, protocol, [3, 4, 5]))
    assert values["prevalence"] == pytest.approx(
        np.mean(np.concatenate([y for _, y in taken(raw, protocol, [3, 4, 5])]))
    )
    one = taken(raw, protocol, [2])[0]
    assert images["f1"][2] == pytest.approx(expected["f1"](*one)) and len(images["f1"]) == 6


def test_sensitivity_gives_what_each_of_the_sixteen_protocols_gives(pixels):
    _, counts = pixels
    assert len(every()) == len(set(every())) == 16 and COMMON in every()
    rows = sensitivity(counts, SPLITS, SPACES)
    assert len(rows) == 16 * len(metrics.METRICS)
    found = {tuple(list(r.values())[:4]): {} for r in rows}
    for r in rows:
        assert list(r) == ["region", "space", "pooling", "threshold", "metric", "value"]
        found[tuple(list(r.values())[:4])][r["metric"]] = r["value"]
    for protocol in every():
        values, _, _ = evaluate(protocol, counts, SPLITS, SPACES)
        assert found[tuple(vars(protocol).values())] == {k: values[k] for k in metrics.METRICS}
    assert len({v["f1"] for v in found.values()}) == 16  # none stands for another
    with pytest.raises(UserError, match="no test image"):
        sensitivity(counts, ["train"] * 6, SPACES)
    with pytest.raises(UserError, match="no image of the split is in train"):
        sensitivity(counts, ["test"] * 6, SPACES)


def test_threshold_is_frozen_before_the_test_images(pixels):
    _, counts = pixels
    changed = counts.copy()
    changed[2:] = changed[2:, :, :, ::-1]  # labels of val and test inverted
    a, b = (evaluate(COMMON, c, SPLITS, SPACES)[0] for c in (counts, changed))
    assert a["threshold"] == b["threshold"] and a["f1"] != b["f1"]
    changed = counts.copy()
    changed[0] = np.roll(changed[0], 9000, axis=-1)
    assert evaluate(COMMON, changed, SPLITS, SPACES)[0]["threshold"] != a["threshold"]


def test_undefined_images_leave_the_mean(pixels):
    counts = pixels[1].copy()
    counts[3, :, :, 0] += counts[3, :, :, 1]
    counts[3, :, :, 1] = 0
    values, images, _ = evaluate(Protocol("fov", "native", "images", 0.5), counts, SPLITS, SPACES)
    assert np.isnan(images["se"][3]) and values["se"] == pytest.approx(images["se"][4:].mean())
    assert images["f1"][3] == 0 and values["f1"] == pytest.approx(images["f1"][3:].mean())
    assert np.isnan(mean([np.nan])) and mean([1, np.nan, 2]) == 1.5


def test_masks_are_scored_without_threshold():
    counts = np.zeros((2, 1, 2, 4), np.uint32)
    counts[:, 0, 0] = [[6, 2, 2, 10], [1, 3, 1, 15]]
    counts[:, 0, 1] = [0, 0, 0, 40]
    pooled = evaluate_masks(Protocol("fov", "native", "pixels", 0.5), counts, ["native"])
    assert pooled["f1"] == pytest.approx(14 / 22) and pooled["acc"] == pytest.approx(32 / 40)
    each = evaluate_masks(Protocol("fov", "native", "images", 0.5), counts, ["native"])
    assert each["f1"] == pytest.approx((12 / 16 + 2 / 6) / 2)
    frame = evaluate_masks(Protocol("frame", "native", "pixels", 0.5), counts, ["native"])
    assert frame["tn"] == 105 and frame["prevalence"] == pytest.approx(10 / 120)
    assert [frame[k] for k in ("threshold", "auc", "ap", "n_images")] == [None, None, None, 2]
    assert frame["ece"] is frame["brier"] is None


@pytest.mark.parametrize(
    "values, text",
    [
        (("FOV", "native", "pixels", 0.5), "region is 'FOV': it must be fov or frame"),
        (("fov", "full", "pixels", 0.5), "space is 'full': it must be native or network"),
        (("fov", "native", "mean", 0.5), "pooling is 'mean': it must be pixels or images"),
        (("fov", "native", "pixels", "test"), "threshold is 'test': it must be train or"),
        (("fov", "native", "pixels", 1.5), "threshold is 1.5"),
        (("fov", "native", "pixels", True), "threshold is True"),
        (("fov", "native", "pixels", float("nan")), "threshold is nan"),
    ],
)
def test_a_wrong_protocol_says_what_it_must_be(values, text):
    with pytest.raises(UserError, match=text):
        Protocol(*values)


def test_missing_images_are_a_users_error(pixels):
    _, counts = pixels
    with pytest.raises(UserError, match="no test image"):
        evaluate(COMMON, counts, ["train"] * 6, SPACES)
    with pytest.raises(UserError, match="no image of the split is in train"):
        evaluate(COMMON, counts, ["test"] * 6, SPACES)
    with pytest.raises(UserError, match="no training label has a vessel"):
        choose_threshold(COMMON, np.eye(2, metrics.LEVELS, dtype=int) * [[1], [0]])
    assert evaluate(ALL[0], counts, ["test"] * 6, SPACES)[0]["n_images"] == 6
