"""False records: what is edited during a run or after it is named, and enters no ledger.

Three witnesses: dvc.lock (`dvc status`), the chain of fingerprints in the manifests, which
`dvc commit -f` does not change (`trace --verify`, `ledger`), and doing it again (`trace --rerun`).
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
import yaml
from pipeline import RGA, UNET, Work, copied, sealed
from test_bundle import FOLDER, at, home, origin, prove, refused  # noqa: F401
from typer.testing import CliRunner

from resegment import cli, closure, config, files, paths, proof
from resegment.engines import dvc_state, leftovers
from resegment.errors import UserError
from resegment.trace import check

LEDGER = "reports/sample-tiny/ledger.csv"
STAGES = {  # the function that does a verb's work
    "ingest sample": "resegment.ingest.ingest",
    "prepare sample/native": "resegment.prepare.prepare",
    f"train {UNET}": "resegment.train.fit", f"predict {UNET}": "resegment.predict.predict",
    f"score {UNET}": "resegment.score.score", "ledger sample-tiny": "resegment.ledger.build",
    "figures sample-tiny": "resegment.figures.build",
    "report sample-tiny": "resegment.report.build",
}  # fmt: skip
PAIRS, NATIVE = "data/prepared/sample/native", "data/native/sample"
READ = {  # data that a verb reads
    "ingest sample": ["data/raw/sample/1.png"],
    "prepare sample/native": [f"{NATIVE}/01_image.png", f"{NATIVE}/manifest.csv",
                              f"{NATIVE}/manifest.json", "data/splits/sample.csv"],
    f"train {UNET}": [f"{PAIRS}/01-0000_image.png", f"{PAIRS}/01-0000_label.png",
                      f"{PAIRS}/manifest.csv", f"{PAIRS}/manifest.json"],
    f"predict {UNET}": [f"runs/{UNET}/weights.safetensors", f"runs/{UNET}/manifest.json",
                        f"{NATIVE}/16_image.png", "data/splits/sample.csv"],
    f"score {UNET}": [f"runs/{UNET}/predictions/16.png", f"runs/{UNET}/predictions/manifest.json",
                      f"{NATIVE}/16_label.png", "data/splits/sample.csv"],
    "ledger sample-tiny": [f"runs/{RGA}/scores/metrics.json", f"runs/{RGA}/history.csv",
                           f"runs/{RGA}/manifest.json", "data/published/cells.csv"],
    "figures sample-tiny": [f"runs/{RGA}/scores/roc.csv", f"runs/{RGA}/predictions/16.png", LEDGER,
                            f"{NATIVE}/16_image.png"],
    "report sample-tiny": ["reports/sample-tiny/scores.csv", f"runs/{RGA}/manifest.json",
                           "reports/sample-tiny/figures/roc.svg", "data/published/claims.csv"],
}  # fmt: skip
CODE = {  # a source file behind a verb
    "ingest sample": "datasets/sample.py", "prepare sample/native": "variants.py",
    f"train {UNET}": "losses.py", f"predict {UNET}": "export.py", f"score {UNET}": "structure.py",
    "ledger sample-tiny": "stats.py", "figures sample-tiny": "figures/curves.py",
    "report sample-tiny": "report/evidence.py",
}  # fmt: skip


def change(file: Path, edit) -> None:
    """Edit a params.yaml, given by its folder, or a JSON file."""
    if file.is_dir():
        Work(file).change(edit)
        return
    tree = json.loads(file.read_text())
    edit(tree)
    files.write_json(file, sealed(tree))


def plain(finished: Path, path: Path) -> Path:
    """The files of a finished pipeline without its cache and history: a tenth of it."""
    leave = shutil.ignore_patterns("cache", ".git", ".snakemake", "logs", ".ran")
    shutil.copytree(finished, path, ignore=leave, symlinks=True)
    return path


@pytest.fixture
def here(done, tmp_path, monkeypatch) -> Path:
    """A finished pipeline as the current directory, whose own sources count as the code."""
    path = plain(done, tmp_path / "here")
    monkeypatch.chdir(path)
    monkeypatch.setattr(closure, "PACKAGE", path / "src/resegment")
    return path


def verb(words: str) -> tuple[int, str]:
    """Exit code of a verb in this process, and its mistake."""
    result = CliRunner().invoke(cli.app, words.split())
    if result.exception and not isinstance(result.exception, UserError | SystemExit):
        raise result.exception
    return result.exit_code, str(result.exception or "")


def flip(file: Path, place: int | None = None, bit: int = 1) -> None:
    """Alter one byte of a file: its last one, or that at `place`."""
    data = bytearray(file.read_bytes())
    data[-1 if place is None else place] ^= bit
    file.write_bytes(data)


def during(monkeypatch, words: str, edit) -> tuple[int, str]:
    """A verb whose work is an edit of the user's."""
    monkeypatch.setattr(STAGES[words.replace(RGA, UNET)], lambda *_, **__: edit())
    return verb(words)


def parameter() -> None:
    change(Path(), lambda t: t["experiments"]["unet-drive"]["train"].update(batch_size=3))


def protocol() -> None:
    change(Path(), lambda t: t["protocols"]["frame-network-images"].update(threshold=0.4))


# during a stage


@pytest.mark.fault("False records", "a file of the data that a verb reads is edited while it runs",
                   "exit 1 with the name of the file; nothing is recorded")  # fmt: skip
@pytest.mark.parametrize(("words", "file"), [(w, f) for w in READ for f in READ[w]])
def test_data_edited_during_a_stage(here, monkeypatch, words, file):
    (here / "data/raw/sample").mkdir(parents=True)
    (here / "data/raw/sample/1.png").write_bytes(b"an original")
    code, said = during(monkeypatch, words, lambda: flip(here / file))
    assert code == 1 and f"{file} changed during the stage; nothing is recorded" in said


@pytest.mark.fault(
    "False records",
    "an image is edited and put back while a verb reads images",
    "exit 1 with the name of the file, for it may have been read as it was between",
)
@pytest.mark.parametrize("words", [f"train {UNET}", f"predict {UNET}", f"score {UNET}"])
def test_data_edited_and_put_back(here, monkeypatch, words):
    def twice():
        flip(here / READ[words][0])
        flip(here / READ[words][0])

    code, said = during(monkeypatch, words, twice)
    assert code == 1 and f"{READ[words][0]} changed during the stage" in said


@pytest.mark.fault("False records", "a source file behind a verb is edited while it runs",
                   "exit 1 with the name of the file; nothing is recorded")  # fmt: skip
@pytest.mark.parametrize("words", STAGES)
def test_code_edited_during_a_stage(here, monkeypatch, words):
    file = here / "src/resegment" / CODE[words]
    code, said = during(monkeypatch, words, lambda: file.write_text(file.read_text() + "#\n"))
    assert code == 1 and f"{file} changed during the stage; nothing is recorded" in said


@pytest.mark.fault("False records", "params.yaml is edited while a verb runs that goes by it",
                   "exit 1 with the key, what it was and what it is")  # fmt: skip
@pytest.mark.parametrize(("words", "edit", "key"), [
    *((w, parameter, "batch_size 4, here 3") for w in STAGES if UNET not in w),
    (f"train {UNET}", parameter, "train.batch_size 4, here 3"),
    (f"predict {UNET}", parameter, "train.batch_size 4, here 3"),
    (f"score {UNET}", protocol, "protocols.frame-network-images.threshold 0.5, here 0.4"),
])  # fmt: skip
def test_parameters_edited_during_a_stage(here, monkeypatch, words, edit, key):
    change(here, lambda t: t["budgets"]["tiny"]["train"].pop("batch_size"))
    change(here, lambda t: t["experiments"]["unet-drive"]["train"].update(batch_size=4))
    code, said = during(monkeypatch, words, edit)
    assert code == 1 and "params.yaml (" in said and key in said


@pytest.mark.fault("False records", "parameters of another experiment are edited while maps "
                   "are drawn", "the verb succeeds: it does not go by them")  # fmt: skip
def test_what_a_run_does_not_go_by_may_change(here, monkeypatch):
    assert during(monkeypatch, f"predict {RGA}", parameter) == (0, "")


@pytest.mark.fault("False records", "parameters or code are edited and put back while a verb runs",
                   "the verb succeeds: both were read once, when it began")  # fmt: skip
@pytest.mark.parametrize("name", ["params.yaml", "src/resegment/losses.py"])
def test_parameters_and_code_edited_and_put_back(here, monkeypatch, name):
    def twice():
        text = (here / name).read_text()
        (here / name).write_text(f"{text}\n# edited\n")
        (here / name).write_text(text)

    assert during(monkeypatch, f"train {UNET}", twice) == (0, "")


@pytest.mark.fault(
    "False records",
    "a source file is edited between the start of a verb and its first import of it",
    "it was loaded when its hash was taken, all of it",
)
@pytest.mark.parametrize("module", ["predict", "score", "ledger"])
def test_no_code_is_loaded_after_its_hash_was_taken(here, module):
    see = (
        "import sys\n"
        "from resegment import closure\n"
        "from resegment.cli.record import held, settings\n"
        f"with held(settings(), settings, [], ('resegment.{module}',)):\n"
        f"    assert not {{*closure.modules('resegment.{module}')}} - {{*sys.modules}}\n"
    )
    env = os.environ | {"PYTHONPATH": str(here / "src")}
    subprocess.run([sys.executable, "-c", see], env=env, check=True)


@pytest.mark.fault(
    "False records",
    "a file was edited before a verb reads it, typed by hand",
    "refused before anything is done, with the file and the stage that makes it",
)
@pytest.mark.parametrize(("words", "file", "stage"), [
    (f"train {UNET}", f"{PAIRS}/01-0000_image.png", "prepare@sample/native"),
    (f"predict {UNET}", f"runs/{UNET}/weights.safetensors", f"train@{UNET}"),
    (f"predict {UNET}", f"{NATIVE}/16_image.png", "ingest@sample"),
    (f"score {UNET}", f"runs/{UNET}/predictions/16.png", f"predict@{UNET}"),
    (f"score {UNET}", f"{NATIVE}/16_label.png", "ingest@sample"),
])  # fmt: skip
def test_what_is_not_what_its_manifest_names_is_not_read(here, monkeypatch, words, file, stage):
    flip(here / file)
    code, said = during(monkeypatch, words, lambda: pytest.fail("it began"))
    assert code == 1 and f"{file}: not what the manifest beside it names" in said
    assert f"`dvc repro -f --single-item {stage}`" in said


NOT_TABLES = [
    (f"train {UNET}", f"{PAIRS}/manifest.csv", b"id,image\n1,a.png\n", "one column operation"),
    (f"train {UNET}", f"{PAIRS}/manifest.csv", b"\x89PNG\xff", "is no table"),
    (f"train {UNET}", f"{PAIRS}/manifest.json", b'{"files": []}', "does not name its files"),
    (f"predict {UNET}", f"{NATIVE}/manifest.json", b'{"files": 3}', "does not name its files"),
    (f"score {UNET}", f"runs/{UNET}/predictions/manifest.json", b"[]", "holds no object"),
    ("prepare sample/native", f"{NATIVE}/manifest.json", b'{"files": ', "is not whole"),
]


@pytest.mark.fault("False records", "a table or manifest that a verb goes by is no text, or has a "
                   "list for an object, no column or no end",
                   "one sentence names it; nothing is begun")  # fmt: skip
@pytest.mark.parametrize(("words", "file", "data", "said"), NOT_TABLES)
def test_a_manifest_of_another_shape(here, monkeypatch, words, file, data, said):
    (here / file).write_bytes(data)
    code, heard = during(monkeypatch, words, lambda: pytest.fail("it began"))
    assert code == 1 and heard.startswith(f"{file} ") and said in heard


# afterwards


OUTPUTS = [f"runs/{UNET}/{name}" for name in (
    "weights.safetensors", "history.csv", "predictions/11.png",
    "scores/metrics.json", "scores/images.csv", "scores/histograms.npz",
)] + [f"runs/{RGA}/manifest.json", f"runs/{RGA}/scores/manifest.json"]  # fmt: skip
LATE = [f"reports/sample-tiny/{name}" for name in (
    "ledger.csv", "scores.csv", "curves.csv", "figures/roc.svg", "report.html")]  # fmt: skip
CHAIN = [*(f for f in OUTPUTS if "predictions" not in f), f"{PAIRS}/manifest.csv"]


def test_a_finished_pipeline_proves_itself(here):
    params = config.load()
    assert [proof.doubts(run, params) for run in config.runs(params)] == [[], []]


@pytest.mark.fault(
    "False records",
    "one byte of a file of a finished run is altered",
    "the ledger refuses: the file and the stage that makes it are named",
)
@pytest.mark.parametrize("file", CHAIN)
def test_an_altered_file_enters_no_ledger(here, file):
    params = config.load()
    data = (here / file).read_bytes()
    place = data.find(b'weights_md5": "') + 20 if file.endswith("s0/manifest.json") else len(data)
    flip(here / file, place if place < len(data) else len(data) // 2)
    found = [said for run in config.runs(params) for _, said in proof.doubts(run, params)]
    assert any(file in said or str(Path(file).parent) in said for said in found), found
    code, said = verb("ledger sample-tiny")
    assert code == 1 and "`dvc repro -f --single-item" in said


@pytest.mark.fault("False records", "a number in metrics.json is a word, a list, an object or has "
                   "four hundred digits", "trace --verify names the line that cannot be "
                   "computed from it")  # fmt: skip
@pytest.mark.parametrize("value", ["high", "0.5", [1], {}, 10**400], ids=lambda v: str(v)[:9])
def test_a_metric_that_is_no_number(here, value):
    folder = paths.scores(UNET)
    change(here / folder / "metrics.json", lambda t: t["common"].update(f1=value))
    named = check.check("reports/sample-tiny/scores.csv:3", "", "")["altered"]
    assert any(f"what {folder} has gives no number" in line for line in named), named


@pytest.mark.fault("False records", "weights begin with the length of a header that has no end, or "
                   "with brackets that have none, and their manifest names them",
                   "the manifest is not whole, it is said, and the ledger refuses")  # fmt: skip
@pytest.mark.parametrize("head", [b"\xff" * 8, (1 << 45).to_bytes(8, "little"),
                                  (99_999).to_bytes(8, "little") + b"[" * 99_999],
                         ids=["endless", "tebibytes", "brackets"])  # fmt: skip
def test_weights_without_a_header(here, head):
    weights = here / paths.run(UNET) / "weights.safetensors"
    weights.write_bytes(head + weights.read_bytes()[8:])
    md5 = files.md5(weights)
    change(weights.with_name("manifest.json"), lambda t: t.update(weights_md5=md5))
    code, said = verb("ledger sample-tiny")
    assert code == 1 and f"runs/{UNET}/manifest.json is not whole" in said and TRAINED in said


@pytest.mark.fault("False records", "dvc.lock holds conflicts of a merge", "plan, and the planning "
                   "of Snakemake, say so and leave it as it is")  # fmt: skip
def test_a_dvc_lock_that_git_is_merging(here, tried):
    lock = here / "dvc.lock"
    head, _, rest = lock.read_text().partition("\n")
    lock.write_text(f"{head}\n<<<<<<< HEAD\nstages:\n=======\nstages: \n>>>>>>> other\n{rest}")
    merging = lock.read_bytes()
    code, said = verb("plan")
    assert code == 1 and "dvc.lock holds conflicts of a merge: settle them" in said
    with pytest.raises(UserError, match="holds conflicts of a merge"):
        dvc_state.refresh({})
    assert lock.read_bytes() == merging
    assert not leftovers._whole(b"stages:\n  a:\n    cmd: 2026-99-99\n")  # no date: no traceback
    tried(2)


def edited(name: str, old: str, new: str):
    def edit():
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new, 1))

    return edit


TRAINED, DRAWN, SCORED = (f"`dvc repro -f --single-item {s}@{UNET}`"
                          for s in ("train", "predict", "score"))  # fmt: skip
FALSE = [
    (lambda: change(Path(), lambda t: t["experiments"]["unet-drive"]["train"].update(
        optimiser={"name": "adam", "lr": 0.5})),
     "its parameters are not those of params.yaml (train.optimiser.lr 0.01, here 0.5)", TRAINED),
    (edited("src/resegment/losses.py", '"""', '"""New: '),
     "its code is not the checkout's (losses.py in src/resegment)", TRAINED),
    (edited("src/resegment/geometry.py", '"""', '"""New: '),
     "its maps were drawn by other code (geometry.py in src/resegment)", DRAWN),
    (edited("src/resegment/structure.py", '"""', '"""New: '),
     "its scores were counted by other code (structure.py in src/resegment)", SCORED),
    (protocol, "its scores are not under the protocols of params.yaml "
     "(frame-network-images.threshold 0.5, here 0.4)", SCORED),
    (lambda: change(Path(), lambda t: t["budgets"]["tiny"].update(inference="stride-32")),
     "its maps were drawn with inference ", DRAWN),
    (lambda: change(Path(), lambda t: t["recipes"]["native"].update(flips=True)),
     f"{PAIRS} is of another recipe than params.yaml has (flips False, here True)",
     "`dvc repro -f --single-item prepare@sample/native`"),
    (edited("data/splits/sample.csv", "train", "val"),
     f"{PAIRS} is of another split than data/splits/sample.csv",
     "`dvc repro -f --single-item prepare@sample/native`"),
    (edited("data/splits/sample.csv", "train", "val"), "its scores are of another split", SCORED),
    (lambda: remade(Path(PAIRS)), f"it was trained on other pairs than those in {PAIRS}", TRAINED),
    (lambda: remade(Path(NATIVE)), f"its maps are of other images than those in {NATIVE}", DRAWN),
    (lambda: remade(Path(NATIVE)), f"its scores are of other images than those in {NATIVE}",
     SCORED),
    (lambda: remade(paths.predictions(UNET)), f"runs/{UNET}/scores was scored from other maps",
     SCORED),
    (lambda: swap("weights.safetensors"), "weights.safetensors is not the file of its", TRAINED),
    (lambda: swap("manifest.json"), f"manifest.json is that of {RGA}", TRAINED),
    (lambda: swap("predictions"), f"has maps of {RGA} on sample", DRAWN),
    (lambda: swap("scores"), f"has scores of {RGA} on sample", SCORED),
]  # fmt: skip


def remade(folder: Path) -> None:
    """An image of a folder is altered, and its manifest says so."""
    flip(sorted(folder.glob("*.png"))[0])
    change(folder / "manifest.json", lambda t: t["files"].update(
        {p.name: files.md5(p) for p in folder.glob("*.png")}))  # fmt: skip


def swap(name: str) -> None:
    """One run's file or folder in the place of another's."""
    mine, other = paths.run(UNET) / name, paths.run(RGA) / name
    if mine.is_dir():
        shutil.rmtree(mine)
        shutil.copytree(other, mine)
    else:
        shutil.copy(other, mine)


@pytest.mark.fault("False records", "parameters, code, split, pairs, images or outputs are changed "
                   "and nothing is made anew", "ledger, figures and report refuse: run, what "
                   "differs and the stage to be made anew are named")  # fmt: skip
@pytest.mark.parametrize(("edit", "said", "remedy"), FALSE)
def test_what_does_not_belong_together_enters_no_ledger(here, edit, said, remedy):
    edit()
    verb("plan")
    before = (here / LEDGER).read_bytes()
    code, heard = verb("ledger sample-tiny")
    assert code == 1 and (here / LEDGER).read_bytes() == before
    lines = heard.splitlines()
    assert any(said in line and remedy in line and UNET in line for line in lines), heard
    if "parameters" in said:
        assert all(verb(f"{v} sample-tiny")[1] == heard for v in ("figures", "report"))


@pytest.mark.fault("False records", "every file of a run that is there, the pairs are not: pulled "
                   "or adopted", "links to what is not here are not judged")  # fmt: skip
def test_what_is_not_here_is_not_judged(here):
    for folder in (PAIRS, f"runs/{UNET}/predictions"):
        shutil.rmtree(here / folder)
    (here / f"runs/{UNET}/weights.safetensors").unlink()
    params = config.load()
    assert [proof.doubts(run, params) for run in config.runs(params)] == [[], []]


@pytest.mark.fault("False records", "a run's folder is copied to another seed, experiment or "
                   "campaign", "the ledger refuses: the run it is really of is named")  # fmt: skip
@pytest.mark.parametrize("to", ["seed", "experiment", "campaign"])
def test_a_copied_run_enters_no_ledger(here, to):
    def edit(tree):
        if to == "experiment":
            tree["experiments"]["unet-copy"] = tree["experiments"]["unet-drive"]
        campaigns = tree["campaigns"]
        campaigns["other"] = campaigns["sample"] | {"experiments": ["unet-drive"]}
        tree["active"] = ["other" if to == "campaign" else "sample"]
        campaigns["sample"] |= {
            "seeds": [1] if to == "seed" else [0],
            "experiments": ["unet-copy" if to == "experiment" else "unet-drive"],
        }

    change(here, edit)
    assert verb("plan")[0] == 0
    [run] = config.runs(config.load())
    shutil.copytree(paths.run(UNET), paths.run(run["run"]))
    code, said = verb(f"ledger {run['campaign']}")
    assert code == 1 and f"{run['run']}/manifest.json is that of {UNET}" in said
    assert ("train" in said and "seed 0, here 1" in said) == (to == "seed")


# with the engines


@pytest.fixture
def w(done, tmp_path) -> Work:
    return copied(done, tmp_path / "w")


def verified(w: Work, target: str = "reports/sample-tiny/report.html") -> list[str]:
    """What `trace --verify` calls altered."""
    r = w.sh(f"resegment trace {target} --verify --json", ok=False)
    assert r.returncode in (0, 1) and "Traceback" not in r.stderr, r.stderr
    found = json.loads(r.stdout)["altered"]
    assert (r.returncode == 1) == bool(found)
    return found


def maker(file: str) -> str:
    """The stage that makes a file of the tiny pipeline."""
    part = Path(file).parts
    if part[0] == "reports":
        name = {"figures": "figures", "report.html": "report"}.get(part[2], "ledger")
        return f"{name}-sample-tiny"
    verbs = {"predictions": "predict", "scores": "score"}
    return f"{verbs.get(part[4], 'train')}@{'/'.join(part[1:4])}"


@pytest.mark.slow
@pytest.mark.fault("False records", "one byte of weights, history, manifest, a map, metrics, "
                   "tables, a figure and the report is altered; then dvc commit -f", "dvc status "
                   "names the stages and trace --verify the files; after the commit trace --verify "
                   "still does, but for report.html and tables that metrics.json does not "
                   "give, and the ledger refuses"
                   )  # fmt: skip
def test_outputs_edited_afterwards_and_committed(w, tried):
    for file in (*OUTPUTS, *LATE):
        place = (w.path / file).read_bytes().rfind(b".") + 1 if file.endswith(".csv") else -1
        flip(w.path / file, place)
    assert w.stale() >= {maker(f) for f in (*OUTPUTS, *LATE)}
    named = verified(w)
    for file in (*OUTPUTS, *LATE):
        assert any(line.startswith(f"{file}: ") for line in named), (file, named)
    w.sh("dvc commit -f -q")
    assert w.stale() == set()
    named = "\n".join(verified(w))
    for file in (*OUTPUTS, "reports/sample-tiny/scores.csv", "reports/sample-tiny/figures/roc.svg"):
        assert file in named or f"/{Path(file).parent.name} " in named, file
    refused = w.sh("resegment ledger sample-tiny", ok=False)
    assert (
        refused.returncode == 1 and f"`dvc repro -f --single-item train@{UNET}`" in refused.stderr
    )
    tried(len(OUTPUTS) + len(LATE))


@pytest.mark.slow
@pytest.mark.fault(
    "False records",
    "a parameter and a source file are changed, and dvc commit -f calls the old results theirs",
    "dvc status is silent; ledger and trace --verify "
    "name both, DVC's ledger stage fails, and the remedy they name mends it",
)
def test_parameters_and_code_that_were_only_committed(w, tried):
    w.rate("unet-drive", 0.5)
    source = w.path / "src/resegment/structure.py"
    source.write_text(source.read_text() + "# edited\n")
    w.sh("dvc commit -f -q")
    assert w.stale() == set()
    named = "\n".join(verified(w, f"{UNET} f1"))
    assert "train.optimiser.lr 0.01, here 0.5" in named and "structure.py" in named
    r = w.sh("dvc repro -f --single-item ledger-sample-tiny", ok=False)
    assert r.returncode and "train.optimiser.lr 0.01, here 0.5" in r.stdout + r.stderr
    w.ran()
    for stage in (f"train@{UNET}", f"score@{UNET}", f"score@{RGA}"):
        w.sh(f"dvc repro -q -f --single-item {stage}")
    w.sh("dvc repro -q")
    assert f"train {UNET}" in w.ran() and verified(w) == [] and w.stale() == set()
    tried(2)


@pytest.mark.slow
@pytest.mark.fault("False records", "a parameter is changed, then: snakemake --touch, dvc commit "
                   "without -f, dvc checkout", "dvc status and snakemake -n still name the run, "
                   "and the ledger refuses")  # fmt: skip
def test_commands_that_only_look_like_work(w, tried):
    w.rate("unet-drive", 0.5)
    for command in ("snakemake --cores 1 --touch", "dvc commit -q < /dev/null", "dvc checkout -q"):
        w.sh(command, ok=False)
        assert f"train@{UNET}" in w.stale(), command
        r = w.sh("resegment ledger sample-tiny", ok=False)
        assert r.returncode == 1 and "train.optimiser.lr 0.01, here 0.5" in r.stderr, command
    assert "train" in w.plan()
    tried(3)


@pytest.mark.slow
@pytest.mark.fault(
    "False records",
    "git checkout of an older commit without dvc checkout",
    "dvc status names the outputs, and the ledger what params.yaml then had",
)
def test_an_older_commit_beside_newer_results(w):
    w.rate("unet-drive", 0.5)
    w.sh("dvc repro -q; git commit -qam newer; git checkout -q HEAD~1")
    assert {f"train@{UNET}", f"predict@{UNET}", f"score@{UNET}"} <= w.stale()
    r = w.sh("resegment ledger sample-tiny", ok=False)
    assert r.returncode == 1 and "train.optimiser.lr 0.5, here 0.01" in r.stderr
    w.sh("dvc checkout -q; resegment ledger sample-tiny")


@pytest.mark.slow
@pytest.mark.fault("False records", "a hash or a parameter in dvc.lock is edited by hand",
                   "dvc status and trace --verify name the stage and the file or key")  # fmt: skip
@pytest.mark.parametrize("what", ["hash", "parameter"])
def test_dvc_lock_edited_by_hand(w, what):
    lock = yaml.safe_load((w.path / "dvc.lock").read_text())
    entry = lock["stages"][f"train@{UNET}"]
    if what == "hash":
        entry["outs"][0]["md5"] = "0" * 32
    else:
        entry["params"]["params.yaml"]["experiments.unet-drive.train"]["optimiser"]["lr"] = 0.5
    (w.path / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert f"train@{UNET}" in w.stale()
    said = "\n".join(verified(w))
    assert (entry["outs"][0]["path"] if what == "hash" else "optimiser.lr") in said


@pytest.mark.slow
@pytest.mark.fault("False records", "a forger alters weights and every fingerprint that tells of "
                   "them, and commits it", "trace --verify is satisfied; trace --rerun names the "
                   "maps and metrics that these weights do not give")  # fmt: skip
def test_a_perfect_forger_is_found_by_doing_it_again(w):
    run = w.path / paths.run(UNET)
    weights = run / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-4000] + bytes(b ^ 1 for b in data[-4000:]))
    new = files.md5(weights)
    change(run / "manifest.json", lambda t: t.update(weights_md5=new))
    change(run / "predictions/manifest.json", lambda t: t.update(weights_md5=new))
    maps = files.md5(run / "predictions/manifest.json")
    change(run / "scores/manifest.json", lambda t: t.update(maps=maps))
    w.sh("dvc commit -f -q")
    assert verified(w) == [] and w.stale() == set()
    r = w.sh(f"resegment trace {UNET} f1 --rerun", ok=False)
    assert r.returncode == 1 and "DIFFERS" in r.stdout


@pytest.mark.slow
@pytest.mark.fault("False records", "weights that another run starts from, or maps and scores on "
                   "another data set, are altered with their manifests, and committed",
                   "trace --verify and the ledger name the run, and the stages train-from, "
                   "predict-cross and score-cross that mend it")  # fmt: skip
def test_weights_of_another_run_and_images_of_another_set(w, tried):
    fakes.folder(w.path / "copy", fakes.isic2018_files())
    second = UNET.replace("unet-drive", "unet-second")

    def edit(tree):
        known = tree["experiments"]
        known["unet-second"] = known["unet-drive"] | {"initial": "unet-drive"}
        tree["campaigns"]["sample"] |= {"experiments": ["unet-drive", "unet-second"],
                                        "cross": ["isic2018"]}  # fmt: skip

    w.change(edit)
    w.sh("resegment data add isic2018 copy && resegment plan && dvc repro -q")
    assert verified(w) == [] and w.stale() == set()
    mine, its = (w.path / paths.run(paths.cross(r, "isic2018")) for r in (UNET, second))
    weights = w.path / paths.run(UNET) / "weights.safetensors"
    flip(weights)
    change(weights.with_name("manifest.json"), lambda t: t.update(weights_md5=files.md5(weights)))
    change(mine / "predictions/manifest.json", lambda t: t.update(weights_md5="0" * 32))
    change(its / "scores/manifest.json", lambda t: t.update(maps="0"))
    w.sh("dvc commit -f -q")
    assert w.stale() == set()
    wrong = {
        f"train-from@{second}": f"{second}: it started from other weights than",
        f"predict-cross@{UNET}/on-isic2018": f"{UNET}: the maps in",
        f"score-cross@{second}/on-isic2018": f"{second}: runs/{second}/on-isic2018/scores was",
    }
    named = verified(w)
    said = w.sh("resegment ledger sample-tiny", ok=False).stderr.splitlines()
    for stage, what in wrong.items():
        assert any(line.startswith(what) for line in named), (what, named)
        assert any(line.strip().startswith(what) and f"--single-item {stage}`" in line
                   for line in said), (stage, said)  # fmt: skip
    tried(len(wrong))


@pytest.mark.campaign
@pytest.mark.fault(
    "False records",
    "one random byte of a random file of the finished pipeline is altered",
    "trace --verify names the file, and dvc status its stage",
)
def test_sixty_random_bytes(w, tried):
    seed = int(os.environ.get("SEED", "6"))
    rng, n = random.Random(seed), 60
    artefacts = sorted(str(f.relative_to(w.path)) for folder in ("runs", "reports/sample-tiny")
                       for f in (w.path / folder).rglob("*") if f.is_file())  # fmt: skip
    for i in range(n):
        file = rng.choice(artefacts)
        data = (w.path / file).read_bytes()
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        said = f"seed {seed}, edit {i}: byte {place} of {file} ^ {bit}"
        flip(w.path / file, place, bit)
        named = verified(w)
        assert any(file in line or str(Path(file).parent) in line for line in named), said
        if i % 6 == 0:
            assert any(file.startswith(o["path"]) for s in w.stale()
                       for o in w.lock()[s]["outs"]), said  # fmt: skip
        (w.path / file).write_bytes(data)
    assert verified(w) == []
    tried(n)


# what comes home


def carry(folder: Path, name: str, edit) -> None:
    change(folder / paths.run(UNET) / name, edit)


@pytest.mark.fault("False records", "a node's result was altered or mixed: weights, history, "
                   "manifest, maps of another bundle, other parameters, data or code, a copied "
                   "receipt", "adopt refuses with run, what differs and the remedy")  # fmt: skip
@pytest.mark.parametrize(("edit", "said"), [
    (lambda: flip(at("weights.safetensors")), "weights.safetensors is not the file of its man"),
    (lambda: flip(at("history.csv"), 3), "history.csv is not the file of its manifest"),
    (lambda: carry(FOLDER, "manifest.json", lambda t: t.update(run="a-b/c/s0")), "is that of a-b"),
    (lambda: carry(FOLDER, "manifest.json", lambda t: t["parameters"].update(seed=1)),
     r"its parameters are not those of params.yaml \(seed 1, here 0\)"),
    (lambda: carry(FOLDER, "manifest.json", lambda t: t["code"].update({"losses.py": "0"})),
     r"its code is not the checkout's \(losses.py in src"),
    (lambda: flip(at("predictions/d.png")), r"are missing or altered \(d.png\)"),
    (lambda: carry(FOLDER, "predictions/manifest.json", lambda t: t["code"].pop("geometry.py")),
     r"drawn by other code \(geometry.py in src"),
    (lambda: carry(FOLDER, "predictions/manifest.json",
                   lambda t: t["inference"].update(patch=64)), "drawn with inference {.*64"),
    (lambda: carry(FOLDER, "predictions/manifest.json", lambda t: t.update(images="0")),
     "its maps are of other images than those in data/native/sample"),
    (lambda: shutil.copy(at("predictions/manifest.json", "sample-tiny/unet-second/s0"),
                         at("predictions/manifest.json")), "altered|has maps of"),
    (lambda: (shutil.rmtree(at("")), shutil.copytree(at("", "sample-tiny/unet-second/s0"), at(""))),
     "is that of sample-tiny/unet-second/s0"),
])  # fmt: skip
def test_a_mixed_result_is_not_adopted(home, edit, said):  # noqa: F811
    prove()
    edit()
    refused(said)
