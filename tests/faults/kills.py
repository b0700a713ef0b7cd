"""Kills at random moments, and what must be there after the next ordinary command.

In a copy of the finished tiny pipeline one stage is taken back, a command that makes it again is
killed, typed again, and everything is compared with what an undisturbed run made. What is killed,
with which signal and when follows from a seed.
"""

import contextlib
import dataclasses
import getpass
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import fakes
import psutil
import yaml
from pipeline import RGA, UNET, Work, copied

from resegment.engines.plan import TABLES
from resegment.files import md5

SEED = 20261121
REPORTS = "reports/sample-tiny"
# what every run says anew in its manifest; the rest of it must be equal
VARY = {"started", "cost", "origin", "resumed_after_epoch", "seal"}
# {verb: (its stage, the words after it, what the stage makes)}
STAGES = {
    "ingest": ("ingest@sample", "sample", ["data/native/sample"]),
    "prepare": ("prepare@sample/native", "sample/native", ["data/prepared/sample/native"]),
    "train": (f"train@{UNET}", UNET, [f"runs/{UNET}/{f}" for f in (
        "weights.safetensors", "history.csv", "manifest.json")]),
    "predict": (f"predict@{RGA}", RGA, [f"runs/{RGA}/predictions"]),
    "score": (f"score@{UNET}", UNET, [f"runs/{UNET}/scores"]),
    "ledger": ("ledger-sample-tiny", "sample-tiny", [f"{REPORTS}/{t}.csv" for t in TABLES]),
    "figures": ("figures-sample-tiny", "sample-tiny", [
        f"{REPORTS}/figures", f"{REPORTS}/pictures"]),
    "report": ("report-sample-tiny", "sample-tiny", [f"{REPORTS}/report.html"]),
}  # fmt: skip
# As in a real environment the verb is the process that DVC started: nothing stands between.
VERB = """#!/bin/sh
echo "start|$*|$(date +%s.%N)" >> "$RAN"
exec {python} -c "from resegment.cli import main; main()" "$@"
"""
DRIVERS = {
    "resegment": "resegment {verb} {words}", "dvc": "dvc repro",
    "snakemake": "snakemake --cores 2 --resources gpu=2",
}  # fmt: skip
# DVC's words, and a verb's
BROKEN = re.compile(
    r"'(\./)?dvc\.lock' (is invalid|validation failed)|RWLock-file|dvc\.lock was cut short"
)


@dataclasses.dataclass
class Task:
    """A command, what it makes, and how that is taken back."""

    command: str
    verb: str  # how a line of `.ran` begins when the command is really at work
    back: Callable[[], None]
    whole: float = 0.0  # seconds of the undisturbed command
    work: float = 0.0  # ... of these from its verb to the next one
    made: str = "\0"  # said in a refusal: it was made before the kill, whole


def checkout(finished: Path, path: Path) -> Work:
    w = copied(finished, path)
    (path / ".bin/resegment").write_text(VERB.format(python=sys.executable))
    (path.parent / "tmp").mkdir()
    return w


def start(w: Work, command: str) -> subprocess.Popen:
    """In a session of its own, with temporary files in a folder of their own."""
    with open(w.path / ".said", "w") as said:
        return subprocess.Popen(
            command.split(), cwd=w.path, start_new_session=True, stdout=said, stderr=said,
            stdin=subprocess.DEVNULL, env=w.env | {"TMPDIR": str(w.path.parent / "tmp")},
        )  # fmt: skip


def typed(w: Work, command: str, timeout: float = 240) -> subprocess.CompletedProcess:
    """The command typed again, and what it said."""
    process = start(w, command)
    code = process.wait(timeout)
    return subprocess.CompletedProcess(command, code, (w.path / ".said").read_text())


def living(w: Work) -> list[psutil.Process]:
    """The processes that are at work in the checkout."""
    found = []
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(p.cwd()).is_relative_to(w.path) and p.status() != psutil.STATUS_ZOMBIE:
                found.append(p)
    return [p for p in found if p.pid != os.getpid()]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds:g} s"
        time.sleep(0.02)


# What must be equal


def listing(w: Work) -> set[str]:
    """Every file and folder of the checkout, hidden ones too, but for what engines keep for
    themselves (looked at in `left_by_engines`) and git."""
    out = set()
    for here, folders, names in os.walk(w.path):
        rel = os.path.relpath(here, w.path)
        folders[:] = [f for f in folders if f != "__pycache__" and os.path.join(rel, f) not in (
            "./.git", "./.snakemake", "./.dvc", "./logs")]  # fmt: skip
        out |= {os.path.normpath(os.path.join(rel, n)) for n in (*folders, *names)}
    # an empty folder in $TMPDIR is Snakemake's own business
    temporary = {f"tmp/{p.name}" for p in (w.path.parent / "tmp").iterdir()
                 if not p.name.startswith("snakemake") or any(p.iterdir())}  # fmt: skip
    return (out | temporary) - {
        ".ran",
        ".said",
        "checkpoints",
        f"tmp/torchinductor_{getpass.getuser()}",
    }


def artefacts(w: Work, *folders: str) -> dict[str, object]:
    """{file: its MD5} of everything that stages make; a run's manifest without what varies."""
    out = {}
    for folder in folders or ("data/native", "data/prepared", "runs", REPORTS):
        for file in sorted((w.path / folder).rglob("*")):
            name = file.relative_to(w.path).as_posix()
            if re.fullmatch(r"runs/.*/s0/manifest\.json", name):
                known = json.loads(file.read_text())
                out[name] = {k: v for k, v in known.items() if k not in VARY}
            elif file.is_file():
                out[name] = md5(file)
    return out


def left_by_engines(w: Work, readers: bool = False) -> list[str]:
    """Locks that are held by nobody, half-written files, markers: what grows from kill to kill.

    readers: do not count dead readers in DVC's rwlock, which hinder nobody until a PID comes back;
    they go when Snakemake or `resegment plan` is next typed.
    """
    found = []
    locks = w.path / ".snakemake/locks"
    found += sorted(map(str, locks.iterdir())) if locks.is_dir() else []
    held = w.path / ".dvc/tmp/rwlock"
    known = json.loads(held.read_text()) if held.exists() else {}
    found += [
        f"rwlock: {who} {p}" for who in ("read", "write")[readers:] for p in known.get(who, {})
    ]
    found += [str(p) for p in (w.path / ".snakemake/incomplete").rglob("*") if p.is_file()]
    known = {"btime", "lock", "rwlock", "rwlock.lock", "exps"}
    found += [str(p) for p in (w.path / ".dvc/tmp").iterdir() if p.name not in known]
    named = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?|[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")
    for part in ("files/md5", "runs"):
        base = w.path / ".dvc/cache" / part
        names = (p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file())
        found += [f".dvc/cache/{part}/{n}" for n in names if not named.fullmatch(n)]
    return found


# How a stage is taken back


def gone(w: Work, *paths: str) -> None:
    for path in map(w.path.joinpath, paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def forgotten(w: Work, *stages: str) -> None:
    """DVC no longer knows that they were ever run."""
    tree = yaml.load((w.path / "dvc.lock").read_text(), yaml.CSafeLoader)
    commands = {known["cmd"] for s in stages if (known := tree["stages"].pop(s, None))}
    (w.path / "dvc.lock").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False))
    for entry in (w.path / ".dvc/cache/runs").glob("*/*/*"):
        if yaml.load(entry.read_text(), yaml.CSafeLoader)["cmd"] in commands:
            shutil.rmtree(entry.parent)
    w.sh("git commit -qam taken --allow-empty")


def stage_task(w: Work, verb: str, driver: str, draw: random.Random) -> Task:
    stage, words, outs = STAGES[verb]

    def back():
        if driver != "resegment":
            gone(w, *outs)
            forgotten(w, stage)
        elif draw.random() < 0.5:  # else the outputs of before are there and are replaced
            gone(w, *outs)

    return Task(DRIVERS[driver].format(verb=verb, words=words), f"{verb} {words}", back)


def adding(w: Work) -> Task:
    """`data add` of a zip beside a folder that holds the other half of the set."""
    files = list(fakes.isic2018_files(60).items())
    fakes.zipped(w.path.parent / "first", dict(files[::2]))
    fakes.folder(w.path.parent / "second", dict(files[1::2]))

    def back():
        gone(w, "data/raw/isic2018")
        w.sh("git checkout -q data/registry")

    return Task("resegment data add isic2018 ../first.zip ../second", "data add", back)


def bundling(w: Work) -> Task:
    out = "../bundle"
    return Task(f"resegment bundle {UNET} {RGA} --out {out}", "bundle", lambda: gone(w, out),
                made="is there already")  # fmt: skip


def adopting(w: Work) -> Task:
    """Both runs trained elsewhere come home; nothing of them is here."""
    runs = [UNET, RGA]
    w.sh(f"resegment bundle {' '.join(runs)} --out ../node && cd ../node && python run.py")
    names = ("weights.safetensors", "history.csv", "manifest.json", "predictions")

    def back():
        gone(w, *(f"runs/{r}/{n}" for r in runs for n in names))
        forgotten(w, *(f"{s}@{r}" for r in runs for s in ("train", "predict")))

    back()
    w.sh("resegment adopt ../node && dvc repro -q")
    return Task("resegment adopt ../node", "adopt", back)


# The kill


def shoot(w: Work, t: Task, draw: random.Random) -> str:
    """Start the command and kill it, or one of its processes, at a random moment. Says what."""
    (w.path / ".ran").unlink(missing_ok=True)
    process = start(w, t.command)
    at_work = draw.random() < 0.6
    delay = draw.uniform(0, t.work if at_work else t.whole)
    if at_work:
        until(
            lambda: (
                process.poll() is not None
                or t.verb in (line[: len(t.verb)] for _, line, *_ in w.log())
            )
        )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    how = draw.choice([signal.SIGKILL, signal.SIGTERM])
    one = draw.random() < 0.5
    tree = []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
    when = f"{delay:.3f} s after {'the verb began' if at_work else 'the start'}"
    if process.poll() is not None or not tree:
        return f"too late ({when})"
    victim = draw.choice(tree)
    name = "?"
    with contextlib.suppress(psutil.Error):
        name = " ".join(victim.cmdline())[:120]
    with contextlib.suppress(ProcessLookupError):
        if one:
            os.kill(victim.pid, how)
        else:
            os.killpg(process.pid, how)
    said = f"{how.name} of {f'`{name}` alone' if one else 'all'}, {when}"
    try:
        process.wait(90)
    except subprocess.TimeoutExpired:  # Snakemake's handler of SIGTERM may block on its own lock
        os.killpg(process.pid, signal.SIGKILL)  # as a scheduler does after a while
        process.wait()
        said += ", then SIGKILL of all"
    return said


def measure(w: Work, t: Task) -> None:
    t.back()
    (w.path / ".ran").unlink(missing_ok=True)
    begin, clock = time.time(), time.monotonic()
    r = typed(w, t.command)
    assert r.returncode == 0, r.stdout[-2000:]
    t.whole = time.monotonic() - clock
    times = [(line, float(at)) for _, line, at in w.log()] + [("", begin + t.whole)]
    work = [after - at for (line, at), (_, after) in itertools.pairwise(times)
            if line.startswith(t.verb)]  # fmt: skip
    t.work = work[0] if work else t.whole


def again(w: Work, t: Task, draw: random.Random, counts: dict) -> None:
    """The same command typed again. While a process outlived the kill it may refuse; where a kill
    cut a file of DVC's, plain `dvc repro` may refuse until `resegment plan` has mended it."""
    if draw.random() < 0.5:
        until(lambda: not living(w))
    for _ in range(3):
        alive = living(w)
        r = typed(w, t.command)
        assert "Traceback (most recent call last)" not in r.stdout, r.stdout[-3000:]
        if r.returncode == 0 or t.made in r.stdout:
            break
        if alive:
            counts["waited"] = counts.get("waited", 0) + 1
            until(lambda: not living(w))
        elif t.command.startswith("dvc") and BROKEN.search(r.stdout):
            mended = typed(w, "resegment plan")
            assert mended.returncode == 0 and "resegment: " in mended.stdout, mended.stdout
            counts["mended"] = counts.get("mended", 0) + 1
        else:
            raise AssertionError(f"refused with nothing alive: {r.stdout[-3000:]}")
    assert r.returncode == 0 or t.made in r.stdout, r.stdout[-3000:]
    until(lambda: not living(w))


def campaign(w: Work, t: Task, kills: int, name: str, *folders: str, trains: bool = False) -> dict:
    """Kill the command that often, type it again each time, and compare. Returns what happened.

    folders: what the command makes, default: what stages make. trains: a training says anew what it
    cost, which the reports show: they are compared with those made again from the same runs.
    """
    draw = random.Random(zlib.crc32(name.encode()) + SEED)
    measure(w, t)
    want, there = artefacts(w, *folders), listing(w)
    if trains:
        want = {k: v for k, v in want.items() if not k.startswith(REPORTS)}
    counts = {"kills": 0, "late": 0}
    for k in range(3 * kills):  # some come too late
        if counts["kills"] == kills:
            break
        where = f"kill {k} of {name} (seed {SEED})"
        t.back()
        said = shoot(w, t, draw)
        counts["late" if said.startswith("too late") else "kills"] += 1
        where += f": {said}"
        print(where, flush=True)
        try:
            again(w, t, draw, counts)
            if trains and t.command.startswith("resegment"):
                w.sh("dvc repro -q")  # the manifest of DVC's record comes back
            got = artefacts(w, *folders)
            if trains:
                got = {k: v for k, v in got.items() if not k.startswith(REPORTS)}
            differ = [f for f in want | got if want.get(f) != got.get(f)]
            assert not differ, f"other bytes: {differ}"
            if not trains and "bundle" not in t.command:
                assert not [x for _, x, _ in w.log() if x.startswith("train ")], "trained again"
            assert listing(w) == there, f"left: {listing(w) ^ there}"
            assert not (left := left_by_engines(w, readers=True)), left
            assert w.stale() == set(), w.stale()
        except AssertionError as e:
            raise AssertionError(f"{where}: {e}") from None
    if trains:
        made = artefacts(w, REPORTS)
        gone(w, REPORTS)
        w.sh("dvc repro -q")
        assert artefacts(w, REPORTS) == made, f"{name} (seed {SEED}): reports differ"
    w.clean()
    assert not left_by_engines(w), left_by_engines(w)
    return counts
