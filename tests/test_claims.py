"""Claims put to run folders made by the test: which kind needs what, and what is said."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from resegment import claims, config, paths, published, verdicts
from resegment.errors import UserError

ROOT = Path(__file__).parents[1]
PROTOCOL = "frame-network-images"
IMAGES = 12


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data/published", tmp_path / "data/published")
    monkeypatch.chdir(tmp_path)


def make(f1: dict[str, list[float]], budget="paper", **change) -> tuple[list[dict], dict]:
    """Runs and what was measured of them: experiment -> mean F1 of each seed; images vary around
    it by the same draw in all, and a little by one of their own."""
    protocol = {"region": "frame", "space": "network", "pooling": "images", "threshold": 0.5}
    hard = np.linspace(-0.03, 0.03, IMAGES)
    runs, measured = [], {}
    for e, (experiment, values) in enumerate(f1.items()):
        for seed, mean in enumerate(values):
            own = np.random.default_rng([e, seed]).normal(0, 0.001, IMAGES)
            each = mean + hard + own - own.mean()
            run = {"run": f"drive-{budget}/{experiment}/s{seed}", "experiment": experiment,
                   "paper": "rga", "dataset": "drive", "rows_dataset": "drive", "seed": seed,
                   "budget": budget, "protocol": PROTOCOL, "full_model": True} | change  # fmt: skip
            folder = paths.scores(run["run"])
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text(json.dumps({"protocols": {PROTOCOL: protocol}}))
            with open(folder / "images.csv", "w", newline="") as f:
                out = csv.writer(f)
                out.writerow(("protocol", "split", "id", "subject", "f1"))
                out.writerows((PROTOCOL, "test", i, i, v) for i, v in enumerate(each))
            runs.append(run)
            measured[run["run"]] = {
                "scores": {PROTOCOL: {"f1": mean, "se": mean, "n_images": IMAGES}},
                "bounds": {PROTOCOL: dict.fromkeys(("f1", "se"), (mean - 0.01, mean + 0.01))},
                "model": {"total": 39639, "trainable": 38903},
            }
    return runs, measured


def said(made: tuple[list[dict], dict], apart: dict | None = None) -> dict[str, dict]:
    return {row["claim"]: row for row in claims.table(*made, apart or {})}


def test_the_file_names_experiments_datasets_and_metrics_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    known = config.load().experiments
    for claim in published.claims():
        for name in (claim["a"], *claim["b"]):
            assert known[name].paper == claim["paper"], claim["id"]
            assert known[name].dataset == claim["dataset"], claim["id"]
        assert claim["id"].startswith(f"{claim['paper']}-c")
        assert bool(claim["b"]) == (
            claim["kind"] in ("effect", "size") or "686" in claim["statement"]
        )
    assert {c["paper"] for c in published.claims()} == set(published.PAPERS)


def test_printed_effects_come_from_cells():
    printed = {c["id"]: c["value"] for c in published.claims()}
    assert printed["rga-c2-iaa-dice"] == 0.0074
    assert printed["rga-c2-iaa-iou"] == -0.0025
    assert printed["rga-c7-attribution"] == 0.0215
    assert printed["rsan-c1-drive-f1"] == 0.0125
    assert printed["rsan-c3-size"] == 686
    assert printed["hybridnetseg-c4-chase"] == 0.8006
    assert printed["mininet-c6-retina"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rga-2-04.f1 - rga-2-01.f1", "rga-2-04.f1 - rga-2-99.f1"), "no cell rga-2-99.f1"),
        (("0.9784", "a lot"), "published is a number, a cell, or cell - cell"),
        ((",effect,drive,f1,rga-iaa-iou", ",guess,drive,f1,rga-iaa-iou"), "kind is one of value"),
    ],
)
def test_a_wrong_claim_is_named(change, message):
    path = paths.PUBLISHED / "claims.csv"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(UserError, match=message):
        published.claims()


def test_an_effect_that_all_seeds_and_images_show_is_supported():
    made = make({"rga-iaa-dice": [0.801, 0.803, 0.802], "rga-unet-dice": [0.791, 0.793, 0.792]})
    row = said(made)["rga-c2-iaa-dice"]
    assert row["verdict"] == "supported"
    assert row["effect"] == pytest.approx(0.01) and row["published"] == 0.0074
    assert 0 < row["low"] <= row["effect"] <= row["high"]
    assert 0 < row["seeds_low"] <= row["effect"] <= row["seeds_high"]
    assert row["n_images"] == IMAGES and row["n_seeds"] == 3
    assert row["protocol"] == PROTOCOL and row["p_holm"] >= row["p"]


def test_seeds_that_disagree_leave_it_undecided():
    made = make({"rga-iaa-dice": [0.78, 0.82, 0.80], "rga-unet-dice": [0.79, 0.81, 0.785]})
    assert said(made)["rga-c2-iaa-dice"]["verdict"] == "undecided"


def test_a_reduced_budget_judges_nothing_that_training_decides():
    made = make({"rga-iaa-dice": [0.80, 0.80], "rga-unet-dice": [0.79, 0.79]}, budget="lite")
    rows = said(made)
    row = rows["rga-c2-iaa-dice"]
    assert row["verdict"] == "not run" and row["effect"] == pytest.approx(0.01)
    assert "budget lite" in row["reason"]
    assert {r["verdict"] for r in rows.values()} == {"not run"}


@pytest.mark.parametrize(("full", "expected"), [(True, "supported"), (False, "not run")])
def test_a_count_needs_the_papers_network_and_no_schedule(full, expected):
    made = make({"rga-drive": [0.81]}, budget="lite", full_model=full)
    row = said(made)["rga-c1-size"]
    assert row["verdict"] == expected and row["effect"] == pytest.approx(0.038903)
    assert row["protocol"] == ""


def test_a_value_goes_by_the_ledgers_rules():
    made = make({"rga-drive": [0.8160, 0.8170]})
    assert said(made)["rga-c1-accuracy"]["verdict"] == "supported"
    row = said(made, {"rga-drive": {"rga-2-08.f1": "A and B"}})["rga-c1-accuracy"]
    assert row["verdict"] == "undecided" and "A and B" in row["reason"]


def test_runs_that_are_not_there_are_named():
    rows = said(make({"rga-drive": [0.81, 0.82]}))
    row = rows["rga-c2-iaa-iou"]
    assert row["verdict"] == "not run" and row["reason"] == "no run of rga-iaa-iou in this campaign"
    assert set(rows) == {c["id"] for c in published.claims() if c["paper"] == "rga"}


def test_runs_on_another_dataset_say_nothing():
    made = make({"rga-drive": [0.81, 0.82]}, dataset="sample")
    assert claims.table(*made, {}) == []


THREE_TERMS = "mininet-drive-batch1-patient"
RIVALS = ("dice", "iou", "bce-dice", "alpha-bce-dice", "alpha-iou", "alpha-bce-iou")


def test_the_best_of_many_is_as_sure_as_its_smallest_lead():
    losses = [f"{THREE_TERMS}-{loss}" for loss in RIVALS]
    best = {THREE_TERMS: [0.841, 0.842, 0.843]}
    clear = make(best | {e: [0.801, 0.802, 0.803] for e in losses}, paper="mininet")
    row = said(clear)["mininet-c5-retina"]
    assert row["verdict"] == "supported" and row["effect"] == pytest.approx(0.04)
    shutil.rmtree("runs")
    tied = best | {e: [0.801, 0.802, 0.803] for e in losses} | {losses[2]: [0.842, 0.841, 0.843]}
    row = said(make(tied, paper="mininet"))["mininet-c5-retina"]
    assert row["verdict"] == "undecided" and row["effect"] == pytest.approx(0, abs=1e-9)
    assert row["reason"].startswith(f"{losses[2]}: ")


@pytest.mark.parametrize("order", [1, -1])
def test_one_rival_that_is_better_refutes_the_best_of_all(order):
    rivals = [f"{THREE_TERMS}-{loss}" for loss in RIVALS]
    f1 = {THREE_TERMS: [0.801, 0.802, 0.803]}
    f1 |= {e: [0.789, 0.79, 0.792] for e in rivals}
    vague, better, unknown = rivals[:3][::order]
    f1 |= {vague: [0.800, 0.806, 0.812], better: [0.8045, 0.805, 0.8055], unknown: [math.nan] * 3}
    row = said(make(f1, paper="mininet"))["mininet-c5-retina"]
    assert row["verdict"] == "not supported" and row["effect"] == pytest.approx(-0.003)
    assert row["reason"].startswith(f"{better}: ")


def test_a_count_that_is_not_there_decides_nothing():
    runs, measured = make({"rga-drive": [0.81, 0.82]})
    for one in measured.values():
        one["model"] = {}
    row = said((runs, measured))["rga-c1-size"]
    assert row["verdict"] == "undecided" and "no count" in row["reason"]


def test_overfitting_is_the_rise_of_the_validation_loss():
    (run, *_), measured = make({"rga-drive": [0.81]})
    folder = paths.run(run["run"])
    losses = [1.0, 0.5, *[0.6] * 17, 0.7, 0.8]
    lines = ["epoch,val_loss", *(f"{i},{x}" for i, x in enumerate(losses))]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    assert claims.value(run, "val_loss_rise", measured) == pytest.approx(0.75 / 0.5 - 1)
    (folder / "history.csv").write_text("epoch,val_loss\n1,\n")
    assert math.isnan(claims.value(run, "val_loss_rise", measured))


def test_every_kind_gives_a_known_verdict():
    rows = said(make({"rga-drive": [0.8160, 0.8170]}))
    assert {r["verdict"] for r in rows.values()} <= set(verdicts.CLAIM)
    assert all(r["reason"] for r in rows.values())
    assert all(tuple(r) == claims.HEADER for r in rows.values())
