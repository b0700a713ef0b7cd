"""Predicting and scoring again: the same is called the same, and what was altered is named."""

import json
import os
import shutil
from pathlib import Path

import cv2
import fakes
import pytest
import yaml

from resegment import (
    cli,
    config,
    drawn,
    fetch,
    ingest,
    native,
    paths,
    predict,
    prepare,
    score,
    train,
)
from resegment.datasets import hrf, stare
from resegment.protocols import Protocol

RUN = "two-tiny/rga-stare/s0"


@pytest.fixture(scope="module")
def done(tmp_path_factory, root):
    """A run of a second on small fakes of STARE, scored on those of HRF, too."""
    path = tmp_path_factory.mktemp("rerun")
    for name in ("registry", "splits", "published"):
        shutil.copytree(root / "data" / name, path / "data" / name)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    how = {"epochs": 1, "samples_per_epoch": 8, "batch_size": 4, "augment": {"crop": 24}}
    tree["budgets"]["tiny"] = {"recipes": {"rga-stare-512": "native"}, "train": how}
    campaign = {"experiments": ["rga-stare"], "seeds": [0], "budget": "tiny", "cross": ["hrf"]}
    tree |= {"campaigns": {"two": campaign}, "active": ["two"]}
    (path / "params.yaml").write_text(yaml.safe_dump(tree))
    before = os.getcwd()
    os.chdir(path)
    try:
        for name, files in (("stare", fakes.stare_files(stare.IDS)),
                            ("hrf", fakes.hrf_files(hrf.IDS))):  # fmt: skip
            fetch.add(name, fakes.zipped(path / f"{name}.zip", files), unverified=True)
            ingest.ingest(name)
        params = config.load()
        run = config.find(params, RUN)
        recipe = params.recipes[run["recipe"]].model_dump(mode="json")
        prepare.prepare("stare", run["split"], run["recipe"], recipe, run["geometry"])
        prepared = paths.prepared(run["split"], run["recipe"])
        train.fit(run, config.trained_by(run), prepared, paths.run(RUN), "cpu", {})
        protocols = {n: Protocol(**p.model_dump()) for n, p in params.protocols.items()}
        for dataset in (None, "hrf"):
            maps, name, splits = drawn.of(run, dataset).values()
            if dataset:
                protocols = score.frozen(protocols, RUN)
            predict.predict(run, "cpu", name, splits, paths.predictions(maps))
            score.score(maps, name, run["geometry"], protocols, splits)
    finally:
        os.chdir(before)
    return path


@pytest.fixture
def checkout(done, tmp_path, monkeypatch):
    path = tmp_path / "w"
    shutil.copytree(done, path)
    monkeypatch.chdir(path)
    return path


def rerun(monkeypatch, capsys, target=RUN, *words) -> tuple[int, dict]:
    words = ["trace", target, "f1", "--rerun", "--json", *words]
    monkeypatch.setattr("sys.argv", ["resegment", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, json.loads(capsys.readouterr().out)


def elsewhere():
    """The run's manifest as if another torch had made it."""
    file = paths.run(RUN) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["versions"]["torch"] = "2.0"
    file.write_text(json.dumps(manifest))


def shift(levels: int) -> str:
    """Move every pixel of one map by that many levels."""
    file = sorted(paths.predictions(RUN).glob("*.png"))[0]
    probability = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    probability[probability > 32767] -= levels
    probability[probability <= 32767] += levels
    cv2.imwrite(str(file), probability)
    return str(file)


@pytest.mark.parametrize("target", [RUN, f"{RUN}/on-hrf"])
def test_on_the_same_machine_all_is_the_same_bit_for_bit(checkout, monkeypatch, capsys, target):
    code, found = rerun(monkeypatch, capsys, target)
    assert code == 0 and found["exact"] and found["differences"] == []
    assert found["value"] == found["again"] and "common" in found["protocols"]
    tested = [p for p in native.split("hrf", "hrf").values() if p == "test"]
    assert found["maps"] == (len(tested) if target != RUN else len(stare.IDS))
    assert found["run"] == target and Path.cwd() == checkout


def test_elsewhere_small_differences_are_within_tolerances(checkout, monkeypatch, capsys):
    elsewhere()
    shift(600)
    code, found = rerun(monkeypatch, capsys)
    assert code == 0 and not found["exact"] and found["differences"] == []
    (why,) = found["because"]
    assert why.startswith("torch is ") and why.endswith("the manifest has 2.0")


def test_elsewhere_large_differences_are_named(checkout, monkeypatch, capsys):
    elsewhere()
    file = shift(700)
    code, found = rerun(monkeypatch, capsys)
    (line,) = found["differences"]
    assert code == 1 and line.startswith(f"{file}: 100.00% of its pixels differ, by at most 700 ")


def test_an_altered_score_is_named(checkout, monkeypatch, capsys):
    file = paths.scores(RUN) / "metrics.json"
    values = json.loads(file.read_text())
    again = values["common"]["f1"]
    values["common"]["f1"] = again + 0.002
    file.write_text(json.dumps(values))
    for _ in range(2):
        code, found = rerun(monkeypatch, capsys)
        (line,) = found["differences"]
        assert code == 1 and line == f"common f1: recorded {again + 0.002}, again {again}"
        elsewhere()  # then the tolerance is 0.001


def test_a_map_that_is_no_longer_here_is_named(checkout, monkeypatch, capsys):
    file = sorted(paths.predictions(RUN).glob("*.png"))[0]
    file.unlink()
    code, found = rerun(monkeypatch, capsys)
    assert code == 1 and found["differences"] == [f"{file}: is not among the recorded maps"]


def test_missing_weights_are_a_mistake_with_a_remedy(checkout, monkeypatch, capsys):
    file = paths.run(RUN) / "weights.safetensors"
    file.unlink()
    monkeypatch.setattr("sys.argv", ["resegment", "trace", RUN, "f1", "--rerun"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1 and f"{file} is missing: `dvc checkout`" in capsys.readouterr().err
