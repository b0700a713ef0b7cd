"""The command line: a user's mistake is one sentence and exit 1, never a traceback."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from resegment import cli, closure, datasets, devices
from resegment.cli import record
from resegment.datasets import registry
from resegment.errors import UserError


def resegment(*words, cwd, **env):
    return subprocess.run(
        [sys.executable, "-c", "from resegment.cli import main; main()", *words],
        cwd=cwd, capture_output=True, text=True, env=os.environ | env,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "sample-smoke/rga-drive/s7"), "no run 'sample-smoke/rga-drive/s7'"),
        (
            ("prepare", "sample/none"),
            "no active run uses 'sample/none'; in use: sample/native, sample/bcdu",
        ),
        (("ledger", "drive-paper"), "campaign 'drive-paper' is not active; active: sample-smoke"),
        (("trace", "rga-9-99", "f1"), "rga-9-99"),
        (("trace", "rga-3-11"), "name a metric, e.g. rga-3-11.f1"),
        (("trace", "data/published/cells.csv:3"), "names no run of dvc.lock"),
        (("trace", "sample-smoke/rga-drive/s0", "--rerun"), "name a metric"),
        (("trace", "rga-3-11.f1", "--verify", "--at", "HEAD"), "give them without --at"),
        (("trace", "rga-3-11.f1", "se"), "rga-3-11.f1 names its metric: give it without se"),
        (("ingest", "../config"), "no reader for dataset '../config'"),
        (("trace", "sample-smoke/rga-drive/s7", "f1"), "no run"),
        (("data", "add", "drvie", "."), "drvie"),
        (("data", "add", "drive", "/no/such/place"), "/no/such/place"),
    ],
)
def test_a_mistake_is_one_sentence(root, words, said):
    r = resegment(*words, cwd=root)
    assert r.returncode == 1 and said in r.stderr, r.stderr
    assert r.stderr.startswith("resegment: ") and "Traceback" not in r.stderr
    assert len(r.stderr.strip().splitlines()) == 1


def test_outside_a_checkout_it_says_where_to_stand(tmp_path):
    r = resegment("plan", cwd=tmp_path)
    assert r.returncode == 1 and "root of a checkout" in r.stderr


@pytest.mark.parametrize("words", [("quote",), ("plan",), ("models",), ("ingest", "sample")])
def test_in_a_folder_of_a_checkout_it_names_the_root_and_makes_nothing(tmp_path, words):
    for name in cli.ROOT:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    r = resegment(*words, cwd=tmp_path / "sub")
    assert r.returncode == 1 and r.stderr.endswith(f"type the same in its root, {tmp_path}\n")
    assert not list((tmp_path / "sub").iterdir())
    assert resegment(words[0], "--help", cwd=tmp_path / "sub").returncode == 0


def test_a_photograph_that_is_not_here_is_named_in_any_folder(root):
    r = resegment("segment", "no.png", "--out", "maps", cwd=root / "reports")
    assert r.returncode == 1 and "no.png is not here" in r.stderr


def test_code_in_no_commit_is_code_that_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x.example"]
    Path("src").mkdir()
    Path("src/old.py").touch()
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    Path("notes.txt").touch()
    assert record.origin()["git_dirty"] is False
    Path("src/new.py").touch()
    assert record.origin()["git_dirty"] is True


def test_light_verbs_do_not_import_torch(root):
    see = (
        "import sys; from resegment import cli, trace, ledger, fetch\nprint('torch' in sys.modules)"
    )
    r = subprocess.run([sys.executable, "-c", see], cwd=root, capture_output=True, text=True)
    assert r.stdout.strip() == "False", r.stderr


def test_plan_lists_every_run_and_marks_the_active(root):
    lines = resegment("plan", "--list", cwd=root).stdout.splitlines()
    active = {line.split()[0] for line in lines if line.endswith("active")}
    papers = ("unet", "rga", "rsan", "bcdu", "hybridnetseg", "mininet")
    assert active == {f"sample-smoke/{name}-drive/s0" for name in papers}
    assert any(line.startswith("drive-lite/rga-drive/s2") for line in lines)


@pytest.fixture
def checkout(tmp_path, monkeypatch, root):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    (tmp_path / "data").mkdir()
    for name in ("registry", "splits"):
        (tmp_path / "data" / name).symlink_to(root / "data" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_published_row_is_followed_into_campaigns_that_are_not_active(checkout, root):
    (checkout / "data/published").symlink_to(root / "data/published")
    stage = {"cmd": "resegment score", "deps": [], "outs": []}
    lock = {"stages": {f"score@drive-lite/rga-drive/s{s}": stage for s in range(3)}}
    (checkout / "dvc.lock").write_text(yaml.safe_dump(lock))
    r = resegment("trace", "rga-3-11", "f1", cwd=checkout)
    assert r.returncode == 1 and "runs/drive-lite/rga-drive/s0/scores/metrics.json" in r.stderr
    assert "dvc repro score@drive-lite/rga-drive/s0" in r.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dataset: drive\n", "dataset: drvie\n", "unet-drive.dataset: no reader for .*'drvie'"),
        ("split: chase_db1-8-20\n", "split: chase_db1-8\n", "no data/splits/chase_db1-8.csv"),
        ("rga-2-08", "rga-2-98", "no row 'rga-2-98' .*did you mean"),
        ("common: {region: fov,", "common: {region: frame,", "protocols.common is .*another name"),
        ("dataset: sample\n", "dataset: samples\n", "campaigns.sample: no reader for"),
        ("{width: 8,", "{widht: 8,", "experiments.unet-drive.model.options.widht is none of the "),
        ("unet: {options: {width: 8,", "unet: {options: {width: eight,", "width is 'eight', where"),
    ],
)
def test_a_plan_that_names_what_is_not_there_is_not_written(checkout, root, old, new, said):
    (checkout / "data/published").symlink_to(root / "data/published")
    text = (checkout / "params.yaml").read_text()
    assert old in text
    (checkout / "params.yaml").write_text(text.replace(old, new))
    (checkout / "dvc.yaml").write_text("as before")
    r = resegment("plan", cwd=checkout)
    assert r.returncode == 1 and re.search(said, r.stderr), r.stderr
    assert len(r.stderr.splitlines()) == 1
    assert (checkout / "dvc.yaml").read_text() == "as before"


def test_options_of_no_network_are_no_plan_in_step(checkout):
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("{width: 8,", "{widht: 8,", 1))
    r = resegment("plan", "--check", cwd=checkout)
    assert r.returncode == 1 and "options.widht is none of the options of unet" in r.stderr


def test_a_plan_says_which_runs_train_alike(checkout, root):
    (checkout / "data/published").symlink_to(root / "data/published")
    text = (checkout / "params.yaml").read_text()
    other = "unet-drive-lr: {dataset: drive, recipe: native, model: *small-unet, protocol: common,"
    train = "train: {<<: *train, optimiser: {lr: 0.0001}}}"
    text = text.replace("  unet-chase:\n", f"  {other}\n    {train}\n  unet-chase:\n")
    campaign = "campaigns:\n  own: {experiments: [unet-drive, unet-drive-lr], seeds: [0], "
    text = text.replace("campaigns:  ", f"{campaign}budget: smoke}}\n  #")
    text = text.replace("active: [sample]", "active: [own]")
    (checkout / "params.yaml").write_text(text)
    r = resegment("plan", cwd=checkout)
    assert r.returncode == 0 and r.stdout.startswith("dvc.yaml written"), r.stderr
    assert "own-smoke: unet-drive-lr trains exactly as unet-drive does" in r.stderr


def test_a_stage_whose_parameters_change_fails(checkout):
    run = "sample-smoke/rga-drive/s0"

    def edit(change):
        tree = yaml.safe_load((checkout / "params.yaml").read_text())
        change(tree)
        (checkout / "params.yaml").write_text(yaml.safe_dump(tree))

    def read():
        return cli.resolved(run)

    with cli.held(read(), read, [], ()):
        edit(lambda t: t["budgets"]["lite"].update(inference="stride-5"))  # not this run's budget
    with pytest.raises(UserError, match=r"params\.yaml \(train.epochs .*changed during the stage"):
        with cli.held(read(), read, [], ()):
            edit(lambda t: t["budgets"]["smoke"]["train"].update(epochs=1))


def test_a_stage_whose_data_change_fails(checkout):
    file = checkout / "manifest.json"
    file.write_text("{}")
    with pytest.raises(UserError, match="manifest.json changed during the stage"):
        with cli.held({}, dict, [file], ()):
            file.write_text("2")


def test_a_plan_out_of_step_is_refused(checkout):
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match="run `resegment plan`"):
        with cli.held({}, dict, [], ()):
            pass


def test_a_reader_that_imports_what_is_not_installed(checkout, monkeypatch):
    reader = checkout / "resegment/datasets/mydata.py"
    reader.parent.mkdir(parents=True)
    reader.write_text("import nosuch.thing\n")
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(reader.parent)])
    monkeypatch.setattr(closure, "PACKAGE", checkout / "resegment")
    monkeypatch.setattr(record.planning, "check", lambda params: None)
    said = f"{reader} imports nosuch, which is not installed: install it"
    with pytest.raises(UserError, match=said):
        with cli.held({}, dict, [], ("resegment.datasets.mydata",)):
            pass
    with pytest.raises(UserError, match=said):
        registry.reader("mydata")
    with pytest.raises(UserError, match="no reader for dataset 'yours'"):
        registry.reader("yours")


def test_a_lock_names_a_checkout_whose_name_is_no_text(tmp_path, monkeypatch, capsys):
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"\xff"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    found = []

    def wait():
        with record.alone("train", "a-b/c/s0") as other:
            found.append(other)

    with record.alone("train", "a-b/c/s0") as other:
        assert other is None
        waiting = threading.Thread(target=wait)
        waiting.start()
        while "waiting for it" not in capsys.readouterr().err:
            time.sleep(0.01)
    waiting.join()
    assert found == [odd]


@pytest.mark.parametrize("level", ["system", "global", "repo", "local"])
def test_locks_are_shared_by_all_who_share_a_cache(tmp_path, monkeypatch, level):
    (tmp_path / "work/.dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    for name in ("system", "global"):
        monkeypatch.setenv(f"DVC_{name.upper()}_CONFIG_DIR", str(tmp_path / name))
    assert record.shared() == Path(".dvc/cache/locks")
    file = {"repo": Path(".dvc/config"), "local": Path(".dvc/config.local")}.get(
        level, tmp_path / level / "config"
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'[core]\n    analytics = false\n[cache]\n    dir = "{tmp_path}/of, all"\n')
    assert record.shared() == tmp_path / "of, all/locks"
    for broken in (b"nonsense", b"[cache]\ndir = \xff\n", b"[cache]\ndir = a, b\n"):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="DVC cannot read its settings"):
            record.shared()


def test_code_is_found_through_imports_at_any_depth():
    names = closure.files("resegment.train", "resegment.models.rga_net")
    assert set(names) == {
        *("train.py", "resident.py", "pairs.py", "variants.py", "augment.py"),
        *("losses.py", "checkpoint.py", "costs.py"),
        *("models/__init__.py", "models/layers.py", "models/rga_net.py"),
    }
    assert "metrics.py" in closure.files("resegment.score")
    assert "datasets/drive.py" not in closure.files("resegment.score")


def test_one_card_is_held_by_one_job_at_a_time(tmp_path):
    script = (
        "import sys, time; from resegment import devices\n"
        "with devices.claim() as d:\n"
        "    import os; start = time.time(); time.sleep(0.5)\n"
        "    print(d, os.environ['CUDA_VISIBLE_DEVICES'], start, time.time())"
    )
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1", "RESEGMENT_SLOTS": str(tmp_path)}
    jobs = [
        subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    spans = {}
    for job in jobs:
        device, card, start, end = job.communicate()[0].split()
        assert device == "cuda"
        spans.setdefault(card, []).append((float(start), float(end)))
    assert set(spans) == {"0", "1"} and sum(map(len, spans.values())) == 4
    for held in spans.values():
        held.sort()
        assert all(a[1] <= b[0] for a, b in zip(held, held[1:], strict=False))


def test_a_card_is_shared_by_as_many_as_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("RESEGMENT_SLOTS", str(tmp_path))
    monkeypatch.setenv("RESEGMENT_PER_CARD", "2")
    held = []
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # `claim` narrows it
            stack.enter_context(devices.claim())
            held.append(os.environ["CUDA_VISIBLE_DEVICES"])
        assert held == ["0", "1", "0", "1"]  # an empty card first
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        monkeypatch.setattr(devices.time, "sleep", lambda _: held[9])
        with pytest.raises(IndexError), devices.claim():
            pass


def test_a_job_of_slurm_waits_for_no_other(monkeypatch):
    """Slurm numbers the cards of each job from 0: locks of one name are of other cards."""
    monkeypatch.delenv("RESEGMENT_SLOTS", raising=False)
    folders = set()
    for job in ("11", "12", ""):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        folders.add(devices.slot_folder())
    assert len(folders) == 3
    monkeypatch.setenv("RESEGMENT_SLOTS", "/lab")
    assert devices.slot_folder() == Path("/lab")


def test_a_dead_holder_frees_its_card(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("RESEGMENT_SLOTS", str(tmp_path))
    hold = (
        "from resegment import devices; import time\n"
        "with devices.claim(): print(1, flush=True); time.sleep(60)"
    )
    job = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    job.stdout.readline()
    job.kill()
    job.wait()
    with devices.claim() as device:  # would wait for ever
        assert device == "cuda"


def test_no_card_means_the_cpu_and_one_line(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with devices.claim() as device:
        assert device == "cpu"
    assert capsys.readouterr().err == "no GPU here: using the CPU\n"
