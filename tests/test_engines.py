"""Two engines, one truth: what DVC calls stale is what Snakemake plans, in every state.

Each test works in a copy of one finished pipeline: the sample set, two trainings of seconds.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import pytest
from pipeline import EVERY, RGA, TAIL, UNET, Work, copied, verbs

from resegment import paths
from resegment.engines import dvc_state

pytestmark = pytest.mark.slow


@pytest.fixture
def w(done, tmp_path):
    return copied(done, tmp_path / "w")


def test_after_snakemake_both_are_clean(w):
    w.clean()


@pytest.fixture
def rated(done, once, tmp_path):
    """A copy of `done` in which a parameter was changed and Snakemake has run again, committed."""

    def make(path):
        w = copied(done, path)
        w.rate("unet-drive", 0.3)
        assert w.stale() == {f"train@{UNET}", "ledger-sample-tiny", "report-sample-tiny"}
        assert w.plan() == EVERY - {"ingest", "prepare"}
        w.snakemake()
        w.sh("git commit -qam b")

    return copied(once("rated", make), tmp_path / "w")


def test_snakemake_reruns_only_what_a_parameter_touches(rated):
    assert rated.ran() == verbs(UNET)
    rated.clean()


def test_repro_reruns_only_what_a_parameter_touches(w):
    w.rate("unet-drive", 0.3)
    w.sh("dvc repro -q")
    assert w.ran() == verbs(UNET)
    w.clean()


def test_what_a_budget_changes_of_one_model_runs_that_model_again(w):
    w.change(lambda t: t["budgets"]["tiny"]["models"]["rga_net"]["train"].update(batch_size=4))
    w.snakemake()
    assert w.ran() == verbs(RGA)
    w.clean()
    own = {"unet-drive": {"train": {"samples_per_epoch": 4}}}
    w.change(lambda t: t["budgets"]["tiny"].update(experiments=own))
    refused = w.sh("snakemake -n", ok=False)
    assert refused.returncode and "run `resegment plan`" in refused.stdout + refused.stderr
    w.sh("resegment plan")
    w.ran()
    w.snakemake()
    assert w.ran() == verbs(UNET)
    w.clean()


def test_a_protocol_costs_no_training_and_no_prediction(w):
    w.change(lambda t: t["protocols"]["frame-network-images"].update(threshold=0.4))
    w.snakemake()
    ran = w.ran()
    assert sorted(ran[:2]) == [f"score {RGA}", f"score {UNET}"] and ran[2:] == TAIL
    w.clean()


def test_dvc_exp_run_changes_one_parameter(w):
    w.sh("dvc exp run -q -S budgets.tiny.train.epochs=1")
    ran = w.ran()
    assert {f"train {UNET}", f"train {RGA}"} <= set(ran) and "ingest sample" not in ran
    for run in (UNET, RGA):
        manifest = json.loads((w.path / "runs" / run / "manifest.json").read_text())
        assert manifest["parameters"]["train"]["epochs"] == 1
    w.clean()


def test_fresh_clone_after_pull_has_nothing_to_do(done, tmp_path):
    path = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(done), str(path)], check=True)
    w = Work(path)
    shutil.copytree(done / ".bin", path / ".bin")
    w.sh(f"dvc remote add --local -d store {done.parent / 'store'}; dvc pull -q")
    w.clean()
    w.rate("rga-drive", 0.4)
    w.snakemake()
    assert w.ran() == verbs(RGA)
    w.clean()


@pytest.mark.parametrize("engine", ["dvc repro -q", "snakemake --cores 2"])
def test_results_are_shared_without_an_image(done, tmp_path, engine):
    share = f"dvc remote add --local -d -f results {tmp_path / 'results'}; dvc"
    giver = copied(done, tmp_path / "giver")
    giver.sh(f"{share} push -q train predict score")
    given = {hashlib.md5(f.read_bytes()).hexdigest()
             for f in (tmp_path / "results").rglob("*") if f.is_file()}  # fmt: skip
    maps = list(giver.path.glob("runs/*/*/*/predictions/**/*.png"))
    assert maps and all(hashlib.md5(f.read_bytes()).hexdigest() in given for f in maps)
    for folder in ("data", "reports"):
        shown = [f for f in (giver.path / folder).rglob("*") if f.suffix in (".png", ".html")]
        assert shown and not {hashlib.md5(f.read_bytes()).hexdigest() for f in shown} & given
    subprocess.run(["git", "clone", "-q", str(done), str(tmp_path / "clone")], check=True)
    taker = Work(tmp_path / "clone")
    shutil.copytree(done / ".bin", taker.path / ".bin")
    taker.sh(f"{share} pull -q train predict score && {engine}")
    assert {line.split()[0] for line in taker.costly()} <= {"ingest", "prepare", "report"}
    taker.clean()


def test_old_commit_checked_out(rated):
    rated.sh("git checkout -q HEAD~1 && dvc checkout -q")
    rated.clean()
    rated.sh("git checkout -q - && dvc checkout -q")
    rated.clean()


def test_reverted_parameter_costs_nothing(rated):
    rated.ran()
    rated.sh("git checkout -q HEAD~1 params.yaml")
    rated.snakemake()
    assert rated.costly() == []
    rated.clean()


def test_a_failed_training_is_said_planned_again_and_takes_nothing_else_down(w):
    def slope(lr):
        w.change(lambda t: t["experiments"]["unet-drive"]["train"].update(
            optimiser={"name": "sgd", "lr": lr}))  # fmt: skip

    w.change(lambda t: t["budgets"]["tiny"]["train"].update(schedule={"name": "constant"}))
    slope(10.0**30)
    failed = w.snakemake(ok=False)
    assert failed.returncode and "lower train.optimiser.lr" in failed.stdout + failed.stderr
    assert "Traceback (most recent call last)" not in failed.stdout + failed.stderr
    stale = w.stale()
    assert f"train@{UNET}" in stale
    assert not {f"train@{RGA}", f"predict@{RGA}", f"score@{RGA}"} & stale  # recorded
    assert w.plan() == EVERY - {"ingest", "prepare"}
    w.ran()
    slope(0.1)
    w.snakemake()
    assert w.ran() == verbs(UNET)
    w.clean()


def test_killed_training_resumes_to_the_same_weights(w):
    w.lengthen(20)
    train = f"dvc repro --single-item train@{UNET}"
    w.sh(train)
    want = {o["path"]: o["md5"] for o in w.lock()[f"train@{UNET}"]["outs"]}
    for kept in (".dvc/cache/runs", "checkpoints"):
        shutil.rmtree(w.path / kept)
    process = w.start(f"{train} --force")
    wait_for(lambda: checkpoints(w))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = w.sh(f"{train} --force")
    assert f"{UNET}: resumed after epoch" in again.stdout
    got = {o["path"]: o["md5"] for o in w.lock()[f"train@{UNET}"]["outs"]}
    for name in ("weights.safetensors", "history.csv"):
        assert got[f"runs/{UNET}/{name}"] == want[f"runs/{UNET}/{name}"]
    w.sh(f"dvc repro --single-item --force predict@{UNET}")
    assert not checkpoints(w)  # what it was kept for is recorded


def checkpoints(w) -> list[Path]:
    """Whole ones: a hidden name is one still being written."""
    return list((w.path / "checkpoints").rglob("[!.]*.pt"))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["parameters", "code"])
def test_what_is_edited_during_training_is_not_recorded(w, what):
    w.lengthen(20)
    before = w.lock()[f"train@{UNET}"]
    process = w.start(f"dvc repro --single-item train@{UNET}")
    wait_for(lambda: checkpoints(w))
    if what == "parameters":
        w.rate("unet-drive", 0.4)
    else:
        with open(w.path / "src/resegment/losses.py", "a") as f:
            f.write("# edited\n")
    assert process.wait() != 0
    assert w.lock()[f"train@{UNET}"] == before and f"train@{UNET}" in w.stale()
    assert checkpoints(w)  # going back costs no training


def test_engines_exclude_each_other(w):
    w.lengthen(60)
    w.rate("rga-drive", 0.2)
    process = w.start(f"dvc repro train@{UNET}")
    wait_for(lambda: checkpoints(w))
    r = w.sh("snakemake -n", ok=False)
    said = r.stdout + r.stderr
    assert r.returncode and "is at work in this checkout: wait until it ends" in said, said
    assert "manually remove" not in said
    assert process.wait() == 0
    w.snakemake()
    trained = [line for line in w.ran() if line.startswith("train")]
    assert sorted(trained) == [f"train {RGA}", f"train {UNET}"]  # once each
    w.clean()


def test_tampered_and_missing_outputs_come_back_from_the_cache(w):
    (w.path / f"runs/{UNET}/weights.safetensors").write_bytes(b"x")
    shutil.rmtree(w.path / f"runs/{RGA}/scores")
    assert {f"train@{UNET}", f"score@{RGA}"} <= w.stale()
    w.snakemake()
    assert w.costly() == []
    w.clean()


def test_code_edit_without_effect_stops_early(w):
    with open(w.path / "src/resegment/prepare.py", "a") as f:
        f.write("# a comment\n")
    w.snakemake()
    assert w.costly() == ["prepare sample/native"]
    w.clean()


def test_graphs_agree(w):
    """Every DVC stage has exactly one Snakemake job, with its files and its dependencies."""
    ask = (
        "import json; from dvc.repo import Repo\n"
        "print(json.dumps({s.addressing: {'deps': [d.def_path for d in s.deps if d.def_path],"
        " 'outs': [o.def_path for o in s.outs]} for s in Repo().index.stages}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", ask], cwd=w.path, env=w.env, capture_output=True, text=True
    )
    stages = json.loads(answer.stdout.splitlines()[-1])
    r = w.sh("snakemake -n -F -p --cores 1")
    jobs = {}
    for block in re.split(r"\n(?=(?:local)?rule )", r.stdout + r.stderr):
        if named := re.search(r"--single-item '([^']+)' >", block):
            inputs, outputs = (
                re.search(rf"^ +{side}: (.*)", block, re.M)[1].split(", ")
                for side in ("input", "output")
            )
            assert named[1] not in jobs
            jobs[named[1]] = inputs, outputs
    assert set(jobs) == set(stages)

    def inside(file, folder):
        return file == folder or file.startswith(folder + "/")

    made = [o for s in stages.values() for o in s["outs"]]
    for name, stage in stages.items():
        inputs, outputs = jobs[name]
        assert all(any(inside(o, d) for d in stage["outs"]) for o in outputs), name
        assert all(any(inside(o, d) for o in outputs) for d in stage["outs"]), name
        needed = [d for d in stage["deps"] if any(inside(o, d) or inside(d, o) for o in made)]
        assert all(any(inside(i, d) for i in inputs) for d in needed), name


def test_every_import_of_a_stage_is_a_dependency(w):
    """What a verb really imports, seen by Python itself, is among its stage's dependencies."""
    plumbing = {"__init__", "errors", "files", "paths", "schema", "config", "dialects", "closure",
                "devices", "cli/__init__", "cli/campaign", "cli/data", "cli/record", "cli/trace",
                "cli/weights",
                "engines/__init__", "engines/plan"}  # fmt: skip
    removing = {"checkpoint"}  # of a run: predict's, when its training is recorded
    lock = w.lock()
    for stage, words in [
        ("ingest@sample", "ingest sample"), ("prepare@sample/native", "prepare sample/native"),
        (f"train@{UNET}", f"train {UNET}"), (f"predict@{RGA}", f"predict {RGA}"),
        (f"score@{RGA}", f"score {RGA}"), ("ledger-sample-tiny", "ledger sample-tiny"),
        ("figures-sample-tiny", "figures sample-tiny"),
        ("report-sample-tiny", "report sample-tiny"),
    ]:  # fmt: skip
        see = (
            "import sys; from resegment.cli import app\n"
            f"try: app({words.split()!r})\n"
            "except SystemExit as e: assert not e.code\n"
            "print('SEEN', *(m.__file__ for n, m in list(sys.modules.items())"
            " if n.split('.')[0] == 'resegment'))"
        )
        r = subprocess.run(
            [sys.executable, "-c", see], cwd=w.path, env=w.env, capture_output=True, text=True
        )
        seen = next(line for line in r.stdout.splitlines() if line.startswith("SEEN")).split()[1:]
        names = {str(Path(f).relative_to(w.path / "src/resegment")) for f in seen}
        listed = {d["path"].removeprefix("src/resegment/") for d in lock[stage]["deps"]}
        missing = {n for n in names if n.removesuffix(".py") not in plumbing | removing} - listed
        assert not {m for m in missing if (w.path / "src/resegment" / m).stat().st_size}, stage


def test_a_run_is_added_removed_and_comes_back(w):
    w.change(lambda t: t["campaigns"]["sample"].update(seeds=[0, 1]))
    refused = w.sh("snakemake -n", ok=False)
    assert refused.returncode and "run `resegment plan`" in refused.stdout + refused.stderr
    w.sh("resegment plan")
    w.snakemake()
    ran = set(w.ran())
    new = {f"{v} sample-tiny/{e}/s1" for v in ("train", "predict", "score")
           for e in ("unet-drive", "rga-drive")}  # fmt: skip
    assert ran == {"plan", *new, *TAIL}
    w.clean()
    two = (w.path / "reports/sample-tiny/scores.csv").read_text()

    w.change(lambda t: t["campaigns"]["sample"].update(seeds=[0]))
    w.sh("resegment plan")
    w.snakemake()
    assert w.costly() == ["plan"]
    assert (w.path / "reports/sample-tiny/scores.csv").read_text() != two
    w.clean()

    w.change(lambda t: t["campaigns"]["sample"].update(seeds=[0, 1]))
    w.sh("resegment plan; dvc repro -q")
    assert w.costly() == ["plan"]
    assert (w.path / "reports/sample-tiny/scores.csv").read_text() == two
    w.clean()


def test_weights_of_another_run_and_images_of_another_set(w):
    """An initial run is an ordinary dependency, and cross-dataset scoring an ordinary stage."""
    fakes.folder(w.path / "copy", fakes.isic2018_files())

    def edit(tree):
        tree["experiments"]["unet-second"] = tree["experiments"]["unet-drive"] | {
            "initial": "unet-drive"
        }
        names = ["unet-drive", "unet-second"]
        tree["campaigns"]["sample"] |= {"experiments": names, "cross": ["isic2018"]}

    w.change(edit)
    w.sh("resegment data add isic2018 copy && resegment plan && dvc gc -q -f -w; rm -rf runs")
    second = UNET.replace("unet-drive", "unet-second")
    w.snakemake()
    w.clean()
    ran = w.ran()
    assert {f"train {second}", f"predict {second} --on isic2018"} <= set(ran)
    weights = hashlib.md5((w.path / f"runs/{UNET}/weights.safetensors").read_bytes()).hexdigest()
    manifest = json.loads((w.path / f"runs/{second}/manifest.json").read_text())
    assert manifest["fingerprints"]["initial"] == weights
    own, there = (
        json.loads((w.path / f"runs/{second}{on}/scores/metrics.json").read_text())
        for on in ("", "/on-isic2018")
    )
    assert there["common"]["threshold"] == own["common"]["threshold"]
    assert there["common"]["n_images"] == 6  # 26 * 594 / 2594
    with open(w.path / "reports/sample-tiny/cross.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert {(r["trained_on"], r["scored_on"]) for r in rows} == {("sample", "isic2018")}
    assert {r["experiment"] for r in rows} == {"unet-drive", "unet-second"}

    w.rate("unet-drive", 0.002)  # what starts from it follows, in the other engine, too
    w.sh(f"dvc repro -q train-from@{second}")
    assert w.ran() == [f"train {UNET}", f"train {second}"]


def test_one_gpu_never_holds_two_trainings(w):
    w.change(lambda t: t["budgets"]["tiny"]["train"].update(epochs=3))
    w.snakemake(extra="--resources gpu=1 --until predict")
    times = {}
    for what, line, at in w.log():
        if line.split()[0] in ("train", "predict"):
            times.setdefault(line, {})[what] = float(at)
    spans = sorted((t["start"], t["end"]) for t in times.values())
    assert len(spans) == 4
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_without_a_gpu_one_line_says_so(w):
    r = w.sh(f"resegment train {UNET}")
    assert r.stderr.count("no GPU here: using the CPU") == 1


def test_a_missing_dataset_stops_only_what_needs_it(w):
    def edit(tree):
        tree["active"] = ["sample", "drive"]
        tree["campaigns"]["drive"] |= {"budget": "tiny", "seeds": [0],
                                       "experiments": ["unet-drive"]}  # fmt: skip

    w.change(edit)
    w.rate("unet-drive", 0.05)
    w.sh("resegment plan")
    w.ran()
    r = w.snakemake(ok=False)
    assert r.returncode and "resegment data add drive PATH" in r.stdout + r.stderr
    assert set(verbs(UNET)) < set(w.ran())  # the sample campaign was finished all the same
    assert not {s for s in w.stale() if "sample" in s}


def test_both_engines_started_together_train_nothing_twice(w):
    w.rate("unet-drive", 0.2)
    first = w.start("snakemake --cores 2 --resources gpu=2")
    second = w.start("dvc --wait-for-lock repro")
    first.wait(), second.wait()
    w.snakemake()
    assert [line for line in w.ran() if line.startswith("train")] == [f"train {UNET}"]
    w.clean()


def test_report_is_made_by_snakemake_too(w):
    w.sh("snakemake --report report.html")
    text = (w.path / "report.html").read_text()
    assert "ledger.csv" in text and not re.search(r"<(script|link)[^>]+(src|href)=.https?:", text)


def test_trace_agrees_everywhere_and_notices_what_was_edited(w):
    def traced(run=UNET):
        return json.loads(w.sh(f"resegment trace {run} f1 --json").stdout)

    found = traced()
    values = json.loads((w.path / paths.scores(UNET) / "metrics.json").read_text())
    assert found["value"] == values["common"]["f1"]
    assert all(found["agreement"].values()), found["agreement"]
    lock = w.lock()
    outs = {o["path"]: o["md5"] for s in lock.values() for o in s.get("outs", [])}
    assert found["md5"]["maps"] == outs[f"runs/{UNET}/predictions"]

    (w.path / f"runs/{UNET}/predictions/11.png").write_bytes(b"")
    assert [k for k, ok in traced()["agreement"].items() if not ok] == [
        "files on disk are those of dvc.lock"
    ]
    w.rate("rga-drive", 0.7)
    assert (
        not traced(RGA)["agreement"]["manifest has the parameters of params.yaml"]
        or not (traced(RGA)["agreement"]["dvc.lock has the parameters of params.yaml"])
    )


def test_a_link_into_a_shared_cache_is_moved_forward_without_its_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in ("leftovers.mend", "leftovers.unlock_snakemake", "stale"):
        monkeypatch.setattr(f"resegment.engines.dvc_state.{call}", lambda: set())
    for name, seconds in (("cached", 100), ("input", 200)):
        Path(name).touch()
        os.utime(name, (seconds, seconds))
    Path("output").symlink_to("cached")
    os.utime("output", (100, 100), follow_symlinks=False)
    stages = {"one": {"inputs": ["input"], "outputs": ["output"]}}
    assert dvc_state.refresh(stages) == set()
    assert os.stat("cached").st_mtime == 100 and os.lstat("output").st_mtime > 200
