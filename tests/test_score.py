"""From probability maps on disk to score files, and how sure these numbers are."""

import csv
import io
import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.metrics as sk

from resegment import files, metrics, native, paths, stats, structure
from resegment.errors import UserError
from resegment.geometry import to_network, to_network_mask
from resegment.protocols import COMMON, Protocol, every, sensitivity
from resegment.score import SPACES, _count, score
from resegment.stats import paired
from resegment.structure import cldice

RUN = "toy-lite/unet/s0"
SAME = {"resize": None, "pad": None, "width": None}
PAD = {"resize": None, "pad": [32, 40], "width": None}
RESIZE = {"resize": [16, 20], "pad": None, "width": None}
SPLITS = {"a": "train", "b": "val", "c": "test", "d": "test", "e": "test"}
PROTOCOLS = {
    "common": COMMON,
    "paper": Protocol("frame", "network", "images", 0.5),
}


def write_native(folder, images, subject=str):
    """images: id -> (label, fov, observer2 or None), bool; subject: whose the image `id` is."""
    folder.mkdir(parents=True)
    rows = ["id,subject,height,width,image,label,fov,fov_source,observer2"]
    for name, masks in images.items():
        for kind, mask in zip(("label", "fov", "observer2"), masks, strict=True):
            if mask is not None:
                cv2.imwrite(str(folder / f"{name}_{kind}.png"), mask * np.uint8(255))
        second = "" if masks[2] is None else f"{name}_observer2.png"
        stem = f"{name},{subject(name)},{masks[0].shape[0]},{masks[0].shape[1]},{name}_image.png"
        rows.append(f"{stem},{name}_label.png,{name}_fov.png,given,{second}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def write_maps(maps, geometry, run=RUN):
    paths.predictions(run).mkdir(parents=True, exist_ok=True)
    for name, v in maps.items():
        cv2.imwrite(str(paths.predictions(run) / f"{name}.png"), to_network(v, geometry))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Five images of 24 x 30 in data/native/toy, and native-size maps to be placed as needed."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    images, maps = {}, {}
    for name in SPLITS:
        label = cv2.blur(rng.random((24, 30)), (3, 3)) > 0.6
        fov = np.hypot(*np.ogrid[-12:12, -15:15]) < 12.5
        observer2 = label ^ (rng.random(label.shape) < 0.05)
        images[name] = label, fov, observer2 if name != "a" else None
        p = np.clip(rng.normal(np.where(label, 0.6, 0.3), 0.2), 0, 1)
        maps[name] = np.rint(p * 65535).astype(np.uint16)
    write_native(paths.native("toy"), images)
    return images, maps


def read(name, run=RUN):
    path = paths.scores(run) / name
    if name.endswith(".json"):
        return json.loads(path.read_text())
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def against_sklearn(p, label, t):
    return {**counted_by_sklearn(p > t, label), **ranked_by_sklearn(p, label)}


def counted_by_sklearn(predicted, label):
    """Of the four kinds of pixel, each with its number as weight: scikit-learn sorts every list."""
    number = {"sample_weight": np.bincount(2 * label + predicted, minlength=4)}
    label, predicted = np.array([[False, False, True, True], [False, True, False, True]])
    return {
        "se": sk.recall_score(label, predicted, **number),
        "sp": sk.recall_score(~label, ~predicted, **number),
        "acc": sk.accuracy_score(label, predicted, **number),
        "precision": sk.precision_score(label, predicted, **number),
        "f1": sk.f1_score(label, predicted, **number),
        "iou": sk.jaccard_score(label, predicted, **number),
        "mcc": sk.matthews_corrcoef(label, predicted, **number),
    }


def ranked_by_sklearn(p, label):
    return {
        "auc": sk.roc_auc_score(label, p),
        "ap": sk.average_precision_score(label, p),
        "ece": expected_calibration_error(label, p),
        "brier": sk.brier_score_loss(label, p),
    }


def expected_calibration_error(label, p):
    total = 0.0
    for b in range(15):
        here = (p <= (b + 1) / 15) & (p > b / 15 if b else p >= 0)
        total += abs(p[here].sum() - label[here].sum())
    return total / len(p)


def test_score_files_agree_with_sklearn(toy):
    images, maps = toy
    write_maps(maps, RESIZE)
    score(
        RUN,
        "toy",
        RESIZE,
        {**PROTOCOLS, "small": Protocol("fov", "network", "pixels", 0.5)},
        SPLITS,
    )
    found, rows = read("metrics.json"), read("images.csv")
    small = {k: to_network(v, RESIZE) / 65535 for k, v in maps.items()}
    labels = {k: to_network_mask(v[0], RESIZE) for k, v in images.items()}
    fovs = {k: to_network_mask(v[1], RESIZE) for k, v in images.items()}

    each = [against_sklearn(small[k].ravel(), labels[k].ravel(), 0.5) for k in "cde"]
    for name in metrics.METRICS:
        assert found["paper"][name] == pytest.approx(np.mean([e[name] for e in each]), rel=1e-8)
    p = np.concatenate([small[k][fovs[k]] for k in "cde"])
    y = np.concatenate([labels[k][fovs[k]] for k in "cde"])
    assert {k: found["small"][k] for k in metrics.METRICS} == pytest.approx(
        against_sklearn(p, y, 0.5), rel=1e-8
    )
    assert found["small"]["prevalence"] == pytest.approx(y.mean(), rel=1e-8)

    restored = {k: cv2.resize(to_network(v, RESIZE), (30, 24)) / 65535 for k, v in maps.items()}
    p = np.concatenate([restored[k][images[k][1]] for k in "cde"])
    y = np.concatenate([images[k][0][images[k][1]] for k in "cde"])
    t = found["common"]["threshold"]
    assert {k: found["common"][k] for k in metrics.METRICS} == pytest.approx(
        against_sklearn(p, y, t), rel=1e-8
    )
    p, y = restored["a"][images["a"][1]], images["a"][0][images["a"][1]]
    assert sk.f1_score(y, p > t) == max(sk.f1_score(y, p > k) for k in np.unique(p))

    assert len(rows) == 15 and [r["id"] for r in rows[:5]] == list("abcde")
    assert [r["split"] for r in rows[:5]] == list(SPLITS.values())
    paper = [r for r in rows if r["protocol"] == "paper" and r["split"] == "test"]
    for row, expected in zip(paper, each, strict=True):
        assert {k: float(row[k]) for k in expected} == pytest.approx(expected, rel=1e-8)
    assert all(r[k] == "" for r in rows if r["split"] != "test" for k in metrics.STRUCTURE)
    assert found["common"]["n_images"] == 3 and found["common"]["split"] == "test"
    for name, (x, y) in {"roc.csv": ("fpr", "tpr"), "pr.csv": ("recall", "precision")}.items():
        curve = [r for r in read(name) if r["protocol"] == "small"]
        assert 100 < len(curve) <= 512 and float(curve[-1][x]) == 1 and 0 <= float(curve[9][y]) <= 1
    with np.load(paths.scores(RUN) / "histograms.npz") as stored:
        assert stored["counts"].shape == (5, 2, 2, 2, 65536) and stored["counts"].dtype == np.uint32
        assert stored["spaces"].tolist() == ["native", "network"]
        assert stored["ids"].tolist() == list("abcde") and stored["splits"][4] == "test"
        assert (stored["counts"].sum((2, 3, 4)) == [24 * 30, 16 * 20]).all()
    assert set(read("manifest.json")["files"]) == {
        "histograms.npz", "images.csv", "metrics.json", "observer2.csv", "roc.csv", "pr.csv"
    }  # fmt: skip


def test_padding_is_undone_exactly_and_counts_in_the_network_frame(toy):
    _, maps = toy
    framed = {**PROTOCOLS, "frame": Protocol("frame", "native", "pixels", 0.5)}
    framed["network"] = Protocol("frame", "network", "pixels", 0.5)
    found = {}
    for name, geometry in {"same": SAME, "pad": PAD}.items():
        run = f"toy-lite/{name}/s0"
        write_maps(maps, geometry, run)
        score(run, "toy", geometry, framed, SPLITS)
        found[name] = read("metrics.json", run)
    for name in ("common", "frame"):
        assert found["pad"][name] == found["same"][name]
    extra = 3 * (32 * 40 - 24 * 30)
    assert found["pad"]["network"]["tn"] == found["same"]["network"]["tn"] + extra
    assert found["pad"]["network"]["tp"] == found["same"]["network"]["tp"] > 0


def test_second_observer_is_scored_where_every_test_image_has_one(toy):
    images, maps = toy
    write_maps(maps, SAME)
    score(RUN, "toy", SAME, PROTOCOLS, SPLITS)
    second = read("metrics.json")["observer2"]
    inside = [(images[k][2][images[k][1]], images[k][0][images[k][1]]) for k in "cde"]
    p, y = map(np.concatenate, zip(*inside, strict=True))
    assert second["common"]["f1"] == pytest.approx(sk.f1_score(y, p), rel=1e-8)
    assert second["common"]["threshold"] is second["common"]["auc"] is None
    assert second["common"]["ece"] is second["common"]["brier"] is None
    f1 = [sk.f1_score(images[k][0].ravel(), images[k][2].ravel()) for k in "cde"]
    assert second["paper"]["f1"] == pytest.approx(np.mean(f1), rel=1e-8)
    rows = [r for r in read("observer2.csv") if r["protocol"] == "paper"]
    assert [r["id"] for r in rows] == list("cde")
    assert [float(r["f1"]) for r in rows] == pytest.approx(f1, rel=1e-8)
    for name, region in (("common", 1), ("paper", slice(0))):
        inside = [[m & images[k][1] if region == 1 else m for m in images[k]] for k in "cde"]
        mine = [cldice(o, label) for label, _, o in inside]
        assert second[name]["cldice"] == pytest.approx(np.mean(mine), rel=1e-8)
    low, high = stats.intervals(paths.scores(RUN), "common", observer=True)["f1"]
    assert low <= second["common"]["f1"] <= high and low < high
    # image a has none
    score(RUN, "toy", SAME, PROTOCOLS, {"a": "test", "b": "train"})
    assert "observer2" not in read("metrics.json")
    with pytest.raises(UserError, match="no second observer"):
        stats.intervals(paths.scores(RUN), "common", observer=True)


def test_structure_is_that_of_the_mask_that_was_counted(toy):
    """Under each protocol's own threshold, region and space, per image and averaged."""
    images, maps = toy
    write_maps(maps, RESIZE)
    pooled = {"images": Protocol("frame", "network", "pixels", 0.5)}
    score(RUN, "toy", RESIZE, PROTOCOLS | pooled, SPLITS)
    found, rows = read("metrics.json"), read("images.csv")
    for name, p in (PROTOCOLS | pooled).items():
        each, t = [], found[name]["threshold"]
        for k in "cde":
            v, (label, fov, _) = to_network(maps[k], RESIZE), images[k]
            if p.space == "native":
                v = cv2.resize(v, (30, 24))
            else:
                label, fov = (to_network_mask(m, RESIZE) for m in (label, fov))
            truth = structure.truths(label, fov, [p.region])[p.region]
            each.append(structure.measure(v / 65535 > t, truth))
            (row,) = [r for r in rows if (r["protocol"], r["id"]) == (name, k)]
            written = {m: float(row[m] or "nan") for m in metrics.STRUCTURE}
            assert written == pytest.approx(each[-1], rel=1e-8, nan_ok=True)
        for m in metrics.STRUCTURE:
            mean = np.nanmean([e[m] for e in each])
            assert found[name][m] == pytest.approx(mean, rel=1e-8), (name, m)
    # a mean over images however the protocol pools
    assert {k: found["paper"][k] for k in metrics.STRUCTURE} == {
        k: found["images"][k] for k in metrics.STRUCTURE
    }
    assert found["common"]["cldice"] != found["paper"]["cldice"]


def test_equal_inputs_give_equal_bytes(toy):
    write_maps(toy[1], SAME)
    found = []
    for _ in range(2):
        score(RUN, "toy", SAME, PROTOCOLS, SPLITS)
        found.append({p.name: files.md5(p) for p in paths.scores(RUN).iterdir()})
    assert found[0] == found[1] and len(found[0]) == 7
    with zipfile.ZipFile(paths.scores(RUN) / "histograms.npz") as z:
        assert {i.date_time for i in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    numbers = [v for r in read("images.csv") for k, v in r.items() if k in metrics.METRICS]
    assert max(len(v.split("e")[0].replace(".", "").strip("-0")) for v in numbers) <= 9
    assert [p.name for p in paths.run(RUN).iterdir() if p.name.startswith(".")] == []


def test_undefined_is_empty_in_csv_and_null_in_json(toy):
    images, maps = toy
    for name in "cde":
        maps[name][:] = 0
    write_maps(maps, SAME)
    score(RUN, "toy", SAME, PROTOCOLS, SPLITS)
    row = [r for r in read("images.csv") if r["id"] == "c"][0]
    assert (row["precision"], row["mcc"], row["se"], row["tp"]) == ("", "", "0", "0")
    assert read("metrics.json")["common"]["precision"] is None
    low, high = stats.intervals(paths.scores(RUN), "common")["precision"]
    assert np.isnan(low) and np.isnan(high)


def test_what_is_missing_or_ill_sized_is_named_with_its_remedy(toy):
    _, maps = toy
    write_maps(maps, RESIZE)
    one = paths.predictions(RUN) / "c.png"

    def fails(text, geometry=RESIZE, splits=SPLITS, protocols=PROTOCOLS, dataset="toy"):
        with pytest.raises(UserError, match=text):
            score(RUN, dataset, geometry, protocols, splits)
        assert not paths.scores(RUN).exists()

    fails("a.png is 16x20, its recipe makes 24x30: predict toy-lite/unet/s0 again", SAME)
    fails("native/other/manifest.csv is missing: run `resegment ingest other`", dataset="other")
    fails("none may be called observer2", protocols={"observer2": COMMON})
    fails("no image of the split is in train", splits={"c": "test"})
    cv2.imwrite(str(one), np.zeros((16, 20), np.uint8))
    fails("c.png is no 16-bit gray map")
    one.write_bytes(b"torn")
    fails("c.png is no 16-bit gray map: run the prediction")
    one.unlink()
    fails("c.png is no 16-bit gray map: run the prediction of toy-lite/unet/s0 again")
    write_maps(maps, RESIZE)
    cv2.imwrite(str(paths.native("toy") / "d_fov.png"), np.zeros((9, 9), np.uint8))
    fails("d_fov.png is not the 24x30 picture of its manifest: run `resegment ingest toy` again")
    (paths.native("toy") / "d_fov.png").unlink()
    fails("d_fov.png is not the 24x30 picture of its manifest")


def hists_of(seed, n=6, size=400, spread=0.2):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        label = rng.random((1, size)) < rng.uniform(0.1, 0.3)
        p = np.clip(rng.normal(np.where(label, 0.6, 0.3), rng.uniform(0.5, 1.5) * spread), 0, 1)
        v = np.rint(p * 65535).astype(np.uint16)
        out.append(metrics.histogram(v, label, np.ones_like(label)))
    return np.stack(out)


def test_resampled_metrics_equal_the_metrics_of_the_resampled_images():
    hists, draws = hists_of(0), stats.resample(range(6), 40)
    assert (draws.sum(1) == 6).all() and (draws == stats.resample(range(6), 40)).all()
    for pooling in ("pixels", "images"):
        got = stats.bootstrap(hists, 0.45, pooling, draws)
        for b, w in enumerate(draws):
            drawn = np.repeat(hists, w, axis=0)
            if pooling == "pixels":
                one = metrics.score(drawn.sum(0), 0.45)
            else:
                one = {k: v.mean() for k, v in metrics.score(drawn, 0.45).items()}
            # only the pooled AP is approximated (levels merged into bins)
            assert {k: got[k][b] for k in metrics.METRICS} == pytest.approx(
                {k: one[k] for k in metrics.METRICS}, abs=1e-5
            )
            for name in ("auc", "ece", "brier"):
                assert got[name][b] == pytest.approx(one[name], abs=1e-12)


def test_merging_levels_moves_ap_by_less_than_a_thousandth_of_its_interval():
    hists, draws = hists_of(1, 10, 60_000), stats.resample(range(10), 60)
    exact = metrics.ap(np.einsum("bi,icv->bcv", draws, hists))
    low, high = stats.percentile_interval(exact)
    assert np.abs(stats.resampled_ap(draws, hists) - exact).max() < (high - low) / 1000
    once = np.ones((1, 10), int)
    assert stats.resampled_ap(once, hists, 32) == pytest.approx(metrics.ap(hists.sum(0)), abs=1e-12)


def test_undefined_images_leave_the_resampled_mean():
    draws = np.array([[2, 0], [0, 2], [1, 1]])
    got = stats.resampled_means(draws, np.array([np.nan, 0.5]))
    np.testing.assert_array_equal(got, [np.nan, 0.5, 0.5])


def test_interval_of_equal_images_is_a_point_and_of_undefined_ones_undefined():
    hists = np.repeat(hists_of(2, 1), 5, axis=0)
    for pooling in ("pixels", "images"):
        samples = stats.bootstrap(hists, 0.5, pooling, stats.resample(range(5)))
        for name, value in metrics.score(hists[0], 0.5).items():
            if name in metrics.METRICS:
                got = stats.percentile_interval(samples[name])
                assert got == pytest.approx((value, value), abs=1e-12)
    hists[:, 1] = 0
    samples = stats.bootstrap(hists, 0.5, "pixels", stats.resample(range(5)))
    assert all(np.isnan(samples[k]).all() for k in ("se", "auc", "ap", "mcc"))
    assert np.isnan(stats.percentile_interval(samples["auc"])).all()
    assert not np.isnan(samples["sp"]).any()


def test_interval_covers_a_known_mean_about_as_often_as_it_says():
    rng, draws = np.random.default_rng(4), stats.resample(range(40))
    bounds = np.array(
        [
            stats.percentile_interval(stats.resampled_means(draws, rng.normal(0.8, 0.02, 40)))
            for _ in range(400)
        ]
    )
    covered = ((bounds[:, 0] < 0.8) & (0.8 < bounds[:, 1])).mean()
    assert 0.91 < covered < 0.97  # 0.95 less what 40 images cost; sd of this estimate is 0.011
    width = (bounds[:, 1] - bounds[:, 0]).mean()
    assert width == pytest.approx(2 * 1.96 * 0.02 / 40**0.5, rel=0.05)


def test_intervals_of_a_scores_folder(toy):
    write_maps(toy[1], SAME)
    score(RUN, "toy", SAME, PROTOCOLS, SPLITS)
    for name in PROTOCOLS:
        found, value = stats.intervals(paths.scores(RUN), name), read("metrics.json")[name]
        assert set(found) == {*metrics.METRICS, *metrics.STRUCTURE}
        assert all(low <= value[k] <= high and low < high for k, (low, high) in found.items())
        human = stats.intervals(paths.scores(RUN), name, observer=True)
        value = read("metrics.json")["observer2"][name]
        assert set(human) == set(found)
        assert {k for k, v in human.items() if np.isnan(v).all()} == {"auc", "ap", "ece", "brier"}
        assert all(low <= value[k] <= high for k, (low, high) in human.items() if value[k])
    with pytest.raises(UserError, match="has no protocol typo: score the run again"):
        stats.intervals(paths.scores(RUN), "typo")
    score(RUN, "toy", SAME, PROTOCOLS, {"a": "train", "c": "test"})
    assert np.isnan(list(stats.intervals(paths.scores(RUN), "common").values())).all()


def test_seed_interval_is_students():
    low, high = stats.seed_interval([0.80, 0.82, 0.84])
    assert (low + high) / 2 == pytest.approx(0.82)
    # the tables' two-sided 95 % quantile for two degrees of freedom
    assert (high - low) / 2 == pytest.approx(4.303 * 0.02 / 3**0.5, rel=1e-4)
    assert stats.seed_interval([0.8]) is None


@pytest.fixture
def seeds(toy):
    """Scores folders of two experiments on eight images: three seeds, and two of a worse one."""
    rng, folders = np.random.default_rng(3), {"a": [], "b": []}
    images = {f"{k}": toy[0]["abcde"[k % 5]] for k in range(8)}
    write_native(paths.native("eight"), {k: (*m[:2], None) for k, m in images.items()})
    splits = dict.fromkeys(images, "test") | {"0": "train"}
    for name, n, noise in (("a", 3, 0.2), ("b", 2, 0.35)):
        for seed in range(n):
            p = {k: rng.normal(np.where(m[0], 0.6, 0.3), noise) for k, m in images.items()}
            run = f"toy-lite/{name}/s{seed}"
            write_maps({k: np.uint16(np.clip(v, 0, 1) * 65535) for k, v in p.items()}, SAME, run)
            score(run, "eight", SAME, PROTOCOLS, splits)
            folders[name].append(paths.scores(run))
    return folders["a"], folders["b"]


def per_image(folder, protocol, metric):
    with open(folder / "images.csv", newline="") as f:
        rows = [r for r in csv.DictReader(f) if r["protocol"] == protocol and r["split"] == "test"]
    return np.array([float(r[metric] or "nan") for r in rows])


@pytest.mark.parametrize("metric", ["f1", "auc", "ap", "ece", "brier", "cldice", "betti0_error"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_paired_is_the_difference_of_the_seed_means(seeds, protocol, metric):
    found = paired(*seeds, protocol, metric)
    summary = [[files.read_json(f / "metrics.json")[protocol][metric] for f in g] for g in seeds]
    assert found["difference"] == pytest.approx(np.mean(summary[0]) - np.mean(summary[1]), abs=1e-7)
    assert found["low"] < found["difference"] < found["high"]
    a, b = (np.mean([per_image(f, protocol, metric) for f in g], axis=0) for g in seeds)
    assert found["p"] == stats.wilcoxon_p(a - b) < 0.1
    assert (found["n_images"], found["n_seeds"]) == (7, 2)
    back = paired(*seeds[::-1], protocol, metric)
    assert [back[k] for k in ("difference", "low", "high")] == pytest.approx(
        [-found[k] for k in ("difference", "high", "low")], abs=1e-12
    )
    same = paired(seeds[0], seeds[0], protocol, metric)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("metric", ["f1", "auc", "brier", "cldice"])
def test_the_paired_interval_is_that_of_images_drawn_for_both(seeds, metric):
    """Pooling drawn images by hand; and pairing is what makes the interval narrow."""
    samples = []
    stored = [[np.load(f / "histograms.npz")["counts"][1:, 0, 0] for f in g] for g in seeds]
    t = [[files.read_json(f / "metrics.json")["common"]["threshold"] for f in g] for g in seeds]
    for draw in stats.resample(range(7))[:200]:
        means = []
        for group, cuts, folders in zip(stored, t, seeds, strict=True):
            values = []
            for hists, cut, folder in zip(group, cuts, folders, strict=True):
                if metric == "cldice":
                    values.append(np.repeat(per_image(folder, "common", metric), draw).mean())
                else:
                    drawn = np.tensordot(draw, hists, 1)
                    ways = {
                        "auc": metrics.auc,
                        "brier": metrics.brier,
                        "f1": lambda h, cut=cut: metrics.thresholded(h, cut)["f1"],
                    }
                    values.append(ways[metric](drawn))
            means.append(np.mean(values))
        samples.append(means[0] - means[1])
    found = paired(*seeds, "common", metric)
    low, high = stats.percentile_interval(np.array(samples))
    width = high - low
    assert found["low"] == pytest.approx(low, abs=0.15 * width)
    assert found["high"] == pytest.approx(high, abs=0.15 * width)


@pytest.mark.parametrize("metric", ["f1", "auc", "cldice"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_equal_images_of_a_subject_say_no_more_than_one(seeds, toy, protocol, metric):
    """Intervals and p of eight images, two alike of each of four, are those of the four."""
    found = []
    for name, ids in (
        ("one", [*"1234"]),
        ("both", ["1L", "1R", "2L", "2R", "3L", "3R", "4L", "4R"]),
    ):
        ids = ["0", *ids]
        write_native(
            paths.native(name), {i: toy[0]["abcde"[int(i[0])]] for i in ids}, lambda i: i[0]
        )
        folders = []
        for side in "ab":
            run, maps = f"{name}-lite/{side}/s0", paths.predictions(f"toy-lite/{side}/s0")
            paths.predictions(run).mkdir(parents=True)
            for i in ids:
                (paths.predictions(run) / f"{i}.png").write_bytes(
                    (maps / f"{i[0]}.png").read_bytes()
                )
            score(run, name, SAME, PROTOCOLS, dict.fromkeys(ids, "test") | {"0": "train"})
            folders.append(paths.scores(run))
        spans = [stats.intervals(f, protocol, second)[metric]
                 for f in folders for second in (False, True)]  # fmt: skip
        found.append((paired(folders[:1], folders[1:], protocol, metric), spans))
    (one, spans), (both, spans_of_both) = found
    assert (one.pop("n_images"), both.pop("n_images")) == (4, 8)
    assert one == pytest.approx(both, abs=1e-5) and one["n_subjects"] == 4  # AP's levels are merged
    assert np.allclose(spans, spans_of_both, atol=1e-5, equal_nan=True)
    draws = stats.resample(["x", "y", "x", "z"], 50)
    assert (draws[:, 0] == draws[:, 2]).all() and (draws[:, [0, 1, 3]].sum(1) == 3).all()


def test_paired_leaves_out_images_that_are_undefined_and_needs_two(seeds):
    for folder in seeds[1]:
        path = folder / "images.csv"
        lines = path.read_text().splitlines()
        at = lines[0].split(",").index("cldice")
        cells = lines[2].split(",")
        lines[2] = ",".join([*cells[:at], "", *cells[at + 1 :]])
        path.write_text("\n".join(lines) + "\n")
    found = paired(*seeds, "common", "cldice")
    a, b = (np.mean([per_image(f, "common", "cldice") for f in g], axis=0) for g in seeds)
    assert found["n_images"] == 6 and np.isnan(b[0])
    assert found["difference"] == pytest.approx((a - b)[1:].mean())
    for k in range(2):
        splits = dict.fromkeys("01", "test") | {"0": "train"}
        score(f"toy-lite/{'ab'[k]}/s0", "eight", SAME, PROTOCOLS, splits)
    found = paired(seeds[0][:1], seeds[1][:1], "common", "f1")
    assert found["n_images"] == 1 and np.isnan(found["low"]) and found["difference"] > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_experiment_is_paired_with_the_second_observer(toy, protocol):
    write_maps(toy[1], SAME)
    score(RUN, "toy", SAME, PROTOCOLS, dict.fromkeys("bcde", "test") | {"a": "train"})
    folder = paths.scores(RUN)
    known = files.read_json(folder / "metrics.json")
    found = paired([folder, folder], None, protocol, "f1")
    values = known[protocol]["f1"], known["observer2"][protocol]["f1"]
    assert found["difference"] == pytest.approx(values[0] - values[1], abs=1e-7)
    assert found["low"] < found["difference"] < found["high"]
    assert (found["n_images"], found["n_seeds"]) == (4, 2)


def test_paired_refuses_what_cannot_be_paired(seeds):
    a, b = seeds
    with pytest.raises(UserError, match="needs a scored run on either side"):
        paired(a, [], "common", "f1")
    with pytest.raises(UserError, match="has no protocol typo|do not hold the same test images"):
        paired(a, b, "typo", "f1")
    for folder in b:
        text = (folder / "images.csv").read_text()
        (folder / "images.csv").write_text(text.replace("cldice", "older"))
    with pytest.raises(UserError, match="b/s0/scores has no cldice: score the run again"):
        paired(a, b, "common", "cldice")
    other = PROTOCOLS | {"common": Protocol("frame", "native", "pixels", 0.5)}
    splits = dict.fromkeys("01234567", "test") | {"0": "train"}
    score("toy-lite/b/s1", "eight", SAME, other, splits)
    with pytest.raises(UserError, match="do not mean the same by the protocol common"):
        paired(a, b, "common", "f1")
    score("toy-lite/b/s1", "eight", SAME, PROTOCOLS, splits | {"7": "val"})
    with pytest.raises(UserError, match="do not hold the same test images"):
        paired(a, b, "common", "f1")


def test_seeds_and_paired_tests(toy):
    assert stats.over_seeds([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, (7 / 3) ** 0.5))
    assert stats.over_seeds([0.8])[0] == 0.8 and np.isnan(stats.over_seeds([0.8])[1])
    # six differences of one sign: 2 of 2^6 sign patterns are as extreme
    a = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert stats.wilcoxon_p(a) == pytest.approx(2 / 64)
    assert stats.wilcoxon_p([*a, np.nan]) == pytest.approx(2 / 64)
    assert stats.wilcoxon_p(a - a) == 1.0 and np.isnan(stats.wilcoxon_p([np.nan]))
    # Holm by hand: sorted .005 .01 .03 .04 times 4 3 2 1, then never falling
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.5]).tolist() == [1.0, 1.0] and len(stats.holm([])) == 0

    _, maps = toy
    other = "toy-lite/unet/s1"
    for run, shift in ((RUN, 0), (other, 1500)):
        write_maps({k: v // 2 + np.uint16(shift) for k, v in maps.items()}, SAME, run)
        score(run, "toy", SAME, PROTOCOLS, SPLITS)
    folders = paths.scores(RUN), paths.scores(other)
    assert paired([folders[0]], [folders[1]], "common", "auc")["p"] == 1.0  # the ranks are the same
    assert paired([folders[0]], [folders[1]], "paper", "se")["p"] == pytest.approx(0.25)  # 2 of 2^3


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """The 20 test images of DRIVE in data/native/drive; maps made of the second observer."""
    root = os.environ.get("RESEGMENT_REAL_DATA")
    if not root:
        pytest.skip("RESEGMENT_REAL_DATA is not set: no real DRIVE")
    imageio = pytest.importorskip("imageio.v3")
    monkeypatch.chdir(tmp_path)
    images, maps, rng = {}, {}, np.random.default_rng(0)
    with zipfile.ZipFile(Path(root) / "DRIVE" / "test.zip") as z:
        for i in range(1, 21):
            names = (
                f"1st_manual/{i:02}_manual1.gif",
                f"mask/{i:02}_test_mask.gif",
                f"2nd_manual/{i:02}_manual2.gif",
            )
            read_ = [np.squeeze(imageio.imread(io.BytesIO(z.read(f"test/{n}")))) for n in names]
            masks = tuple((m if m.ndim == 2 else m[..., 0]) > 127 for m in read_)
            images[f"{i:02}"] = masks
            p = cv2.GaussianBlur(masks[2].astype(np.float32), (0, 0), 1.5)
            p = np.clip(p + rng.normal(0, 0.05, p.shape), 0, 1)
            maps[f"{i:02}"] = np.rint(p * 65535).astype(np.uint16)
    write_native(paths.native("drive"), images)
    write_maps(maps, SAME)
    protocols = {
        "fov": Protocol("fov", "native", "pixels", 0.4),
        "frame": Protocol("frame", "native", "pixels", 0.4),
    }
    score(RUN, "drive", SAME, protocols, dict.fromkeys(images, "test"))
    return images, maps


def test_real_drive_agrees_with_sklearn_and_convinces_a_referee(drive):
    images, maps = drive
    p = np.concatenate([maps[k][images[k][1]] / 65535 for k in images])
    y = np.concatenate([images[k][0][images[k][1]] for k in images])
    found = read("metrics.json")["fov"]
    assert {k: found[k] for k in metrics.METRICS} == pytest.approx(
        against_sklearn(p, y, 0.4), abs=1e-6
    )
    # the pixels inside the FOV that mlscorecheck's authors counted
    assert (found["tp"] + found["fn"], found["tn"] + found["fp"]) == (577_649, 3_960_494)
    second = read("metrics.json")["observer2"]["fov"]
    assert second["f1"] == pytest.approx(0.788, abs=0.005)
    for name, (low, high) in stats.intervals(paths.scores(RUN), "fov").items():
        assert low < found[name] < high
        assert high - low < 0.05 or name in metrics.STRUCTURE

    from mlscorecheck.check.bundles.retina import check_drive_vessel_aggregated_som_assumption

    def refuses(protocol, assumption):
        values = read("metrics.json")[protocol]
        scores = {"acc": values["acc"], "sens": values["se"], "spec": values["sp"]}
        return check_drive_vessel_aggregated_som_assumption(
            imageset="test",
            annotator=1,
            assumption=assumption,
            scores={k: round(v, 4) for k, v in scores.items()},
            eps=1e-4,
        )["inconsistency"]

    assert not refuses("fov", "fov") and not refuses("frame", "all")
    assert refuses("fov", "all") and refuses("frame", "fov")


EVERY = {"-".join(map(str, vars(p).values())): p for p in every()}
SQUARE = {"resize": [512, 512], "pad": None, "width": None}


@pytest.fixture
def filtered(tmp_path, monkeypatch, real_data):
    """All 40 images of DRIVE; as maps what a filter for dark lines answers, at 512 x 512."""
    imageio = pytest.importorskip("imageio.v3")
    monkeypatch.chdir(tmp_path)
    images, maps, splits = {}, {}, {}
    for part, numbers in (("test", range(1, 21)), ("training", range(21, 41))):
        with zipfile.ZipFile(real_data / "DRIVE" / f"{part}.zip") as z:
            for i in numbers:
                names = (f"1st_manual/{i:02}_manual1.gif", f"mask/{i:02}_{part}_mask.gif")
                gifs = [
                    np.squeeze(imageio.imread(io.BytesIO(z.read(f"{part}/{n}")))) for n in names
                ]
                label, fov = ((m if m.ndim == 2 else m[..., 0]) > 127 for m in gifs)
                coded = np.frombuffer(z.read(f"{part}/images/{i:02}_{part}.tif"), np.uint8)
                green = cv2.GaussianBlur(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., 1], (0, 0), 1)
                answer = np.zeros(green.shape, np.float32)
                for size in (7, 11, 15):
                    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
                    answer += cv2.morphologyEx(green, cv2.MORPH_BLACKHAT, disc)
                answer = np.clip(answer / np.quantile(answer[fov], 0.99), 0, 1)
                images[f"{i:02}"] = label, fov, None
                maps[f"{i:02}"] = np.rint(answer * 65535).astype(np.uint16)
                splits[f"{i:02}"] = "train" if part == "training" else "test"
    write_native(paths.native("drive"), images)
    write_maps(maps, SQUARE)
    return images, splits


def seen(images, ids, protocol):
    """What a protocol scores of each image, made here anew: probabilities and labels."""
    for k in ids:
        p, (label, fov, _) = cv2.imread(str(paths.predictions(RUN) / f"{k}.png"), -1), images[k]
        if protocol.space == "native":
            p = cv2.resize(p, label.shape[::-1])
        else:
            label, fov = (
                cv2.resize(m.astype(np.uint8) * 255, (512, 512)) > 127 for m in (label, fov)
            )
        keep = fov if protocol.region == "fov" else np.ones_like(fov)
        yield p[keep] / 65535, label[keep]


@pytest.mark.slow
def test_all_sixteen_protocols_on_real_drive_agree_with_sklearn_and_a_referee(filtered):
    from mlscorecheck.check.binary import check_1_testset_no_kfold
    from mlscorecheck.check.bundles import retina

    images, splits = filtered
    score(RUN, "drive", SQUARE, EVERY, splits)
    found, test = read("metrics.json"), [k for k, part in splits.items() if part == "test"]
    for name, protocol in EVERY.items():
        where = (protocol.region, protocol.space)
        if (protocol.pooling, protocol.threshold) == ("pixels", 0.5):  # the first of its place
            each = list(seen(images, test, protocol))
            pooled = [tuple(map(np.concatenate, zip(*each, strict=True)))]
            groups = {"images": each, "pixels": pooled}
            ranked = {k: [ranked_by_sklearn(*g) for g in v] for k, v in groups.items()}
            p, y = map(
                np.concatenate,
                zip(*seen(images, splits.keys() - test, protocol), strict=True),
            )
            # no cut gives a better F1: swept by scikit-learn's curve, which counts p >= cut
            precision, recall, _ = sk.precision_recall_curve(y, p)
            best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
            t = found["-".join((*where, "pixels-train"))]["threshold"]
            assert sk.f1_score(y, p > t) == pytest.approx(best, abs=1e-12)
        values, (_, y) = found[name], pooled[0]
        t = values["threshold"]
        twin = found["-".join((*where, "pixels-train"))]["threshold"]
        assert t == (twin if protocol.threshold == "train" else 0.5)
        parts = groups[protocol.pooling]
        counted = [counted_by_sklearn(p > t, label) for p, label in parts]
        rows = [a | b for a, b in zip(counted, ranked[protocol.pooling], strict=True)]
        expected = {k: np.mean([row[k] for row in rows]) for k in metrics.METRICS}
        assert {k: values[k] for k in expected} == pytest.approx(expected, abs=1e-6), name
        assert 0.4 < values["f1"] < 0.8 and values["auc"] > 0.85, name

        scores = {"acc": values["acc"], "sens": values["se"], "spec": values["sp"]}
        scores = {k: round(v, 4) for k, v in scores.items()}
        if protocol.space == "native":
            rule = {"pixels": "som", "images": "mos"}[protocol.pooling]
            check = getattr(retina, f"check_drive_vessel_aggregated_{rule}_assumption")
            region = {"fov": "fov", "frame": "all"}[protocol.region]
            verdict = check(
                imageset="test", annotator=1, assumption=region, scores=scores, eps=1e-4
            )
            assert not verdict["inconsistency"], name
        elif protocol.pooling == "pixels":
            size = {"p": int(y.sum()), "n": int((~y).sum())}
            scores["f1"] = round(values["f1"], 4)
            verdict = check_1_testset_no_kfold(testset=size, scores=scores, eps=1e-4)
            assert not verdict["inconsistency"], name
            scores["f1"] += 0.01
            assert check_1_testset_no_kfold(testset=size, scores=scores, eps=1e-4)["inconsistency"]


def test_sixteen_protocols_of_twenty_real_images_agree_with_the_score(filtered):
    images, splits = filtered
    score(RUN, "drive", SQUARE, {"common": COMMON}, splits)
    with np.load(paths.scores(RUN) / "histograms.npz") as stored:
        training = stored["counts"][stored["splits"] == "train"]
    rows = [r for i, r in native.manifest("drive").items() if splits[i] == "test"]
    counts = np.stack([_count(RUN, "drive", SQUARE, row)[0] for row in rows])
    parts = ["test"] * 20 + ["train"] * 20
    table = sensitivity(np.concatenate([counts, training]), parts, SPACES)
    assert len(table) == 16 * len(metrics.METRICS)
    common = {r["metric"]: r["value"] for r in table if Protocol(*list(r.values())[:4]) == COMMON}
    written = read("metrics.json")["common"]
    assert common == pytest.approx({k: written[k] for k in metrics.METRICS}, rel=1e-8)
