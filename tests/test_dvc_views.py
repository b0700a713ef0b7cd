"""What DVC itself shows of this project's files: metrics, parameters, plots, what changed."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pipeline import UNET, copied

pytestmark = pytest.mark.slow

METRICS = f"runs/{UNET}/scores/metrics.json"
LR = "experiments.unet-drive.train.optimiser.lr"


@pytest.fixture(scope="module")
def dvc(done, tmp_path_factory):
    """`dvc` in a copy of the pipeline, one of whose runs was made with another rate."""
    w = copied(done, tmp_path_factory.mktemp("views") / "w")
    w.rate("unet-drive", 0.3)
    w.sh(f"dvc repro -q score@{UNET}")
    return lambda command: w.sh(f"dvc {command}").stdout


def test_metrics_show_has_every_protocol(dvc, root):
    shown = json.loads(dvc("metrics show --json"))
    runs = [f["data"] for f in shown[""]["data"].values()]
    protocols = yaml.safe_load((root / "params.yaml").read_text())["protocols"]
    assert len(runs) == 2 and all(set(protocols) <= set(values) for values in runs)
    assert all(0 <= values[p]["auc"] <= 1 for values in runs for p in protocols)


def test_metrics_diff_has_both_values(dvc):
    changed = json.loads(dvc("metrics diff --json"))[METRICS]
    auc = changed["common.auc"]
    assert auc["old"] != auc["new"] and auc["diff"] == pytest.approx(auc["new"] - auc["old"])


def test_params_diff_names_the_key(dvc):
    changed = json.loads(dvc("params diff --json"))["params.yaml"]
    assert changed[LR] == {"old": 0.01, "new": 0.3, "diff": pytest.approx(0.29)}
    assert all(key.endswith(".optimiser.lr") for key in changed)  # with the anchor it stands in


def test_plots_show_draws_the_curves_of_the_run(dvc):
    page = Path(dvc("plots show").strip().removeprefix("file://")).read_text()
    specs = [json.loads(s) for s in re.findall(r"var spec = (\{.*?\});\s*\n", page, re.S)]
    axes = {s["title"]["text"]: (s["encoding"]["x"]["field"], s["encoding"]["y"]["field"])
            for s in specs}  # fmt: skip
    assert axes == {"roc": ("fpr", "tpr"), "pr": ("recall", "precision"),
                    "training": ("epoch", "train_loss")}  # fmt: skip
    for spec in specs:
        (x, y), points = axes[spec["title"]["text"]], spec["data"]["values"]
        assert len(points) >= 2 and all(p[x] != "" and p[y] != "" for p in points)
