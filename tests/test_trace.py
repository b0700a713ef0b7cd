"""From a file to the stages behind it; what was altered since is named."""

import pytest
import yaml

from resegment.errors import UserError
from resegment.files import md5, sha256, write_manifest
from resegment.trace import folder_md5, upstream

RUN = "runs/a-smoke/x/s0"


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A checkout of four stages, from one raw image to one score, and its dvc.lock."""
    monkeypatch.chdir(tmp_path)
    contents = {
        "data/raw/toy/1.png": "raw", "data/native/toy/1_label.png": "label",
        f"{RUN}/weights.safetensors": "weights", f"{RUN}/predictions/1.png": "map",
        f"{RUN}/scores/metrics.json": "0.8", "reports/a-smoke/scores.csv": "f1,0.8\n",
        "src/train.py": "code", "data/registry/toy.sha256": "",
    }  # fmt: skip
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    registry = tmp_path / "data/registry/toy.sha256"
    registry.write_text(f"{sha256('data/raw/toy/1.png')}  1.png\n")
    for folder in ("data/native/toy", f"{RUN}/predictions", f"{RUN}/scores"):
        write_manifest(folder)
    tree = {"train": {"epochs": 3, "optimiser": {"lr": 0.1}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))

    def entry(path):
        here = tmp_path / path
        return {"path": path, "md5": folder_md5(here) if here.is_dir() else md5(here)}

    def stage(deps, out):
        return {"cmd": "c", "deps": [entry(d) for d in deps], "outs": [entry(out)],
                "params": {"params.yaml": {"train": tree["train"]}}}  # fmt: skip

    return {
        "table": stage([f"{RUN}/scores"], "reports/a-smoke/scores.csv"),
        "score": stage([f"{RUN}/predictions", "data/native/toy"], f"{RUN}/scores"),
        "predict": stage([f"{RUN}/weights.safetensors", "data/native/toy"], f"{RUN}/predictions"),
        "train": stage(["data/native/toy", "src/train.py"], f"{RUN}/weights.safetensors"),
        "ingest": stage(["data/registry/toy.sha256"], "data/native/toy"),
        "other": stage([], "src/train.py") | {"outs": []},
    }


def test_makers_come_before_what_they_made(lock):
    found = list(upstream.behind("reports/a-smoke/scores.csv", lock))
    assert found == ["ingest", "train", "predict", "score", "table"]
    assert list(upstream.behind(f"{RUN}/predictions/1.png", lock)) == found[:3]
    with pytest.raises(UserError, match=f"near it: {RUN}/scores"):
        upstream.behind("run/a-smoke/x/s0/score", lock)


def test_nothing_altered_is_nothing_said(lock):
    stages = upstream.behind("reports/a-smoke/scores.csv", lock)
    assert upstream.verify(stages, upstream.read("params.yaml")) == []


@pytest.mark.parametrize("file", [
    "data/raw/toy/1.png", "data/native/toy/1_label.png", f"{RUN}/weights.safetensors",
    f"{RUN}/predictions/1.png", f"{RUN}/scores/metrics.json", "reports/a-smoke/scores.csv",
    "src/train.py",
])  # fmt: skip
def test_an_altered_file_is_named(lock, file, tmp_path):
    (tmp_path / file).write_text("other")
    stages = upstream.behind("reports/a-smoke/scores.csv", lock)
    (line,) = upstream.verify(stages, upstream.read("params.yaml"))
    assert line.startswith(f"{file}: ")


def test_an_altered_parameter_is_named(lock, tmp_path):
    (tmp_path / "params.yaml").write_text("train: {epochs: 3, optimiser: {lr: 0.2}}\n")
    stages = upstream.behind("reports/a-smoke/scores.csv", lock)
    (line,) = upstream.verify(stages, upstream.read("params.yaml"))
    assert line == "params.yaml: train.optimiser.lr: dvc.lock has 0.1, now it is 0.2"


def test_stages_that_used_another_content_are_named(lock):
    lock["predict"]["deps"][0]["md5"] = "0"
    stages = upstream.behind("reports/a-smoke/scores.csv", lock)
    (line,) = upstream.verify(stages, upstream.read("params.yaml"))
    assert line.startswith(f"{RUN}/weights.safetensors: predict used another content than train")


def test_a_line_of_a_table_and_a_cell_that_was_altered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = tmp_path / RUN / "scores"
    scores.mkdir(parents=True)
    (scores / "metrics.json").write_text('{"common": {"f1": 0.81234567}}')
    head = "seed,protocol,metric,value,run"
    (tmp_path / "scores.csv").write_text(f"{head}\n0,common,f1,0.812346,a-smoke/x/s0\n")
    row = upstream.line("scores.csv:2")
    assert row["run"] == "a-smoke/x/s0"
    assert upstream.disagreement("reports/a/scores.csv:2", row) == []
    (said,) = upstream.disagreement("reports/a/scores.csv:2", row | {"value": "0.9"})
    assert said.startswith("reports/a/scores.csv:2: value is 0.9, ") and "0.812346" in said
    with pytest.raises(UserError, match="no line 3: it has lines 2 to 2"):
        upstream.line("scores.csv:3")


def test_a_number_that_yaml_reads_as_text_is_no_difference():
    assert upstream.differences("eps", "1e-08", 1e-8) == []
    assert upstream.differences("eps", "1e-08", 1e-7) and upstream.differences("eps", "adam", 1.0)
