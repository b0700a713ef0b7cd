"""params.yaml: one truth, read alike by both engines, and every mistake named."""

import copy
import json

import pytest
import yaml
from ruamel.yaml import YAML

from resegment import config
from resegment.engines import plan
from resegment.errors import UserError
from resegment.schema import Params


@pytest.fixture
def tree(root):
    return yaml.safe_load((root / "params.yaml").read_text())


def loaded(tree, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(tree))
    return config.load(file)


def test_both_yaml_dialects_read_the_same(root):
    # Snakemake reads YAML 1.1, DVC 1.2: 1e-3, on/off, 010 would differ.
    old = yaml.safe_load((root / "params.yaml").read_text())
    new = YAML(typ="safe").load((root / "params.yaml").read_text())
    assert json.dumps(old) == json.dumps(new)


def test_committed_dvc_yaml_is_in_step(root, monkeypatch):
    monkeypatch.chdir(root)
    plan.check(config.load())


def test_committed_schema_is_in_step(root):
    schema = json.loads((root / "workflow/schemas/params.schema.json").read_text())
    assert schema == Params.model_json_schema(by_alias=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["experiments"]["rga-drive"].update(epoch=3), "experiments.rga-drive.epoch"),
        (lambda t: t["experiments"]["rga-drive"]["train"].update(epochs=-1), "train.epochs"),
        (lambda t: t["budgets"]["smoke"]["train"].update(epochs="many"), "epochs"),
        (lambda t: t["campaigns"]["drive"].update(budget="rich"), "budgets has only"),
        (lambda t: t["budgets"]["lite"]["experiments"].update(rga={}), "budgets.lite.experiments"),
        (lambda t: t["experiments"]["rga-drive"].update(recipe="x"), "recipes has only"),
        (lambda t: t.update(active=["nothing"]), "campaigns has only"),
        (lambda t: t["recipes"]["rga-512"].update(pad=[592, 592]), "recipes.rga-512"),
        (lambda t: t["protocols"]["common"].update(region="eye"), "protocols.common.region"),
        (lambda t: t["experiments"].update({"a b; rm": t["experiments"]["rga-drive"]}), "a b; rm"),
        (lambda t: t["experiments"]["rga-drive"]["train"].update(loss={}), "train.loss"),
    ],
)
def test_every_mistake_is_named_by_its_path(tree, tmp_path, change, named):
    change(tree)
    with pytest.raises(UserError) as error:
        params = loaded(tree, tmp_path)
        config.runs(params, tuple(params.campaigns))
    assert named in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "active: *nowhere"])
def test_a_broken_file_is_one_sentence(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        config.load(tmp_path / "params.yaml")


def test_a_missing_file_says_where_to_stand(tmp_path):
    with pytest.raises(UserError, match="root of a checkout"):
        config.load(tmp_path / "params.yaml")


def test_budget_replaces_and_keeps_the_rest(tree, tmp_path):
    params = loaded(tree, tmp_path)
    paper = copy.deepcopy(tree)
    paper["campaigns"]["drive"]["budget"] = "paper"
    full = config.resolve(loaded(paper, tmp_path), "drive", "rga-drive", 1)
    lite = config.resolve(params, "drive", "rga-drive", 1)
    assert full["train"]["epochs"] == 70 and full["recipe"] == "rga-512"
    assert lite["train"]["epochs"] == 20 and lite["recipe"] == "native"
    assert lite["train"]["loss"] == full["train"]["loss"] == {"dice": 1.0, "bce": 1.0}
    assert (lite["run"], full["run"]) == ("drive-lite/rga-drive/s1", "drive-paper/rga-drive/s1")


def test_a_budget_may_reduce_one_experiment_in_place_of_its_model(tree, tmp_path):
    own = {"options": {"width": 2}, "train": {"epochs": 1}}
    tree["budgets"]["lite"]["models"]["unet"] = {"train": {"epochs": 2, "batch_size": 3}}
    tree["budgets"]["lite"]["experiments"] = {"unet-drive": own}
    params = loaded(tree, tmp_path)
    runs = [config.resolve(params, "drive", e, 0) for e in ("unet-drive", "hybridnetseg-unet")]
    assert [(r["train"]["epochs"], r["train"]["batch_size"]) for r in runs] == [(1, 8), (2, 3)]
    assert runs[0]["model"]["options"]["width"] == 2 and not runs[0]["full_model"]


def test_the_sample_campaign_takes_the_sample_set_and_its_split(tree, tmp_path):
    run = config.resolve(loaded(tree, tmp_path), "sample", "rga-drive", 0)
    assert (run["dataset"], run["split"], run["rows_dataset"]) == ("sample", "sample", "drive")


def test_weights_depend_on_nothing_but_what_trains_them(tree, tmp_path):
    before = config.trained_by(config.resolve(loaded(tree, tmp_path), "drive", "rga-drive", 0))
    tree["experiments"]["rga-drive"].update(protocol="common", rows=[])
    after = config.trained_by(config.resolve(loaded(tree, tmp_path), "drive", "rga-drive", 0))
    assert before == after
    tree["experiments"]["rga-drive"]["train"]["loss"] = {"iou": 1.0}
    assert before != config.trained_by(
        config.resolve(loaded(tree, tmp_path), "drive", "rga-drive", 0)
    )
