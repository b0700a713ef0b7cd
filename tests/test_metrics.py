"""Every metric against scikit-learn on random small maps, and the cases it leaves undefined."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve

from resegment import metrics

# few distinct levels, both ends among them, so that ties and empty bins are the rule
level = st.sampled_from([0, 1, 2, 300, 32767, 32768, 40000, 65534, 65535])
maps = st.integers(1, 60).flatmap(
    lambda n: st.tuples(arrays(np.uint16, n, elements=level), arrays(bool, n))
)
threshold = st.sampled_from([0.0, 1 / 65535, 300 / 65535, 0.4, 0.5, 40000 / 65535, 0.99, 1.0])


def hist_of(v, label, region=None):
    v, label = np.atleast_2d(v), np.atleast_2d(label)
    region = np.ones_like(label) if region is None else np.atleast_2d(region)
    return metrics.histogram(v, label, region)


def hist_from(background, vessel):
    v = np.array([*background, *vessel], np.uint16)
    return hist_of(v, np.arange(len(v)) >= len(background))


@settings(max_examples=150, deadline=None)
@given(maps, threshold)
def test_counts_and_threshold_metrics_agree_with_sklearn(case, t):
    v, label = case
    predicted = v / 65535 > t
    counts = metrics.confusion(hist_of(v, label), t)
    tn, fp, fn, tp = sk.confusion_matrix(label, predicted, labels=[False, True]).ravel()
    assert counts.tolist() == [tp, fp, fn, tn]
    got = metrics.from_counts(counts)
    nan = {"zero_division": np.nan}
    assert got["se"] == pytest.approx(sk.recall_score(label, predicted, **nan), nan_ok=True)
    assert got["sp"] == pytest.approx(sk.recall_score(~label, ~predicted, **nan), nan_ok=True)
    assert got["acc"] == pytest.approx(sk.accuracy_score(label, predicted))
    assert got["precision"] == pytest.approx(
        sk.precision_score(label, predicted, **nan), nan_ok=True
    )
    assert got["f1"] == pytest.approx(sk.f1_score(label, predicted, **nan), nan_ok=True)
    if label.any() or predicted.any():
        assert got["iou"] == pytest.approx(sk.jaccard_score(label, predicted, zero_division=0))
    if 0 < label.sum() < len(label) and 0 < predicted.sum() < len(label):
        assert got["mcc"] == pytest.approx(sk.matthews_corrcoef(label, predicted), abs=1e-9)
    else:
        assert np.isnan(got["mcc"])  # scikit-learn says 0


@settings(max_examples=150, deadline=None)
@given(maps)
def test_auc_and_ap_agree_with_sklearn(case):
    v, label = case
    assume(label.any() and not label.all())
    hist = hist_of(v, label)
    assert metrics.auc(hist) == pytest.approx(sk.roc_auc_score(label, v), abs=1e-12)
    assert metrics.ap(hist) == pytest.approx(sk.average_precision_score(label, v), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(maps)
def test_curves_agree_with_sklearn(case):
    v, label = case
    assume(label.any() and not label.all())
    hist = hist_of(v, label)
    fpr, tpr, _ = sk.roc_curve(label, v, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(hist), [fpr, tpr], atol=1e-12)
    precision, recall, _ = sk.precision_recall_curve(label, v)
    np.testing.assert_allclose(metrics.pr_curve(hist), [recall[::-1], precision[::-1]], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(maps)
def test_best_threshold_has_the_highest_f1_of_all(case):
    v, label = case
    assume(label.any())
    hist = hist_of(v, label)
    t = metrics.best_threshold(hist)
    tried = [sk.f1_score(label, v > k) for k in np.unique(np.append(v, 0))]
    assert metrics.from_counts(metrics.confusion(hist, t))["f1"] == pytest.approx(max(tried))
    printed = float(f"{t:.9g}")
    assert (metrics.confusion(hist, printed) == metrics.confusion(hist, t)).all()


def test_best_threshold_is_the_middle_of_its_run():
    assert metrics.best_threshold(hist_from([100], [201])) == (150 + 0.5) / 65535
    # everything above 0 is vessel, and the best cut 0 has no neighbour
    assert metrics.best_threshold(hist_from([0], [1])) == 0.5 / 65535


def test_large_map_agrees_with_sklearn_and_thins_its_curves():
    rng = np.random.default_rng(3)
    label = rng.random((300, 400)) < 0.1
    p = np.clip(rng.normal(np.where(label, 0.6, 0.3), 0.2), 0, 1)
    v = np.rint(p * 65535).astype(np.uint16)
    region = rng.random(label.shape) < 0.7
    hist = metrics.histogram(v, label, region)
    assert hist.dtype == np.uint32 and hist.sum() == region.sum()
    assert metrics.auc(hist) == pytest.approx(sk.roc_auc_score(label[region], v[region]), abs=1e-10)
    ap = sk.average_precision_score(label[region], v[region])
    assert metrics.ap(hist) == pytest.approx(ap, abs=1e-10)
    fpr, tpr = metrics.roc_curve(hist)
    assert 400 < len(fpr) <= 512 and (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(hist), abs=1e-4)
    recall, precision = metrics.pr_curve(hist)
    assert 100 < len(recall) <= 512 and (recall[0], precision[0], recall[-1]) == (0, 1, 1)
    full = set(zip(*metrics.pr_curve(hist, 10**6), strict=True))
    assert set(zip(recall, precision, strict=True)) < full


def test_leading_axes_are_independent_images():
    rng = np.random.default_rng(0)
    hists = rng.integers(0, 3, (2, 3, 2, metrics.LEVELS)).astype(np.uint32)
    all_ = metrics.score(hists, 0.3)
    for i, j in np.ndindex(2, 3):
        one = metrics.score(hists[i, j], 0.3)
        assert one == pytest.approx({k: v[i, j] for k, v in all_.items()}, rel=1e-12)


def test_large_counts_do_not_overflow():
    # the four margins multiply to 1e28, past int64; all equal to a perfect MCC of 0.6
    counts = np.array([4, 1, 1, 4], np.int64) * 2_000_000
    assert metrics.from_counts(counts)["mcc"] == pytest.approx(0.6)
    many = np.zeros((2, metrics.LEVELS), np.uint32)
    many[0, :2] = 3_000_000_000
    many[1, 1:3] = 3_000_000_000
    assert metrics.auc(many) == pytest.approx(0.875)
    assert metrics.confusion(many, 0.5 / 65535).tolist() == [6e9, 3e9, 0, 3e9]


def undefined(hist, t=0.5):
    return {k for k, v in metrics.score(hist, t).items() if np.isnan(v)}


@pytest.mark.parametrize(
    "background, vessel, expected",
    [
        ([60000, 0], [], {"se", "auc", "ap", "mcc"}),
        ([0, 0], [], {"se", "auc", "ap", "mcc", "precision", "f1", "iou"}),
        ([], [60000, 0], {"sp", "auc", "mcc"}),
        ([0, 1], [2], {"precision", "mcc"}),
        ([40000], [40000], {"mcc"}),
        ([], [], set(metrics.METRICS)),
        ([0, 60000], [0, 60000], set()),
    ],
)
def test_what_is_undefined_is_nan(background, vessel, expected):
    assert undefined(hist_from(background, vessel)) == expected


# with the edges of the fifteen bins, which fall on levels, and their neighbours
edges = st.sampled_from([0, 1, 4368, 4369, 4370, 30583, 30584, 61166, 61167, 65535])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(arrays(np.uint16, n, elements=edges), arrays(bool, n))
    )
)
def test_calibration_and_brier_agree_with_a_pixel_by_pixel_computation(case):
    v, label = case
    hist, p = hist_of(v, label), v / 65535
    assert metrics.brier(hist) == pytest.approx(np.mean((p - label) ** 2), abs=1e-12)
    bins = np.array([max(0, ceil(Fraction(int(x), 65535) * 15) - 1) for x in v])
    curve, ece = metrics.calibration(hist), 0.0
    for b in range(15):
        here = bins == b
        assert curve["n"][b] == here.sum()
        if here.any():
            assert curve["predicted"][b] == pytest.approx(p[here].mean())
            assert curve["observed"][b] == pytest.approx(label[here].mean())
            ece += here.mean() * abs(p[here].mean() - label[here].mean())
        else:
            assert np.isnan([curve["predicted"][b], curve["observed"][b]]).all()
    assert metrics.score(hist, 0.5)["ece"] == pytest.approx(ece, abs=1e-12)
    assert curve["bin_low"][1] == curve["bin_high"][0] == 1 / 15 and curve["bin_high"][-1] == 1


def test_calibration_of_many_levels_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    v = rng.integers(0, 65536, 5000).astype(np.uint16)
    label = rng.random(5000) < (v / 65535) ** 2
    hist = hist_of(v, label)
    assert metrics.brier(hist) == pytest.approx(sk.brier_score_loss(label, v / 65535), abs=1e-12)
    for bins in (15, 7):
        curve = metrics.calibration(hist, bins)
        observed, predicted = calibration_curve(label, v / 65535, n_bins=bins)
        assert curve["observed"] == pytest.approx(observed)
        assert curve["predicted"] == pytest.approx(predicted)
    both = metrics.unthresholded(np.stack([hist, hist_of(v, ~label)]))
    assert both["ece"][0] == metrics.ece_of(metrics.binned(hist)) < both["ece"][1]


def test_a_certain_and_right_map_is_calibrated():
    right = metrics.unthresholded(hist_from([0, 0, 0], [65535]))
    assert (right["ece"], right["brier"]) == (0, 0)
    wrong = metrics.unthresholded(hist_from([65535], [0, 0]))
    assert (wrong["ece"], wrong["brier"]) == (1, 1)


def test_the_mask_is_the_one_that_is_counted():
    v = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    label = np.zeros(v.shape, bool)
    for t in (0.0, 0.25, 30583 / 65535, 0.5, 1.0):
        assert (metrics.above(v, t) == (v / 65535 > t)).all()
        assert metrics.above(v, t).sum() == metrics.confusion(hist_of(v, label), t)[1]


def test_undefined_neighbours_are_zero_not_nan():
    none = metrics.score(hist_from([0, 1], [2]), 0.5)
    assert (none["f1"], none["iou"], none["se"]) == (0, 0, 0)
    empty = metrics.score(hist_from([60000, 0], []), 0.5)
    assert (empty["f1"], empty["iou"], empty["precision"]) == (0, 0, 0)
    assert np.isnan(metrics.prevalence(np.zeros(4)))
    assert metrics.prevalence(np.array([1, 5, 1, 3])) == 0.2


def test_curves_and_threshold_of_one_class():
    background, vessel, nothing = hist_from([1, 2], []), hist_from([], [1, 2]), hist_from([], [])
    assert np.isnan(metrics.best_threshold(background))
    for hist, roc, pr in [(background, 0, 0), (vessel, 0, 3), (nothing, 0, 0)]:
        assert (len(metrics.roc_curve(hist)[0]), len(metrics.pr_curve(hist)[0])) == (roc, pr)


def test_region_and_mask_counts():
    v = np.array([[0, 0, 65535, 65535, 0]], np.uint16)
    label = np.array([[True, True, True, False, False]])
    region = np.array([[True, True, True, True, False]])
    hist = metrics.histogram(v, label, region)
    assert metrics.confusion(hist, 0.5).tolist() == [1, 1, 2, 0]
    assert metrics.counts_of_mask(v > 0, label, region).tolist() == [1, 1, 2, 0]
    assert metrics.counts_of_mask(v > 0, label, ~region).tolist() == [0, 0, 0, 1]
    with pytest.raises(TypeError, match="uint16"):
        metrics.histogram(v.astype(np.uint8), label, region)
    with pytest.raises(TypeError, match="bool label"):
        metrics.histogram(v, label.astype(np.uint8), region)
