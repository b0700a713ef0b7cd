"""Bad data: every file that is read, and every word that is typed, broken in thousands of ways.

What is refused is a sentence; what is taken is used as it was said. Every input is drawn by
hypothesis without chance: the same ones in every run.
"""

import contextlib
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pipeline
import pytest
import yaml
from hypothesis import strategies as st
from mutations import asked, hammer, texts, trees
from ruamel.yaml import YAML

from resegment import (
    audit,
    bundle,
    claims,
    cli,
    config,
    dialects,
    estimate,
    files,
    geometry,
    ledger,
    native,
    parcel,
    paths,
    published,
    score,
    stats,
    trace,
)
from resegment.audit import possible
from resegment.datasets import registry, sums
from resegment.engines import adopt, plan
from resegment.trace import check, tables

PLAIN_VERB = re.compile(r"exec resegment [a-z]+ [a-z0-9_/-]+( --on [a-z0-9_-]+)?")


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def nested(first: str, each: str) -> str:
    """Eight anchors, each of nine aliases of the one before."""
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    return first + "".join(f"{b}: &{b} {each % ', '.join(9 * [f'*{a}'])}\n" for a, b in pairs)


BOMB, MERGES = nested("a: &a [1]\n", "[%s]"), nested("a: &a {x: 1}\n", "{<<: [%s]}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipes: {}\nactive: []\nrecipes: {}", "line 3: recipes stands there twice"),
        ("a: 1\nb: {c:z 1}", "line 2: 'c:z 1' needs a space after its colon"),
        ("a: {b: 1, 'b': 2}", "line 1: b stands there twice"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "<< stands there twice"),
        *((f"a: 1\nb: {word}", f"line 2: '{word[:9]}")
          for word in ("1e-3", "1e5", "yes", "off", "010", "0o17", "1_000", "1:30", ".inf", ".nan",
                       "2026-01-01", "+1", ".5", "9" * 5000)),
        ("a: !!binary aGk=", "line 1"),
        ("a: !!python/object/apply:os.system [true]", "line 1"),
        ("a: !!int 'x'", "line 1: 'x'"),
        ("a: !!set {x}", "a tag (set) means nothing"),
        ("1: a", "a key must be a plain name"),
        ("? [a]\n: b", "a key must be a plain name"),
        ("a: &a {b: *a}", "an anchor that holds its own alias"),
        (BOMB, "its aliases stand for more than 500,000 values"),
        (MERGES, "its aliases stand for more than 500,000 values"),
        ("a: " + 100_000 * "[", "more than 64 levels"),
        (100_000 * "- " + "x", "more than 64 levels"),
        (100_000 * "{a: ", "more than 64 levels"),
        ("a: \x1b", "not valid YAML: unacceptable character"),
        ("a: \udcff", "is no UTF-8 from byte 3 on"),
    ],
    ids=lambda x: repr(x[:24]),
)  # fmt: skip
@pytest.mark.fault(
    "Bad data",
    "params.yaml has a key twice, a word that two dialects of YAML read differently, a bomb of "
    "aliases, a tag, endless brackets or bytes of no text",
    "A sentence with the line, within a second and a little memory",
)
def test_a_text_that_is_no_params(tmp_path, text, said):
    file = tmp_path / "params.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    taken, answer = asked(config.load, file)
    assert not taken and said in answer, answer


def test_a_number_that_dvc_wrote_is_a_number(root, tmp_path):
    text = (root / "params.yaml").read_text()
    assert text.count("lr: 0.0001}") == 1
    (tmp_path / "params.yaml").write_text(text.replace("lr: 0.0001}", "lr: 1e-05}"))
    run = config.resolve(config.load(tmp_path / "params.yaml"), "papers-drive", "mininet-drive", 0)
    assert run["train"]["optimiser"]["lr"] == 0.00001


MISTAKES = {
    "a model that is not there": ("experiments.unet-drive.model.name", "unets"),
    "the shared layers as a model": ("experiments.unet-drive.model.name", "layers"),
    "a reduction for a model that is not there": ("budgets.smoke.models.rga", {}),
    "a seed twice": ("campaigns.sample.seeds", [0, 0]),
    "an experiment twice": ("campaigns.chase.cross", ["stare", "stare"]),
    "two campaigns in one folder": ("campaigns.sample-a",
                                    {"experiments": ["unet-drive"], "seeds": [0], "budget": "b"}),
    "a run that starts from itself": ("experiments.hybridnetseg-drive.initial",
                                      "hybridnetseg-drive"),
    "no common protocol": ("protocols.common", None),
    "a protocol called observer2": ("protocols.observer2", {
        "region": "fov", "space": "native", "pooling": "pixels", "threshold": 0.5}),
    "true for a number": ("experiments.unet-drive.train.epochs", True),
    "a text for a number": ("budgets.smoke.train.optimiser.lr", "0.01"),
    "a number for a switch": ("recipes.native.cache", 0),
    "a loss of no weight": ("experiments.unet-drive.train.loss.bce", 0),
    "a loss of negative weight": ("experiments.unet-drive.train.loss.bce", -1.0),
    "a beta of one": ("budgets.smoke.train.optimiser.betas", [0.9, 1]),
    "an endless epoch": ("budgets.smoke.train.samples_per_epoch", 10**15),
    "a crop of a thousand million pixels": ("budgets.smoke.train.augment.crop", 10**9),
    "a thousand million threads": ("experiments.unet-drive.train.threads", 10**9),
    "a name of 65 letters": ("recipes." + "a" * 65, {}),
    "a row that is a command": ("experiments.unet-drive.rows", ["$(true)"]),
    **{f"an experiment called {name!r}": (f"experiments.{name}", {})
       for name in ("a b", "a;b", "a'", 'a"', "a\n", "$(true)", "../a", "-a", "ä", "")},
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
@pytest.mark.fault(
    "Bad data",
    "params.yaml says what cannot be meant: repeated seeds, unknown models, absurd numbers, "
    "runs that share a folder, names with quotes, newlines or paths",
    "A sentence with the key",
)
def test_a_params_that_cannot_be_meant(checkout, root, what):
    key, value = MISTAKES[what]
    tree = small(root)
    if what == "two campaigns in one folder":  # sample-a with b, and sample with a-b
        tree["budgets"] |= {"b": {}, "a-b": {}}
        tree["campaigns"]["sample"]["budget"] = "a-b"
    if what == "no common protocol":
        tree["experiments"]["unet-drive"]["protocol"] = "frame-native-pixels"
    at = tree
    *above, last = key.split(".", 2 if key.startswith("experiments..") else -1)
    for part in above:
        at = at.setdefault(part, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    Path("params.yaml").write_bytes(yaml.dump(tree, Dumper=Unaliased).encode())
    taken, said = asked(config.load)
    assert not taken and said.startswith("params.yaml: "), said
    named = key.rpartition(".")[2][:20]
    assert named in said or ascii(named) in said or key.split(".")[0] in said, said


# Files of a finished pipeline, each read by every verb that reads it


@pytest.fixture(scope="module")
def finished(done, tmp_path_factory):
    """A copy of the finished pipeline, with a bundle that came home."""
    path = pipeline.copied(done, tmp_path_factory.mktemp("fuzz") / "work").path
    with contextlib.chdir(path):
        params = config.load()
        runs = bundle.chosen(params, [pipeline.UNET])
        bundle.bundle(runs, params, Path("home"), {"git_commit": "0" * 40, "git_dirty": False})
        shutil.copytree(paths.run(pipeline.UNET), "home" / paths.run(pipeline.UNET))
        receipt = parcel.receipt(Path("home"), pipeline.UNET)
        receipt.write_text(files.md5("home/files.md5"))
    return path


@pytest.fixture
def here(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


UNET = "runs/sample-tiny/unet-drive/s0"
GOOD = [b""]  # the file that is being broken, as it was
REPORTS = "reports/sample-tiny"


def native_images(_):
    rows = native.manifest("sample")
    assert len(rows) == len(set(rows)) and all(int(r["height"]) > 0 for r in rows.values())
    asked(native.split, "sample", "sample")
    for row in [*rows.values()][:1]:
        asked(native.image, "sample", row)
        asked(native.mask, "sample", row, "label")


def native_split(data):
    found = native.split("sample", "sample")
    lines = [line for line in data.decode("utf-8-sig").splitlines() if line][1:]
    assert len(found) == len(lines) and set(found.values()) <= set(native.SPLITS)


def hashes(data):
    found = sums.read(Path("data/registry/drive.sha256"))
    known = {**found.official, **found.unverified}
    said = re.findall(r"^[0-9a-f]{64}  .+", data.decode(), re.M)
    assert all(re.fullmatch("[0-9a-f]{64}", d) for d in known.values())
    assert not found.unverified and len(known) == len({x[66:] for x in said})


def registered(_):
    registry.load()


def its_run():
    return config.find(config.load(), pipeline.UNET)


def traced(_):
    found = trace.trace(its_run(), "f1", "common", ["x"])
    trace.text(found)
    json.dumps(found)
    agrees = found["agreement"]["files on disk are those of dvc.lock"]
    recorded = trace.lock_now()[f"score@{pipeline.UNET}"]["outs"][0]["md5"]
    assert agrees is not True or trace.on_disk(Path(f"{UNET}/scores")) == recorded


def estimated(_):
    estimate.rates.cache_clear()
    assert all(rate > 0 for rate in estimate.rates().values())


def proven(_):
    entry = parcel.read(Path("home"))["runs"][0]
    parcel.check(Path("home"))
    adopt.prove(Path("home"), entry, config.load(), set(), {})


def hashed(data):
    """As `proven`, of a file whose hash another one holds: nothing but itself is taken."""
    proven(data)
    assert data == GOOD[0], "another file than was bundled or trained is taken"


def bundled(_):
    bundle.contents(bundle.chosen(config.load(), [pipeline.UNET]), config.load())


def ledgered(_):
    run = its_run()
    ledger._together([run], "epoch", lambda r: paths.run(r) / "history.csv")
    ledger._together([run], "split", lambda r: paths.scores(r) / "images.csv", split="test")
    assert all(len(line) == 6 for line in ledger._curves(run))
    claims.value(run, "val_loss_rise", {})


def compared(_):
    folder = paths.scores(pipeline.UNET)
    stats._arrays.cache_clear()
    found = stats._images(folder, "common")
    stats._column(found, "f1", folder)
    stats.stored(folder)


def counted(data):
    """As `compared`, of histograms.npz: its archive knows the sum of every array."""
    compared(data)
    with np.load(io.BytesIO(GOOD[0])) as good:
        now = stats.stored(paths.scores(pipeline.UNET))
        assert all(np.array_equal(good[k], now[k]) for k in good.files)


def printed(_):
    published.cells()
    published.tables()
    published.deviations()
    assert all(c["value"] is None or math.isfinite(c["value"]) for c in published.claims())


def audited(_):
    audit.text(audit.recorded())
    audit._twins({r["row"] for r in audit.recorded()})
    for known in possible.testsets():
        assert 0 <= known.prevalence <= 1 and len(known.groups)


def followed(_):
    for table in ("ledger", "scores", "comparisons"):
        target = f"{REPORTS}/{table}.csv:2"
        taken, found = asked(tables.follow, target)
        if taken:
            tables.text(found)
            tables.disagreement(target, found["line"])


def verified(data):
    table = f"{REPORTS}/scores.csv"
    found = check.check(f"{table}:2", "", "")
    check.text(found)
    assert found["altered"] or data == GOOD[0]


def mapped(_):
    row = next(iter(native.manifest("sample").values()))
    hists, _ = score._count(pipeline.UNET, "sample", its_run()["geometry"], row)
    assert hists.sum() == 2 * int(row["height"]) * int(row["width"])


READERS = {
    "data/native/sample/manifest.csv": native_images,
    "data/splits/sample.csv": native_split,
    "data/registry/drive.sha256": hashes,
    "data/registry/datasets.yaml": registered,
    "data/prepared/sample/native/manifest.csv": bundled,
    "data/prepared/sample/native/manifest.json": bundled,
    "data/native/sample/manifest.json": bundled,
    f"{UNET}/manifest.json": traced,
    f"{UNET}/manifest.json ": estimated,
    f"{UNET}/history.csv": ledgered,
    f"{UNET}/scores/metrics.json": traced,
    f"{UNET}/scores/images.csv": compared,
    f"{UNET}/scores/histograms.npz": counted,
    f"{UNET}/scores/roc.csv": ledgered,
    f"{UNET}/predictions/MAP": mapped,
    "dvc.lock": traced,
    "dvc.lock ": followed,
    f"{REPORTS}/ledger.csv": followed,
    f"{REPORTS}/scores.csv": followed,
    f"{REPORTS}/scores.csv ": verified,
    "data/published/cells.csv": printed,
    "data/published/tables.csv": printed,
    "data/published/claims.csv": printed,
    "data/published/deviations.csv": printed,
    "data/published/audit.csv": audited,
    "data/published/testsets.csv": audited,
    "data/published/same_run.csv": audited,
    "home/runs.json": hashed,
    "home/files.md5": hashed,
    f"home/{UNET}/bundle.md5": hashed,
    f"home/{UNET}/manifest.json": proven,
    f"home/{UNET}/history.csv": hashed,
    f"home/{UNET}/weights.safetensors": hashed,
    f"home/{UNET}/predictions/manifest.json": proven,
}


def broken(name: str, count: int) -> int:
    """Read a file after every one of `count` changes; put it back."""
    file = Path(name.strip())
    if file.name == "MAP":
        file = sorted(file.parent.glob("*.png"))[0]
    good = GOOD[0] = file.read_bytes()
    read = READERS[name]
    count = count // 5 if read in (followed, verified) else count  # they hash much
    ways = texts(good)
    if file.suffix == ".json":
        ways = st.one_of(ways, trees(json.loads(good)).map(lambda t: json.dumps(t).encode()))

    def act(data: bytes) -> None:
        file.write_bytes(data)
        asked(read, data)

    taken, said = asked(read, good)
    assert taken, said
    try:
        return hammer(count, ways, act)
    finally:
        file.write_bytes(good)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.fault(
    "Bad data",
    "A file that a verb reads has bytes, lines, words or values changed, or is cut",
    "A sentence that names it, or it is used as it is",
)
def test_files(here, name, tried):
    tried(broken(name, 25))


@pytest.mark.campaign
@pytest.mark.parametrize("name", READERS)
@pytest.mark.fault(
    "Bad data",
    "A file that a verb reads has bytes, lines, words or values changed, or is cut, at length",
    "A sentence that names it, or it is used as it is",
)
def test_files_at_length(here, name, tried):
    tried(broken(name, 250))


# What is typed


TYPED = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.text(st.sampled_from("a/.:-s0@~^$ ;\n\x1b\udcff²٣"), min_size=1, max_size=8),
    st.sampled_from(
        ["", " ", "/", ".", "..", "../..", "~", "-", "--", "-1", "--help", "HEAD", "a/b", "a/b/s0",
         "$(true)", "`true`", ";true", "a b", "'", '"', "a" * 5000, "*", "%s", "dvc.lock",
         "params.yaml", "reports", ".git/index", "/etc", "rga", "rga-3-11", "rga-3-11.f1",
         "--output=stolen", "f1", "common", "observer2", "drive", "sums", pipeline.UNET + "/on-x",
         pipeline.UNET + "/", "runs/" + pipeline.UNET]
    ),
)  # fmt: skip
LINE = st.integers(-1, 30).map(str)
SAID = {  # a verb, and where the words go; what would work for minutes or fetch is left out
    "trace": [["{}"], ["{}", "{}"], [pipeline.UNET, "{}"], ["{}", "--verify"], ["{}", "--at", "{}"],
              [pipeline.UNET, "f1", "--protocol", "{}"], [pipeline.UNET, "f1", "--at", "{}"],
              [f"{REPORTS}/scores.csv:2", "--at", "{}"], ["{}:{n}"], ["{}:{n}", "--verify"],
              [f"{REPORTS}/ledger.csv:{{n}}"], ["rga-3-11", "{}"], ["{}/on-{}", "f1"]],
    "audit": [["{}"], ["rga", "{}"]], "adopt": [["{}"], ["home", "{}"]], "train": [["{}"]],
    "predict": [["{}"], [pipeline.UNET, "--on", "{}"]], "score": [[pipeline.UNET, "--on", "{}"]],
    "bundle": [["{}", "--out", "made"]], "export": [["{}"]], "ledger": [["{}"]],
    "figures": [["{}"]], "report": [["{}"]], "prepare": [["{}"]], "ingest": [["{}"]],
    "data": [["status", "{}"], ["add", "{}", "nowhere"], ["add", "stare", "{}.zip"], ["{}"]],
    "plan": [["{}"]], "{}": [[]],
}  # fmt: skip
COMMANDS = st.tuples(
    st.sampled_from([[verb, *words] for verb, ways in SAID.items() for words in ways]),
    TYPED, LINE,
)  # fmt: skip


def typed(monkeypatch) -> None:
    """A command that ends in an exit code, 1 with a sentence, and leaves no file behind."""

    def act(drawn) -> None:
        ways, word, n = drawn
        line = [w.replace("{n}", n).replace("{}", word) for w in ways]
        streams = [
            io.TextIOWrapper(io.BytesIO(), "utf-8", e) for e in ("strict", "backslashreplace")
        ]
        monkeypatch.setattr("sys.argv", ["resegment", *line])
        before = sorted(p.name for p in Path().iterdir())
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                cli.main()
                code = 0
            except SystemExit as e:
                code = e.code or 0
        out, err = (s.flush() or s.buffer.getvalue().decode() for s in streams)
        assert code in (0, 1, 2) and "Traceback" not in err, (line, err)
        assert "\x1b" not in err, (line, err)
        said = re.search(r"^(resegment: |refused )\s*\S", err, re.M)
        assert code != 1 or said or "--verify" in line, (line, err)
        assert sorted(p.name for p in Path().iterdir()) == before, line

    return act


@pytest.mark.slow
@pytest.mark.fault(
    "Bad data",
    "A verb gets strange words: quotes, control characters, options, paths, other alphabets",
    "A sentence, or an answer, and no file where none was asked for",
)
def test_words(here, monkeypatch, tried):
    tried(hammer(250, COMMANDS, typed(monkeypatch)))


@pytest.mark.campaign
@pytest.mark.fault(
    "Bad data",
    "A verb gets strange words: quotes, control characters, options, paths, alphabets, at length",
    "A sentence, or an answer, and no file where none was asked for",
)
def test_words_at_length(here, monkeypatch, tried):
    tried(hammer(1500, COMMANDS, typed(monkeypatch)))


# Each defect that was found in a reader, once more


PICTURE = b"\x89PNG\r\n\x1a\n\xff\xfe"
DEFECTS = {
    "data/native/sample/manifest.csv": [PICTURE, b"", b"id\na\n", b'id,"cut'],
    "data/splits/sample.csv": [PICTURE, b"", b"id\na\n", b"id,split\ntrain-01\n"],
    "data/registry/drive.sha256": [PICTURE, b"7" * 63 + b"  training/a.tif\n"],
    "data/registry/datasets.yaml": [PICTURE, b"[" * 5000, b"drive: 1"],
    "data/prepared/sample/native/manifest.csv": [PICTURE, b"", b"operation\nnone\n"],
    "data/prepared/sample/native/manifest.json": [PICTURE, b"", b"[]", b"{}", b"[" * 100000],
    f"{UNET}/manifest.json": [PICTURE, b"", b"[]", b"{}", b'{"fingerprints": 1}'],
    f"{UNET}/history.csv": [PICTURE, b"epoch,val_loss\n1,low\n", b"epoch\n1\n"],
    f"{UNET}/scores/metrics.json": [PICTURE, b"", b"[]", b'{"common": 5}'],
    f"{UNET}/scores/images.csv": [PICTURE, b"", b"protocol\ncommon\n"],
    f"{UNET}/scores/histograms.npz": [PICTURE, b"", b"PK\x05\x06" + 18 * b"\0"],
    f"{UNET}/scores/roc.csv": [PICTURE, b"", b"protocol,fpr\ncommon,0\n"],
    "dvc.lock": [PICTURE, b"", b"<<<<<<< HEAD\nschema: '2.0'\n", b"stages: 1",
                 b"stages: {score@a: 1}", b"stages: {a: {cmd: x, deps: [{path: a}]}}",
                 b"[" * 5000],
    "data/published/cells.csv": [PICTURE, b"", b"cell\na\n"],
    "data/published/audit.csv": [PICTURE, b"", b"row\na\n"],
    "data/published/testsets.csv": [PICTURE, b"", b"dataset\na\n"],
    f"home/{UNET}/bundle.md5": [PICTURE, b""],
    f"home/{UNET}/manifest.json": [PICTURE, b"", b"[]", b"{}"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "k"), [(n, k) for n, ways in DEFECTS.items()
                                         for k in range(len(ways))])  # fmt: skip
@pytest.mark.fault(
    "Bad data",
    "A file that a verb reads is a picture, empty, cut, without a column or key, or of other types",
    "A sentence that names it",
)
def test_a_file_of_another_kind(here, name, k):
    file = Path(name)
    GOOD[0] = file.read_bytes()
    try:
        file.write_bytes(DEFECTS[name][k])
        taken, said = asked(READERS[name], DEFECTS[name][k])
    finally:
        file.write_bytes(GOOD[0])
    assert not taken and (file.stem in said or file.parent.name in said), said


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["ingest", "nothing"], ["ingest", "../drive"], ["ingest", "sums"], ["trace", ".git/index:5"],
     ["trace", f"{REPORTS}/report.html:5"], ["trace", f"{UNET}/predictions:2", "--verify"],
     ["trace", pipeline.UNET, "f1", "--at", "--output=stolen"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.fault(
    "Bad data",
    "A verb is asked for a dataset without a reader, a line of a picture, a commit that is an "
    "option of git",
    "A sentence, and no file is written",
)
def test_a_word_that_means_nothing(here, monkeypatch, words):
    typed(monkeypatch)((words, "", ""))
    assert not list(Path().glob("stolen*"))


SIDES = st.integers(1, 80)


@pytest.mark.fault(
    "Bad data",
    "Images of any size meet recipes of any size, down to one pixel",
    "The network sees the size of the recipe, a map comes back in the image's own, padding is "
    "undone exactly, and a pad that is too small is a sentence",
)
def test_sizes(tried):
    def act(drawn) -> None:
        height, width, h, w, kind = drawn
        how = {"resize": None, "pad": None, "width": None}
        how |= {kind: w if kind == "width" else (h, w)} if kind else {}
        image = np.arange(height * width, dtype=np.uint16).reshape(height, width)
        taken, seen = asked(geometry.to_network, image, how)
        if kind == "pad" and (height > h or width > w):
            assert not taken and "smaller than an image" in seen
            return
        assert taken and seen.shape == (geometry.resized(image.shape, how) or (
            (h, w) if kind else image.shape))  # fmt: skip
        back = geometry.restore(seen, how, image.shape)
        assert back.shape == image.shape
        assert kind not in (None, "pad") or (back == image).all()

    kinds = st.sampled_from([None, "resize", "pad", "width"])
    tried(hammer(400, st.tuples(SIDES, SIDES, SIDES, SIDES, kinds), act))
