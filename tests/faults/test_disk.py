"""Full disks, missing rights, vanished files, clocks set back: one sentence, nothing finished lost,
and the next run completes.

The disk is a tmpfs (`disk.Disk`); the checkout on it is the finished pipeline of `pipeline.py`.
"""

import errno
import hashlib
import http.server
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from functools import partial

import disk
import fakes
import numpy as np
import pytest
import yaml
from pipeline import UNET, Work, copied

from resegment import files
from resegment.datasets import stare

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
LOCKS = "checkpoints/", ".dvc/cache/locks/"  # what a training goes on from, and was held by
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
    wanted, manifest = made(verb, work), (work / RUN / "manifest.json").read_bytes()
    needs = [sum(-(-f.stat().st_size // disk.PAGE) for f in [work / out, *(work / out).rglob("*")]
                 if f.is_file()) for out in outs]  # fmt: skip
    most = max(needs) + (extra << 20) // disk.PAGE
    kept = made(verb, work) if verb not in ("bundle", "plan") else {}  # which write anew only
    for out in outs if not kept else []:
        gone(work / out)
    tries = 0
    while failed < times:
        tries += 1
        assert tries < 60, f"{verb} never failed"
        pages = int(most * (failed + rng.random()) / times)
        note = f"{verb}, seed {seed}, {pages} pages free"
        before = disk.tree(work, *LOCKS)
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
        now = disk.tree(work, *LOCKS)
        changed = {f for f in now.keys() | before.keys() if now.get(f) != before.get(f)}
        assert all(wanted.get(f) == now.get(f) for f in changed), (note, changed)  # finished, whole
        assert not [f for f in now if f not in before and f not in wanted], (note, changed)
        if verb != "train" and not changed:  # whose checkpoint is finished work
            assert left == free, note
    said = small.verb(verb, *words, at="w")
    assert said.code == 0, (verb, seed, said)
    assert made(verb, work) == wanted, (verb, seed)
    (work / RUN / "manifest.json").write_bytes(manifest)  # figures draw the seconds in it


@pytest.mark.slow
@pytest.mark.fault("Full disk", "The disk fills up at a random write of a verb",
                   "One sentence names the file and the remedy; what was finished stays, no "
                   "temporary does; with space the verb gives the undisturbed bytes")  # fmt: skip
@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("ingest", "audit", "plan")])
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


@pytest.mark.slow
@pytest.mark.fault("Full disk", "The last image of a data set finds too little space",
                   "The verb fails and keeps the former images; none is cut short in silence"
                   )  # fmt: skip
def test_no_image_is_cut_short_in_silence(small, tried):
    folder = small.path / "w/data/native/sample"
    before = disk.tree(folder)
    need = sum(-(-f.stat().st_size // disk.PAGE) for f in folder.iterdir())
    short = (1, 5, 14)
    for pages in short:
        small.leave(need - pages)
        said = small.verb("ingest", "sample", at="w")
        small.leave()
        assert FULL.fullmatch(sentence(said))[1].startswith("data/native/sample"), pages
        assert disk.tree(folder) == before, pages
    tried(len(short))


@pytest.mark.fault("Full disk", "An archive of a data set does not fit on the disk",
                   "data add says so, leaves no temporary, and the same command takes it in with "
                   "space")  # fmt: skip
def test_an_archive_that_does_not_fit(small, tried):
    shutil.copytree(small.path / "w/data/registry", small.path / "add/data/registry")
    contents = fakes.hrf_files()
    archive = fakes.zipped(small.path / "archive", contents)
    words = ("data", "add", "hrf", small.at / archive.name, "--unverified")
    empty = disk.tree(small.path / "add")
    rng, places = random.Random(0), 4
    for k in range(places):
        pages = int((k + rng.random()) / places * len(contents))  # a page or two each
        small.leave(pages)
        said = small.verb(*words, at="add")
        small.leave()
        now = disk.tree(small.path / "add")
        assert FULL.fullmatch(sentence(said)), (pages, said)
        assert not [f for f in now if "/." in f and not f.endswith(".lock")], (pages, now)
        raw = {f for f in now if f not in empty and not f.endswith(".lock")}
        assert all(hashlib.md5(contents[f.removeprefix("data/raw/hrf/")]).hexdigest() == now[f]
                   for f in raw), (pages, raw)  # fmt: skip
    said = small.verb(*words, at="add")
    assert said.code == 0 and len(disk.tree(small.path / "add/data/raw/hrf")) == len(contents), said
    tried(places)
    shutil.rmtree(small.path / "add")


@pytest.mark.fault("Full disk", "The disk fills up in the middle of a download",
                   "data get says so and keeps what has come; the same command goes on from there"
                   )  # fmt: skip
def test_a_download_that_does_not_fit(small, tmp_path, monkeypatch):
    contents = {f: np.random.default_rng(k).bytes(150_000)
                for k, f in enumerate(stare.files("im0001").values())}  # fmt: skip
    archive = fakes.zipped(tmp_path / "eyes", contents)
    served = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shutil.copytree(small.path / "w/data/registry", small.path / "get/data/registry")
        registry = small.path / "get/data/registry"
        known = yaml.safe_load((registry / "datasets.yaml").read_text())
        url = f"http://127.0.0.1:{server.server_port}/eyes.zip"
        known["stare"]["archives"] = [
            {"name": "eyes.zip", "url": url, "sha256": files.sha256(archive)}
        ]
        (registry / "datasets.yaml").write_text(yaml.safe_dump(known))
        lines = [f"{hashlib.sha256(data).hexdigest()}  {f}\n" for f, data in contents.items()]
        (registry / "stare.sha256").write_text("".join(lines))
        words, env = (
            ("data", "get", "stare", "--keep", "kept"),
            dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
        )
        small.leave(20)
        said = small.verb(*words, at="get", env=env)
        small.leave()
        assert FULL.fullmatch(sentence(said)), said
        assert (small.path / "get/kept/eyes.zip.part").stat().st_size <= 20 * disk.PAGE
        said = small.verb(*words, at="get", env=env)
        server.shutdown()
    assert said.code == 0, said
    for f, data in contents.items():
        assert (small.path / "get/data/raw/stare" / f).read_bytes() == data


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.ENOSPC, "full", "x"), "x: full: free some space, then run the command again"),
    (OSError(errno.EACCES, "no", "from", None, "to"), f"to: no: {files.RIGHTS}"),
    (OSError(errno.EFBIG, "big"), "runs: big: the disk, or `ulimit -f`, allows no file as large"),
    (OSError(errno.EXDEV, "odd", "x"), "x: odd: check the path"),
    (OSError("no number"), "runs: no number: check the path"),
])  # fmt: skip
def test_a_refusal_names_file_reason_and_remedy(error, said):
    assert files.trouble(error, "runs") == said


@pytest.mark.parametrize("whole", [files.atomic, files.atomic_folder])
def test_an_error_names_what_is_made_and_no_temporary(tmp_path, whole):
    out = tmp_path / "out.png"
    full = (errno.ENOSPC, "full")
    for given, named in (
        (lambda tmp: OSError(*full), out),
        (lambda tmp: OSError(*full, str(tmp)), out),
        (lambda tmp: OSError(*full, "source", None, f"{tmp}/a"), out / "a"),
        (lambda tmp: OSError(errno.ENOENT, "gone", "source"), "source"),
    ):
        with pytest.raises(OSError) as caught, whole(out) as tmp:
            raise given(tmp)
        assert files.trouble(caught.value).startswith(f"{named}: ")
        assert not list(tmp_path.iterdir())


@pytest.mark.fault("Missing rights", "The folder that a verb writes to is read-only",
                   "One sentence names what cannot be written; nothing changes; with rights the "
                   "verb completes")  # fmt: skip
@pytest.mark.parametrize("verb", ["ingest", "train", "score", "ledger", "bundle", "export"])
def test_a_read_only_folder(bound, work, verb):
    words, outs, _ = VERBS[verb]
    before = disk.tree(work)
    subprocess.run(["chmod", "-R", "a-w", work], check=True)
    said = bound.verb(verb, *words, at="w", bound=True)
    subprocess.run(["chmod", "-R", "u+w", work], check=True)
    named = sentence(said).split(": ")[1]
    assert said.err.strip().endswith(
        f"{named}: Permission denied: check the path and your rights to it"
    )
    assert any(named.startswith(out) for out in (*outs, "checkpoints/")), said
    assert disk.tree(work) == before


UNREADABLE = {
    "params.yaml": "ingest",
    "dvc.yaml": "prepare",
    "data/native/sample/manifest.csv": "report",
    "data/native/sample/01_image.png": "prepare",
    "data/native/sample/01_label.png": "score",
    "data/native/sample": "bundle",
    "data/prepared/sample/native/manifest.csv": "train",
    "data/prepared/sample/native/01-0000_image.png": "bundle",
    f"{RUN}/weights.safetensors": "export",
    f"{RUN}/manifest.json": "ledger",
    f"{RUN}/predictions/03.png": "score",
    f"{RUN}/scores/histograms.npz": "ledger",
    f"{REPORTS}/scores.csv": "figures",
    f"{REPORTS}/pictures/data.png": "report",
    "data/published/cells.csv": "ledger",
}


@pytest.mark.campaign
@pytest.mark.fault("Missing rights", "A file or folder that a verb reads is unreadable",
                   "One sentence names it, and nothing changes")  # fmt: skip
def test_an_unreadable_input(bound, work, tried):
    before = disk.tree(work, ".locks/")
    for name, verb in UNREADABLE.items():
        mode = (work / name).stat().st_mode
        (work / name).chmod(0)
        said = bound.verb(verb, *VERBS[verb][0], at="w", bound=True)
        (work / name).chmod(mode)
        assert name in sentence(said), (name, verb, said)
        assert disk.tree(work, ".locks/") == before, (name, verb)
    tried(len(UNREADABLE))


@pytest.fixture(scope="module")
def parcel(small):
    """A finished bundle of the run UNET in the folder `brought` of the disk: what a node would have
    made of it is what the pipeline made."""
    assert small.verb("bundle", UNET, "--out", "../brought", at="w").code == 0
    brought = small.path / "brought"
    shutil.copytree(small.path / "w" / RUN, brought / RUN, ignore=shutil.ignore_patterns("scores"))
    (brought / RUN / "bundle.md5").write_text(files.md5(brought / "files.md5"))
    return brought


@pytest.mark.slow
@pytest.mark.fault("Full disk", "The disk fills up while results of a bundle are taken home",
                   "One sentence; dvc.lock is as it was; with space the same command takes them"
                   )  # fmt: skip
def test_adopting_on_a_full_disk(small, parcel, tried):
    work = small.path / "w"
    wanted, lock = disk.tree(work / RUN, "scores/"), (work / "dvc.lock").read_bytes()
    size, rng, places = sum(f.stat().st_size for f in (work / RUN).rglob("*")), random.Random(0), 3
    for k in range(places):
        for name in wanted:
            (work / RUN / name).unlink(missing_ok=True)
        small.leave(pages := int(size * (k + 0.9 * rng.random()) / places) // disk.PAGE)
        said = small.verb("adopt", "../brought", at="w")
        small.leave()
        assert "No space left on device: free some space" in sentence(said), (pages, said)
        assert (work / "dvc.lock").read_bytes() == lock, pages
    said = small.verb("adopt", "../brought", at="w")
    assert said.code == 0 and disk.tree(work / RUN, "scores/") == wanted, said
    tried(places)


@pytest.mark.campaign
@pytest.mark.fault("Full disk", "The disk of a machine without DVC fills up during run.py",
                   "One sentence in the list of what failed; the same command goes on and ends in "
                   "the same bytes")  # fmt: skip
def test_a_node_with_a_full_disk(small, parcel, tried):
    shutil.copytree(parcel, small.path / "node", ignore=shutil.ignore_patterns("runs"))
    weights = (parcel / RUN / "weights.safetensors").stat().st_size // disk.PAGE
    run = f"{sys.executable} run.py --device cpu"
    for pages in (2, 2 * weights):  # too little for a checkpoint, and for the maps
        small.leave(pages)
        said = small.shell(run, at="node")
        small.leave()
        lines = [x for x in said.out.splitlines() if x.startswith("FAILED")]
        assert said.code == 1 and not said.err.strip(), (pages, said)
        assert re.fullmatch(
            rf"FAILED {UNET}: (train|predict): \S+: No space left on device: free "
            "some space, then run the command again",
            *lines,
        ), (pages, said)
    said = small.shell(run, at="node")
    assert said.code == 0, said
    assert disk.tree(small.path / "node" / RUN, "manifest.json") == disk.tree(
        parcel / RUN, "manifest.json"
    )
    tried(2)


VANISHING = {
    "prepare": ("resegment.native._read", 9, ["data/native/sample/05_label.png"]),
    "predict": ("resegment.native._read", 3, ["data/native/sample/16_image.png"]),
    "score": ("resegment.score._count", 2, [f"{RUN}/predictions/16.png"]),
    "ledger": ("resegment.stats.intervals", 2, [f"{RUN}/scores/metrics.json",
                                                f"{RUN}/scores/histograms.npz"]),
    "figures": ("resegment.figures.sheets.grid", 1, ["data/native/sample"]),
    "report": ("resegment.figures.table", 2, [f"{REPORTS}/pictures"]),
    "bundle": ("resegment.parcel.write_sums", 1, ["data/prepared"]),
    "train": ("resegment.train.validate", 1, ["data/prepared/sample/native"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("Vanished files", "What a verb reads is deleted while it runs",
                   "Done, if it was read already; else one sentence names what is missing, and "
                   "the former output stays")  # fmt: skip
@pytest.mark.parametrize("verb", VANISHING)
def test_an_input_that_vanishes(bound, work, verb):
    call, after, gone = VANISHING[verb]
    outs = VERBS[verb][1]
    before = disk.tree(work, *LOCKS)
    said = bound.verb(verb, *VERBS[verb][0], at="w",
                      remove={"call": call, "after": after, "paths": gone})  # fmt: skip
    now = disk.tree(work, *LOCKS)
    assert not any((work / path).exists() for path in gone)
    if said.code:
        assert any(path.split("/")[-1] in sentence(said) for path in gone), said
        assert now == {f: m for f, m in before.items() if not f.startswith(tuple(gone))}
    else:
        assert all((work / out).exists() for out in outs)


@pytest.mark.fault("Vanished files", "The current directory is removed before a verb starts",
                   "One sentence says where to stand")  # fmt: skip
def test_no_current_directory(bound):
    (bound.at / "gone").mkdir()
    said = bound.verb("plan", at="gone", remove={"call": "resegment.config.load", "after": 1,
                                                 "paths": [str(bound.at / "gone")]})  # fmt: skip
    assert sentence(said).endswith("run resegment in the root of a checkout")


@pytest.mark.fault("Mistaken places", "A file stands where a verb makes a folder, or the reverse",
                   "One sentence names it and says to move it away; it is not touched")  # fmt: skip
def test_a_file_for_a_folder(bound, work, tried):
    places = {
        "ingest": ["data/native", "data/native/sample"],
        "prepare": ["data/prepared", "data/prepared/sample"],
        "figures": [f"{REPORTS}/figures"],
        "predict": [f"{RUN}/predictions"],
    }
    for verb, names in places.items():
        for name in names:
            path = work / name
            path.rename(work / "aside")
            path.write_text("mine")
            said = bound.verb(verb, *VERBS[verb][0], at="w")
            assert sentence(said).endswith(f"{files.ANOTHER}") and name in said.err, said
            assert path.read_text() == "mine"
            path.unlink()
            (work / "aside").rename(path)
    for verb, name in (("report", f"{REPORTS}/report.html"), ("ledger", f"{REPORTS}/scores.csv"),
                       ("plan", "dvc.yaml")):  # fmt: skip
        (work / name).unlink()
        (work / name / "mine").mkdir(parents=True)
        said = bound.verb(verb, *VERBS[verb][0], at="w")
        assert name in sentence(said) and files.ANOTHER in said.err, said
        shutil.rmtree(work / name)
    tried(sum(map(len, places.values())) + 3)


@pytest.mark.fault("Mistaken places", "A link to elsewhere or to nothing stands at an output",
                   "The link is replaced; what it led to stays as it was")  # fmt: skip
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_replaced_never_followed(bound, work, exists):
    (bound.at / "elsewhere").mkdir(exist_ok=True)
    (bound.at / "elsewhere/mine").write_text("mine")
    for verb, out in (("prepare", "data/prepared/sample/native"), ("plan", "dvc.yaml")):
        wanted = made(verb, work)
        gone(work / out)
        inside = "elsewhere" if verb == "prepare" else "elsewhere/mine"
        (work / out).symlink_to(bound.at / (inside if exists else "nothing"))
        said = bound.verb(verb, *VERBS[verb][0], at="w")
        assert said.code == 0 and not (work / out).is_symlink(), said
        assert made(verb, work) == wanted
        assert (bound.at / "elsewhere/mine").read_text() == "mine"
        assert not (bound.at / "nothing").exists()


RESEGMENT = f'{sys.executable} -c "from resegment.cli import main; main()"'


@pytest.mark.slow
@pytest.mark.fault("Output that nobody takes", "The reader of a pipe ends first, the output is a "
                   "full disk or closed",
                   "No traceback: silence, one sentence, or the same result")  # fmt: skip
def test_an_output_that_nobody_takes(bound, work, tried):
    for command in ("schema | head -1", "audit | head -1"):
        said = bound.shell(f"{RESEGMENT} {command}", at="w")
        assert (said.code, said.err) == (0, ""), (command, said)
    for command in ("schema", "--help"):
        said = bound.shell(f"{RESEGMENT} {command} > /dev/full", at="w")
        assert sentence(said) == "resegment: the output: No space left on device: free some " \
                                 "space, then run the command again"  # fmt: skip
    wanted = made("predict", work)
    gone(work / RUN / "predictions")
    said = bound.shell(f"{RESEGMENT} predict {UNET} <&- >&- 2>&-", at="w")
    assert said.code == 0 and made("predict", work) == wanted, said
    tried(5)


@pytest.mark.slow
@pytest.mark.fault("Missing rights", "Neither the home folder nor TMPDIR can be written",
                   "The verb completes and warns of nothing")  # fmt: skip
@pytest.mark.parametrize(("verb", "home"), [("figures", "HOME=/dev/null"), ("export", "-u HOME")])
def test_no_home(bound, work, verb, home):
    words = " ".join(VERBS[verb][0])
    said = bound.shell(f"env {home} TMPDIR=/dev/null {RESEGMENT} {verb} {words}", at="w")
    assert said.code == 0 and not said.err, said


@pytest.mark.slow
@pytest.mark.fault("Full disk", "The folder in which a convolution is compiled is full",
                   "It is computed without the compiled form, which is said in one line"
                   )  # fmt: skip
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX") or "c++"), reason="no compiler")
def test_a_compiler_without_space(small):
    (small.path / "tmp").mkdir()
    env = {"TMPDIR": str(small.at / "tmp"), "XDG_CACHE_HOME": str(small.at / "cache")}
    small.leave(0)
    said = small.shell(f"{sys.executable} -c 'from resegment.models.hybridnetseg import deform; "
                       "print(deform.kernel_in_use())'", env=env)  # fmt: skip
    small.leave()
    assert said.code == 0 and said.out.strip() != "compiled", said
    assert len(said.err.splitlines()) == 1 and "not compiled" in said.err, said
    assert not list((small.path / "tmp").iterdir())


def engine(small: disk.Disk, command: str) -> disk.Said:
    inside = Work(small.at / "w").env
    return small.shell(command, at="w", env={k: inside[k] for k in ("PYTHONPATH", "PATH", "RAN")})


@pytest.mark.slow
@pytest.mark.fault("Full disk", "The disk fills up while DVC or Snakemake scores a run",
                   "It fails and shows the sentence; with space the same command, not forced, "
                   "completes, and the stage is up to date")  # fmt: skip
@pytest.mark.parametrize(("command", "force"), [
    (f"dvc repro --single-item score@{UNET}", "--force"),
    (f"snakemake {RUN}/scores/manifest.json --cores 1", "--config force=1"),
], ids=["dvc", "snakemake"])  # fmt: skip
def test_an_engine_on_a_full_disk(small, command, force):
    wanted = made("score", small.path / "w")
    gone(small.path / "w" / RUN / "scores")  # only a forced stage runs: DVC holds its outputs
    small.leave(1000)
    said = engine(small, f"{command} {force}")
    small.leave()
    assert said.code and f"resegment: {RUN}/scores: No space left on device: free some space" in (
        said.out + said.err), said  # fmt: skip
    said = engine(small, command)
    assert said.code == 0 and made("score", small.path / "w") == wanted, said
    assert engine(small, f"dvc status score@{UNET}").out.strip().endswith("up to date.")


def shifted(w: Work, years: int) -> None:
    """After the times of all files have moved, nothing is to do; an edit trains its run, once."""

    def shift() -> None:
        for file in w.path.rglob("*"):
            if file.is_file() and not {".git", ".dvc"} & set(file.relative_to(w.path).parts):
                then = max(0, file.stat().st_mtime + years * 365 * 86400)
                os.utime(file, (then, then))

    shift()
    w.clean()
    shift()
    w.rate("unet-drive", 0.02)
    assert f"train@{UNET}" in w.stale()
    w.sh(f"snakemake --cores 1 {RUN}/weights.safetensors")
    assert w.ran() == [f"train {UNET}"]
    assert f"train@{UNET}" not in w.stale() and "train" not in w.plan()


@pytest.mark.slow
@pytest.mark.fault("Clock", "The clock is set back: every file has a time in the future",
                   "Both engines find nothing to do; an edited parameter trains its run once"
                   )  # fmt: skip
def test_a_clock_that_was_set_back(done, tmp_path):
    shifted(copied(done, tmp_path / "w"), 20)


@pytest.mark.campaign
@pytest.mark.fault("Clock", "Every file has a time long past",
                   "Both engines find nothing to do; an edited parameter trains its run once"
                   )  # fmt: skip
def test_a_clock_that_was_far_behind(done, tmp_path):
    shifted(copied(done, tmp_path / "w"), -20)
