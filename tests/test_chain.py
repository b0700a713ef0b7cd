"""From an archive in the official layout to a ledger row: every set without images at hand."""

import shutil

import fakes
import pandas as pd
import pytest
import yaml

from resegment import (
    config,
    fetch,
    ingest,
    ledger,
    native,
    paths,
    predict,
    prepare,
    score,
    train,
)
from resegment.datasets import hrf, monuseg, stare
from resegment.protocols import Protocol

WHOLE_SETS = {
    "stare": (lambda: fakes.stare_files(stare.IDS), "rga-stare"),
    "hrf": (lambda: fakes.hrf_files(hrf.IDS), "hybridnetseg-hrf"),
    "monuseg": (lambda: fakes.monuseg_files(monuseg.IDS), "mininet-monuseg"),
    "isic2016": (fakes.isic2016_files, "mininet-isic2016"),
    "isic2018": (fakes.isic2018_files, "mininet-isic2018-alpha-bce-iou"),
}


@pytest.fixture
def checkout(tmp_path, monkeypatch, root):
    for name in ("registry", "splits", "published"):
        shutil.copytree(root / "data" / name, tmp_path / "data" / name)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["budgets"]["tiny"] = {
        "recipes": dict.fromkeys(["rga-stare-512", "hrf-784", "resize-512"], "native"),
        "train": {"epochs": 1, "samples_per_epoch": 8, "batch_size": 4, "augment": {"crop": 24}},
    }
    names = [experiment for _, experiment in WHOLE_SETS.values()]
    tree["campaigns"] = {"all": {"experiments": names, "seeds": [0], "budget": "tiny"}}
    tree["active"] = ["all"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dataset", WHOLE_SETS)
def test_every_set_goes_from_its_archive_to_a_ledger_row(dataset, checkout):
    files, experiment = WHOLE_SETS[dataset]
    archive = fakes.zipped(checkout / "given.zip", files())
    fetch.add(dataset, archive, unverified=True)
    ingest.ingest(dataset)
    params = config.load()
    run = config.find(params, f"all-tiny/{experiment}/s0")
    recipe = params.recipes[run["recipe"]].model_dump(mode="json")
    prepare.prepare(dataset, run["split"], run["recipe"], recipe, run["geometry"])
    prepared = paths.prepared(run["split"], run["recipe"])
    train.fit(run, config.trained_by(run), prepared, paths.run(run["run"]), "cpu", {})
    splits = native.split(run["split"], dataset)
    predict.predict(run, "cpu", dataset, splits, paths.predictions(run["run"]))
    protocols = {n: Protocol(**p.model_dump()) for n, p in params.protocols.items()}
    score.score(run["run"], dataset, run["geometry"], protocols, splits)
    ledger.build("all-tiny", [run])
    rows = pd.read_csv(paths.reports("all-tiny") / "ledger.csv")
    assert set(rows.row) <= set(run["rows"]) and len(rows) >= 3
    assert set(rows.dataset) == {dataset} and rows["mean"].notna().all()
    counted = rows.metric == "params_m"  # no schedule changes a count
    assert set(rows.verdict[counted]) <= {"reproduced"}
    assert set(rows.verdict[~counted]) == {"not run"}
    assert rows.reason[~counted].str.contains("budget tiny").all()
