"""Figures of a small made-up campaign: colours, choice of images, bytes, and what users see."""

import itertools
import json
import shutil
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from resegment import figures, metrics, paths, schema
from resegment.errors import UserError
from resegment.figures import campaign as read
from resegment.figures import curves, papers, sheets, tradeoffs

SETS = Path(__file__).parents[1] / "data/registry/datasets.yaml"
H, W = 72, 60  # native; the network sees 48 x 40
TESTS = ["01_test", "02_test", "03_test", "04_test"]
SPLITS = {"21_training": "train", "22_training": "train", **dict.fromkeys(TESTS, "test")}
TYPICAL = {"se": 0.8, "sp": 0.975, "acc": 0.955, "precision": 0.83, "f1": 0.815, "iou": 0.69}
TESTED = {"dataset": "drive", "n_images": 20}
TYPICAL |= {"mcc": 0.79, "auc": 0.97, "ap": 0.89}

COMMON = {"region": "fov", "space": "native", "pooling": "pixels", "threshold": "train"}


def fake_campaign(
    names=("net-a", "net-b"), budget="smoke", dataset="sample", published=False, crossed=False
):
    """Write a whole campaign under the current directory; return (campaign, runs)."""
    cv2.setNumThreads(1)
    campaign = f"small-{budget}"
    _native(dataset)
    runs, scores, lines, history, spread, bins = [], [], [], [], [], []
    for k, name in enumerate(names):
        for seed in (0, 1):
            run = {
                "run": f"{campaign}/{name}/s{seed}",
                "experiment": name,
                "budget": budget,
                "dataset": dataset,
                "seed": seed,
                "protocol": "frame-network",
                "geometry": {"resize": [48, 40], "pad": None, "width": None},
                "splits": SPLITS,
            }
            runs.append(run)
            scores += _score(run, campaign, shift=2 * k + seed)
            lines += _lines(name, seed, k)
            spread += _protocols(run, k)
            bins += _bins(name, seed, k)
            history += _epochs(name, seed, validated=k == 0)
            _manifest(run, campaign)
    folder = paths.reports(campaign)
    folder.mkdir(parents=True)
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    there = [{**r, "scored_on": "stare", "value": r["value"] - 0.1} for r in scores]
    there = [r for r in there if r["seed"] != "observer2"]
    pd.DataFrame(there).iloc[: None if crossed else 0].to_csv(folder / "cross.csv", index=False)
    pd.DataFrame(lines).to_csv(folder / "curves.csv", index=False)
    pd.DataFrame(spread).to_csv(folder / "sensitivity.csv", index=False)
    pd.DataFrame(bins).to_csv(folder / "calibration.csv", index=False)
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    _published(folder, campaign, names, published)
    return campaign, runs


def _native(dataset):
    folder = paths.native(dataset)
    folder.mkdir(parents=True)
    rows = []
    for i, name in enumerate(SPLITS):
        label = np.zeros((H, W), np.uint8)
        cv2.line(label, (10 + 3 * i, 5), (30, H - 8), 255, 2)
        cv2.line(label, (30, 20), (50, 30 + 4 * i), 255, 1)
        fov = cv2.circle(np.zeros((H, W), np.uint8), (W // 2, H // 2), 28, 255, -1)
        image = np.full((H, W, 3), (40, 90, 190), np.uint8)
        image[label > 0] = (30, 40, 140)
        image[fov == 0] = 0
        parts = {"image": image, "label": label, "fov": fov}
        second = name in TESTS
        if second:
            parts["observer2"] = np.roll(label, 1, axis=1)
        for part, array in parts.items():
            cv2.imwrite(str(folder / f"{name}_{part}.png"), array)
        files = {f"{p}": f"{name}_{p}.png" for p in ("image", "label", "fov")}
        rows.append(
            {
                "id": name,
                "subject": name,
                "height": H,
                "width": W,
                **files,
                "fov_source": "given",
                "observer2": f"{name}_observer2.png" if second else "",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)


def _score(run, campaign, shift):
    """Predictions, images.csv and the run's rows of scores.csv."""
    out, rows, counts = paths.predictions(run["run"]), [], []
    out.mkdir(parents=True)
    paths.scores(run["run"]).mkdir()
    for i, name in enumerate(SPLITS):
        label = cv2.imread(str(paths.native(run["dataset"]) / f"{name}_label.png"), 0)
        map_ = cv2.GaussianBlur(np.roll(label, shift, axis=1), (0, 0), 1.2).astype(np.uint16) * 257
        cv2.imwrite(str(out / f"{name}.png"), cv2.resize(map_, (40, 48)))
        fov = cv2.imread(str(paths.native(run["dataset"]) / f"{name}_fov.png"), 0) > 0
        counts.append([[metrics.histogram(map_, label > 0, part) for part in (fov, ~fov)]])
        values = {m: v - 0.01 * shift - 0.02 * (i * 7 % 5) for m, v in TYPICAL.items()}
        for protocol in ("common", "frame-network"):
            rows.append({"protocol": protocol, "split": SPLITS[name], "id": name})
            rows[-1].update(threshold=0.3, tp=1, fp=1, fn=1, tn=1, **values)
    folder = paths.scores(run["run"])
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    known = {"ids": list(SPLITS), "splits": list(SPLITS.values()), "spaces": ["native"]}
    np.savez_compressed(folder / "histograms.npz", counts=np.array(counts), **known)
    (folder / "manifest.json").write_text(json.dumps({"protocols": {"common": COMMON}}))
    base = {"campaign": campaign.split("-")[0], "n_images": len(TESTS)}
    base |= {k: run[k] for k in ("experiment", "budget", "dataset", "run")}
    table = []
    for protocol, extra in (("common", 0), ("frame-network", 0.005)):
        for metric, typical in TYPICAL.items():
            value = typical - 0.004 * shift + extra
            row = {"protocol": protocol, "metric": metric, "value": value, **base}
            ci = {"ci_low": value - 0.021, "ci_high": value + 0.017}
            table.append({**row, **ci, "seed": run["seed"], "threshold": 0.3 + 40 * extra})
            if metric not in ("auc", "ap"):
                second = {"value": typical - 0.015, "seed": "observer2", "threshold": None}
                table.append({**row, **ci, **second})
    return table


def _protocols(run, k):
    """Rows of sensitivity.csv: the frame adds 0.014 to Acc and 0.01 to Sp, else little."""
    choices = (("fov", "frame"), ("native", "network"), ("pixels", "images"), ("0.5", "train"))
    rows = []
    for region, space, pooling, threshold in itertools.product(*choices):
        for metric, typical in TYPICAL.items():
            more = {"acc": 0.014, "sp": 0.01}.get(metric, 0) if region == "frame" else 0
            more += 0.001 * ((space == "network") - (pooling == "images"))
            more += {"se": 0.05, "sp": -0.01}.get(metric, 0) if threshold == "0.5" else 0
            row = {k: run[k] for k in ("experiment", "dataset", "seed")}
            row |= {"region": region, "space": space, "pooling": pooling, "threshold": threshold}
            rows.append({**row, "metric": metric, "value": typical - 0.01 * k + more})
    return rows


def _bins(name, seed, k):
    """Rows of calibration.csv; the last bin is empty."""
    edges = np.linspace(0, 1, 11)
    rows = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        row = {"experiment": name, "seed": seed, "bin_low": low, "bin_high": high}
        row |= {"predicted": low + 0.05, "observed": (low + 0.05) ** (1 + 0.3 * k)}
        rows.append({**row, "n": 10 ** (6 - i // 2)})
    return [*rows[:-1], {**rows[-1], "n": 0, "predicted": None, "observed": None}]


def _lines(name, seed, k):
    x = np.linspace(0, 1, 60) ** 2
    rows = []
    for curve, y in (
        ("roc", x ** (0.06 + 0.01 * k + 0.003 * seed)),
        ("pr", 1 - x ** (5 / (1 + k)) / 2),
    ):
        rows += [
            {"experiment": name, "seed": seed, "protocol": protocol, "curve": curve, "x": a, "y": b}
            for protocol in ("common", "frame-network")
            for a, b in zip(x, y, strict=True)
        ]
    return rows


def _epochs(name, seed, validated):
    rows = []
    for epoch in range(1, 31):
        loss = 0.15 + np.exp(-epoch / (6 + seed))
        row = {"experiment": name, "seed": seed, "epoch": epoch, "train_loss": loss}
        row.update(lr=0.001 if epoch < 20 else 0.0001, val_loss=None, val_f1=None, val_auc=None)
        if validated:
            row.update(val_loss=loss * 1.1 + 0.02, val_f1=1 - loss / 1.3, val_auc=0.97)
        rows.append({**row, "seconds": 1.5})
    return rows


def _manifest(run, campaign):
    manifest = {
        **{k: run[k] for k in ("run", "experiment", "seed", "budget", "dataset")},
        "campaign": campaign,
        "parameters": {
            "model": {"name": "unet", "options": {}},
            "train": schema.Train(epochs=30, batch_size=4, loss={"bce": 1}).model_dump(mode="json"),
            "geometry": {"resize": None, "pad": None, "width": None},
        },
        "fingerprints": {"parameters": "a" * 64, "data": "b" * 64, "code": "c" * 64},
        "weights_md5": "d" * 32,
        "epochs_run": 30,
        "best_epoch": 28,
        "weights_of": "last",
        "model": {"name": "unet", "trainable": 38903, "total": 39639},
        "versions": {"python": "3.11", "torch": "2.13.0", "numpy": "2.4", "opencv": "5.0"},
        "device": {"type": "cpu", "name": "two cores", "threads": 1, "determinism": "full"},
        "cost": {"wall_seconds": 75.4, "cpu_seconds": 74.0, "images": 600},
        "origin": {"git_commit": "0123456789abcdef", "git_dirty": False},
        "started": "2026-01-02T03:04:05Z",
        "resumed_after_epoch": None,
    }
    (paths.run(run["run"]) / "manifest.json").write_text(json.dumps(manifest))


def _published(folder, campaign, names, filled):
    columns = "paper,table,row,method,dataset,metric,published,experiment,budget,protocol,n_seeds,"
    columns += "mean,sd,image_ci_low,image_ci_high,difference,verdict,reason,deviations,runs"
    runs = " ".join(f"{campaign}/{names[0]}/s{s}" for s in (0, 1))
    rows = [
        f"rga,2,rga-2-08,RGA-Net,{d},{m},{p},{names[0]},paper,frame-network,2,{v},0.0012,0.80,"
        f"0.84,{v - p:.4f},{verdict},{why},rga-01-filters all-01-resize{more},{runs}"
        for d, m, p, v, verdict, why, more in (
            ("drive", "f1", 0.8166, 0.8171, "reproduced", "inside the interval", ""),
            ("drive", "se", 0.8237, 0.8021, "not reproduced", "below the interval", ""),
            ("chase_db1", "f1", 0.84, 0.79, "not comparable", "contradicts itself", " rga-02-x"),
        )
    ]
    rows.append("rga,3,rga-3-11,RGA-Net,stare,f1,0.840,,,,,,,,,,not run,STARE is not here,,")
    rows.append(
        f"mininet,2,mininet-2-01,Mini-Net,drive,params_m,0.037685,{names[0]},paper,,2,0.039639,0,"
        f",,0.001954,not reproduced,,all-01-resize,{runs}"
    )
    path = folder / "ledger.csv"
    path.write_text("\n".join([columns, *(rows if filled else [])]) + "\n")
    paths.PUBLISHED.mkdir(parents=True)
    (paths.PUBLISHED / "deviations.csv").write_text(
        "id,paper,paper_says,done,why,where\n"
        'rga-01-filters,rga,"40 K parameters, text gives 22 K",reading R2,'
        "only R2 obeys text and count,src/resegment/models/rga_net.py\n"
        "rga-02-x,rga,nothing,something,usual,src/resegment/ingest.py\n"
        "all-01-resize,all,interpolation not given,bilinear,usual,src/resegment/geometry.py\n"
        "bcdu-01-depth,bcdu,not said,D3,usual,src/resegment/models/bcdu.py\n"
    )
    paths.REGISTRY.mkdir(parents=True)
    shutil.copy(SETS, paths.REGISTRY)


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fake_campaign()


def test_the_analytic_mask_has_the_papers_colours():
    prediction = np.array([[1, 0, 1, 0, 1, 1]], bool)
    label = np.array([[1, 1, 0, 0, 1, 0]], bool)
    fov = np.array([[1, 1, 1, 1, 0, 0]], bool)
    green, red, blue, black = (0, 255, 0), (255, 0, 0), (0, 0, 255), (0, 0, 0)
    mask = sheets.analytic_mask(prediction, label, fov)
    assert [tuple(p) for p in mask[0]] == [green, red, blue, black, black, black]


def test_the_grid_shows_the_mask_it_scored(campaign, tmp_path):
    """The pixels of each colour on the page are those counted from prediction and label."""
    _, runs = campaign
    sheets.grid(runs[0], tmp_path)
    page = cv2.imread(str(tmp_path / "net-a.png"))[..., ::-1]
    times = 300 // W
    want = dict.fromkeys((sheets.TP, sheets.FN, sheets.FP), 0)
    for example in sheets.examples(runs[0]):
        native = paths.native("sample")
        label = cv2.imread(str(native / f"{example['id']}_label.png"), 0) > 0
        fov = cv2.imread(str(native / f"{example['id']}_fov.png"), 0) > 0
        stored = cv2.imread(
            str(paths.predictions(runs[0]["run"]) / f"{example['id']}.png"), cv2.IMREAD_UNCHANGED
        )
        found = cv2.resize(stored, (W, H), interpolation=cv2.INTER_LINEAR) / 65535 > 0.3
        want[sheets.TP] += (found & label & fov).sum() * times**2
        want[sheets.FN] += (~found & label & fov).sum() * times**2
        want[sheets.FP] += (found & ~label & fov).sum() * times**2
    assert min(want.values()) > 0
    below = page[: int(page.shape[0] * 0.965)]  # without the legend's three boxes
    for colour, n in want.items():
        assert (below == colour).all(axis=-1).sum() == n


def test_best_median_and_worst_are_by_f1_of_test_images_only(campaign):
    found = [(e["rank"], e["id"]) for e in sheets.examples(campaign[1][0])]
    # i * 7 % 5 of the images 2..5: 4, 1, 3, 0
    assert found == [("best", "04_test"), ("median", "03_test"), ("worst", "01_test")]


def test_a_single_test_image_is_shown_once(campaign):
    path = paths.scores(campaign[1][0]["run"]) / "images.csv"
    rows = pd.read_csv(path)
    rows[rows.id != "02_test"].query("split == 'train' or id == '03_test'").to_csv(path)
    assert [e["id"] for e in sheets.examples(campaign[1][0])] == ["03_test"]


def test_every_figure_is_there_and_the_same_bytes_twice(campaign):
    name, runs = campaign
    folder = paths.reports(name)

    def contents():
        figures.build(name, runs)
        files = [p for sub in ("figures", "pictures") for p in (folder / sub).iterdir()]
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}

    first = contents()
    assert set(first) == {
        "figures/roc.svg",
        "figures/pr.svg",
        "figures/pareto.svg",
        "figures/sensitivity.svg",
        "figures/calibration.svg",
        "figures/captions.json",
        "figures/training_net-a.svg",
        "figures/training_net-b.svg",
        "pictures/net-a.png",
        "pictures/net-b.png",
        *(f"pictures/net-{n}_overlay_0{i}_test.png" for n in "ab" for i in (1, 4)),
        "pictures/data.png",
        "figures/manifest.json",
        "pictures/manifest.json",
    }
    shutil.rmtree(folder / "figures")
    assert contents() == first
    assert not any(b"<dc:date>" in b or b"tIME" in b for b in first.values())


def test_every_figure_and_picture_has_its_caption(campaign):
    name, runs = campaign
    figures.build(name, runs)
    folder, said = paths.reports(name), figures.captions(name)
    drawn = {p.relative_to(folder).as_posix() for p in folder.glob("*/*.[sp][vn]g")}
    assert set(said) == drawn and all(len(words) > 10 for words in said.values())
    assert said["pictures/net-a.png"].startswith("net-a, seed 0: best 04_test (F1 0.8150), ")
    assert "worst test image, 01_test (F1 0.7350" in said["pictures/net-a_overlay_01_test.png"]
    assert said["figures/training_net-b.svg"] == "net-b, seeds 0, 1."
    with pytest.raises(UserError, match="run `resegment figures absent`"):
        figures.captions("absent")


def test_an_overlay_colours_the_analytic_mask_at_full_resolution():
    image = np.full((2, 3, 3), 200, np.uint8)
    mask = np.zeros((2, 3, 3), np.uint8)
    mask[0] = sheets.TP, sheets.FN, sheets.FP
    over = sheets.overlay(image, mask)
    assert over.shape == image.shape and over.dtype == np.uint8
    assert [tuple(p) for p in over[0]] == [
        sheets.SEEN[k] for k in (sheets.TP, sheets.FN, sheets.FP)
    ]
    assert len({tuple(p) for p in over[1]}) == 1 and 0 < over[1].max() < 128
    assert (over[1] == over[1, :, :1]).all()  # gray


def test_a_band_holds_nine_in_ten_of_the_test_images(campaign):
    run = campaign[1][0]
    hists = read.test_histograms(run)
    assert hists.shape == (len(TESTS), 2, metrics.LEVELS)
    for curve, swept in (("roc", metrics.roc_curve), ("pr", metrics.pr_curve)):
        low, high = curves.bands(run)[curve]
        lines = [np.interp(curves.AT[curve], *swept(h)) for h in hists]
        k = 60
        at = sorted(line[k] for line in lines)
        # four images: a twentieth of the way is 0.15 of a step in from either end
        assert low[k] == pytest.approx(at[0] + 0.15 * (at[1] - at[0]))
        assert high[k] == pytest.approx(at[3] - 0.15 * (at[3] - at[2]))
        assert (low <= high).all() and (low < high).any()


def test_one_image_has_no_band_and_lost_histograms_are_named(campaign):
    run = campaign[1][0]
    path = paths.scores(run["run"]) / "histograms.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["splits"] = np.array(["train"] * (len(SPLITS) - 1) + ["test"])
    np.savez_compressed(path, **arrays)
    assert curves.bands(run) == {"roc": None, "pr": None}
    path.unlink()
    with pytest.raises(UserError, match="histograms.npz is missing: score small-smoke/net-a/s0"):
        curves.bands(run)


@pytest.mark.parametrize("n", [1, 3, 4, 22])
def test_more_than_three_experiments_get_a_panel_each(n):
    names = [f"net-with-a-rather-long-name-{i}" for i in range(n)]
    runs = [{"experiment": e, "dataset": "drive", "seed": 0} for e in names]
    lines = pd.DataFrame([r for k, e in enumerate(names) for r in _lines(e, 0, k % 5)])
    scores = pd.DataFrame(
        {"experiment": e, "seed": "0", "protocol": "common", "metric": m, "value": v, **TESTED}
        for e in names
        for m, v in TYPICAL.items()
    )
    x = np.linspace(0.1, 0.9, 201)
    known = {e: {"roc": np.stack([x, x + 0.1]), "pr": None} for e in names}
    figure = curves.draw("roc", lines, scores, runs, known)
    assert len(figure.axes) == 2 + (n if n > 3 else 0)
    filled = [len(ax.collections) for ax in figure.axes]
    assert filled == [n, n] if n <= 3 else filled == [0, 0] + [1] * n
    assert not any(ax.collections for ax in curves.draw("pr", lines, scores, runs, known).axes)


def test_the_front_is_what_nothing_cheaper_beats():
    cost, f1 = [1, 2, 2, 3, 4, 4], [0.7, 0.8, 0.6, 0.75, 0.9, 0.9]
    assert tradeoffs.front(cost, f1).tolist() == [True, True, False, False, True, True]


def test_costs_are_of_the_manifests_and_what_is_not_recorded_is_said(campaign):
    name, runs = campaign
    for i, run in enumerate(runs[:3]):
        path = paths.run(run["run"]) / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["model"]["macs"] = 1_480_000_000
        manifest["cost"]["image_seconds"] = [0.03, 0.05, None][i]
        path.write_text(json.dumps(manifest))
    found = tradeoffs.costs(runs, {r["run"]: read.manifest(r) for r in runs})
    assert found.loc["net-a", ["total", "macs", "ms"]].tolist() == [39639, 1.48e9, 40]
    assert found.loc["net-b", "ms"] == 40  # the same network, whatever it was trained for
    manifest["model"]["macs"] = 1_490_000_000
    path.write_text(json.dumps(manifest))
    found = tradeoffs.costs(runs, {r["run"]: read.manifest(r) for r in runs})
    assert found.loc["net-b", "macs"] == 1.49e9 and np.isnan(found.loc["net-b", "ms"])
    manifests = {r["run"]: read.manifest(r) for r in runs}
    figure = tradeoffs.pareto(read.table(name, "scores"), runs, manifests)
    assert [len(ax.containers) for ax in figure.axes] == [2, 2, 1]  # one bar for each experiment
    said = figures._of_pareto(runs, manifests)
    assert said.endswith("Not recorded, milliseconds for one image: net-b.")
    assert "measured on cpu two cores." in said


def test_what_was_tested_on_other_images_has_panels_and_a_front_of_its_own(campaign):
    name, runs = campaign
    scores = read.table(name, "scores")
    scores.loc[scores.experiment == "net-b", "n_images"] = 20
    scores.loc[scores.experiment == "net-b", "value"] -= 0.1  # beaten, were they compared
    figure = tradeoffs.pareto(scores, runs, {r["run"]: read.manifest(r) for r in runs})
    rows = [figure.axes[:3], figure.axes[3:]]
    assert [row[0].get_ylabel().split("\n")[1] for row in rows] == [
        "sample, 4 images", "sample, 20 images"
    ]  # fmt: skip
    for row in rows:
        (bar,) = row[0].containers
        assert bar.lines[0].get_markeredgecolor() == "black"  # on the front


def test_labels_of_points_in_one_place_keep_apart():
    points = np.array([[0, 0], [1, 0], [0, 1], [80, 80], [0, 0]] + [[2, 2]] * 8, float)
    places = points + np.array(tradeoffs._clear(points))
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 99 * np.eye(len(places))
    assert apart.min() > 7
    assert np.linalg.norm(places[3] - points[3]) < 13  # a lone point's stands beside it


def test_sensitivity_is_the_difference_to_the_common_protocol(campaign):
    name, _ = campaign
    moved = tradeoffs.moved(read.table(name, "sensitivity"))
    at = moved.set_index(["experiment", "metric", "region", "space", "pooling", "threshold"]).value
    assert len(at) == 2 * len(TYPICAL) * 16
    for e in ("net-a", "net-b"):
        assert at[e, "acc", "fov", "native", "pixels", "train"] == 0
        assert at[e, "acc", "frame", "native", "pixels", "train"] == pytest.approx(0.014)
        assert at[e, "se", "fov", "network", "pixels", "0.5"] == pytest.approx(0.051)
    assert tradeoffs.extents(moved, "acc").tolist() == pytest.approx([0.016, 0.016])
    assert tradeoffs.extents(moved, "f1").tolist() == pytest.approx([0.002, 0.002])
    said = figures._of_sensitivity(moved)
    assert "Sp 0.0120 (at most 0.0120), Acc 0.0160 (at most 0.0160)" in said


def test_a_campaign_without_one_defined_value_is_drawn(campaign, tmp_path):
    moved = tradeoffs.moved(read.table(campaign[0], "sensitivity")).assign(value=np.nan)
    tradeoffs.sensitivity(moved, ["net-a", "net-b"]).savefig(tmp_path / "empty.svg")


def test_the_last_bits_of_a_layout_do_not_reach_the_file(tmp_path):
    def drawn(name, noise):
        figure = Figure(layout="constrained")
        for ax in figure.subplots(1, 2):
            ax.plot([0, 1], [0, 1])
        engine = figure.get_layout_engine()
        execute = engine.execute

        def noisy(figure):
            execute(figure)
            for ax in figure.axes:
                ax.set_position(np.array(ax.get_position(original=True).bounds) + noise)

        engine.execute = noisy
        with matplotlib.rc_context(fname=figures.STYLE):
            figures._save(figure, tmp_path / name)
        return (tmp_path / name).read_bytes()

    assert drawn("a.svg", 0) == drawn("b.svg", 1e-14) != drawn("c.svg", 1e-3)


def test_paper_figures_have_the_papers_columns_and_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("rga-drive", "rsan-drive", "rsan-drive-backbone", "mininet-chase", "bcdu-drive")
    campaign, runs = fake_campaign(names, dataset="drive")
    pages = {}
    monkeypatch.setattr(papers, "sheet", lambda titles, rows, path, legend: pages.update(
        {path.name: (titles, rows, legend)}))  # fmt: skip
    said = papers.draw_pictures(runs, tmp_path)
    assert set(said) == set(pages) == {f"paper_{n}.png" for n in ("rga_2", "rsan_5", "bcdu_1",
                                                                 "mininet_2")}  # fmt: skip
    titles, rows, legend = pages["paper_rga_2.png"]
    assert titles == ("image", "ground truth", "prediction", "analytic mask") and legend
    assert [row[0] for row in rows] == ["drive: 01_test", "drive: 02_test", "drive: 03_test"]
    image, truth, mask, errors = rows[0][1]
    assert image.shape == (H, W, 3) and truth.dtype == mask.dtype == bool
    assert (errors == sheets.analytic_mask(mask, truth, np.ones((H, W), bool))).all()
    titles, rows, legend = pages["paper_rsan_5.png"]
    assert titles == ("image", "Backbone", "RSAN", "ground truth") and not legend
    assert rows[0][1][1].dtype == np.uint16
    assert (
        "not run in this campaign: rsan-drive-dropblock, rsan-chase-b" in said["paper_rsan_5.png"]
    )
    assert "Images of drive take the place of chase_db1." in said["paper_mininet_2.png"]
    assert "budget smoke: no reproduction" in said["paper_bcdu_1.png"]
    assert "Left out" not in said["paper_rga_2.png"]
    assert "exceeds 0.3, as" in said["paper_rga_2.png"]


def test_hybridnetsegs_figure_is_turned_and_a_missing_cell_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("hybridnetseg-drive", "rsan-chase-dropblock", "rsan-drive")
    _, runs = fake_campaign(names, dataset="drive")
    pages = {}
    monkeypatch.setattr(papers, "sheet", lambda titles, rows, path, legend: pages.update(
        {path.name: (titles, rows)}))  # fmt: skip
    papers.draw_pictures(runs, tmp_path)
    titles, rows = pages["paper_hybridnetseg_3.png"]
    assert titles == ("drive: 01_test",)
    assert [row[0] for row in rows] == ["RGB", "ground truth", "probability map"]
    titles, rows = pages["paper_rsan_5.png"]
    assert titles == ("image", "Backbone+DropBlock", "RSAN", "ground truth")
    absent = [[isinstance(c, str) for c in cells] for _, cells in rows]
    assert absent == [[False, True, False, False], [False, False, True, False]]
    sheets.sheet(titles, rows, tmp_path / "page.png")
    page = cv2.imread(str(tmp_path / "page.png"))
    assert (page == 255).all(axis=-1).mean() > 0.2  # the two cells are paper, with a word on it


def test_the_convlstm_papers_curves_are_drawn_under_its_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    campaign, runs = fake_campaign(("bcdu-drive",))
    found = papers.draw_curves(read.table(campaign, "curves"), read.table(campaign, "scores"), runs)
    assert papers.draw_curves(None, None, [{"experiment": "rga-drive"}]) == {}
    for number, words in ((2, "precision-recall curve"), (3, "ROC curve")):
        figure, text = found[f"paper_bcdu_{number}"]
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 60]
        assert len(lines) == 2  # of its own protocol: as many in the table are of the common one
        assert f"figure {number}, re-made: {words} under the paper's protocol (frame-net" in text
        assert "one line a seed" in text and "Images of sample take" in text


def test_what_was_scored_on_other_test_images_gets_panels_of_its_own():
    names = ("net-a", "net-b", "net-c")
    runs = [{"experiment": e, "dataset": "chase_db1", "seed": 0} for e in names]
    lines = pd.DataFrame([r for k, e in enumerate(names) for r in _lines(e, 0, k)])
    seeds = {
        "0": TYPICAL,
        "observer2": {k: v for k, v in TYPICAL.items() if k not in ("auc", "ap")},
    }
    scores = pd.DataFrame(
        {"experiment": e, "seed": s, "protocol": "common", "metric": m, "value": v - n / 1000,
         "dataset": "chase_db1", "n_images": n}
        for e, n in zip(names, (8, 8, 20), strict=True) for s, of in seeds.items()
        for m, v in of.items()
    )  # fmt: skip
    figure = curves.draw("roc", lines, scores, runs, {e: {"roc": None} for e in names})
    titles = [ax.get_title() for ax in figure.axes]
    sets = [t.partition(":")[0] for t in titles if "whole" in t]
    assert sets == ["chase_db1, 8 images", "chase_db1, 20 images"]
    diamonds = [[line for line in ax.lines if line.get_marker() == "D"] for ax in figure.axes]
    assert len({d.get_ydata()[0] for of in diamonds[:2] for d in of}) == 1
    assert all(diamonds)


def test_without_a_second_observer_there_is_no_diamond(campaign):
    name, runs = campaign
    lines, scores = read.table(name, "curves"), read.table(name, "scores")
    known = {e: {"roc": None} for e in read.experiments(runs)}

    def legend(scores):
        figure = curves.draw("roc", lines, scores, runs, known)
        return [text.get_text() for text in figure.legends[0].get_texts()]

    areas = ["net-a: AUC 0.9680 ± 0.0028", "net-b: AUC 0.9600 ± 0.0028"]
    assert legend(scores) == [*areas, "second observer"]
    assert legend(scores[scores.seed != "observer2"]) == areas


def test_what_is_missing_is_said_in_a_sentence(campaign):
    name, runs = campaign
    (paths.predictions(runs[0]["run"]) / "04_test.png").unlink()
    with pytest.raises(UserError, match="04_test.png is missing or no image"):
        figures.build(name, runs)
    (paths.reports(name) / "curves.csv").unlink()
    with pytest.raises(UserError, match="curves.csv is not here"):
        figures.build(name, runs)
    assert not (paths.reports(name) / "figures").exists() or not list(
        paths.reports(name).glob(".*")
    )
