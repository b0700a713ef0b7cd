"""Several at once: never twice the same training, never a mixed result, a slot for each training.

Which verbs really ran, and when, is written down by the `resegment` on the pipeline's PATH.
"""

import os
import random
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline import RGA, UNET, Work, copied

from resegment import cli, closure, devices, files, node, paths
from resegment.cli.record import alone
from resegment.errors import UserError

HOLD = """
import os, sys, time
from resegment import devices
time.sleep(float(sys.argv[1]))
with devices.claim() as device:
    print(device, os.environ["CUDA_VISIBLE_DEVICES"], time.monotonic(), flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.monotonic(), flush=True)
"""


@pytest.fixture
def w(done, tmp_path) -> Work:
    return copied(done, tmp_path / "w")


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def begun(w: Work) -> list[Path]:
    """Whole checkpoints: a training is past its first epoch."""
    return list((w.path / "checkpoints").rglob("[!.]*.pt"))


def talk(w: Work, command: str) -> subprocess.Popen:
    """A command that works in the background, whose words are kept."""
    return subprocess.Popen(command.split(), cwd=w.path, env=w.env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def trainings(said: str) -> int:
    """How many epochs numbered 1 a text reports."""
    return len(re.findall(r"^epoch 1/", said, re.M))


def result(w: Work, run: str = UNET) -> dict[str, str]:
    return {
        n: files.md5(w.path / paths.run(run) / n) for n in ("weights.safetensors", "history.csv")
    }


def whole(w: Work, run: str = UNET) -> None:
    """Weights, history and manifest are of one training, and the ledger can be made of it."""
    made = files.read_json(w.path / paths.run(run) / "manifest.json")
    assert {"weights.safetensors": made["weights_md5"], "history.csv": made["history_md5"]} == (
        result(w, run)
    )


@pytest.fixture(scope="module")
def undisturbed(done, tmp_path_factory) -> dict[str, str]:
    """What a long training gives when it is alone."""
    w = copied(done, tmp_path_factory.mktemp("alone") / "w")
    w.lengthen(30)
    w.sh(f"resegment train {UNET}")
    return result(w)


# one run, two writers


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "resegment train of one run is typed in two terminals",
                   "the second says so and waits; one training, and both succeed")  # fmt: skip
def test_two_typed_trainings_of_one_run(w, undisturbed):
    w.lengthen(30)
    jobs = [talk(w, f"resegment train {UNET}") for _ in range(2)]
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert sum(map(trainings, said)) == 1
    assert sum("is at work already: waiting for it" in text for text in said) == 1
    assert sum("trained meanwhile by another process" in text for text in said) == 1
    assert result(w) == undisturbed
    whole(w)


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "resegment train of a run is typed while dvc repro trains it, "
                   "and the other way round", "one training; DVC records what it gave")  # fmt: skip
@pytest.mark.parametrize("first", ["typed", "dvc"])
def test_a_typed_training_beside_that_of_an_engine(w, undisturbed, first):
    w.lengthen(30)
    commands = [f"resegment train {UNET}", f"dvc repro --single-item train@{UNET}"]
    one = talk(w, commands[first == "dvc"])
    wait_for(lambda: begun(w))
    two = talk(w, commands[first != "dvc"])
    said = [job.communicate()[0] for job in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), said
    assert sum(map(trainings, said)) == 1 and "trained meanwhile" in said[1]
    assert result(w) == undisturbed and f"train@{UNET}" not in w.stale()


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "the first of two trainings of one run is killed while the "
                   "second waits", "the second takes its checkpoint up, to the same bytes"
                   )  # fmt: skip
def test_who_waits_takes_up_what_the_dead_one_left(w, undisturbed):
    w.lengthen(30)
    first = w.start(f"resegment train {UNET}")
    wait_for(lambda: begun(w))
    second = talk(w, f"resegment train {UNET}")
    assert "waiting for it" in second.stdout.readline()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    said = second.communicate()[0]
    assert second.returncode == 0 and "resumed after epoch" in said, said
    assert result(w) == undisturbed


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "parameters are edited while a run trains, and its training is "
                   "typed again at once", "the first fails by name, the second then trains: one "
                   "result, that of the new parameters")  # fmt: skip
def test_two_trainings_of_other_parameters_do_not_mix(w):
    w.lengthen(30)
    first = talk(w, f"resegment train {UNET}")
    wait_for(lambda: begun(w))
    w.rate("unet-drive", 0.02)
    second = talk(w, f"resegment train {UNET}")
    said = first.communicate()[0], second.communicate()[0]
    assert (first.returncode, second.returncode) == (1, 0), said
    assert "train.optimiser.lr 0.01, here 0.02) changed during the stage" in said[0]
    made = files.read_json(w.path / paths.run(UNET) / "manifest.json")
    assert made["parameters"]["train"]["optimiser"]["lr"] == 0.02
    whole(w)


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "predict and score of one run are each typed twice at once",
                   "each waits for its double; the same bytes as before")  # fmt: skip
def test_two_predictions_and_two_scores_of_one_run(w, tried):
    folders = paths.predictions(UNET), paths.scores(UNET)
    before = [(w.path / f / "manifest.json").read_bytes() for f in folders]
    for verb in ("predict", "score"):
        jobs = [talk(w, f"resegment {verb} {UNET}") for _ in range(2)]
        said = [job.communicate()[0] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], said
        assert sum("waiting for it" in text for text in said) == 1
    assert [(w.path / f / "manifest.json").read_bytes() for f in folders] == before
    tried(2)


# engines


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "two engines work in one checkout: two snakemakes, two dvc "
                   "repro, one of each", "one training; the next command finds it done"
                   )  # fmt: skip
@pytest.mark.parametrize("commands", [
    ("snakemake --cores 1", "snakemake --cores 1"),
    ("dvc --wait-for-lock repro", "dvc --wait-for-lock repro"),
    ("dvc repro", "dvc repro"),
    ("snakemake --cores 1", "dvc --wait-for-lock repro"),
])  # fmt: skip
def test_two_engines_in_one_checkout(w, commands):
    w.rate("unet-drive", 0.2)
    jobs = [w.start(command) for command in commands]
    assert 0 in [job.wait() for job in jobs]
    assert [line for line in w.ran() if line.startswith("train")] == [f"train {UNET}"]
    whole(w)
    w.sh("dvc repro -q")
    assert not [line for line in w.ran() if line.startswith("train")] and w.stale() == set()


def clones(done: Path, tmp_path: Path) -> list[Work]:
    """Two clones of a finished pipeline with one DVC cache."""
    both = [copied(done, tmp_path / name) for name in ("a", "b")]
    for w in both:
        w.sh(f"rm -rf .dvc/cache; dvc cache dir --local {tmp_path / 'cache'}; dvc commit -q -f")
        w.lengthen(30)
    return both


@pytest.mark.slow
@pytest.mark.fault("Concurrency", "two clones that share a DVC cache make the same run, at once "
                   "and one after the other", "one training: the other clone takes it")  # fmt: skip
@pytest.mark.parametrize("at_once", [True, False])
def test_two_clones_with_one_cache_train_once(done, tmp_path, undisturbed, at_once):
    a, b = clones(done, tmp_path)
    command = f"dvc repro --single-item train@{UNET}"
    one = talk(a, command)
    wait_for(lambda: begun(a))
    early = talk(b, command) if at_once else None
    said = [one.communicate()[0], (early or talk(b, command)).communicate()[0]]
    assert one.returncode == 0 and sum(map(trainings, said)) == 1, said
    for w in (a, b):
        assert result(w) == undisturbed and f"train@{UNET}" not in w.stale()
        whole(w)


def test_a_lock_says_in_which_checkout_it_was_held(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hold = (
        "import sys\nfrom resegment.cli.record import alone\n"
        "with alone('train', 'a/b/s0'): print(1, flush=True); sys.stdin.readline()"
    )
    job = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)  # fmt: skip
    job.stdout.readline()
    os.kill(job.pid, signal.SIGSTOP)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {job.pid}"])
    with alone("train", "a/b/s0") as other:
        assert other == tmp_path
    job.wait()
    assert "`resegment train a/b/s0` is at work already: waiting for it" in capsys.readouterr().err
    with alone("train", "a/b/s0") as other, alone("train", "a/b/s1") as third:
        assert other is None and third is None


# GPU slots


def places(tmp_path: Path, waits: list[float], per_card: int, cards: str = "0") -> list[list]:
    """[card, from, to] of jobs that claim a slot after so many seconds, in the order of time."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": cards, "RESEGMENT_SLOTS": str(tmp_path / "slots"),
                        "RESEGMENT_PER_CARD": str(per_card)}  # fmt: skip
    jobs = [subprocess.Popen([sys.executable, "-c", HOLD, f"{wait}", "0.5"], env=env, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for wait in waits]  # fmt: skip
    found = []
    for job in jobs:
        device, card, start, end = job.communicate()[0].split()
        assert job.returncode == 0 and device == "cuda"
        found.append([card, float(start), float(end)])
    return sorted(found, key=lambda x: x[1])


def most(spans: list[list]) -> dict[str, int]:
    """The largest number of jobs at one time on each card."""
    out = {}
    for card, start, _ in spans:
        at_once = sum(c == card and a <= start < b for c, a, b in spans)
        out[card] = max(out.get(card, 0), at_once)
    return out


@pytest.mark.fault("Concurrency", "three jobs want one card that two may share",
                   "two hold it at a time, the third waits, all are served")  # fmt: skip
def test_three_jobs_share_a_card_for_two(tmp_path, tried):
    spans = places(tmp_path, [0, 0, 0], per_card=2)
    assert len(spans) == 3 and most(spans) == {"0": 2}
    tried(3)


@pytest.mark.campaign
@pytest.mark.fault(
    "Concurrency",
    "twenty jobs start at random moments on two cards, one or two to a card, three of them killed",
    "never more jobs on a card than it has places",
)
@pytest.mark.parametrize("per_card", [1, 2])
def test_twenty_jobs_at_random_moments(tmp_path, per_card, tried):
    seed = int(os.environ.get("SEED", "6"))
    rng = random.Random(seed + per_card)
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1", "RESEGMENT_SLOTS": str(tmp_path / "slots"),
                        "RESEGMENT_PER_CARD": str(per_card)}  # fmt: skip
    killed = [subprocess.Popen([sys.executable, "-c", HOLD, f"{rng.uniform(0, 2)}", "60"], env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
              for _ in range(3)]  # fmt: skip
    subprocess.Popen(["sh", "-c", f"sleep 4; kill -9 {' '.join(str(j.pid) for j in killed)}"])
    spans = places(tmp_path, [rng.uniform(0, 3) for _ in range(17)], per_card, "0,1")
    for job in killed:
        job.wait()
    found = most(spans)
    assert set(found) == {"0", "1"} and max(found.values()) <= per_card, f"seed {seed}: {spans}"
    tried(20)


@pytest.mark.campaign
@pytest.mark.fault("Concurrency", "twenty trainings and engines start at random moments in two "
                   "clones with one DVC cache", "one training; both clones have it, and DVC "
                   "calls it theirs; a DVC that meets another at work on it in one clone says so "
                   "and ends")  # fmt: skip
def test_twenty_starts_at_random_moments(done, tmp_path, undisturbed, tried):
    seed = int(os.environ.get("SEED", "6"))
    rng, both = random.Random(seed), clones(done, tmp_path)
    jobs = []
    for _ in range(20):
        command = rng.choice([f"resegment train {UNET}",
                              f"dvc --wait-for-lock repro --single-item train@{UNET}"])  # fmt: skip
        jobs.append(talk(rng.choice(both), command))
        time.sleep(rng.uniform(0, 0.5))
    said = [job.communicate()[0] for job in jobs]
    for job, words in zip(jobs, said, strict=True):
        assert job.returncode == 0 or "is busy, it is being blocked by" in words, (seed, words)
    assert sum(map(trainings, said)) == 1, f"seed {seed}"
    for w in both:
        w.sh(f"dvc repro -q --single-item train@{UNET}")
        assert result(w) == undisturbed and f"train@{UNET}" not in w.stale(), f"seed {seed}"
        whole(w)
    tried(20)


@pytest.fixture
def slots(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("RESEGMENT_SLOTS", str(tmp_path / "slots"))
    monkeypatch.delenv("RESEGMENT_PER_CARD", raising=False)
    return tmp_path / "slots"


def claimed(monkeypatch) -> str:
    with devices.claim() as device:
        card = os.environ["CUDA_VISIBLE_DEVICES"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card)
    return f"{device} {card}"


@pytest.mark.fault("Concurrency", "two users of one machine want the same card",
                   "each can open the other's lock, in a folder as open as /tmp")  # fmt: skip
@pytest.mark.parametrize("parent", [0o755, 0o1777])
def test_two_users_share_the_slots(slots, monkeypatch, parent):
    if os.getuid():
        pytest.skip("only root can be two users")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(parent)
        slots = Path(folder) / "shared"
        monkeypatch.setenv("RESEGMENT_SLOTS", str(slots))
        mask = os.umask(0o077)
        try:
            assert claimed(monkeypatch) == "cuda 0"
        finally:
            os.umask(mask)
        assert stat.S_IMODE(slots.stat().st_mode) == 0o1777
        assert stat.S_IMODE((slots / "0-0.lock").stat().st_mode) == 0o666
        other = (
            "import os; from resegment import devices\nos.setuid(65534)\n"
            "with devices.claim() as d: print(d)"
        )
        r = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert r.stdout == "cuda\n", r.stderr
        os.chown(slots / "0-0.lock", 65534, 65534)
        assert claimed(monkeypatch) == "cuda 0"


@pytest.mark.fault("Concurrency", "the lock of a slot is a link or a folder, or the slots' "
                   "folder is a file", "one sentence with the file and "
                   "RESEGMENT_SLOTS; what the link points to is untouched")  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "file"])
def test_what_stands_in_place_of_a_slot_is_refused(slots, monkeypatch, kind):
    victim = slots.parent / "victim"
    victim.write_text("precious")
    if kind == "file":
        slots.write_text("")
    else:
        slots.mkdir()
    lock = slots / "0-0.lock"
    match kind:
        case "link":
            lock.symlink_to(victim)
        case "dangling":
            lock.symlink_to(slots.parent / "new")
        case "folder":
            lock.mkdir()
    with pytest.raises(UserError, match=r"0-0.lock cannot be opened \(.*RESEGMENT_SLOTS"):
        claimed(monkeypatch)
    assert victim.read_text() == "precious" and not (slots.parent / "new").exists()


@pytest.mark.fault("Concurrency", "a GPU is asked for where none is visible, or where torch cannot "
                   "use it, or with a number of places that is none", "one sentence; never the CPU "
                   "in silence")  # fmt: skip
@pytest.mark.parametrize(("words", "card", "per_card", "said"), [
    ("--device cuda", "", "1", "no GPU is visible here .*: use --device cpu"),
    ("--device tpu", "", "1", "--device tpu: give auto, cpu or cuda"),
    ("--device auto", "0", "1", "torch .* cannot use the GPU here: install a build"),
    ("--device cuda", "0", "none", "RESEGMENT_PER_CARD is 'none': give how many jobs"),
    ("--device cuda", "0", "0", "RESEGMENT_PER_CARD is '0': give how many jobs"),
])  # fmt: skip
def test_a_gpu_that_cannot_be_had(done, slots, tmp_path, monkeypatch, words, card, per_card, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card)
    monkeypatch.setenv("RESEGMENT_PER_CARD", per_card)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    w = Work(tmp_path / "w")
    w.path.mkdir()
    for name in ("params.yaml", "dvc.yaml", "data", "src"):
        (w.path / name).symlink_to(done / name)
    monkeypatch.chdir(w.path)
    monkeypatch.setattr(closure, "PACKAGE", done / "src/resegment")
    monkeypatch.setattr(sys, "argv", ["resegment", "train", RGA, *words.split()])
    with pytest.raises(UserError, match=said):
        cli.app(standalone_mode=False)
    assert not paths.run(RGA).exists()


@pytest.mark.fault("Concurrency", "two run.py work in one bundle",
                   "the second says so in one sentence and ends")  # fmt: skip
def test_two_nodes_in_one_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with node.alone(), pytest.raises(UserError, match="is at work in this folder"):
        with node.alone():
            pass
