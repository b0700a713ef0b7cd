"""Bad data: every file that is read, and every word that is typed, broken in thousands of ways.

What is refused is a sentence; what is taken is used as it was said. Every input is drawn by
hypothesis without chance: the same ones in every run.
"""

import json
import math
import re

import pytest
import yaml
from mutations import asked, hammer, texts, trees
from ruamel.yaml import YAML

from resegment import config, dialects
from resegment.engines import plan

PLAIN_VERB = re.compile(r"resegment [a-z]+ [a-z0-9_/-]+( --on [a-z0-9_-]+)?")


@pytest.fixture
def checkout(root, tmp_path, monkeypatch):
    """An empty folder with the registry, the splits and the published tables of the checkout."""
    (tmp_path / "data").mkdir()
    for name in ("registry", "splits", "published"):
        folder = tmp_path / "data" / name
        folder.mkdir()
        for file in (root / "data" / name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params_of(data: bytes) -> None:
    """Load, resolve and plan what `data` says; compare what is taken with what it says."""
    with open("params.yaml", "wb") as f:
        f.write(data)
    config._parsed.cache_clear()
    taken, params = asked(config.load)
    if not taken:
        assert "params.yaml" in params
        return
    text = data.decode()
    said = dialects.read(text, "params.yaml")
    assert same(YAML(typ="safe").load(text), said), "DVC reads another tree"
    assert covers(said, params.model_dump(mode="json", by_alias=True))
    runs = config.runs(params, tuple(params.campaigns))
    assert len({r["run"] for r in runs}) == len(runs)
    taken, tree = asked(plan.document, params)
    if taken:
        stages = tree["stages"].values()
        verbs = [s["cmd"] for s in stages if "cmd" in s]
        verbs += [s["do"]["cmd"].replace("${key}", k).replace("${item.run}", k)
                  .replace("${item.dataset}", "x") for s in stages if "foreach" in s
                  for k in s["foreach"]]  # fmt: skip
        assert all(PLAIN_VERB.fullmatch(v) for v in verbs), verbs
        assert yaml.safe_load(plan.render(params)) == tree


def same(a, b) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def covers(said, used) -> bool:
    """Whether every value that was said is the one that is used."""
    if isinstance(said, dict):
        return isinstance(used, dict) and all(k in used and covers(v, used[k])
                                              for k, v in said.items())  # fmt: skip
    if isinstance(said, list):
        return len(said) == len(used) and all(map(covers, said, used))
    whole = isinstance(said, bool) == isinstance(used, bool)
    return whole and (said == used or said is used or (said != said and math.isnan(used)))


@pytest.mark.fault(
    "Bad data",
    "params.yaml has bytes, lines, words or indents changed, or is cut",
    "A sentence with its line or key, or exactly what it says is used, as DVC reads it, too",
)
def test_params_as_text(checkout, root, tried):
    good = (root / "params.yaml").read_bytes()
    tried(hammer(500, texts(good), params_of))


@pytest.mark.campaign
@pytest.mark.fault(
    "Bad data",
    "params.yaml has bytes, lines, words or indents changed, or is cut, at length",
    "A sentence with its line or key, or exactly what it says is used, as DVC reads it, too",
)
def test_params_as_text_at_length(checkout, root, tried):
    good = (root / "params.yaml").read_bytes()
    tried(hammer(5000, texts(good), params_of))


def params_tree(tree: dict) -> None:
    params_of(yaml.dump(tree, Dumper=Unaliased, sort_keys=False).encode())


class Unaliased(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    def ignore_aliases(self, data):
        return True


def small(root) -> dict:
    """params.yaml with one campaign and its parts, so that every branch is met often."""
    tree = yaml.safe_load((root / "params.yaml").read_text())
    used = ("unet-drive", "bcdu-drive", "hybridnetseg-chase-pretrained", "hybridnetseg-drive")
    tree["experiments"] = {k: tree["experiments"][k] for k in used}
    tree["campaigns"] = {
        "sample": {"experiments": ["unet-drive"], "dataset": "sample", "seeds": [0],
                   "budget": "smoke"},
        "chase": {"experiments": list(used[1:]), "seeds": [0, 1], "budget": "paper",
                  "cross": ["stare"]},
    }  # fmt: skip
    tree["active"] = ["sample", "chase"]
    tree["budgets"].pop("lite")
    return tree | {"defaults": {}}


@pytest.mark.fault(
    "Bad data",
    "params.yaml has values and branches replaced, removed, added, renamed or moved",
    "A sentence with the key, or exactly what it says is used, as DVC reads it, too",
)
def test_params_as_tree(checkout, root, tried):
    tried(hammer(500, trees(small(root)), params_tree))


@pytest.mark.campaign
@pytest.mark.fault(
    "Bad data",
    "params.yaml has values and branches replaced, removed, added, renamed or moved, at length",
    "A sentence with the key, or exactly what it says is used, as DVC reads it, too",
)
def test_params_as_tree_at_length(checkout, root, tried):
    tried(hammer(7000, trees(small(root)), params_tree))
