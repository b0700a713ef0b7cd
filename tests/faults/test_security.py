"""Nothing from outside is executed: no pickle, no tag, no shell word, no markup."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pipeline
import pytest
import torch
import yaml
from test_report import Page, made
from training import fit

from resegment import checkpoint, config, models, paths, report, stats
from resegment.datasets import registry
from resegment.engines import plan
from resegment.errors import UserError
from resegment.trace import upstream


class Bomb:
    """What unpickling executes."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.fixture
def unharmed(tmp_path, monkeypatch):
    """An empty folder, in which no command may have been executed afterwards."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.rglob("exploded"))


@pytest.mark.fault("Security", "A checkpoint with a pickled command, digest and all",
                   "not executed; said to be damaged and not used")  # fmt: skip
def test_a_pickle_in_a_checkpoint(run, unharmed, capsys):
    first = fit(run, "a")
    for file in paths.CHECKPOINTS.rglob("[!.]*.pt"):
        checkpoint.save(file, torch.load(file, weights_only=True) | {"history": Bomb()})
    capsys.readouterr()
    assert fit(run, "b") == first
    assert "is damaged: not used" in capsys.readouterr().out


@pytest.mark.fault("Security", "A pickle, bare or in torch's zip, under the name of weights to "
                   "start from",
                   "not executed; one sentence: the file holds no weights of this "
                   "model")  # fmt: skip
@pytest.mark.parametrize("form", ["bare", "torch"])
def test_a_pickle_as_weights(run, unharmed, form):
    file = Path("weights.safetensors")
    file.write_bytes(pickle.dumps(Bomb())) if form == "bare" else torch.save(Bomb(), file)
    network = models.build(run["model"]["name"], run["model"]["options"])
    with pytest.raises(UserError, match=r"weights\.safetensors holds no weights of this model"):
        models.load(network, file)


@pytest.mark.fault("Security", "Pickled objects in the histograms of a run's scores",
                   "not executed, refused")  # fmt: skip
@pytest.mark.parametrize("form", ["member", "whole"])
def test_a_pickle_among_histograms(unharmed, form):
    folder = paths.scores("a/b/s0")
    folder.mkdir(parents=True)
    array = np.array([Bomb()], dtype=object)
    if form == "whole":
        (folder / "histograms.npz").write_bytes(pickle.dumps(Bomb()))
    else:
        np.savez(folder / "histograms.npz", counts=array, ids=array, splits=array, spaces=array)
    with pytest.raises((UserError, ValueError)):
        stats.stored(folder)


TAGS = ["!!python/object/apply:os.system ['touch exploded']", "!!python/name:os.system",
        "!!python/object/new:os.system ['touch exploded']", "!!python/module:os",
        "!!python/object/apply:subprocess.check_output [['touch', 'exploded']]"]  # fmt: skip


@pytest.mark.fault("Security", "YAML tags that make Python call something, in params.yaml, "
                   "dvc.lock and datasets.yaml",
                   "not called; one sentence with the file")  # fmt: skip
@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags(unharmed, tag):
    Path("params.yaml").write_text(f"active: {tag}\n")
    with pytest.raises(UserError, match=r"params\.yaml"):
        config.load()
    Path("dvc.lock").write_text(f"stages: {tag}\n")
    with pytest.raises((UserError, yaml.YAMLError)):
        upstream.read("dvc.lock")
    paths.REGISTRY.mkdir(parents=True)
    (paths.REGISTRY / "datasets.yaml").write_text(f"drive: {tag}\n")
    with pytest.raises(UserError, match=r"datasets\.yaml"):
        registry.load()


@pytest.mark.fault("Security", "Every command that dvc.yaml gives to a shell, for every campaign "
                   "of params.yaml",
                   "made of names alone; no character that a shell reads")  # fmt: skip
def test_no_shell_word_in_a_command(root, tried):
    params = config.load(root / "params.yaml")
    everything = params.model_copy(update={"active": tuple(params.campaigns)})
    commands = [
        stage["do"]["cmd"].replace("${key}", key).replace("${item.run}", str(item.get("run")))
        .replace("${item.dataset}", str(item.get("dataset")))
        if "do" in stage else stage["cmd"]
        for stage in plan.document(everything)["stages"].values()
        for key, item in stage.get("foreach", {"": {}}).items()
    ]  # fmt: skip
    tried(len(commands))
    assert len(commands) > 500
    assert not [c for c in commands if not re.fullmatch(r"exec resegment [a-z]+[a-z0-9_/ -]*", c)]


WORDS = ["; touch exploded", "$(touch exploded)", "`touch exploded`", "a\ntouch exploded",
         "a && touch exploded", "| touch exploded", "'", '"', "../up", "/abs", "-rf", "a b",
         "${key}", "\u202egnp", "%s", "{0}", "~", "*", "a\n", "", "A", "é", ".",
         "x\x00"]  # fmt: skip
PLACES = {
    "active": lambda t, w: t["active"].append(w),
    "a campaign": lambda t, w: t["campaigns"].update({w: t["campaigns"]["sample"]}),
    "a budget": lambda t, w: t["budgets"].update({w: {}}),
    "a recipe": lambda t, w: t["recipes"].update({w: {}}),
    "an experiment": lambda t, w: t["experiments"].update({w: t["experiments"]["rga-drive"]}),
    "an inference": lambda t, w: t["inference"].update({w: {}}),
    "a dataset": lambda t, w: t["campaigns"]["sample"].update(dataset=w),
    "a set": lambda t, w: t["experiments"]["rga-drive"].update(dataset=w),
    "a split": lambda t, w: t["experiments"]["rga-drive"].update(split=w),
    "a network": lambda t, w: t["experiments"]["rga-drive"]["model"].update(name=w),
    "a cross set": lambda t, w: t["campaigns"]["sample"].update(cross=[w]),
    "a seed": lambda t, w: t["campaigns"]["sample"].update(seeds=[w]),
}


@pytest.mark.fault("Security", "Shell words, quotes, newlines, paths and other strange characters "
                   "as any name in params.yaml",
                   "refused, with the name's path in the file")  # fmt: skip
@pytest.mark.parametrize("place", PLACES)
def test_names_are_names(root, place, unharmed, tried):
    text = (root / "params.yaml").read_text()
    for word in WORDS:
        tree = yaml.safe_load(text)
        PLACES[place](tree, word)
        Path("params.yaml").write_text(yaml.safe_dump(tree))
        with pytest.raises(UserError, match=r"params\.yaml"):
            config.load()
    tried(len(WORDS))


@pytest.mark.slow
@pytest.mark.fault("Security", "A checkout in a folder whose name has spaces, quotes, semicolons, "
                   "a command and a newline",
                   "both engines run a changed experiment there and agree")  # fmt: skip
@pytest.mark.parametrize("engine", ["snakemake --cores 2 --resources gpu=2", "dvc repro"])
def test_a_checkout_with_a_strange_name(done, tmp_path, engine):
    strange = tmp_path / "a b'c\"d; touch exploded; $(touch exploded) `touch exploded` &\n#é"
    w = pipeline.copied(done, strange)
    w.rate("unet-drive", 0.02)
    w.sh(engine)
    assert w.costly()[0] == f"train {pipeline.UNET}"
    w.clean()
    w.sh(f"resegment trace {pipeline.UNET} f1 --verify")
    assert not list(tmp_path.rglob("exploded"))
    shutil.rmtree(strange)


MARKUP = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
          "</td></table><svg/onload=alert(1)>", "javascript:alert(1)", "</script><script>alert(1)",
          "{{7*7}}", "{% include '/etc/passwd' %}", "<!--", "]]>", "&lt;b&gt;", "</style><script>",
          "\x00\x1b[31m", "\u202e", "<iframe srcdoc='<script>alert(1)</script>'>"]  # fmt: skip
FREE = {"claims": ("statement", "reason", "published"), "audit": ("method", "sentence", "referee"),
        "ledger": ("method", "reason", "table")}  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("Security", "Markup, scripts and template words in every text of tables and "
                   "manifests that the page shows",
                   "shown as text: no element, attribute, script or link is added")  # fmt: skip
def test_markup_in_texts(tmp_path, monkeypatch, tried):
    monkeypatch.chdir(tmp_path)
    _, _, campaign, runs = made(dataset="drive", published=True)
    tables = {n: paths.reports(campaign) / f"{n}.csv" for n in FREE}
    kept = {n: pd.read_csv(f, dtype=str) for n, f in tables.items()}
    manifests = [paths.run(r["run"]) / "manifest.json" for r in runs]
    known = [json.loads(m.read_text()) for m in manifests]
    count = 0

    def spoil(value, word):
        nonlocal count
        if isinstance(value, dict):
            return {k: spoil(v, word) for k, v in value.items()}
        count += isinstance(value, str)
        return f"{value}{word}" if isinstance(value, str) else value

    def page(word):
        nonlocal count
        for name, file in tables.items():
            spoilt = {column: kept[name][column].fillna("") + word for column in FREE[name]}
            kept[name].assign(**spoilt).to_csv(file, index=False)
            count += len(spoilt) * len(kept[name])
        for file, was in zip(manifests, known, strict=True):
            texts = {k: spoil(was[k], word) for k in ("device", "versions", "origin") if k in was}
            file.write_text(json.dumps(was | texts))
        report.build(campaign, runs)
        return Page((paths.reports(campaign) / "report.html").read_text(encoding="utf-8"))

    plain = page("word")
    for word in MARKUP:
        marked = page(word)
        assert [t for t, _ in marked.tags] == [t for t, _ in plain.tags], word
        for (_, was), (_, now) in zip(plain.tags, marked.tags, strict=True):
            assert was.keys() == now.keys(), word
            assert not any(str(v).startswith("javascript:") for v in now.values()), word
    tried(count)
