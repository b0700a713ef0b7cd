"""params.yaml: one truth, read alike by both engines, and every mistake named."""

import copy
import json

import pytest
import yaml
from ruamel.yaml import YAML

from resegment import config
from resegment.engines import plan
from resegment.errors import UserError
from resegment.schema import Budget, Params, Reduction


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
        (
            lambda t: t["experiments"]["rga-drive"]["train"]["optimiser"].update(learning_rate=0.1),
            "train.optimiser.learning_rate: is none of the keys here: name, lr, betas, eps, ",
        ),
        (lambda t: t.update(more={}), "params.yaml: more: is none of the keys here: active, camp"),
        (lambda t: t["budgets"]["smoke"]["train"].update(epoch=3),
         "params.yaml: budgets.smoke.train.epoch: is none of the keys here: epochs, batch_size, "),
        (lambda t: t["budgets"].update(own={"train": {"epochs": -1}}), "budgets.own.train.epochs"),
        (lambda t: t["budgets"]["smoke"]["models"]["rsan"]["train"].update(batch_size=0),
         "params.yaml: budgets.smoke.models.rsan.train.batch_size: Input should be greater than 0"),
        (lambda t: t["budgets"]["paper"].update(experiments={"rga-drive": {"train": {"lr": 1}}}),
         "params.yaml: budgets.paper.experiments.rga-drive.train.lr: is none of the keys"),
        (lambda t: t["experiments"]["rga-drive"]["train"].update(loss={"focal": 1.0}),
         "experiments.rga-drive.train.loss.focal: is none of 'bce', 'dice', "),
        (lambda t: t["experiments"].update({"UNet-LR": t["experiments"]["rga-drive"]}),
         "experiments.UNet-LR: 'UNet-LR' must be small letters, digits, - and _"),
    ],
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n  b: 1\n\tc: 2\n", "line 3: a tab: indent with spaces"),
        ("a:\n\tb: 1\n", "line 2: a tab: indent with spaces"),
        ("a: &train 1\nb: *trian\n", r"line 2: \*trian stands for nothing: no &trian is above it"),
        ("c:\n  seeds: [0]\n  budget:smoke\nd: 1\n", "line 3: 'budget:smoke' needs a space"),
        ("c:\n  budget:smoke\n  seeds: [0]\n", "line 2: 'budget:smoke' needs a space"),
        ("c:\n  budget:smoke\n", "line 2: 'budget:smoke' needs a space"),
    ],
)
def test_a_slip_of_yaml_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=f"params.yaml, {said}"):
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


REPLACED = {  # what a budget, or a part of it, may say: another run, and so a stale training
    "recipes": {"native": "resize-512"},
    "inference": "stride-32",
    "options": {"width": 6},
    "train": {"epochs": 3},
}


@pytest.mark.parametrize("part", ["", "models", "experiments"])
@pytest.mark.parametrize("field", REPLACED)
def test_whatever_a_budget_replaces_is_watched(tree, tmp_path, part, field):
    assert set(Budget.model_fields) == {*REPLACED, "models", "experiments"}
    assert set(Reduction.model_fields) == set(REPLACED)
    tree["budgets"]["own"] = tree["budgets"]["paper"] | {field: {}} if field != "inference" else {}
    tree["campaigns"]["own"] = {"experiments": ["unet-drive"], "seeds": [0], "budget": "own"}
    tree["active"] = ["own"]
    seen = []
    for change in ({}, {field: REPLACED[field]}):
        name = {"models": "unet", "experiments": "unet-drive"}.get(part)
        tree["budgets"]["own"] |= {part: {name: change}} if part else change
        params = loaded(tree, tmp_path)
        (run,) = config.runs(params)
        stages, keys = plan.document(params)["stages"], {}
        for verb in ("train", "predict"):
            item = stages[verb]["foreach"][run["run"]]
            for key in stages[verb]["do"]["params"]:
                keys[key] = value = tree
                for step in plan._filled(key, "", item).split("."):
                    keys[key] = value = value[step]
        seen.append(copy.deepcopy((run, keys, stages)))
    (run, keys, stages), (run_2, keys_2, stages_2) = seen
    assert run != run_2
    assert keys != keys_2 or stages != stages_2


def test_experiments_between_which_a_budget_leaves_no_difference_are_named(tree, tmp_path):
    other = copy.deepcopy(tree["experiments"]["unet-drive"])
    other["train"]["optimiser"] = {"name": "adam", "lr": 0.0001}
    scored = tree["experiments"]["unet-drive"] | {"protocol": "fov-native-pixels"}
    tree["experiments"] |= {"unet-drive-lr": other, "unet-drive-scored": scored}
    names = ["unet-drive", "unet-drive-lr", "unet-drive-scored"]
    tree["campaigns"]["mine"] = {"experiments": names, "seeds": [0, 1], "budget": "smoke"}
    assert plan.alike(loaded(tree, tmp_path)) == []  # not active
    tree["active"] = ["mine"]
    assert plan.alike(loaded(tree, tmp_path)) == [
        "mine-smoke: unet-drive-lr trains exactly as unet-drive does: budgets.smoke replaces what "
        "sets them apart (train.optimiser.lr); put it under "
        "budgets.smoke.experiments.unet-drive-lr"
    ]
    own = {"train": {"optimiser": {"lr": 0.0001}}}
    tree["budgets"]["smoke"]["experiments"] = {"unet-drive-lr": own}
    assert plan.alike(loaded(tree, tmp_path)) == []


def test_of_the_committed_campaigns_one_pair_is_alike(tree, tmp_path):
    tree["active"] = list(tree["campaigns"])
    (line,) = plan.alike(loaded(tree, tmp_path))  # a paper's filters, which smoke narrows
    assert line.startswith("brief-drive-smoke: rga-iaa-pd-dice-bce trains exactly as rga-drive ")


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
