"""What DVC itself shows of this project's files: metrics, parameters, plots, what changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

RUN = "sample-tiny/unet-drive/s0"
METRICS = f"runs/{RUN}/scores/metrics.json"
LR = "experiments.unet-drive.train.optimiser.lr"


@pytest.fixture(scope="module")
def dvc(tmp_path_factory, root):
    """`dvc` in a checkout with one run of a second, committed, then made with another rate."""
    path = tmp_path_factory.mktemp("views") / "w"
    subprocess.run(["git", "clone", "-q", str(root), str(path)], check=True)
    verb = path / ".bin/resegment"
    verb.parent.mkdir()
    verb.write_text(f"#!{sys.executable}\nfrom resegment.cli import main\nmain()\n")
    verb.chmod(0o755)
    env = os.environ | {
        "PYTHONPATH": str(path / "src"), "DVC_NO_ANALYTICS": "1", "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{verb.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip

    def sh(command: str) -> str:
        r = subprocess.run(command, shell=True, cwd=path, capture_output=True, text=True, env=env)
        assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
        return r.stdout

    def rate(lr: float) -> None:
        file = path / "params.yaml"
        tree = yaml.safe_load(file.read_text())
        tree["active"] = ["sample"]
        augment = {"crop": 32, "flips": True}
        tree["budgets"]["tiny"] = {"train": {"epochs": 2, "samples_per_epoch": 8, "batch_size": 4,
                                             "augment": augment}}  # fmt: skip
        tree["campaigns"]["sample"] |= {"budget": "tiny", "experiments": ["unet-drive"]}
        tree["experiments"]["unet-drive"]["train"]["optimiser"] = {"name": "adam", "lr": lr}
        file.write_text(yaml.safe_dump(tree, sort_keys=False))

    rate(0.01)
    sh("git config user.email a@b; git config user.name t; rm -f dvc.lock; resegment plan")
    sh(f"dvc repro -q score@{RUN}; git add -A; git commit -qm one")
    rate(0.3)
    sh(f"dvc repro -q score@{RUN}")
    return lambda command: sh(f"dvc {command}")


def test_metrics_show_has_every_protocol(dvc, root):
    shown = json.loads(dvc("metrics show --json"))
    (values,) = [f["data"] for f in shown[""]["data"].values()]
    protocols = yaml.safe_load((root / "params.yaml").read_text())["protocols"]
    assert set(protocols) <= set(values)
    assert all(0 <= values[p]["auc"] <= 1 for p in protocols)


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
