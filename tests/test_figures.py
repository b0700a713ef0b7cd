"""Figures of a small made-up campaign: colours, choice of images, bytes, and what users see."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from resegment import config, figures, paths
from resegment.errors import UserError

H, W = 72, 60  # native; the network sees 48 x 40
TESTS = ["01_test", "02_test", "03_test", "04_test"]
SPLITS = {"21_training": "train", "22_training": "train", **dict.fromkeys(TESTS, "test")}
TYPICAL = {"se": 0.8, "sp": 0.975, "acc": 0.955, "precision": 0.83, "f1": 0.815, "iou": 0.69}
TYPICAL |= {"mcc": 0.79, "auc": 0.97, "ap": 0.89}


def fake_campaign(
    names=("net-a", "net-b"), budget="smoke", dataset="sample", published=False, crossed=False
):
    """Write a whole campaign under the current directory; return (campaign, runs)."""
    cv2.setNumThreads(1)
    campaign = f"small-{budget}"
    _native(dataset)
    runs, scores, curves, history = [], [], [], []
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
            curves += _lines(name, seed, k)
            history += _epochs(name, seed, validated=k == 0)
            _manifest(run, campaign)
    folder = paths.reports(campaign)
    folder.mkdir(parents=True)
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    there = [{**r, "scored_on": "stare", "value": r["value"] - 0.1} for r in scores]
    there = [r for r in there if r["seed"] != "observer2"]
    pd.DataFrame(there).iloc[: None if crossed else 0].to_csv(folder / "cross.csv", index=False)
    pd.DataFrame(curves).to_csv(folder / "curves.csv", index=False)
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
    out, rows = paths.predictions(run["run"]), []
    out.mkdir(parents=True)
    paths.scores(run["run"]).mkdir()
    for i, name in enumerate(SPLITS):
        label = cv2.imread(str(paths.native(run["dataset"]) / f"{name}_label.png"), 0)
        map_ = cv2.GaussianBlur(np.roll(label, shift, axis=1), (0, 0), 1.2).astype(np.uint16) * 257
        cv2.imwrite(str(out / f"{name}.png"), cv2.resize(map_, (40, 48)))
        values = {m: v - 0.01 * shift - 0.02 * (i * 7 % 5) for m, v in TYPICAL.items()}
        for protocol in ("common", "frame-network"):
            rows.append({"protocol": protocol, "split": SPLITS[name], "id": name})
            rows[-1].update(threshold=0.3, tp=1, fp=1, fn=1, tn=1, **values)
    pd.DataFrame(rows).to_csv(paths.scores(run["run"]) / "images.csv", index=False)
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


def _lines(name, seed, k):
    x = np.linspace(0, 1, 60) ** 2
    rows = []
    for curve, y in (
        ("roc", x ** (0.06 + 0.01 * k + 0.003 * seed)),
        ("pr", 1 - x ** (5 / (1 + k)) / 2),
    ):
        rows += [
            {"experiment": name, "seed": seed, "protocol": "common", "curve": curve, "x": a, "y": b}
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
            "train": config.Train(epochs=30, batch_size=4, loss={"bce": 1}).model_dump(mode="json"),
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
    if filled:
        paths.PUBLISHED.mkdir(parents=True)
        (paths.PUBLISHED / "deviations.csv").write_text(
            "id,paper,paper_says,done,why,where\n"
            'rga-01-filters,rga,"40 K parameters, text gives 22 K",reading R2,'
            "only R2 obeys text and count,src/resegment/models/rga_net.py\n"
            "rga-02-x,rga,nothing,something,usual,src/resegment/ingest.py\n"
            "all-01-resize,all,interpolation not given,bilinear,usual,src/resegment/geometry.py\n"
            "bcdu-01-depth,bcdu,not said,D3,usual,src/resegment/models/bcdu.py\n"
        )


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fake_campaign()


def test_the_analytic_mask_has_the_papers_colours():
    prediction = np.array([[1, 0, 1, 0, 1, 1]], bool)
    label = np.array([[1, 1, 0, 0, 1, 0]], bool)
    fov = np.array([[1, 1, 1, 1, 0, 0]], bool)
    green, red, blue, black = (0, 255, 0), (255, 0, 0), (0, 0, 255), (0, 0, 0)
    mask = figures.analytic_mask(prediction, label, fov)
    assert [tuple(p) for p in mask[0]] == [green, red, blue, black, black, black]


def test_the_grid_shows_the_mask_it_scored(campaign):
    """The pixels of each colour on the page are those counted from prediction and label."""
    name, runs = campaign
    figures.build(name, runs)
    page = cv2.imread(str(paths.reports(name) / "pictures/net-a.png"))[..., ::-1]
    times = 300 // W
    want = dict.fromkeys((figures.TP, figures.FN, figures.FP), 0)
    for example in figures.examples(runs[0]):
        native = paths.native("sample")
        label = cv2.imread(str(native / f"{example['id']}_label.png"), 0) > 0
        fov = cv2.imread(str(native / f"{example['id']}_fov.png"), 0) > 0
        stored = cv2.imread(
            str(paths.predictions(runs[0]["run"]) / f"{example['id']}.png"), cv2.IMREAD_UNCHANGED
        )
        found = cv2.resize(stored, (W, H), interpolation=cv2.INTER_LINEAR) / 65535 > 0.3
        want[figures.TP] += (found & label & fov).sum() * times**2
        want[figures.FN] += (~found & label & fov).sum() * times**2
        want[figures.FP] += (found & ~label & fov).sum() * times**2
    assert min(want.values()) > 0
    below = page[: int(page.shape[0] * 0.965)]  # without the legend's three boxes
    for colour, n in want.items():
        assert (below == colour).all(axis=-1).sum() == n


def test_best_median_and_worst_are_by_f1_of_test_images_only(campaign):
    found = [(e["rank"], e["id"]) for e in figures.examples(campaign[1][0])]
    # i * 7 % 5 of the images 2..5: 4, 1, 3, 0
    assert found == [("best", "04_test"), ("median", "03_test"), ("worst", "01_test")]


def test_a_single_test_image_is_shown_once(campaign):
    path = paths.scores(campaign[1][0]["run"]) / "images.csv"
    rows = pd.read_csv(path)
    rows[rows.id != "02_test"].query("split == 'train' or id == '03_test'").to_csv(path)
    assert [e["id"] for e in figures.examples(campaign[1][0])] == ["03_test"]


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
        "figures/training_net-a.svg",
        "figures/training_net-b.svg",
        "pictures/net-a.png",
        "pictures/net-b.png",
        "pictures/data.png",
        "figures/manifest.json",
        "pictures/manifest.json",
    }
    shutil.rmtree(folder / "figures")
    assert contents() == first
    assert not any(b"<dc:date>" in b or b"tIME" in b for b in first.values())


def test_without_a_second_observer_there_is_no_diamond(campaign):
    name, runs = campaign
    path = paths.reports(name) / "scores.csv"
    figures.build(name, runs)
    with_it = (path.parent / "figures/roc.svg").read_text()
    scores = pd.read_csv(path, dtype={"seed": str})
    scores[scores.seed != "observer2"].to_csv(path, index=False)
    figures.build(name, runs)
    without = (path.parent / "figures/roc.svg").read_text()
    assert "<!-- second observer -->" in with_it and "<!-- second observer -->" not in without


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
