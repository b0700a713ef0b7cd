"""Shipped weights, what is made with them of any photograph, and what an export is worth."""

import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import cv2
import fakes
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from resegment import (
    cli,
    closure,
    config,
    export,
    exported,
    files,
    ingest,
    metrics,
    models,
    native,
    paths,
    predict,
    prepare,
    score,
    segment,
    ship,
    shipped,
    train,
)
from resegment.datasets import chase_db1, fov, photograph, sample
from resegment.errors import UserError
from resegment.geometry import restore
from resegment.protocols import Protocol

CPU = torch.device("cpu")
GROUP = "eyes-tiny/unet-drive"


@pytest.fixture(scope="session")
def finished(once, root) -> Path:
    """Two seeds of a network that has seen the drawn eyes for some seconds, scored."""

    def make(path: Path) -> None:
        for name in ("registry", "splits", "published"):
            shutil.copytree(root / "data" / name, path / "data" / name)
        tree = yaml.safe_load((root / "params.yaml").read_text())
        how = {"epochs": 8, "samples_per_epoch": 80, "batch_size": 8, "augment": {"crop": 96},
               "optimiser": {"name": "adam", "lr": 0.01}}  # fmt: skip
        tree["budgets"]["tiny"] = {"train": how}
        eyes = {"experiments": ["unet-drive"], "dataset": "sample", "seeds": [0, 1]}
        tree["campaigns"] = {"eyes": eyes | {"budget": "tiny"}}
        (path / "params.yaml").write_text(yaml.safe_dump(tree | {"active": ["eyes"]}))
        before = os.getcwd()
        os.chdir(path)
        try:
            params = config.load()
            ingest.ingest("sample")
            for run in config.runs(params):
                recipe = params.recipes[run["recipe"]].model_dump(mode="json", exclude={"cache"})
                folder = paths.prepared("sample", run["recipe"])
                if not folder.is_dir():
                    prepare.prepare("sample", "sample", run["recipe"], recipe, run["geometry"])
                origin = {"git_commit": "c0ffee", "git_dirty": False}
                made = paths.run(run["run"])
                train.fit(run, config.trained_by(run), folder, made, "cpu", origin)
                splits = native.split("sample", "sample")
                predict.predict(run, "cpu", "sample", splits, paths.predictions(run["run"]))
                known = {n: Protocol(**p.model_dump()) for n, p in params.protocols.items()}
                score.score(run["run"], "sample", run["geometry"], known, splits)
        finally:
            os.chdir(before)

    return once("segment-finished", make)


@pytest.fixture
def checkout(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, and no weights in the package yet."""
    shutil.copytree(finished, tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    return tmp_path / "checkout"


@pytest.fixture
def weights(finished, once, tmp_path, monkeypatch) -> str:
    """The name of weights that are shipped, used by default, from a folder without a checkout."""

    def make(path: Path) -> None:
        with monkeypatch.context() as patch:
            patch.chdir(finished)
            patch.setattr(shipped, "FOLDER", path)
            ship.ship(GROUP, config.load(), "eyes")

    monkeypatch.setattr(shipped, "FOLDER", once("segment-weights", make))
    monkeypatch.setattr(shipped, "EYES", "sample")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return "eyes"


def drawn_eye(times: float = 1.0, id: str = "16") -> np.ndarray:
    image = sample.read(None, id).image
    return image if times == 1 else resized(image, times)


def resized(image: np.ndarray, times: float) -> np.ndarray:
    how = cv2.INTER_AREA if times < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=times, fy=times, interpolation=how)


def saved(file: str | Path, pixels: np.ndarray, **how) -> Path:
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(fakes.encoded(file.suffix.lower(), pixels, **how))
    return file


def call(*words, code: int = 0):
    answer = CliRunner().invoke(cli.app, ["segment", *map(str, words)])
    if code == 0 and answer.exception:
        raise answer.exception
    assert answer.exit_code == code, answer.output
    return answer


def refused(*words) -> str:
    answer = CliRunner().invoke(cli.app, ["segment", *map(str, words)])
    assert isinstance(answer.exception, UserError), answer.output
    return str(answer.exception)


def made(out: str | Path, stem: str) -> list[np.ndarray]:
    named = (Path(out, f"{stem}_{what}.png") for what in ("probability", "mask", "overlay"))
    data = (np.frombuffer(file.read_bytes(), np.uint8) for file in named)
    return [cv2.imdecode(bytes_, cv2.IMREAD_UNCHANGED) for bytes_ in data]


def summary(out: str) -> list[dict]:
    return files.table(f"{out}/summary.csv", *segment.COLUMNS)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# The photograph: opened, its aperture, to scale and back


KINDS = {"JPG": 5, "jpeg": 5, "PNG": 0, "tif": 0, "TIFF": 0, "ppm": 0, "bmp": 0, "Gif": 10}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_whatever_the_case_of_its_name(kind, tmp_path):
    image = drawn_eye()
    file = saved(tmp_path / f"a.{kind}", image)
    found, remarks = photograph.read(file)
    assert found.dtype == np.uint8 and found.shape == image.shape and not remarks
    assert np.abs(found.astype(int) - image).mean() <= KINDS[kind]
    assert photograph.chosen([tmp_path], tmp_path / "out") == {"a": file}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pixels_lie_as_viewers_show_them(suffix, tmp_path):
    tag = Image.Exif()
    tag[0x112] = 6  # to be turned by 90 degrees clockwise
    file = saved(tmp_path / f"a{suffix}", drawn_eye(), exif=tag.tobytes())
    found, _ = photograph.read(file)
    upright = np.rot90(drawn_eye(), -1)
    assert found.shape == upright.shape and np.abs(found.astype(int) - upright).mean() < 4


@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bits_become_eight_of_those_in_use(bits, tmp_path):
    image = drawn_eye().astype(np.uint32)
    image[0, 0] = 255  # as a camera's full scale
    stored = (image * (2**bits - 1) // 255).astype(np.uint16)
    files.write_image(tmp_path / "a.png", stored[..., ::-1])
    found, remarks = photograph.read(tmp_path / "a.png")
    assert np.abs(found.astype(int) - image).max() <= 1 and f"{bits} bits" in remarks[0]


def test_what_is_transparent_is_black_and_an_opaque_alpha_is_nothing(tmp_path):
    image = drawn_eye()
    alpha = np.full(image.shape[:2], 255, np.uint8)
    found, remarks = photograph.read(saved(tmp_path / "a.png", np.dstack([image, alpha])))
    assert np.array_equal(found, image) and not remarks
    alpha[:100] = 0
    found, remarks = photograph.read(saved(tmp_path / "b.png", np.dstack([image, alpha])))
    assert not found[:100].any() and np.array_equal(found[100:], image[100:])
    assert "transparent" in remarks[0]
    alpha[:] = 128
    found, remarks = photograph.read(saved(tmp_path / "c.png", np.dstack([image, alpha])))
    assert np.array_equal(found, image) and "taken as opaque" in remarks[0]


def test_a_grey_photograph_is_taken_with_a_remark(tmp_path):
    found, remarks = photograph.read(saved(tmp_path / "a.png", drawn_eye()[..., 1]))
    assert found.shape == drawn_eye().shape and "colour" in remarks[0]


def broken() -> dict[str, tuple[bytes, str]]:
    jpg, label = fakes.encoded(".jpg", drawn_eye()), sample.read(None, "16").label
    tall = jpg[:2] + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + jpg[2:]
    ink = io.BytesIO()
    Image.fromarray(drawn_eye()).convert("CMYK").save(ink, "TIFF")
    floats = cv2.imencode(".tif", drawn_eye().astype(np.float32))[1].tobytes()
    return {
        "cut.jpg": (jpg[: len(jpg) // 2], "truncated or not an image"),
        "text.png": (b"not an image at all", "truncated or not an image"),
        "empty.tif": (b"", "truncated or not an image"),
        "stub.bmp": (b"BM\0\0", "truncated or not an image"),
        "label.png": (fakes.encoded(".png", label * np.uint8(255)), "is a mask"),
        "black.png": (fakes.encoded(".png", np.zeros((50, 50, 3), np.uint8)), "of one colour"),
        "huge.jpg": (tall, "65535x65535 pixels"),
        "long.png": (fakes.encoded(".png", np.ones((9, 4000, 3), np.uint8)), "cut it to the eye"),
        "float.tif": (floats, "32 bits"),
        "ink.tif": (ink.getvalue(), "four inks"),
    }


@pytest.mark.parametrize("name", broken())
def test_what_is_no_photograph_is_one_sentence(name, tmp_path):
    data, said = broken()[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said) as e:
        photograph.read(tmp_path / name)
    assert name in str(e.value) and "\n" not in str(e.value)


def test_an_aperture_found_in_a_smaller_image_is_that_of_the_image():
    large = resized(drawn_eye(), 6)
    found, exact = photograph.eye(large), fov.derive(large)
    assert min(large.shape[:2]) > 2 * photograph.SHORT and found.found
    assert dice(found.fov, exact) > 0.995
    small = photograph.eye(drawn_eye())
    assert np.array_equal(small.fov, fov.derive(drawn_eye()))
    assert found.diameter == pytest.approx(6 * small.diameter, rel=0.01)
    assert not photograph.eye(np.full((80, 90, 3), 90, np.uint8)).found


def test_at_the_training_images_scale_nothing_is_interpolated():
    image = drawn_eye()
    eye = photograph.eye(image)
    box = photograph.window(eye, round(eye.diameter * 1.005), (280, 300))
    assert box[2:] == (280, 300)
    placed = photograph.cut(image, box, (280, 300))
    back = photograph.paste(placed[..., 1].astype(np.uint16), box, image.shape[:2])
    assert np.array_equal(back, image[..., 1])


@pytest.mark.parametrize("times", [0.5, 1.7, 4])
def test_to_scale_and_back_a_map_keeps_its_place(times):
    image = resized(drawn_eye(), times)
    eye = photograph.eye(image)
    box = photograph.window(eye, 230, (262, 270))
    placed = photograph.eye(photograph.cut(image, box, (262, 270)))
    assert placed.diameter == pytest.approx(230, abs=3)
    spot = np.zeros(image.shape, np.uint8)
    y, x = eye.box.top + eye.box.height // 3, eye.box.left + eye.box.width // 4
    cv2.circle(spot, (x, y), max(3, eye.diameter // 20), (255, 255, 255), -1)
    there = photograph.cut(spot, box, (262, 270))[..., 0].astype(np.uint16) * 257
    back = photograph.paste(there, box, image.shape[:2]) > 32768
    assert dice(back, spot[..., 0] > 127) > 0.9


# The verb


def test_every_image_gets_three_files_of_its_own_size(weights):
    saved("in/a.png", drawn_eye())
    saved("in/b.JPG", drawn_eye(2, "15"))
    saved("in/c.ppm", drawn_eye(0.5, "14"))
    Path("in/notes.txt").write_text("no image")
    said = call("in", "--out", "in/out").output
    assert "in/out: 3 of 3 images by eyes, summary.csv" in said
    for row in summary("in/out"):
        file = Path(row["file"])
        image, _ = photograph.read(file)
        probability, mask, overlay = made("in/out", file.stem)
        assert probability.dtype == np.uint16 and probability.shape == image.shape[:2]
        assert set(np.unique(mask)) == {0, 255} and mask.shape == image.shape[:2]
        assert mask.dtype == np.uint8 and overlay.shape == image.shape
        eye = photograph.eye(image)
        known = shipped.load("eyes")
        vessel = metrics.above(probability, known["threshold"]["value"]) & eye.fov
        assert np.array_equal(mask == 255, vessel)
        assert np.array_equal(overlay[mask == 0][:, ::-1], image[mask == 0])
        assert not np.array_equal(overlay[mask > 0][:, ::-1], image[mask > 0])
        assert [row["width"], row["height"]] == [str(n) for n in image.shape[1::-1]]
        assert row["fov_found"] == "yes" and float(row["fov_diameter"]) == eye.diameter
        assert float(row["fov_share"]) == pytest.approx(eye.fov.mean(), abs=1e-4)
        density = vessel.sum() / eye.fov.sum()
        assert float(row["vessel_density"]) == pytest.approx(density, abs=1e-4)
        assert row["weights_md5"] == known["weights_md5"] and row["image_md5"] == files.md5(file)
        assert 0 < float(row["seconds"]) < 60


def test_vessels_are_found_at_any_scale_and_engine(weights):
    record = sample.read(None, "16")
    found = {}
    for name, image in {"a": record.image, "b": resized(record.image, 2),
                        "c": resized(record.image, 0.75)}.items():  # fmt: skip
        call(saved(f"{name}.png", image), "--out", "out")
        mask = made("out", name)[1]
        size = record.label.shape[::-1]
        found[name] = cv2.resize(mask, size, interpolation=cv2.INTER_AREA) > 127
    call("a.png", "--out", "torch", "--engine", "torch")
    assert dice(found["a"], record.label) > 0.5  # by a network that trained for seconds
    assert dice(found["a"], found["b"]) > 0.8 and dice(found["a"], found["c"]) > 0.6
    a, b = made("out", "a")[0], made("torch", "a")[0]
    assert np.abs(a.astype(int) - b).max() <= 7
    assert [r["engine"] for r in (*summary("out")[:1], *summary("torch"))] == ["onnx", "torch"]


def test_a_map_is_that_of_the_run_where_the_scale_is_its_own(weights, finished):
    """But for the place of the frame: at a stride's borders little differs."""
    known = shipped.load("eyes")
    for id in ("14", "15", "16"):
        call(saved(f"{id}.png", drawn_eye(1, id)), "--out", "out")
        theirs = cv2.imread(str(finished / paths.predictions(known["run"]) / f"{id}.png"), -1)
        off = np.abs(made("out", id)[0].astype(int) - theirs)[sample.read(None, id).fov]
        assert (off < 3277).mean() > 0.95, (id, (off < 3277).mean())


def test_one_that_cannot_be_read_is_named_and_the_others_are_done(weights, capfd):
    saved("in/a.png", drawn_eye())
    Path("in/b.jpg").write_bytes(b"no image")
    saved("in/c.png", drawn_eye())
    os.chmod("in/c.png", 0o644)
    answer = call("in", "--out", "out", code=1)
    assert "out: 2 of 3 images" in answer.output
    assert "in/b.jpg is truncated or not an image" in answer.output + capfd.readouterr().err
    assert [Path(r["file"]).name for r in summary("out")] == ["a.png", "c.png"]
    assert not list(Path("out").glob("b_*"))


def test_the_same_relative_name_elsewhere_is_another_photograph(weights, monkeypatch):
    saved("one/a.png", drawn_eye())
    saved("two/a.png", drawn_eye(1, "15"))
    out = Path("out").absolute()
    monkeypatch.chdir("one")
    call("a.png", "--out", out)
    monkeypatch.chdir("../two")
    assert "would take their place" in refused("a.png", "--out", out).replace("\n", " ")


def test_a_second_call_keeps_what_it_does_not_make_anew(weights):
    a, b = saved("in/a.png", drawn_eye()), saved("in/b.png", drawn_eye(1, "15"))
    call(a, b, a, "in", "--out", "out")
    before = Path("out/a_mask.png").read_bytes()
    call(a, "--out", "out")
    assert [Path(r["file"]).name for r in summary("out")] == ["a.png", "b.png"]
    assert Path("out/a_mask.png").read_bytes() == before
    call(a.absolute(), "--out", "out")  # the same file by another name
    other = saved("elsewhere/a.png", drawn_eye(1, "13"))
    assert "results of" in refused(other, "--out", "out")
    assert Path("out/a_mask.png").read_bytes() == before


def test_calls_side_by_side_keep_each_others_rows(weights):
    a, b = saved("a.png", drawn_eye()), saved("b.png", drawn_eye(1, "15"))
    write = segment._write

    def overtaken(out, stem, *made):  # another call ends while this one is between two files
        write(out, stem, *made)
        if stem == "a":
            segment.segment({"b": b}, weights, out, "cpu")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(segment, "_write", overtaken)
        call(a, "--out", "out")
    assert sorted(Path(r["file"]).name for r in summary("out")) == ["a.png", "b.png"]


def test_a_summary_that_is_somebody_elses_stays(weights):
    a = saved("a.png", drawn_eye())
    Path("out").mkdir()
    Path("out/summary.csv").write_text("patient,age\n1,50\n")
    assert "remove it, or give another --out" in refused(a, "--out", "out").replace("\n", " ")
    assert Path("out/summary.csv").read_text() == "patient,age\n1,50\n"


def test_nothing_is_begun_where_results_would_meet(weights):
    a = saved("in/a.png", drawn_eye())
    b = saved("in/a.jpg", drawn_eye())
    assert "in/a.jpg and in/a.png would both become a_mask.png" in refused("in", "--out", "out")
    assert "folder of in/a.png" in refused(a, "--out", "in")
    Path("link").symlink_to("in")
    assert "place of originals" in refused("link/a.png", "--out", "in")
    assert not Path("out").exists()
    b.unlink()
    Path("empty").mkdir()
    saved("empty/.hidden.png", drawn_eye())
    assert "empty holds no image" in refused("empty", "--out", "out")
    assert "b.png is not here" in refused("b.png", "--out", "out")
    os.mkfifo("pipe.png")
    assert "pipe.png is neither a file nor a folder" in refused("pipe.png", "--out", "out")
    saved(f"in/{'n' * 240}.png", drawn_eye())
    assert "use one of at most 200 bytes" in refused("in", "--out", "out").replace("\n", " ")
    os.remove(f"in/{'n' * 240}.png")
    assert "where to?" in refused("in")
    assert "no weights are called 'x'; with this package come: eyes" in refused(
        "in", "--out", "out", "--model", "x"
    )
    assert "--engine tf" in refused("in", "--out", "out", "--engine", "tf")
    Path("file").touch()
    assert isinstance(CliRunner().invoke(cli.app, ["segment", "in", "--out", "file"]).exception,
                      OSError)  # fmt: skip


def test_what_a_folder_holds_besides_is_passed_over_and_said(weights):
    saved("in/a.png", drawn_eye())
    Path("in/sub").mkdir()
    Path("in/lost.png").symlink_to("nowhere.png")
    for name in ("b.webp", "c.txt", ".hidden"):
        Path("in", name).touch()
    said = CliRunner().invoke(cli.app, ["segment", "in", "--out", "in/maps"]).output
    assert "passed over: 4 in folders that are no image file (b.webp, c.txt, lost.png, ...)" in said
    assert len(summary("in/maps")) == 1
    said = CliRunner().invoke(cli.app, ["segment", "in/a.png", "--out", "in/maps"]).output
    assert "passed over" not in said


def test_what_is_unusual_stands_in_the_summary(weights):
    image = drawn_eye()
    eye = photograph.eye(image)
    inner = image[eye.box.top + 60 : eye.box.top + 160, eye.box.left + 60 : eye.box.left + 160]
    saved("in/inner.png", inner)
    saved("in/tiny.png", resized(image, 0.3))
    saved("in/grey.png", image[..., 1])
    call("in", "--out", "out")
    rows = {Path(r["file"]).stem: r for r in summary("out")}
    assert rows["inner"]["fov_found"] == "no" and "no field of view" in rows["inner"]["remarks"]
    assert rows["inner"]["fov_share"] == "1.0000"
    assert "enlarged 3." in rows["tiny"]["remarks"] and "colour" in rows["grey"]["remarks"]


def test_without_onnx_torch_draws_and_says_so(weights, monkeypatch, capfd):
    saved("a.png", drawn_eye())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    answer = call("a.png", "--out", "out")
    assert "onnxruntime is missing" in answer.output + capfd.readouterr().err
    assert summary("out")[0]["engine"] == "torch"
    assert "onnxruntime is missing" in refused("a.png", "--out", "out", "--engine", "onnx")


def test_a_name_that_is_no_text_is_no_trouble(weights):
    file = os.fsdecode(b"in/a\xff,\n.png")
    saved(file, drawn_eye())
    call("in", "--out", "out")
    call("in", "--out", "out")
    assert made("out", Path(file).stem)[1] is not None
    assert "in/a" in summary("out")[0]["file"]


# The weights


def test_everything_about_weights_comes_from_the_run(checkout):
    answer = CliRunner().invoke(cli.app, ["ship", f"{GROUP}/s1", "--name", "eyes"])
    assert answer.exit_code == 0, answer.exception
    known, run = shipped.load("eyes"), paths.run(f"{GROUP}/s1")
    manifest = files.read_json(run / "manifest.json")
    assert known["fingerprints"] == manifest["fingerprints"]
    assert known["weights_md5"] == files.md5(run / "weights.safetensors")
    assert known["weights_md5"] == files.md5(shipped.file("eyes", "safetensors"))
    scores = files.read_json(run / "scores/metrics.json")["common"]
    assert known["threshold"]["value"] == scores["threshold"]
    value, low, high = known["measured"]["sample"]["scores"]["f1"]
    assert value == pytest.approx(scores["f1"], abs=1e-6) and low < value < high
    rows, seen = native.manifest("sample"), []
    for id, part in native.split("sample", "sample").items():
        if part == "val":
            label, fov = (native.mask("sample", rows[id], k) for k in ("label", "fov"))
            drawn = cv2.imread(str(paths.predictions(f"{GROUP}/s1") / f"{id}.png"), -1)
            drawn = restore(drawn, config.find(config.load(), f"{GROUP}/s1")["geometry"], fov.shape)
            seen.append((label[fov], metrics.above(drawn, scores["threshold"])[fov]))
    label, mask = map(np.concatenate, zip(*seen, strict=True))
    f1 = 2 * (label & mask).sum() / (label.sum() + mask.sum())
    assert known["validation"] == {"epoch": 8, "f1": pytest.approx(f1, abs=1e-6)} and f1 > 0
    assert known["seeds"]["chosen"] == "named" and set(known["seeds"]["f1"]) == {"0", "1"}
    assert known["scale"]["frame"] == [270, 262] and 200 < known["scale"]["diameter"] < 262
    card = shipped.file("eyes", "md").read_text()
    assert card == shipped.card(known)
    known["measured"]["chase_db1"] = known["measured"]["sample"]
    rows = [line for line in shipped.card(known).splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows] == ["test", "sample", "chase_db1"]
    for said in (f"{value:.4f} ({low:.4f} to {high:.4f})", "**tiny**", "no medical device",
                 "c0ffee", "F1 of all 2 seeds", known["weights_md5"]):  # fmt: skip
        assert said in card
    listed = CliRunner().invoke(cli.app, ["segment", "--list"]).output
    assert "eyes" in listed and f"{value:.4f}" in listed


def test_a_network_that_finds_nothing_has_an_f1_of_zero(checkout):
    run = config.find(config.load(), f"{GROUP}/s0")
    file = paths.scores(run["run"]) / "images.csv"
    rows = files.table(file, "split", "tp")
    file.unlink()
    lines = [",".join(rows[0]), *(",".join((r | {"tp": "0"}).values()) for r in rows)]
    file.write_text("\n".join(lines) + "\n")
    assert ship.validation(run)["f1"] == 0.0
    file.write_text("\n".join(n for n in lines if ",val," not in n) + "\n")
    assert ship.validation(run)["f1"] is None


def test_the_same_run_gives_the_same_bytes(checkout):
    first = {}
    for _ in range(2):
        ship.ship(f"{GROUP}/s0", config.load())
        now = {p.name: p.read_bytes() for p in shipped.FOLDER.iterdir()}
        assert set(now) == {f"unet-drive.{k}" for k in ("safetensors", "json", "md")}
        assert now == (first or now)
        first = now


def test_validation_images_choose_the_seed_and_the_default(checkout, monkeypatch):
    params = config.load()
    f1 = {r["seed"]: ship.validation(r)["f1"] for r in config.runs(params)}
    ship.ship(GROUP, params, "best")
    best = max(f1, key=f1.get)
    assert shipped.load("best")["parameters"]["seed"] == best
    ship.ship(f"{GROUP}/s{1 - best}", params, "aaa")
    known = shipped.load("aaa")
    known["measured"]["sample"]["scores"]["f1"] = [0.99, 0.98, 1.0]  # the test has no say
    files.write_json(shipped.file("aaa", "json"), known)
    with pytest.raises(UserError, match="no weights of drive .*--model: aaa, best"):
        shipped.default()
    monkeypatch.setattr(shipped, "EYES", "sample")
    assert shipped.default() == "best"


@pytest.mark.parametrize("file", ["weights.safetensors", "history.csv", "scores/metrics.json"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_in_doubt_is_not_shipped(checkout, file, seed):
    at = paths.run(f"{GROUP}/s{seed}") / file
    data = bytearray(at.read_bytes())
    data[-3] ^= 1
    at.write_bytes(data)
    with pytest.raises(UserError):
        ship.ship(f"{GROUP}/s0", config.load())
    assert not shipped.names()


def test_another_experiments_weights_are_not_replaced(checkout):
    ship.ship(f"{GROUP}/s0", config.load(), "mine")
    ship.ship(f"{GROUP}/s1", config.load(), "mine")  # of the same experiment
    file = shipped.file("mine", "json")
    other = json.loads(file.read_text()) | {"run": "mine-lite/rga-drive/s0"}
    file.write_text(json.dumps(other))
    with pytest.raises(UserError, match="mine is the name of mine-lite/rga-drive's weights"):
        ship.ship(f"{GROUP}/s0", config.load(), "mine")


def test_a_shipping_that_was_killed_is_repeated(checkout):
    ship.ship(f"{GROUP}/s0", config.load(), "mine")
    whole = shipped.file("mine", "safetensors").read_bytes()
    shipped.file("mine", "safetensors").write_bytes(whole[:-1])  # not yet what its json describes
    ship.ship(f"{GROUP}/s0", config.load(), "mine")
    assert shipped.file("mine", "safetensors").read_bytes() == whole


def test_what_cannot_be_shipped_is_one_sentence(checkout, monkeypatch):
    params = config.load()
    with pytest.raises(UserError, match="no run 'eyes-tiny/unet-drive/s7'"):
        ship.ship(f"{GROUP}/s7", params)
    with pytest.raises(UserError, match="--name Best One"):
        ship.ship(GROUP, params, "Best One")
    with monkeypatch.context() as patch:
        patch.setattr(shipped, "MOST", 10_000)
        with pytest.raises(UserError, match=r"would hold 0\.1 MB"):
            ship.ship(GROUP, params)
    with monkeypatch.context() as patch:
        patch.setattr(fov, "derive", lambda image: np.ones(image.shape[:2], bool))
        with pytest.raises(UserError, match="its scale is unknown"):
            ship.ship(GROUP, params)
    (paths.scores(f"{GROUP}/s1") / "metrics.json").unlink()
    with pytest.raises(UserError, match="s1/scores/metrics.json is missing"):
        ship.ship(GROUP, params)
    ship.ship(f"{GROUP}/s0", params)
    assert set(shipped.load("unet-drive")["seeds"]["f1"]) == {"0"}
    shipped.file("unet-drive", "safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file that unet-drive.json describes"):
        shipped.load("unet-drive")


def test_without_weights_the_verb_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    saved("a.png", drawn_eye())
    assert refused("a.png", "--out", "out") == (
        "no weights of drive come with this package: `resegment ship RUN` makes them from a "
        "finished run"
    )
    assert "no weights come with this package yet" in call("--list").output
    assert "none yet" in refused("a.png", "--out", "out", "--model", "x")


def test_shipped_weights_are_whole_small_and_described(root):
    assert sum(p.stat().st_size for p in shipped.FOLDER.glob("*")) < shipped.MOST
    stems = {p.stem for p in shipped.FOLDER.glob("*")}
    assert stems == set(shipped.names())
    for name in shipped.names():
        model, known = segment.network(name)
        assert models.count(model)["trainable"] == known["model"]["parameters"]
        assert shipped.file(name, "md").read_text() == shipped.card(known)
    assert (
        'resegment = ["style.mplstyle", "templates/*", "weights/*"'
        in (root / "pyproject.toml").read_text()
    )


def test_no_stage_depends_on_shipped_weights_nor_on_what_uses_them(root):
    assert "src/resegment/weights" not in (root / "dvc.yaml").read_text()
    ours = {"segment.py", "ship.py", "shipped.py", "exported.py", "datasets/photograph.py"}
    for verb in ("ingest", "prepare", "train", "predict", "score", "ledger", "figures", "report"):
        assert not ours & set(closure.files(f"resegment.{verb}", "resegment.proof"))


# The ONNX file


def test_an_export_is_compared_with_torch(checkout):
    answer = CliRunner().invoke(cli.app, ["export", f"{GROUP}/s0"])
    assert answer.exit_code == 0, answer.exception
    off = float(answer.output.split("at most ")[1])
    assert 0 < off < exported.MOST
    ship.ship(f"{GROUP}/s0", config.load(), "eyes")
    answer = CliRunner().invoke(cli.app, ["export", "eyes", "--to", "b.onnx"])
    assert answer.exit_code == 0 and "b.onnx: RGB in 0..1" in answer.output
    said = [{p.key: p.value for p in onnx_of(f).metadata_props}
            for f in ("eyes-tiny-unet-drive-s0.onnx", "b.onnx")]  # fmt: skip
    assert said[0]["weights_md5"] == said[1]["weights_md5"] and said[1]["run"] == f"{GROUP}/s0"
    assert json.loads(said[0]["fingerprints"]) == json.loads(said[1]["fingerprints"])


def onnx_of(file: str):
    return pytest.importorskip("onnx").load(file)


def test_an_export_that_draws_otherwise_is_not_written(checkout, monkeypatch):
    graph = export.graph

    def other(model):
        for p in model.parameters():
            p.data *= 1.001
        return graph(model)

    monkeypatch.setattr(export, "graph", other)
    with pytest.raises(UserError, match=r"a\.onnx is not written: its maps differ from torch's by"):
        exported.write(config.find(config.load(), f"{GROUP}/s0"), Path("a.onnx"))
    assert not list(Path().glob("*.onnx")) and not list(Path().glob(".*.onnx"))


# Real eyes


@pytest.mark.slow
def test_the_weights_of_drive_find_the_vessels_of_chase(real_data, tmp_path, monkeypatch, root):
    """The mark of an image of another camera, and of the same at half and twice its size."""
    if not any(shipped.load(n)["dataset"] == "drive" for n in shipped.names()):
        pytest.skip("no weights of DRIVE are shipped")
    monkeypatch.chdir(root)  # where the registry is
    zipfile.ZipFile(real_data / "CHASE_DB1/CHASEDB1.zip").extractall(tmp_path / "chase")
    out, found = tmp_path / "out", {}
    for id in ("05R", "11L", "13R"):
        record = chase_db1.read(tmp_path / "chase", id)
        for times in (1, 0.5, 2):
            file = saved(tmp_path / f"{id}x{times}.png", resized(record.image, times))
            call(file, "--out", out)
            mask = made(out, file.stem)[1]
            mask = cv2.resize(mask, record.label.shape[::-1], interpolation=cv2.INTER_AREA) > 127
            counts = metrics.counts_of_mask(mask, record.label, record.fov)
            found[id, times] = float(metrics.from_counts(counts)["f1"])
    for (id, times), f1 in found.items():
        assert f1 > 0.65 if times == 1 else f1 > found[id, 1] - 0.03, found
