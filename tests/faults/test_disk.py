"""Full disks, missing rights, vanished files, clocks set back: one sentence, nothing finished lost,
and the next run completes.

The disk is a tmpfs (`disk.Disk`); the checkout on it is the finished pipeline of `pipeline.py`.
"""

import random
import re
import shutil
import subprocess

import disk
import pytest
from pipeline import UNET, Work

from resegment import files

CAMPAIGN = "sample-tiny"
RUN, REPORTS = f"runs/{UNET}", f"reports/{CAMPAIGN}"
# {verb: (its words, what it makes, the most that it may need of the disk beyond that, MiB)}
VERBS = {
    "ingest": (["sample"], ["data/native/sample"], 0),
    "prepare": (["sample/native"], ["data/prepared/sample/native"], 0),
    "train": ([UNET], [f"{RUN}/{f}" for f in ("weights.safetensors", "history.csv",
                                              "manifest.json")], 1),
    "predict": ([UNET], [f"{RUN}/predictions"], 0),
    "score": ([UNET], [f"{RUN}/scores"], 33),
    "ledger": ([CAMPAIGN], [f"{REPORTS}/{t}.csv" for t in (
        "scores", "ledger", "claims", "comparisons", "sensitivity", "audit", "calibration",
        "curves", "history", "cross")], 0),
    "figures": ([CAMPAIGN], [f"{REPORTS}/figures", f"{REPORTS}/pictures"], 0),
    "report": ([CAMPAIGN], [f"{REPORTS}/report.html"], 0),
    "bundle": ([CAMPAIGN, "--out", "parcel"], ["parcel"], 0),
    "export": ([UNET, "--to", "unet.onnx"], ["unet.onnx"], 0),
    "audit": (["--write"], ["data/published/audit.csv"], 0),
    "plan": ([], ["dvc.yaml"], 0),
}  # fmt: skip
FULL = re.compile(r"resegment: (\S+): No space left on device: free some space, then run the "
                  "command again")  # fmt: skip


@pytest.fixture(scope="module")
def small(done, tmp_path_factory):
    """A disk of 300 MiB with the finished pipeline in `w`, or a skip that says why."""
    try:
        made = disk.Disk(tmp_path_factory.mktemp("small"), 300 << 20, done / "src")
    except OSError as e:
        pytest.skip(f"this machine mounts no tmpfs: {e}")
    shutil.copytree(done, made.path / "w", symlinks=True)
    Work(made.path / "w").sh("rm -f .ran")
    for verb in ("bundle", "export"):  # what no stage makes
        assert made.verb(verb, *VERBS[verb][0], at="w").code == 0
    yield made
    made.close()


@pytest.fixture(scope="module")
def bound(done, tmp_path_factory):
    """A folder whose permissions bind root, too."""
    made = disk.Disk(tmp_path_factory.mktemp("bound"), 0, done / "src")
    yield made
    made.close()


@pytest.fixture
def work(done, bound):
    """A copy of the finished pipeline in the folder `w` of `bound`."""
    path = bound.at / "w"
    shutil.copytree(done, path, symlinks=True, ignore=shutil.ignore_patterns(".git", "tests"))
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", path], check=True)
    shutil.rmtree(path)


def sentence(said: disk.Said) -> str:
    """The one line that a verb says before it gives up, beside that there is no GPU."""
    lines = [x for x in said.err.splitlines() if not x.startswith("no GPU")]
    assert said.code == 1 and len(lines) == 1 and lines[0].startswith("resegment: "), said
    return lines[0]


def made(verb: str, folder) -> dict[str, str]:
    """What a verb makes, by content; not the manifest of a training, which says when and how long,
    nor what is drawn from that."""
    return {
        f"{out}/{name}" if name else out: md5
        for out in VERBS[verb][1]
        if not (verb == "train" and out.endswith(".json"))
        for name, md5 in (disk.tree(folder / out) if (folder / out).is_dir()
                          else {"": files.md5(folder / out)}).items()
    }  # fmt: skip


def gone(path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fill(small: disk.Disk, verb: str, times: int, seed: int) -> None:
    """Run a verb on a disk that fills up, `times` times in different places, then with space."""
    words, outs, extra = VERBS[verb]
    work, rng, failed = small.path / "w", random.Random(f"{verb}-{seed}"), 0
    wanted = made(verb, work)
    size = sum(f.stat().st_size for out in outs for f in [work / out, *(work / out).rglob("*")]
               if f.is_file())  # fmt: skip
    most = (size + (extra << 20)) // disk.PAGE + len(wanted)
    kept = made(verb, work) if verb not in ("bundle", "plan") else {}  # which write anew only
    for out in outs if not kept else []:
        gone(work / out)
    tries = 0
    while failed < times:
        tries += 1
        assert tries < 60, f"{verb} never failed"
        pages = int(most * (failed + rng.random()) / times)
        note = f"{verb}, seed {seed}, {pages} pages free"
        before = disk.tree(work, "checkpoints/")
        small.leave(pages)
        free = small.free()
        said = small.verb(verb, *words, at="w")
        left = small.free()
        small.leave()
        if said.code == 0:  # it did not need all of `most`
            most = pages
            for out in outs if not kept else []:
                gone(work / out)
            continue
        failed += 1
        assert FULL.fullmatch(sentence(said)), (note, said)
        now = disk.tree(work, "checkpoints/")
        changed = {f for f in now.keys() | before.keys() if now.get(f) != before.get(f)}
        assert all(wanted.get(f) == now.get(f) for f in changed), (note, changed)  # finished, whole
        assert not [f for f in now if f not in before and f not in wanted], (note, changed)
        if verb != "train" and not changed:  # whose checkpoint is finished work
            assert left == free, note
    said = small.verb(verb, *words, at="w")
    assert said.code == 0, (verb, seed, said)
    assert made(verb, work) == wanted, (verb, seed)


@pytest.mark.slow
@pytest.mark.fault("Full disk", "The disk fills up at a random write of a verb",
                   "One sentence names the file and the remedy; what was finished stays, no "
                   "temporary does; with space the verb gives the undisturbed bytes")  # fmt: skip
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk(small, tried, verb):
    fill(small, verb, 3, seed=0)
    tried(3)


@pytest.mark.campaign
@pytest.mark.fault("Full disk", "The disk fills up at a random write of a verb, many times",
                   "As in the short test")  # fmt: skip
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_again_and_again(small, tried, verb, seed):
    fill(small, verb, 5, seed)
    tried(5)
