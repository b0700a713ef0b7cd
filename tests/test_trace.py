"""From a file to the stages behind it; what was altered since is named."""

import csv
import json
import subprocess

import pytest
import yaml

from resegment import claims, cli, config, paths
from resegment.errors import UserError
from resegment.files import md5, sha256, write_manifest
from resegment.trace import _definition, check, folder_md5, past, tables, upstream, value

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
    row = tables.line("scores.csv:2")
    assert row["run"] == "a-smoke/x/s0"
    assert tables.disagreement("reports/a/scores.csv:2", row) == []
    (said,) = tables.disagreement("reports/a/scores.csv:2", row | {"value": "0.9"})
    assert said.startswith("reports/a/scores.csv:2: value is 0.9, ") and "0.812346" in said
    with pytest.raises(UserError, match="no line 3: it has lines 2 to 2"):
        tables.line("scores.csv:3")


def test_the_second_observer_is_no_protocol(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text('{"common": {"f1": 0.8}, "observer2": {"common": {"f1": 0.7}}}')
    with pytest.raises(UserError, match="no protocol 'observer2'; it has common$"):
        value(file, "common", "observer2")


def test_a_number_that_yaml_reads_as_text_is_no_difference():
    assert upstream.differences("eps", "1e-08", 1e-8) == []
    assert upstream.differences("eps", "1e-08", 1e-7) and upstream.differences("eps", "adam", 1.0)


@pytest.fixture
def commits(lock, tmp_path):
    """Three commits of one run: its dvc.lock, then its table, then another learning rate."""

    def commit(message, **changed):
        for name, text in changed.items():
            (tmp_path / name.replace("__", "/")).write_text(text)
        for words in (["add", "-A"], ["commit", "-qm", message]):
            subprocess.run(["git", "-c", "user.email=a@b", "-c", "user.name=t", *words], check=True)
        head = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()

    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "reports/a-smoke/scores.csv").unlink()
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    tree = {
        "train": {"epochs": 3, "optimiser": {"lr": 0.1}},
        "experiments": {"x": {"rows": ["rga-3-11"], "dataset": "toy", "protocol": "frame"}},
        "campaigns": {"a": {"budget": "smoke", "experiments": ["x"], "seeds": [0, 1]}},
    }
    first = commit("lock", **{"params.yaml": yaml.safe_dump(tree)})
    head = "campaign,experiment,seed,protocol,metric,value,run\n"
    lines = [f"a-smoke,x,{s},{p},f1,{v},a-smoke/x/s0" for s, p, v in
             [("observer2", "common", 0.7), (0, "common", 0.8), (0, "frame", 0.9)]]  # fmt: skip
    second = commit("table", **{"reports__a-smoke__scores.csv": head + "\n".join(lines) + "\n"})
    tree["train"]["optimiser"]["lr"] = 0.2
    commit("rate", **{"params.yaml": yaml.safe_dump(tree), "src__train.py": "newer code"})
    return first, second


def test_a_value_at_a_commit_and_what_differs_now(commits):
    first, second = commits
    found = past.trace("a-smoke/x/s0", "f1", "common", second)
    assert found["value"] == 0.8 and found["from_commit"] == second
    assert found["parameters"] == {"train": {"epochs": 3, "optimiser": {"lr": 0.1}}}
    assert found["differs_now"]["code"] == ["src/train.py"]
    (line,) = found["differs_now"]["parameters"]
    assert line.startswith("train.optimiser.lr: ")
    said = past.text(found)
    assert "parameters: train.optimiser.lr; code: src/train.py" in said
    assert "dvc checkout" not in said  # every file of then is here


def test_a_commit_before_the_table_has_the_value_of_the_next_one(commits, tmp_path):
    first, second = commits
    (tmp_path / RUN / "weights.safetensors").unlink()
    found = past.trace("a-smoke/x/s0", "f1", "common", first)
    assert found["value"] == 0.8 and found["from_commit"] == second
    said = past.text(found)
    assert f"of commit {second} ({first} has no such table yet)" in said
    assert f"`git checkout {first} && dvc checkout`" in said


def test_a_published_row_at_a_commit(commits):
    assert past.measuring("rga-3-11", commits[0]) == [{"run": "a-smoke/x/s0", "protocol": "frame"}]
    with pytest.raises(UserError, match="no run that measured the published row rga-2-08"):
        past.measuring("rga-2-08", commits[0])


@pytest.mark.parametrize("other", [{"campaigns": 3}, {"campaigns": {"a": {}}, "experiments": {}},
                                   {"campaigns": {"a": {"experiments": ["x"]}}}])  # fmt: skip
def test_a_params_of_another_shape_at_a_commit(commits, tmp_path, other):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(other))
    subprocess.run(["git", "-c", "user.email=a@b", "-c", "user.name=t", "commit", "-qam", "other"],
                   check=True)  # fmt: skip
    with pytest.raises(UserError, match="params.yaml of HEAD has another shape"):
        past.measuring("rga-3-11", "HEAD")


@pytest.mark.parametrize(("run", "metric", "protocol", "said"), [
    ("a-smoke/x/s0", "f9", "common", "no metric 'f9'; it has f1"),
    ("a-smoke/x/s0", "f1", "fov", "no protocol 'fov'; it has common, frame"),
    ("a-smoke/x/s7", "f1", "common", f"near it: {RUN}/scores"),
])  # fmt: skip
def test_a_mistake_about_the_past_is_named(commits, run, metric, protocol, said):
    with pytest.raises(UserError, match=said):
        past.trace(run, metric, protocol, commits[1])


LOCK = dict.fromkeys(f"score@a-smoke/{x}/s{i}" for x in ("x", "y", "xy") for i in (0, 9, 10))


@pytest.mark.parametrize(("table", "row", "runs"), [
    ("ledger", {"runs": "a-smoke/x/s0 a-smoke/x/s1"}, ["a-smoke/x/s0", "a-smoke/x/s1"]),
    ("scores", {"run": "a-smoke/x/s0", "seed": "observer2"}, ["a-smoke/x/s0"]),
    ("sensitivity", {"experiment": "x", "seed": "9"}, ["a-smoke/x/s9"]),
    ("comparisons", {"a": "x", "b": "y"},
     [f"a-smoke/{x}/s{i}" for x in "xy" for i in (0, 9, 10)]),
    ("claims", {"a": "x", "b": ""}, [f"a-smoke/x/s{i}" for i in (0, 9, 10)]),
])  # fmt: skip
def test_columns_say_which_runs_a_line_is_made_of(table, row, runs):
    found = tables.runs(f"reports/a-smoke/{table}.csv:2", row, LOCK)
    assert found == [(run, None) for run in runs]


def test_a_score_on_another_dataset_is_followed_there():
    row = {"run": "a-smoke/x/s0", "scored_on": "stare"}
    assert tables.runs("reports/a-smoke/cross.csv:2", row, LOCK) == [("a-smoke/x/s0", "stare")]


def test_a_line_that_names_no_run_is_a_mistake():
    with pytest.raises(UserError, match="reports/a/claims.csv:2 names no run of dvc.lock"):
        tables.runs("reports/a/claims.csv:2", {"a": "z", "b": ""}, LOCK)


def test_a_line_of_the_audit_is_of_the_papers_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = paths.reports("a-smoke") / "audit.csv"
    table.parent.mkdir(parents=True)
    table.write_text("row,verdict\nrga-4-08,impossible\n")
    deps = [{"path": p, "md5": "0"} for p in ("data/published/cells.csv", "src/x.py")]
    stage = {"cmd": "c", "deps": deps, "outs": [{"path": str(table), "md5": md5(table)}]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"ledger-a": stage}}))
    found = tables.follow(f"{table}:2")
    assert found["papers"] == ["data/published/cells.csv"] and not found["runs"]
    assert found["recorded"] and "impossible" in tables.text(found)


def test_a_line_is_shown_with_the_runs_that_cannot_be_traced(commits):
    found = tables.follow("reports/a-smoke/scores.csv:3", commits[1])
    assert found["line"]["value"] == "0.8" and found["stage"] == "table"
    (run,) = found["runs"]
    assert run["parameters"]["train"]["epochs"] == 3 and f"{RUN}/weights.safetensors" in run["md5"]
    assert found["line"]["value"] in tables.text(found)


@pytest.fixture
def measured(tmp_path, monkeypatch, root):
    """Three scored runs of a published row, their ledger's line, and the dvc.lock of both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/published").symlink_to(root / "data/published")
    stages, runs = {}, [f"drive-lite/rga-drive/s{s}" for s in range(3)]
    for run, f1 in zip(runs, (0.81, 0.82, 0.83), strict=True):
        folder = tmp_path / "runs" / run / "scores"
        folder.mkdir(parents=True)
        values = {"threshold": 0.5, "f1": f1}
        metrics = {"common": values, "frame-network-images": values | {"f1": f1 + 0.001}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        write_manifest(folder)
        out = {"path": f"runs/{run}/scores", "md5": folder_md5(folder)}
        stages[f"score@{run}"] = {"cmd": "c", "outs": [out]}
    row = {"row": "rga-3-11", "metric": "f1", "protocol": "frame-network-images",
           "mean": "0.821000", "sd": "0.010000", "runs": " ".join(runs)}  # fmt: skip
    table = tmp_path / "reports/drive-lite/ledger.csv"
    table.parent.mkdir(parents=True)
    table.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    deps = [s["outs"][0] for s in stages.values()]
    out = {"path": "reports/drive-lite/ledger.csv", "md5": md5(table)}
    stages["ledger-drive-lite"] = {"cmd": "c", "deps": deps, "outs": [out]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def trace(monkeypatch, capsys, *words) -> tuple[int, str]:
    """Exit code of `resegment trace` and what it said."""
    monkeypatch.setattr("sys.argv", ["resegment", "trace", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    streams = capsys.readouterr()
    return left.value.code, streams.out + streams.err


TABLE = "reports/drive-lite/ledger.csv"


@pytest.mark.parametrize("words", [
    ("drive-lite/rga-drive/s1", "f1"), ("rga-3-11", "f1"), ("rga-3-11.f1",), (f"{TABLE}:2",),
    (TABLE,),
])  # fmt: skip
def test_verify_says_that_all_is_as_recorded(measured, monkeypatch, capsys, words):
    code, said = trace(monkeypatch, capsys, *words, "--verify")
    assert code == 0 and said.splitlines()[-1] == "all as recorded"


@pytest.mark.parametrize("words", [("rga-3-11", "f1"), ("rga-3-11.f1",), (f"{TABLE}:2",), (TABLE,)])
def test_verify_names_what_was_tampered_with_and_exits_1(measured, monkeypatch, capsys, words):
    file = measured / "runs/drive-lite/rga-drive/s2/scores/metrics.json"
    file.write_text(file.read_text().replace("0.83", "0.93"))
    code, said = trace(monkeypatch, capsys, *words, "--verify")
    assert code == 1 and "ALTERED     runs/drive-lite/rga-drive/s2/scores/metrics.json: " in said
    assert "as recorded" not in said
    if words != (TABLE,):
        assert f"ALTERED     {TABLE}:2: mean is 0.821000, " in said and "gives 0.854333" in said


def test_verify_computes_a_line_of_the_ledger_anew(measured, monkeypatch, capsys):
    table = measured / TABLE
    table.write_text(table.read_text().replace("0.821000", "0.921000"))
    code, said = trace(monkeypatch, capsys, f"{TABLE}:2", "--verify")
    assert code == 1
    assert f"ALTERED     {TABLE}: is not the content that dvc.lock records" in said
    assert f"ALTERED     {TABLE}:2: mean is 0.921000, " in said and "gives 0.821000" in said


def test_a_count_of_parameters_is_computed_anew_as_the_ledger_counts(measured):
    run = {"run": "drive-lite/rga-drive/s0"}
    model = {"model": {"trainable": 38903, "total": 39639}}
    (paths.run(run["run"]) / "manifest.json").write_text(json.dumps(model))
    mean = f"{claims.value(run, 'params_m', {run['run']: model}):.6f}"
    row = {"metric": "params_m", "protocol": "", "mean": mean, "sd": "", "runs": run["run"]}
    assert tables.disagreement(f"{TABLE}:3", row) == []
    assert tables.disagreement(f"{TABLE}:3", row | {"mean": "0.039639"})


@pytest.mark.parametrize(
    "words", [(f"./{TABLE}:2",), (f"{{here}}/{TABLE}",), ("drive-lite/rga-drive/s1",)]
)
def test_a_path_may_be_given_in_any_way_and_a_run_without_a_metric(
    measured, monkeypatch, capsys, words
):
    words = [w.format(here=measured) for w in words]
    code, said = trace(monkeypatch, capsys, *words, "--verify")
    assert code == 0 and said.splitlines()[-1] == "all as recorded"


def test_a_line_has_its_own_metric(measured, monkeypatch, capsys):
    code, said = trace(monkeypatch, capsys, f"{TABLE}:2", "f1")
    assert code == 1 and "is a line, which has its own metric: give it without f1" in said


def test_a_count_of_parameters_is_the_trainings(measured, monkeypatch, capsys):
    for seed in range(3):
        file = paths.run(f"drive-lite/rga-drive/s{seed}") / "manifest.json"
        file.write_text(json.dumps({"model": {"trainable": 38903}}))
    found = trace(monkeypatch, capsys, "rga-3-11.params_m", "--verify", "--json")[1]
    assert [v["value"] for v in json.loads(found)["values"]] == [0.038903] * 3
    file.unlink()
    found = json.loads(trace(monkeypatch, capsys, "rga-3-11.params_m", "--verify", "--json")[1])
    assert [v["value"] for v in found["values"]] == [0.038903] * 2
    assert str(file) in found["absent"]


def test_verify_shows_the_value_under_the_protocol_asked_for(measured, monkeypatch, capsys):
    for words, expected in ((("--protocol", "common"), 0.82), ((), 0.821)):
        found = trace(monkeypatch, capsys, "rga-3-11.f1", *words, "--verify", "--json")[1]
        assert [v["value"] for v in json.loads(found)["values"]][1] == expected
    said = trace(monkeypatch, capsys, "rga-3-11.f1", "--protocol", "x", "--verify")[1]
    assert "has no protocol 'x'" in said


def test_a_protocol_that_params_forgot_is_named(root, monkeypatch):
    monkeypatch.chdir(root)
    known = config.load()
    less = {k: v for k, v in known.protocols.items() if k != "common"}
    monkeypatch.setattr(config, "load", lambda *_: known.model_copy(update={"protocols": less}))
    with pytest.raises(UserError, match="has no protocol 'common'"):
        _definition("common")


def test_verify_never_calls_what_is_not_here_recorded(measured, monkeypatch, capsys):
    folder = measured / "runs/drive-lite/rga-drive/s1/scores"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    code, said = trace(monkeypatch, capsys, TABLE, "--verify")
    assert code == 0 and "not here    runs/drive-lite/rga-drive/s1/scores" in said
    assert "all as recorded" not in said
    assert said.splitlines()[-1] == "what is here is as recorded; 1 not here, so not verified"


def test_originals_that_are_not_here_are_counted(lock, tmp_path):
    stages = upstream.behind("data/native/toy", lock)
    assert check.absent(stages) == []
    (tmp_path / "data/raw/toy/1.png").unlink()
    assert check.absent(stages) == ["data/raw/toy (1 of 1 files)"]


def test_a_clone_without_its_runs_shows_what_is_committed(tmp_path, monkeypatch, capsys, root):
    subprocess.run(["git", "clone", "-q", root, tmp_path / "clone"], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    code, said = trace(monkeypatch, capsys, "rga-3-11.f1", "--json")
    first = json.loads(said)[0]
    assert code == 0 and first["published"] == "0.8166"
    with open(first["file"], newline="") as f:
        (row,) = [r for r in csv.DictReader(f) if r["metric"] == "f1" and r["seed"] == "0" and
                  (r["run"], r["protocol"]) == (first["run"], first["protocol"])]  # fmt: skip
    assert first["value"] == float(row["value"])
    said = trace(monkeypatch, capsys, first["run"], "f1")[1]
    assert "of commit HEAD\n" in said and "published" not in said
    assert all(first["agreement"].values())
    then = json.loads(trace(monkeypatch, capsys, "rga-3-11.f1", "--at", "HEAD", "--json")[1])
    assert then[0]["published"] == "0.8166" and then[0]["value"] == first["value"]
    for at in ((), ("--at", "HEAD")):  # a count is of no protocol
        said = trace(monkeypatch, capsys, "rga-3-11", "params_m", *at)[1]
        assert "params_m = 0.038903" in said and "\n  protocol" not in said
    code, said = trace(monkeypatch, capsys, "rga-3-11.f1", "--verify")
    assert code == 0 and f"not here    runs/{first['run']}/scores/metrics.json" in said


def test_a_number_of_another_data_set_is_read_in_the_table_of_crossings():
    text = ("run,scored_on,seed,protocol,metric,value\n"
            "a/b/s0,hrf,0,common,f1,0.5\na/b/s0,stare,0,common,f1,0.6\n")  # fmt: skip
    assert past._value(text, "cross.csv", "a/b/s0", "f1", "common", "stare") == 0.6
    with pytest.raises(UserError, match="no line of a/b/s0 on drive"):
        past._value(text, "cross.csv", "a/b/s0", "f1", "common", "drive")
