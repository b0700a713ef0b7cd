"""SIGKILL and SIGTERM at random moments of every stage, and what a kill leaves behind."""

import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kills
import psutil
import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from pipeline import RGA, UNET
from voluptuous import Invalid

from resegment import dialects, files
from resegment.engines import leftovers

PARTS = [(verb, driver) for driver in kills.DRIVERS for verb in kills.STAGES]
EACH = 5
WEIGHTS = f"runs/{UNET}/weights.safetensors"


@pytest.fixture
def w(done, tmp_path):
    return kills.checkout(done, tmp_path / "w")


@pytest.fixture
def tmp(tmp_path, monkeypatch):
    """The folder of DVC's locks in a checkout of nothing else."""
    monkeypatch.chdir(tmp_path)
    leftovers.TMP.mkdir(parents=True)
    for name in ("lock", "rwlock.lock"):
        (leftovers.TMP / name).touch()
    return leftovers.TMP


def part(w, verb: str, driver: str, count: int) -> int:
    name = f"{verb} by {driver}"
    t = kills.stage_task(w, verb, driver, random.Random(name))
    return kills.campaign(w, t, count, name, trains=verb == "train")["kills"]


@pytest.mark.campaign
@pytest.mark.fault(
    "Killed",
    "SIGKILL or SIGTERM, to all processes or to a random one alone, at random moments of each of "
    "eight stages run by resegment VERB, dvc repro and snakemake",
    "the same command typed again ends with every artefact byte-equal to that of an undisturbed "
    "run (a run's manifest but for start, cost, origin and the epoch resumed after), no lock and "
    "no temporary file is left, dvc status is clean; where the kill cut a file of DVC's own, plain "
    "dvc repro asks for resegment plan first",
)
@pytest.mark.parametrize(("verb", "driver"), PARTS)
def test_a_killed_stage(w, verb, driver, tried):
    tried(part(w, verb, driver, EACH))


@pytest.mark.campaign
@pytest.mark.fault(
    "Killed",
    "SIGKILL or SIGTERM at random moments of resegment data add, adopt and bundle",
    "typed again, it ends with the same files; the list of hashes and dvc.lock are whole, and "
    "nothing temporary is left",
)
@pytest.mark.parametrize("verb", ["data add", "adopt", "bundle"])
def test_a_killed_command(w, verb, tried):
    task, folders = {
        "data add": (kills.adding, ["data/raw", "data/registry"]),
        "adopt": (kills.adopting, []),
        "bundle": (kills.bundling, ["../bundle"]),
    }[verb]
    tried(kills.campaign(w, task(w), 8, verb, *folders)["kills"])


@pytest.mark.slow
@pytest.mark.fault(
    "Killed",
    "the first kills of the campaign: score by dvc repro, report by snakemake",
    "typed again, it ends as an undisturbed run does",
)
@pytest.mark.parametrize(("verb", "driver"), [("score", "dvc"), ("report", "snakemake")])
def test_some_kills(w, verb, driver, tried):
    tried(part(w, verb, driver, 2))


# Snakemake's lock


def other(code: str, *words: str, wait: bool = True) -> subprocess.Popen:
    """A process of its own in this folder; with `wait`, it has said something when this returns."""
    p = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)
    if wait:
        p.stdout.readline()
    return p


UNLOCK = "from resegment.engines import leftovers; leftovers.unlock_snakemake(); print(1, flush=1)"


@pytest.mark.fault(
    "Killed",
    "a Snakemake dies and leaves its locks while another one is alive, and when none is",
    "the next one removes the locks only where it is alone",
)
def test_a_left_lock_of_snakemake_goes_when_its_owner_is_dead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = Path(".snakemake/locks/0.output.lock")
    alive = [other(f"{UNLOCK}; import time; time.sleep(600)") for _ in range(2)]
    try:
        lock.parent.mkdir()
        lock.write_text("a\n")
        for k in range(3):
            assert other(UNLOCK).wait() == 0
            assert lock.exists() == (k < 2)
            if k < 2:
                alive[k].kill()
                alive[k].wait()
    finally:
        for p in alive:
            p.kill()


@pytest.mark.campaign
@pytest.mark.fault(
    "Killed",
    "snakemake is killed with SIGKILL while it holds its lock",
    "the next snakemake removes the lock, says so, and finishes",
)
def test_a_killed_snakemake_is_no_lock(w):
    kills.gone(w, f"runs/{RGA}/scores")
    p = kills.start(w, "snakemake --cores 2")
    kills.until(lambda: any((w.path / ".snakemake/locks").glob("*.lock")))
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    kills.until(lambda: not kills.living(w))
    assert any((w.path / ".snakemake/locks").glob("*.lock"))
    r = kills.typed(w, "snakemake --cores 2")
    assert r.returncode == 0 and "a killed snakemake left .snakemake/locks: removed" in r.stdout
    assert w.stale() == set() and not kills.left_by_engines(w)


@pytest.mark.slow
@pytest.mark.fault(
    "Killed",
    "the process that snakemake started for a job is terminated, and nothing else",
    "DVC and the verb end with it, so that DVC records nothing while Snakemake removes the files "
    "of the failed job; the next snakemake makes them",
)
def test_nothing_outlives_a_job_of_snakemake(w):
    _, words, outs = kills.STAGES["figures"]
    kills.gone(w, *outs)
    kills.forgotten(w, "figures-sample-tiny")
    p = kills.start(w, "snakemake --cores 2")
    kills.until(lambda: ["start", f"figures {words}"] in [x[:2] for x in w.log()])
    (job,) = psutil.Process(p.pid).children()
    job.terminate()
    kills.until(lambda: [q.pid for q in kills.living(w)] in ([p.pid], []), 3)
    assert p.wait(120)
    assert kills.typed(w, "snakemake --cores 2").returncode == 0
    assert w.stale() == set()


# DVC's rwlock

READERS = '{{"read": {{"a": [{{"pid": {pid}, "cmd": "dvc repro"}}]}}}}'


@pytest.mark.fault(
    "Killed",
    "DVC's rwlock is cut short at every length",
    "it is removed and that is said, unless a DVC is at work here; then it stays",
)
def test_a_cut_rwlock(tmp, capsys, tried):
    whole = READERS.format(pid=os.getpid())
    for n in range(len(whole)):
        (tmp / "rwlock").write_text(whole[:n])
        leftovers.mend()
        assert not (tmp / "rwlock").exists()
        assert "rwlock was cut short" in capsys.readouterr().err
    tried(len(whole))
    (tmp / "rwlock").write_text(whole)
    leftovers.mend()
    assert (tmp / "rwlock").read_text() == whole
    (tmp / "rwlock").write_text("{")
    dvc = other("import time; print(1, flush=True); time.sleep(600)", "/bin/dvc", "repro")
    try:
        leftovers.mend()
        assert (tmp / "rwlock").read_text() == "{"
    finally:
        dvc.kill()
        dvc.wait()
    with open(tmp / "lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as DVC does while it writes
        leftovers.mend()
        assert (tmp / "rwlock").exists()
    os.link(tmp / "lock", tmp / "claim")  # as DVC does with core.hardlink_lock
    leftovers.mend()
    assert (tmp / "rwlock").exists()
    (tmp / "claim").unlink()
    leftovers.mend()
    assert not (tmp / "rwlock").exists()


@pytest.mark.fault(
    "Killed",
    "DVC's rwlock names a process that is dead, a zombie, or another one with the same number",
    "its entries are removed, those of living ones stay; the number that came back is said",
)
def test_the_dead_in_the_rwlock(tmp, capsys, tmp_path):
    zombie = other("", wait=False)
    kills.until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    outside = tmp_path.parent
    stranger = subprocess.Popen(["sleep", "600"], cwd=outside)
    mine = {"pid": os.getpid(), "cmd": "dvc repro"}
    file = tmp / "rwlock"

    def left(pid: int, at: float) -> dict:
        info = {"pid": pid, "cmd": "dvc repro"}
        file.write_text(
            json.dumps({"write": {"a": info}, "read": {"b": [info, mine], "c": [info]}})
        )
        os.utime(file, (at, at))
        leftovers.mend()
        return json.loads(file.read_text())

    alone = {"write": {}, "read": {"b": [mine]}}
    try:
        now = time.time()
        assert left(2**22 + 1, now) == alone  # above what Linux gives
        assert left(zombie.pid, now) == alone
        assert not capsys.readouterr().err
        started = psutil.Process(stranger.pid).create_time()
        assert left(stranger.pid, started + 60)["write"]  # it may be the one that was named
        assert left(stranger.pid, started - 60) == alone  # this one was here before the clock was
        assert f"PID {stranger.pid}, which is another process by now" in capsys.readouterr().err
    finally:
        stranger.kill()
        stranger.wait()
        zombie.wait()


# dvc.lock


@pytest.mark.fault("Killed", "A lock of DVC names a process of another machine, where a job of a "
                   "living Snakemake runs",
                   "nothing is removed while any Snakemake lives in the checkout")  # fmt: skip
def test_what_jobs_elsewhere_hold(tmp):
    text = json.dumps({"write": {"a": {"pid": 2**22 - 1, "cmd": "dvc"}}, "read": {}})
    (tmp / "rwlock").write_text(text)
    leftovers.SNAKEMAKE.mkdir()
    with open(leftovers.ALIVE, "a") as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
        leftovers.mend()
        assert (tmp / "rwlock").read_text() == text
    leftovers.mend()
    assert "4194303" not in (tmp / "rwlock").read_text()


@pytest.mark.slow
@pytest.mark.fault(
    "Killed",
    "dvc.lock is cut short: within its first 40 stages at every 19th length, and after 60 of "
    "its lines",
    "every cut within a line, and every one that DVC refuses, is seen",
)
def test_every_cut_of_dvc_lock_is_seen(root, tried):
    text = (root / "dvc.lock").read_bytes()
    assert leftovers._whole(text)
    text = text[: list(re.finditer(rb"\n  \S", text))[40].start() + 1]  # all take a minute
    assert leftovers._whole(text)
    lines = [n for n in range(1, len(text)) if text[n - 1 : n] == b"\n"]
    inside = sorted(set(range(0, len(text), 19)) - set(lines))
    assert not any(leftovers._whole(text[:n]) for n in inside)
    accepted = 0
    for n in random.Random(kills.SEED).sample(lines, 60):
        if leftovers._whole(text[:n]):
            accepted += 1
            try:
                COMPILED_LOCKFILE_SCHEMA(yaml.load(text[:n], dialects.Plain))
            except Invalid as e:
                raise AssertionError(f"length {n} of dvc.lock: {e}") from None
    assert accepted  # a stage fewer: DVC takes the rest from its run cache
    tried(len(inside) + 60)


@pytest.mark.campaign
@pytest.mark.fault(
    "Killed",
    "dvc.lock is cut short by a kill: emptied, within a line, after a whole line, with and without "
    "a committed one; then snakemake, or plain dvc repro where DVC still reads it",
    "the engine goes on, snakemake after saying what it mended; nothing is trained, predicted or "
    "scored again",
)
def test_a_cut_dvc_lock_costs_no_training(w, tried):
    lock = w.path / "dvc.lock"
    text = lock.read_text()
    middle = text.index(f"  score@{UNET}")
    cases = [(0, "snakemake"), (middle, "dvc"), (middle + 9, "snakemake without a commit")]
    before = kills.artefacts(w)
    for n, how in cases:
        if how.endswith("commit"):
            w.sh("git rm -q --cached dvc.lock; git commit -qm 'no lock'")
        lock.write_text(text[:n])
        w.ran()
        r = kills.typed(w, "dvc repro" if how == "dvc" else "snakemake --cores 2")
        assert r.returncode == 0, (n, how, r.stdout[-2000:])
        assert ("dvc.lock was cut short" in r.stdout) == (how != "dvc"), (n, how, r.stdout[-2000:])
        assert w.costly() == [], (n, how)
        assert kills.artefacts(w) == before, (n, how)
    w.clean()
    tried(len(cases))


@pytest.mark.slow
@pytest.mark.fault(
    "Killed",
    "dvc.lock or rwlock is cut short, DVC's run cache is empty, dvc repro is typed",
    "DVC, or the first verb that it starts, refuses; resegment plan mends it and says so; then dvc "
    "repro trains nothing",
)
def test_plan_mends_what_dvc_refuses(w, tried):
    text = (w.path / "dvc.lock").read_text()
    middle = text.index("      md5: ", len(text) // 2)
    cuts = [("dvc.lock", text[:n]) for n in (0, middle + 11)]  # unread by DVC, and read
    cuts += [(".dvc/tmp/rwlock", "{")]
    for file, cut in cuts:
        (w.path / file).write_text(cut)
        shutil.rmtree(w.path / ".dvc/cache/runs", ignore_errors=True)  # as in a clone
        refused = kills.typed(w, "dvc repro")
        assert refused.returncode and kills.BROKEN.search(refused.stdout), refused.stdout
        mended = kills.typed(w, "resegment plan")
        assert mended.returncode == 0 and f"{file} was cut short" in mended.stdout, mended.stdout
        w.ran()
        assert kills.typed(w, "dvc repro").returncode == 0
        assert w.costly() == []
    assert w.stale() == set()
    tried(len(cuts))


# What a verb leaves


@pytest.mark.slow
@pytest.mark.fault(
    "Killed",
    "SIGTERM to a training that was typed, between its checkpoints; DVC alone killed above one",
    "the training ends at once without a traceback, also when only DVC died; typed again, it goes "
    "on from its checkpoint to the same weights",
)
def test_a_training_ends_with_the_signal_and_with_dvc(w, tried):
    w.lengthen(12, 32)
    train = f"resegment train {UNET}"
    assert kills.typed(w, train).returncode == 0
    want = files.md5(w.path / WEIGHTS)

    def epochs() -> bool:
        return any((w.path / "checkpoints").rglob("[!.]*.pt"))

    p = kills.start(w, train)
    kills.until(epochs)
    p.terminate()
    assert p.wait(5) == -signal.SIGTERM
    assert "Traceback" not in (w.path / ".said").read_text()
    again = kills.typed(w, train)
    assert f"{UNET}: resumed after epoch" in again.stdout and not epochs()
    assert files.md5(w.path / WEIGHTS) == want

    repro = f"dvc repro --single-item train@{UNET}"
    p = kills.start(w, repro)
    kills.until(epochs)
    p.kill()
    p.wait()
    kills.until(lambda: not kills.living(w), 5)
    again = kills.typed(w, repro)
    assert f"{UNET}: resumed after epoch" in again.stdout, again.stdout
    assert files.md5(w.path / WEIGHTS) == want
    tried(2)


@pytest.mark.slow
@pytest.mark.fault(
    "Killed",
    "dvc repro is killed when its training has just ended and nothing of it is recorded yet",
    "the next dvc repro trains no epoch: the weights come from the last checkpoint, which the "
    "prediction after it removes",
)
def test_a_training_that_dvc_did_not_record(w):
    verb, want = w.path / ".bin/resegment", files.md5(w.path / WEIGHTS)
    kills.gone(w, WEIGHTS)
    kills.forgotten(w, f"train@{UNET}")
    text = verb.read_text()
    verb.write_text(text.replace("exec ", "") + "kill -9 $PPID\n")
    assert kills.typed(w, "dvc repro").returncode == -signal.SIGKILL
    verb.write_text(text)
    again = kills.typed(w, "dvc repro")
    assert again.returncode == 0 and f"{UNET}: resumed after epoch 2 of 2" in again.stdout
    assert files.md5(w.path / WEIGHTS) == want
    w.clean()
    w.sh(f"dvc repro --single-item --force predict@{UNET}")
    assert not any((w.path / "checkpoints").rglob("*.pt"))


@pytest.mark.fault(
    "Killed",
    "a process is killed while it writes a file or replaces a folder",
    "the next one that writes there removes what was left, not what a living one writes; no half "
    "of a folder stands under its name",
)
def test_what_a_killed_writer_left(tmp_path, tried):
    with files.atomic(tmp_path / "a.csv") as mine:
        mine.touch()
        dead = other("", wait=False)
        dead.wait()
        left = tmp_path / f".a.{dead.pid}.csv"
        kept = [tmp_path / n for n in (".a.csv", f".b.{dead.pid}.csv", f".a.{dead.pid}.png")]
        for file in (left, *kept):
            file.touch()
        with files.atomic(tmp_path / "a.csv") as tmp:
            assert tmp == mine and not left.exists() and all(f.exists() for f in kept)
            tmp.write_text("1")
        mine.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).touch()
    die = (
        "import os, shutil; from resegment import files\n"
        "shutil.rmtree = lambda *_, **__: os._exit(9)\n"
        f"with files.atomic_folder({str(folder)!r}) as new: (new / 'd').touch()"
    )
    assert other(die).wait() == 9
    assert [p.name for p in folder.iterdir()] == ["d"]
    with files.atomic_folder(folder) as new:
        (new / "e").touch()
    assert [p.name for p in folder.iterdir()] == ["e"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".folder.")]
    tried(2)
