"""Runs of a machine without DVC: what travels, what the node does, and what is taken home."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pipeline import sealed

from resegment import (
    bundle,
    checkpoint,
    config,
    files,
    native,
    node,
    parcel,
    paths,
    predict,
    prepare,
    proof,
    train,
)
from resegment.engines import adopt
from resegment.errors import UserError

UNET, SECOND = "sample-tiny/unet-drive/s0", "sample-tiny/unet-second/s0"
ORIGIN = {"git_commit": "0123456789abcdef", "git_dirty": False}
PARTS = dict(zip("abcd", ("train", "train", "val", "test"), strict=True))


def tiny(tree: dict) -> None:
    """Two runs of a second, the second from the first one's weights, and one that diverges."""
    tree["active"] = ["sample"]
    tree["budgets"]["tiny"] = {
        "options": {"width": 4, "depth": 2, "norm": True},
        "train": {"epochs": 2, "samples_per_epoch": 4, "batch_size": 2, "augment": {"crop": 32}},
    }
    unet = tree["experiments"]["unet-drive"]
    slope = {"optimiser": {"name": "sgd", "lr": 10.0**30}}
    tree["experiments"] |= {
        "unet-second": unet | {"initial": "unet-drive"},
        "unet-broken": unet | {"train": unet["train"] | slope},
    }
    tree["campaigns"]["sample"] |= {"budget": "tiny", "seeds": [0], "experiments": [
        "unet-second", "unet-drive", "unet-broken"]}  # fmt: skip


def change(folder: Path, edit) -> None:
    """Edit a params.yaml or a JSON file."""
    file = folder / "params.yaml" if folder.is_dir() else folder
    tree = yaml.safe_load(file.read_text())
    edit(tree)
    file.write_text(yaml.safe_dump(tree, sort_keys=False) if file.suffix == ".yaml"
                    else json.dumps(sealed(tree)))  # fmt: skip


@pytest.fixture(scope="module")
def origin(tmp_path_factory, root):
    """A checkout with four small images, and a bundle of two runs that a node has finished."""
    home = tmp_path_factory.mktemp("bundle") / "home"
    shutil.copytree(root / "data/registry", home / "data/registry")
    shutil.copy(root / "params.yaml", home)
    change(home, tiny)
    with contextlib.chdir(home):
        images()
        make_pairs("native")
        params = config.load()
        runs = bundle.chosen(params, [SECOND, UNET])
        bundle.bundle(runs, params, Path("../a node"), ORIGIN)
    with contextlib.chdir(home.parent / "a node"):
        for entry in node.chosen(parcel.read(Path()), []):
            node.train(entry, "cpu")
            node.predict(entry, "cpu")
    return home


def images() -> None:
    folder = paths.native("sample")
    folder.mkdir(parents=True)
    paths.SPLITS.mkdir()
    rng = np.random.default_rng(0)
    rows = ["id,subject,height,width,image,label,fov,fov_source,observer2"]
    for i in PARTS:
        label = cv2.GaussianBlur(rng.random((40, 44)), (0, 0), 3) > 0.5
        image = (60 + 90 * ~label[..., None] + rng.integers(0, 40, (40, 44, 3))).astype(np.uint8)
        rows.append(f"{i},{i},40,44,{i}_image.png,{i}_label.png,{i}_fov.png,given,")
        cv2.imwrite(str(folder / f"{i}_image.png"), image)
        cv2.imwrite(str(folder / f"{i}_label.png"), label.astype(np.uint8) * 255)
        cv2.imwrite(str(folder / f"{i}_fov.png"), np.full((40, 44), 255, np.uint8))
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    files.write_manifest(folder)
    table = "".join(f"{i},{part}\n" for i, part in PARTS.items())
    paths.split("sample").write_text(f"id,split\n{table}")


def make_pairs(name: str) -> None:
    recipe = config.load().recipes[name].model_dump(mode="json", exclude={"cache"})
    geometry = {k: recipe[k] for k in ("resize", "pad", "width")}
    prepare.prepare("sample", "sample", name, recipe, geometry)


@pytest.fixture
def home(origin, tmp_path, monkeypatch):
    """Copies of both; the checkout is the current directory, the bundle `../a node`."""
    shutil.copytree(origin.parent, tmp_path / "both")
    monkeypatch.chdir(tmp_path / "both/home")
    return Path()


FOLDER = Path("../a node")


def prove(run=UNET, stale=(), new=None):
    [entry] = [e for e in parcel.read(FOLDER)["runs"] if e["run"]["run"] == run]
    adopt.prove(FOLDER, entry, config.load(), set(stale), new or {})


def refused(said, **how):
    with pytest.raises(UserError, match=said) as e:
        prove(**how)
    assert how.get("run", UNET) in str(e.value) and "\n" not in str(e.value)


def at(name, run=UNET) -> Path:
    return FOLDER / paths.run(run) / name


# what travels


def test_a_bundle_holds_what_its_runs_read_and_nothing_else(home):
    names = set(parcel.sums(FOLDER))
    assert {n for n in names if n.startswith("data/native")} == {
        f"data/native/sample/{n}"
        for n in ("manifest.csv", "manifest.json", *(f"{i}_image.png" for i in PARTS))
    }  # no labels: of the test images none leave the house
    assert not any("/d-" in n for n in names)
    code = {n.removeprefix("src/resegment/") for n in names if n.startswith("src")}
    assert {"train.py", "predict.py", "node.py", "models/unet.py", "__init__.py"} <= code
    assert not {"config.py", "schema.py", "prepare.py", "models/rga_net.py"} & code
    assert not any(n.startswith(("cli/", "engines/", "report/")) for n in code)
    assert {"run.py", "runs.json", "README.txt"} <= names


def test_only_untouched_pairs_travel_and_are_all_that_training_reads(home, tmp_path):
    change(home, lambda t: t["budgets"]["tiny"].update(recipes={"native": "rga-512"}))
    change(home, lambda t: t["recipes"]["rga-512"].update(resize=[32, 32], rotations=2))
    make_pairs("rga-512")
    params = config.load()
    bundle.bundle(bundle.chosen(params, [UNET]), params, tmp_path / "b", ORIGIN)
    pairs = tmp_path / "b" / paths.prepared("sample", "rga-512")
    mine = paths.prepared("sample", "rga-512")
    assert len(list(mine.glob("*_image.png"))) == 3 * 5
    assert sorted(p.name for p in pairs.glob("*.png")) == sorted(
        f"{i}-0000_{what}.png" for i in "abc" for what in ("image", "label"))  # fmt: skip
    for name in ("manifest.csv", "manifest.json"):
        assert (pairs / name).read_bytes() == (mine / name).read_bytes()
    run = config.find(params, UNET)
    for where in (mine, pairs):
        out = tmp_path / str(where == mine)
        train.fit(run, config.trained_by(run), where, out, "cpu", {})
        checkpoint.remove(UNET)
    assert files.md5(tmp_path / "True/weights.safetensors") == files.md5(
        tmp_path / "False/weights.safetensors")  # fmt: skip


def test_initial_weights_travel_unless_their_run_does(home, tmp_path):
    params = config.load()
    first = f"runs/{UNET}/weights.safetensors"
    assert first not in parcel.sums(FOLDER)
    runs = bundle.chosen(params, [SECOND])
    with pytest.raises(UserError, match=f"weights of {UNET}, which are not here: bundle that run"):
        bundle.bundle(runs, params, tmp_path / "b", ORIGIN)
    shutil.copytree(FOLDER / "runs", home / "runs")
    bundle.bundle(runs, params, tmp_path / "b", ORIGIN)
    assert parcel.sums(tmp_path / "b")[first] == files.md5(home / first)
    change(home, lambda t: t["budgets"]["tiny"]["train"].update(batch_size=1))
    with pytest.raises(UserError, match="parameters are not those"):
        bundle.bundle(runs, config.load(), tmp_path / "c", ORIGIN)
    assert not (tmp_path / "c").exists()


def test_runs_are_named_by_id_or_campaign_and_ordered_by_initial(root):
    params = config.load(root / "params.yaml")
    chosen = bundle.chosen(params, ["papers-chase-paper", "sample-smoke/rga-drive/s0"])
    ids = [r["run"] for r in chosen]
    campaign = params.campaigns["papers-chase"]
    assert len(ids) == 1 + len(campaign.experiments) * len(campaign.seeds)
    assert "sample-smoke/rga-drive/s0" in ids
    for run in chosen:
        assert not run["initial"] or ids.index(run["initial"]) < ids.index(run["run"])
    with pytest.raises(UserError, match="'papers-chase' .*: did you mean papers-chase-paper[?]"):
        bundle.chosen(params, ["papers-chase"])


def test_what_is_missing_or_damaged_is_said_before_anything_is_written(home, tmp_path):
    params = config.load()
    runs, out = bundle.chosen(params, [UNET]), tmp_path / "b"
    with pytest.raises(UserError, match="is there already: name another folder"):
        bundle.bundle(runs, params, FOLDER, ORIGIN)
    folder = paths.prepared("sample", "native")
    (folder / "a-0000_label.png").write_bytes(b"x")
    with pytest.raises(UserError, match="a-0000_label.png is not what the manifest beside it says"):
        bundle.bundle(runs, params, out, ORIGIN)
    change(home, lambda t: t["recipes"]["native"].update(width=30))
    with pytest.raises(UserError, match="native is of another recipe: `dvc repro prepare@sample"):
        bundle.bundle(runs, config.load(), out, ORIGIN)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="native is missing: `dvc repro prepare@sample/native`"):
        bundle.bundle(runs, params, out, ORIGIN)
    shutil.rmtree(paths.native("sample"))
    make = folder / "manifest.json"
    make.parent.mkdir()
    shutil.copy(FOLDER / make, make)
    shutil.copy(FOLDER / folder / "manifest.csv", folder)
    with pytest.raises(UserError, match="run `resegment ingest sample`"):
        bundle.bundle(runs, params, out, ORIGIN)
    assert not out.exists() and not list(tmp_path.glob(".b*"))


# what the node does


def at_node(*words) -> int:
    with contextlib.chdir(FOLDER):
        return node.main(list(words))


def test_the_node_skips_what_is_finished(home, capfd):
    before = {p: p.stat().st_mtime_ns for p in FOLDER.rglob("*.safetensors")}
    assert at_node("--device", "cpu") == 0
    assert "2 runs, 2 of them finished" in capfd.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in FOLDER.rglob("*.safetensors")} == before


def test_the_node_trains_anew_what_another_bundle_left(home):
    at = FOLDER / paths.run(UNET)
    known = json.loads((at / "manifest.json").read_text())
    other = known | {"fingerprints": known["fingerprints"] | {"data": "0"}}
    (at / "manifest.json").write_text(json.dumps(other))
    (at / "bundle.md5").write_text("0")
    assert at_node("--device", "cpu", UNET) == 0
    assert json.loads((at / "manifest.json").read_text())["fingerprints"] == known["fingerprints"]


@pytest.mark.parametrize(
    ("edit", "words", "said"),
    [
        (lambda: (FOLDER / "src/resegment/train.py").open("a").write("#"), (),
         r"1 of the bundle's \d+ files are not .*\(altered src/resegment/train.py\): copy the f"),
        (lambda: (FOLDER / "data/native/sample/d_image.png").unlink(), (),
         r"\(missing data/native/sample/d_image.png\)"),
        (lambda: (FOLDER / "runs.json").open("a").write(" "), (), "runs.json is not the one that"),
        (lambda: (FOLDER / "files.md5").write_text("x"), (), "files.md5 is not readable"),
        (lambda: None, ("a-b/c/s0",), f"no run a-b/c/s0 in runs.json; it has {UNET}, {SECOND}"),
        (lambda: None, ("--device", "cuda"), "no GPU is visible here"),
    ],
)  # fmt: skip
def test_the_node_says_what_is_wrong_in_one_sentence(home, capfd, monkeypatch, edit, words, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    edit()
    assert at_node(*words) == 1
    err = capfd.readouterr().err
    assert re.search(said, err) and len(err.splitlines()) == 1


def test_the_node_names_packages_that_are_missing_or_old(home, capfd, monkeypatch):
    monkeypatch.setattr(cv2, "__version__", "4.5.2")
    assert at_node("--device", "cpu") == 1
    assert "opencv-python is 4.5.2 here: pip install 'opencv-python>=4." in capfd.readouterr().err
    monkeypatch.setattr(cv2, "__version__", "99.0")
    assert at_node("--device", "cpu") == 0
    assert "cv2 is 99.0 here and " in capfd.readouterr().out
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert at_node("--device", "cpu") == 1
    assert re.search(r"`import tqdm` fails \(.*\): pip install 'tqdm>=", capfd.readouterr().err)
    monkeypatch.setattr(cv2, "__version__", "4.5.2")
    assert at_node("--device", "cpu") == 1
    said = capfd.readouterr().err
    assert re.search("4.5.2 here; .*tqdm.*pip install 'opencv-python>=.* 'tqdm>=", said)

    def no_library(module):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(node.importlib, "import_module", no_library)
    assert at_node("--device", "cpu") == 1
    said = capfd.readouterr().err
    assert re.search("libGL.* install that library of the system .*-headless", said)


def test_a_gpu_that_torch_cannot_use_is_not_passed_over(monkeypatch):
    monkeypatch.setattr(node.devices, "cards", lambda: ["0"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="torch .* cannot use the GPU here"):
        node.usable("auto")
    assert node.usable("cpu") == "cpu"


def test_two_commands_never_work_in_one_folder(home, capfd):
    with open(FOLDER / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert at_node("--device", "cpu") == 1
    assert "is at work in this folder" in capfd.readouterr().err


def test_a_named_run_brings_the_one_it_starts_from(home):
    given = parcel.read(FOLDER)
    assert [e["run"]["run"] for e in node.chosen(given, [SECOND])] == [UNET, SECOND]
    assert [e["run"]["run"] for e in node.chosen(given, [UNET])] == [UNET]


# what is taken home


def test_results_of_the_same_checkout_are_proven(home):
    prove()
    with pytest.raises(UserError, match=f"{SECOND}: it starts from {UNET}, which is not here"):
        prove(SECOND)
    prove(SECOND, new={UNET: files.md5(at("weights.safetensors"))})


def test_a_run_of_other_parameters_is_refused(home):
    change(home, lambda t: t["budgets"]["tiny"]["train"].update(epochs=3))
    refused(r"params.yaml \(train.epochs 2, here 3\): `git checkout 0123456`, or bundle it anew")


def test_a_run_that_params_do_not_know_or_do_not_want_is_refused(home):
    change(home, lambda t: t.update(active=["drive"]))
    refused(
        "its campaign is not active.*add it to `active` in params.yaml and run `resegment plan`"
    )
    change(home, lambda t: t["campaigns"]["sample"].update(seeds=[1]))
    refused("no run .* in params.yaml")


def test_a_run_on_other_pairs_is_refused(home):
    manifest = paths.prepared("sample", "native") / "manifest.json"
    change(manifest, lambda t: t["files"].update({"a-0000_image.png": "0"}))
    refused("it was trained on other pairs than those in data/prepared/sample/native")
    manifest.unlink()
    refused("data/prepared/sample/native is missing: `dvc repro prepare@sample/native`")


def test_a_recipe_that_changed_since_is_refused(home):
    change(home, lambda t: t["recipes"]["native"].update(flips=True))
    refused("of another recipe: `dvc repro prepare@sample/native`")


def other_source(monkeypatch, tmp_path, name):
    (tmp_path / "edited.py").write_text("# edited\n")
    known = proof.source

    def source(root, run):
        found = known(root, run)
        return found | ({name: tmp_path / "edited.py"} if name in found else {})

    monkeypatch.setattr(proof, "source", source)


def test_a_run_of_other_code_is_refused_and_the_file_named(home, monkeypatch, tmp_path):
    other_source(monkeypatch, tmp_path, "losses.py")
    refused(r"its code is not the checkout's \(losses.py in src/resegment\): `git checkout 012345")


def test_maps_of_other_code_are_refused_and_the_file_named(home, monkeypatch, tmp_path):
    other_source(monkeypatch, tmp_path, "enhance.py")
    refused(r"its maps were drawn by other code \(enhance.py in src/resegment\)")


def test_a_run_from_other_weights_is_refused(home):
    refused(f"it started from other weights of {UNET}", run=SECOND, new={UNET: "0"})
    shutil.copytree(at(""), home / paths.run(UNET))
    prove(SECOND)
    (home / paths.run(UNET) / "weights.safetensors").write_bytes(b"other")
    refused(f"adopt {UNET} from the same bundle", run=SECOND)


def test_upstream_that_is_stale_here_is_refused(home):
    refused("prepare@sample/native is stale here.*`dvc repro prepare@sample/native` first",
            stale={"prepare@sample/native"})  # fmt: skip
    new = {UNET: files.md5(at("weights.safetensors"))}
    prove(SECOND, stale={f"train@{UNET}"}, new=new)  # it comes home, too
    shutil.copytree(at(""), home / paths.run(UNET))
    refused(f"train@{UNET} is stale here", run=SECOND, stale={f"train@{UNET}"})


def altered(name, edit):
    file = at(name)
    if file.suffix == ".json":
        change(file, edit)
    else:
        file.write_bytes(edit(file.read_bytes()))


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("weights.safetensors", lambda b: b[:-1] + b"\x01", "weights.safetensors is not the file"),
        ("history.csv", lambda b: b.replace(b"0.", b"1.", 1), "history.csv is not the file of"),
        ("manifest.json", lambda t: t["fingerprints"].update(data="0"), "not that of its weights"),
        ("manifest.json", lambda t: t.pop("weights_md5"), "is not whole.*weights_md5"),
        ("predictions/a.png", lambda b: b + b"x", r"maps .* are missing or altered \(a.png\)"),
        ("predictions/manifest.json", lambda t: t.update(weights_md5="0"), "from other weights"),
        ("predictions/manifest.json", lambda t: t.update(run=SECOND), f"has maps of {SECOND}"),
        ("predictions/manifest.json", lambda t: t["geometry"].update(width=9), "other geometry"),
        ("predictions/manifest.json", lambda t: t["files"].pop("a.png"), r"altered \(a.png\)"),
        ("bundle.md5", lambda b: b"0", f"has not finished it: `python run.py {UNET}` there"),
    ],
)  # fmt: skip
def test_altered_results_are_refused(home, name, edit, said):
    altered(name, edit)
    refused(said)


def test_maps_that_are_missing_are_refused(home):
    at("predictions/d.png").unlink()
    refused(r"missing or altered \(d.png\): copy it from the node again")
    shutil.rmtree(at("predictions"))
    refused("is not whole")


def test_maps_on_other_images_are_refused(home):
    change(paths.native("sample") / "manifest.json", lambda t: t["files"].update(a="0"))
    refused("its maps are of other images than those in data/native/sample")
    text = paths.split("sample").read_text()
    paths.split("sample").write_text(text.replace("d,test\n", ""))
    refused("of other images than sample has in this split here")


def test_maps_drawn_in_another_way_are_refused(home):
    change(home, lambda t: t["budgets"]["tiny"].update(inference="stride-32"))
    refused(r"its maps were drawn with inference {.*'patch': None.*}, params.yaml has {'patch': 64")


def test_another_result_that_is_here_is_kept_unless_replaced(home):
    params, [entry, _] = config.load(), parcel.read(FOLDER)["runs"]
    assert adopt.compare(FOLDER, entry, params, False) == "taken"
    adopt.take(FOLDER, entry, params)
    names = ["history.csv", "manifest.json", "predictions", "weights.safetensors"]
    assert sorted(p.name for p in paths.run(UNET).iterdir()) == names
    assert adopt.compare(FOLDER, entry, params, False) == "here"
    weights = paths.run(UNET) / "weights.safetensors"
    weights.write_bytes(b"other")
    with pytest.raises(UserError, match="is here from another training: --replace puts"):
        adopt.compare(FOLDER, entry, params, False)
    assert adopt.compare(FOLDER, entry, params, True) == "taken"
    adopt.take(FOLDER, entry, params)
    assert weights.read_bytes() == at("weights.safetensors").read_bytes()


def test_a_folder_that_is_no_bundle_is_said(home, tmp_path):
    with pytest.raises(UserError, match="is no bundle, it has no runs.json"):
        adopt.adopt(tmp_path / "none", [])
    with pytest.raises(UserError, match="has no run a-b/c/s0; it has"):
        adopt.adopt(FOLDER, ["a-b/c/s0"])
    (FOLDER / "runs.json").open("a").write(" ")
    with pytest.raises(UserError, match="runs.json is not the one that was bundled"):
        adopt.adopt(FOLDER, [])


# the whole way


def bare_environment(folder: Path) -> Path:
    """A Python that has torch, numpy, OpenCV, safetensors and tqdm, what these need, and
    nothing else."""
    command = [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)]
    subprocess.run(command, check=True)
    [site] = folder.glob("lib/python*/site-packages")
    todo, seen = ["torch", "numpy", "opencv-python", "safetensors", "tqdm"], set()
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another system
            package = metadata.distribution(name)
            todo += [re.match(r"[\w.-]+", r)[0] for r in package.requires or []
                     if "extra ==" not in r]  # fmt: skip
            for top in {f.parts[0] for f in package.files} - {"..", "__pycache__"}:
                (site / top).symlink_to(package.locate_file(top))
    return folder / "bin/python"


@pytest.mark.slow
def test_from_a_checkout_to_a_bare_node_and_home_again(tmp_path, root, monkeypatch):
    home, bundled, there = tmp_path / "home", tmp_path / "made here", tmp_path / "a node"
    subprocess.run(["git", "clone", "-q", str(root), str(home)], check=True)
    change(home, tiny)
    change(home, lambda t: t["budgets"]["tiny"]["train"].update(epochs=12, samples_per_epoch=16))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {
        "PYTHONPATH": str(home / "src"), "DVC_NO_ANALYTICS": "1", "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    verb = tmp_path / "resegment"
    verb.write_text(f"#!{sys.executable}\nfrom resegment.cli import main; main()\n")
    verb.chmod(0o755)

    def sh(command: str, code: int = 0) -> str:
        r = subprocess.run(command, shell=True, cwd=home, capture_output=True, text=True, env=env)
        assert r.returncode == code, r.stdout[-3000:] + r.stderr[-3000:]
        return r.stdout + r.stderr

    sh("rm -f dvc.lock; resegment plan; dvc repro -q prepare@sample/native")
    said = sh(f"resegment bundle sample-tiny --out '{bundled}'")
    assert "3 runs" in said and "on the node: python run.py" in said

    # on the node: killed in the middle, it goes on; a run that fails leaves the others alone
    shutil.move(bundled, there)
    python = bare_environment(tmp_path / "bare")
    bare = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    for module in ("pandas", "pydantic", "dvc", "resegment"):
        assert subprocess.run([python, "-c", f"import {module}"], env=bare,
                              capture_output=True).returncode  # fmt: skip
    command = [python, there / "run.py", "--side-by-side", "2"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=bare, stdout=log, stderr=log,
                                   start_new_session=True)  # fmt: skip
    end = time.monotonic() + 120
    while not list((there / "checkpoints" / UNET).glob("[!.]*.pt")):
        assert time.monotonic() < end and process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (there / "runs" / UNET / "manifest.json").exists()
    r = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)
    broken = "sample-tiny/unet-broken/s0"
    assert r.returncode == 1 and f"{UNET}: resumed after epoch" in r.stdout, r.stdout + r.stderr
    assert f"{UNET}: epoch 12/12 " in r.stdout and "2 of 3 runs finished" in r.stdout
    assert re.search(rf"FAILED {broken}: train: .*lower train.optimiser.lr", r.stdout)
    assert "Traceback" not in r.stdout + r.stderr

    # home again: what belongs is taken as if it had been trained here
    assert "would be taken" in sh(f"resegment adopt --check '{there}' {UNET}")
    assert not (home / "runs").exists()
    said = sh(f"resegment adopt '{there}'", code=1)
    assert f"{UNET}: taken" in said and f"{SECOND}: taken" in said
    assert re.search(rf"refused  {broken}: .* has not finished it", said)
    stale = set(json.loads(sh("dvc status --json").splitlines()[-1]))
    mine = {f"train@{UNET}", f"train-from@{SECOND}", f"predict@{UNET}", f"predict@{SECOND}"}
    assert not stale & {*mine, "prepare@sample/native"} and f"train@{broken}" in stale
    planned = re.findall(r"wildcards: run=(\S+)", sh(
        "snakemake -n --cores 2 -R score --until train predict"))  # fmt: skip
    assert set(planned) == {broken}

    # the same training here gives the same bytes
    monkeypatch.chdir(home)
    run, folder = config.find(config.load(), UNET), paths.prepared("sample", "native")
    predict.predict(run, "cpu", "sample", native.split("sample", "sample"), tmp_path / "maps")
    train.fit(run, config.trained_by(run), folder, tmp_path / "again", "cpu", {})
    maps = files.read_json(paths.predictions(UNET) / "manifest.json")
    assert files.read_json(tmp_path / "maps/manifest.json") == maps
    adopted = files.read_json(paths.run(UNET) / "manifest.json")
    assert files.md5(tmp_path / "again/weights.safetensors") == adopted["weights_md5"]

    # what is altered while it is taken is not recorded
    lock = (home / "dvc.lock").read_bytes()
    shutil.rmtree(home / "runs")

    def edited(*of):
        take(*of)
        change(home, lambda t: t["budgets"]["tiny"]["train"].update(epochs=13))

    take = adopt.take
    monkeypatch.setattr(adopt, "take", edited)
    with pytest.raises(UserError, match="train.epochs 12, here 13"):
        adopt.adopt(there, [UNET])
    assert (home / "dvc.lock").read_bytes() == lock
