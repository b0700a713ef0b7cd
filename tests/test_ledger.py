"""The ledger on run folders made by the test, beside the papers' own tables."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from resegment import ledger, metrics, paths, published, stats
from resegment.engines import plan
from resegment.errors import UserError

ROOT = Path(__file__).parents[1]
PROTOCOL = "frame-network-images"
F1 = {0: 0.8150, 1: 0.8170, 2: 0.8160}  # by seed; the paper's is 0.8166
WAY = {"region": "fov", "space": "native", "pooling": "images", "threshold": 0.5}
IMAGES = "protocol,split,id,subject,f1\n" + "".join(
    f"common,{row}\n" for row in ("train,21,21,0.9", "test,01,01,0.8", "test,02,02,")
)
HISTORY = ("epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc")


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data/published", tmp_path / "data/published")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stats, "intervals", intervals)
    monkeypatch.setattr(stats, "stored", stored)
    return tmp_path


def intervals(folder, protocol, observer=False):
    """Stands for the bootstrap: 0.01 to both sides of the value, 0.02 in seed 1."""
    values = json.loads((Path(folder) / "metrics.json").read_text())
    values = (values["observer2"] if observer else values)[protocol]
    half = 0.02 if Path(folder).parent.name == "s1" else 0.01
    known = {m: math.nan if values[m] is None else values[m] for m in metrics.METRICS}
    return {m: (v - half, v + half) for m, v in known.items()}


def stored(folder):
    """Stands for histograms.npz: a training and two test images, the same in every run."""
    rng = np.random.default_rng(0)
    counts = np.zeros((3, 2, 2, 2, metrics.LEVELS), np.uint32)
    counts[..., rng.integers(0, metrics.LEVELS, 50)] = rng.integers(1, 9, (3, 2, 2, 2, 50))
    splits, ids = np.array(["train", "test", "test"]), np.array(["01L", "14R", "11L"])
    spaces = np.array(["native", "network"])
    return {"counts": counts, "ids": ids, "splits": splits, "spaces": spaces}


def make(seeds=(0, 1, 2), budget="paper", f1=F1, **change) -> list[dict]:
    """Run folders and resolved runs of one RGA-Net experiment on DRIVE."""
    runs = []
    for seed in seeds:
        run = {
            "run": f"drive-{budget}/rga-drive/s{seed}",
            "campaign": f"drive-{budget}",
            "experiment": "rga-drive",
            "budget": budget,
            "paper": "rga",
            "dataset": "drive",
            "split": "drive",
            "rows_dataset": "drive",
            "full_model": True,
            "rows": ["rga-2-08", "rga-3-11"],
            "seed": seed,
            "protocol": PROTOCOL,
            "cross": [],
        } | change
        scores = paths.scores(run["run"])
        scores.mkdir(parents=True)
        own = dict.fromkeys(metrics.METRICS, 0.9) | {"f1": f1[seed], "se": 0.8, "sp": 0.98}
        own |= {"threshold": 0.5, "n_images": 20, "split": "test"}
        human = own | {"f1": 0.7881, "threshold": None, "auc": None, "ap": None}
        every = {"common": own | {"f1": 0.7}, PROTOCOL: own}
        written = every | {"observer2": dict.fromkeys(every, human)}
        (scores / "metrics.json").write_text(json.dumps(written))
        (scores / "roc.csv").write_text(ROC)
        (scores / "pr.csv").write_text("protocol,recall,precision\ncommon,0.8,0.9\n")
        (scores / "images.csv").write_text(IMAGES)
        (scores / "observer2.csv").write_text(
            "protocol,id,subject,f1\ncommon,01,01,0.75\ncommon,02,02,0.7\n"
        )
        (scores / "manifest.json").write_text(json.dumps({"protocols": {"common": WAY}}))
        folder = paths.run(run["run"])
        history = ",".join(HISTORY) + f"\n1,0.001,0.6,0.7,0.4,0.9\n2,0.001,0.5,,0.{seed},0.9\n"
        (folder / "history.csv").write_text(history)
        (folder / "manifest.json").write_text(json.dumps({"model": {"trainable": 38903}}))
        runs.append(run)
    return runs


ROC = "protocol,fpr,tpr\ncommon,0,0\ncommon,0.005,0.5\ncommon,0.01,0.8\nneither,0,0\n"


def read(name: str, campaign: str = "drive-paper") -> pd.DataFrame:
    return pd.read_csv(paths.reports(campaign) / f"{name}.csv", dtype=str, keep_default_na=False)


def entry(row: str, metric: str, campaign: str = "drive-paper") -> pd.Series:
    t = read("ledger", campaign)
    (index,) = t.index[(t["row"] == row) & (t["metric"] == metric)]
    return t.loc[index]


def test_three_seeds_at_the_papers_budget():
    ledger.build("drive-paper", make())
    found = entry("rga-2-08", "f1")
    assert found["published"] == "0.8166" and found["mean"] == "0.816000"
    assert found["sd"] == "0.001000" and found["n_seeds"] == "3"
    assert found["difference"] == "-0.000600"
    # per-seed bounds -0.01, -0.02, -0.01 of their values, averaged
    assert float(found["image_ci_low"]) == pytest.approx(0.816 - 0.04 / 3, abs=1e-6)
    assert float(found["image_ci_high"]) == pytest.approx(0.816 + 0.04 / 3, abs=1e-6)
    half = student.ppf(0.975, 2) * 0.001 / math.sqrt(3)
    assert f"seeds {0.816 - half:.4f} to {0.816 + half:.4f}" in found["reason"]
    assert found["verdict"] == "reproduced"
    assert found["method"] == "IAA + PD + UNET * (Dice + BCE)"
    assert found["deviations"].split() == published.applying("rga")
    assert found["runs"].split() == [f"drive-paper/rga-drive/s{i}" for i in range(3)]
    assert found["protocol"] == PROTOCOL


def test_every_measured_cell_of_the_named_rows_is_listed_once():
    ledger.build("drive-paper", make())
    t = read("ledger")
    assert tuple(t.columns) == ledger.LEDGER
    assert (t["row"] + "." + t["metric"]).to_list() == [
        *(f"rga-2-08.{m}" for m in ("iou", "f1", "se", "precision", "acc")),  # no p value
        *(f"rga-3-11.{m}" for m in ("se", "sp", "acc", "f1", "params_m")),
    ]
    verdicts = dict(zip(t["row"] + "." + t["metric"], t["verdict"], strict=True))
    assert verdicts["rga-3-11.sp"] == "not comparable"
    assert verdicts["rga-2-08.iou"] == "not reproduced"  # 0.9 against 0.6903
    assert "0.9812" in entry("rga-3-11", "sp")["reason"].replace(" .", " 0.")


def test_a_row_of_other_images_is_not_comparable():
    chase = {"dataset": "chase_db1", "rows_dataset": "chase_db1", "split": "chase_db1"}
    runs = make(**chase, paper="mininet", rows=["mininet-5-11"])
    ledger.build("drive-paper", runs)
    found = entry("mininet-5-11", "f1")
    assert found["verdict"] == "not comparable" and "01L-14R (0.0693)" in found["reason"]
    same = {"paper": "rsan", "rows": ["rsan-2-04"]}
    ledger.build("drive-paper", [{**run, **same} for run in runs])
    assert entry("rsan-2-04", "f1")["verdict"] == "reproduced"  # that row is of these images


def test_the_parameter_count_comes_from_the_manifest():
    runs = make()
    ledger.build("drive-paper", runs)
    found = entry("rga-3-11", "params_m")
    assert found["published"] == "0.04" and found["mean"] == "0.038903"
    assert (found["protocol"], found["image_ci_low"]) == ("", "")
    assert found["verdict"] == "reproduced"
    (paths.run(runs[1]["run"]) / "manifest.json").write_text("{}")
    ledger.build("drive-paper", runs)
    assert "params_m" not in set(read("ledger")["metric"])


def test_a_reduced_budget_is_never_a_reproduction():
    ledger.build("drive-lite", make(budget="lite"))
    t = read("ledger", "drive-lite")
    counted = t["metric"] == "params_m"  # no schedule changes a count
    assert set(t["verdict"][~counted]) == {"not run"} and len(t) == 10
    assert set(t["verdict"][counted]) == {"reproduced"}
    assert set(t["reason"][~counted]) == {"paper budget not run; value shown is budget lite"}
    assert entry("rga-2-08", "f1", "drive-lite")["mean"] == "0.816000"


def test_one_seed_has_no_sd_and_stands_on_its_images():
    ledger.build("drive-paper", make(seeds=(0,), f1={0: 0.8066 + 1e-7}))
    found = entry("rga-2-08", "f1")
    assert found["sd"] == "" and found["verdict"] == "reproduced"
    assert "seeds" not in found["reason"]


def test_runs_on_another_dataset_stand_beside_no_published_number():
    ledger.build("drive-paper", make(dataset="sample"))
    text = (paths.reports("drive-paper") / "ledger.csv").read_text()
    assert text == ",".join(ledger.LEDGER) + "\n"
    assert len(read("scores")) > 0


def test_a_campaign_without_published_rows_has_an_empty_ledger():
    ledger.build("drive-paper", make(rows=[], paper=None))
    text = (paths.reports("drive-paper") / "ledger.csv").read_text()
    assert text == ",".join(ledger.LEDGER) + "\n"


def test_scores_have_every_metric_and_the_second_observer_once():
    ledger.build("drive-paper", make())
    t = read("scores")
    assert tuple(t.columns) == ledger.SCORES
    assert len(t) == 3 * 2 * len(metrics.METRICS) + 2 * (len(metrics.METRICS) - 2)
    assert not t.duplicated(["experiment", "seed", "protocol", "metric"]).any()
    human = t[t["seed"] == "observer2"]
    assert not set(human["metric"]) & {"auc", "ap"}
    assert set(human["threshold"]) == {""} and set(human["run"]) == {"drive-paper/rga-drive/s0"}
    found = t[(t["seed"] == "1") & (t["protocol"] == PROTOCOL) & (t["metric"] == "f1")].iloc[0]
    assert [found[k] for k in ("value", "ci_low", "ci_high", "threshold", "n_images")] == [
        "0.817000", "0.797000", "0.837000", "0.500000", "20",
    ]  # fmt: skip


def test_an_undefined_metric_is_empty_not_nan():
    ledger.build("drive-paper", make(f1=dict.fromkeys(F1)))
    found = entry("rga-2-08", "f1")
    assert [found[k] for k in ("mean", "sd", "difference", "image_ci_low")] == [""] * 4
    assert found["verdict"] == "not reproduced"
    assert "nan" not in (paths.reports("drive-paper") / "scores.csv").read_text()


def test_curves_history_images_and_manifests_are_gathered():
    ledger.build("drive-paper", make())
    curves, history, images, runs = map(read, ("curves", "history", "images", "runs"))
    assert len(images) == 6 and tuple(images.columns[2:]) == (
        "protocol",
        "split",
        "id",
        "subject",
        "f1",
    )
    assert images.iloc[5].to_list() == ["rga-drive", "2", "common", "test", "02", "02", ""]
    assert runs.iloc[2].to_list() == ["rga-drive", "2", "model.trainable", "38903"]
    assert tuple(curves.columns) == ledger.CURVES and len(curves) == 9
    assert curves.iloc[1].to_list() == ["rga-drive", "0", "common", "roc", "0.01", "0.8"]
    assert curves.iloc[2].to_list() == ["rga-drive", "0", "common", "pr", "0.8", "0.9"]
    assert tuple(history.columns) == ("experiment", "seed", *HISTORY)
    assert history.iloc[5].to_list() == ["rga-drive", "2", "2", "0.001", "0.5", "", "0.2", "0.9"]


def test_the_same_scores_give_the_same_bytes():
    runs = make()
    folder = paths.reports("drive-paper")
    ledger.build("drive-paper", runs)
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {p.stem for p in folder.iterdir()} == set(plan.TABLES)
    ledger.build("drive-paper", runs)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
    with open(folder / "ledger.csv", newline="") as f:
        assert all(len(r) == len(ledger.LEDGER) for r in csv.reader(f))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["rga-2-8"], "no row 'rga-2-8'.*rga-2-08"),
        (["rga-4-08"], "rga-4-08, which was measured on chase_db1, not on drive"),
        (["rga-3-06"], "rga-3-06, which was quoted"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_written(rows, message):
    with pytest.raises(UserError, match=message):
        ledger.build("drive-paper", make(rows=rows))
    assert not paths.reports("drive-paper").exists()


@pytest.mark.parametrize("name", ["scores/metrics.json", "scores/roc.csv", "history.csv"])
def test_an_unfinished_run_is_named(name):
    runs = make()
    (paths.run(runs[1]["run"]) / name).unlink()
    with pytest.raises(UserError, match=f"s1/{name} is missing: train and score drive-paper"):
        ledger.build("drive-paper", runs)
    assert not paths.reports("drive-paper").exists()


def test_a_run_that_was_never_scored_under_its_protocol_is_named():
    with pytest.raises(UserError, match="no protocol elsewhere: score drive-paper/rga-drive/s0"):
        ledger.build("drive-paper", make(protocol="elsewhere"))


def two_experiments() -> list[dict]:
    """Two experiments on the same two test images; the second is worse on both."""
    better = make()
    worse = [{**run, "run": run["run"].replace("rga-drive", "rga-other")} for run in better]
    worse = [{**run, "experiment": "rga-other", "rows": []} for run in worse]
    for a, b in zip(better, worse, strict=True):
        shutil.copytree(paths.run(a["run"]), paths.run(b["run"]))
    for run, f1 in [(r, f) for group, f in ((better, 0.8), (worse, 0.7)) for r in group]:
        folder = paths.scores(run["run"])
        rows = "".join(f"common,test,{i},{i},{f1 + 0.01 * i}\n" for i in range(2))
        (folder / "images.csv").write_text("protocol,split,id,subject,f1\n" + rows)
        second = "".join(f"common,{i},{i},{0.75 + 0.01 * i}\n" for i in range(2))
        (folder / "observer2.csv").write_text("protocol,id,subject,f1\n" + second)
    return better + worse


def test_every_pair_on_the_same_images_is_compared():
    runs = two_experiments()
    ledger.build("drive-paper", runs)
    row, *_ = read("comparisons").to_dict("records")
    assert (row["a"], row["b"], row["dataset"]) == ("rga-drive", "rga-other", "drive")
    assert float(row["difference"]) == pytest.approx(0.1) and row["n_seeds"] == "3"
    assert row["p"] == row["p_holm"] == "0.500000"  # two images cannot say more
    f1 = read("scores").query("metric == 'f1' and protocol == 'common' and seed != 'observer2'")
    sides = [f1[f1.experiment == row[k]].value.astype(float).tolist() for k in "ab"]
    low, high = stats.seed_difference(*sides)
    assert [float(row[k]) for k in ("seeds_low", "seeds_high")] == pytest.approx([low, high])
    for run in runs[3:]:
        run["split"] = "another"
    ledger.build("drive-paper", runs)
    assert set(read("comparisons").b) == {"observer2"}


def test_every_experiment_is_compared_with_the_second_observer():
    runs = two_experiments()
    ledger.build("drive-paper", runs)
    found = read("comparisons").query("b == 'observer2'").set_index("a")
    assert found.index.tolist() == ["rga-drive", "rga-other"]
    assert found.difference.astype(float).tolist() == pytest.approx([0.05, -0.05])
    assert set(found.p_holm) == {"1.000000"}  # a Holm of two, whatever the pairs of experiments
    ends = found.loc["rga-drive", ["seeds_low", "seeds_high"]].astype(float).tolist()
    f1 = read("scores").query("metric == 'f1' and protocol == 'common' and seed != 'observer2'")
    known = f1[f1.experiment == "rga-drive"].value.astype(float) - 0.7881
    assert ends == pytest.approx(stats.seed_interval(known.tolist()))
    for run in runs:
        metrics_json = paths.scores(run["run"]) / "metrics.json"
        alone = {k: v for k, v in json.loads(metrics_json.read_text()).items() if k != "observer2"}
        metrics_json.write_text(json.dumps(alone))
    ledger.build("drive-paper", runs)
    assert read("comparisons").b.tolist() == ["rga-other"]


def test_every_run_stands_under_sixteen_protocols_and_has_a_calibration_curve():
    ledger.build("drive-paper", make())
    t = read("sensitivity")
    ways = t.drop_duplicates(["region", "space", "pooling", "threshold"])
    assert len(ways) == 16 and len(t) == 3 * 16 * len(metrics.METRICS)
    assert set(t["threshold"]) == {"0.5", "train"}
    curve = read("calibration")
    assert len(curve) == 3 * metrics.CALIBRATION_BINS
    pixels = stored("")["counts"][1:, 0, 0].sum()
    assert curve[curve["seed"] == "0"]["n"].astype(int).sum() == pixels
