"""Every number the README quotes is in the committed tables."""

import re

import pandas as pd
import pytest


def test_quoted_scores_are_those_of_the_tables(root):
    scores = pd.read_csv(root / "reports/drive-lite/scores.csv", dtype={"seed": str})
    text = (root / "README.md").read_text()
    named = {"U-Net": "unet-drive", "RGA-Net": "rga-drive"}
    for name, experiment in named.items():
        [line] = re.findall(rf"^\| {name} \| [\d,]+ \| (.*) \|$", text, re.M)
        mine = scores[(scores.experiment == experiment) & (scores.protocol == "common")]
        mine = mine[mine.seed != "observer2"].groupby("metric").value.agg(["mean", "std"])
        quoted = [cell.split(" ± ") for cell in line.split(" | ")]
        for metric, (mean, sd) in zip(("f1", "se", "sp", "acc", "auc"), quoted, strict=True):
            assert f"{mine.loc[metric, 'mean']:.4f}" == mean, (name, metric)
            assert f"{mine.loc[metric, 'std']:.4f}" == sd, (name, metric)


@pytest.mark.parametrize(
    ("metric", "quoted"), [("f1", "0.8153 ± 0.0013"), ("acc", "0.9684 ± 0.0001")]
)
def test_quoted_ledger_values_are_those_of_the_ledger(root, metric, quoted):
    ledger = pd.read_csv(root / "reports/drive-lite/ledger.csv")
    row = ledger[(ledger.row == "rga-3-11") & (ledger.metric == metric)].iloc[0]
    assert f"{row['mean']:.4f} ± {row['sd']:.4f}" == quoted
    assert quoted in (root / "README.md").read_text()
