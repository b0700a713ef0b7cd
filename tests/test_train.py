"""Training: same seed, same bytes; killed, it resumes bit for bit; mistakes are said."""

import copy
import csv
import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from training import fit, fresh

from resegment import augment, checkpoint, config, files, models, pairs, paths, resident, train
from resegment.errors import UserError
from resegment.schema import Augment, Jitter

AUGMENT = Augment().model_dump()


def test_same_seed_same_bytes_and_two_seeds_differ(run):
    first = fresh(run, "a")
    assert fresh(run, "b") == first
    assert fresh(run, "c", seed=1)[0] != first[0]


def test_workers_change_nothing(run):
    first = fresh(run, "a")
    again = fresh(run, "b", workers=2)
    assert again[1] == first[1]
    assert torch.equal(*(weights(n)["head.weight"] for n in "ab"))


def weights(name):
    from safetensors.torch import load_file

    return load_file(paths.Path(name) / "weights.safetensors")


SCHEDULES = [
    ({"name": "onecycle"}, {"name": "adam", "lr": 0.01}),
    ({"name": "plateau", "patience": 1}, {"name": "adamw", "lr": 0.01, "weight_decay": 0.01}),
    ({"name": "step", "milestones": [2]}, {"name": "sgd", "lr": 0.1, "momentum": 0.9}),
]


@pytest.mark.parametrize(("schedule", "optimiser"), SCHEDULES)
def test_a_training_cut_between_epochs_resumes_to_the_same_bytes(
    run, schedule, optimiser, monkeypatch
):
    run["train"]["schedule"] |= schedule
    run["train"]["optimiser"] |= optimiser
    run["train"]["monitor"] = "val_loss"
    whole = fresh(run, "whole")
    checkpoint.remove(run["run"])
    save = checkpoint.save

    def save_and_die(file, state):
        save(file, state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        fit(run, "cut")
    monkeypatch.setattr(checkpoint, "save", save)
    assert fit(run, "cut") == whole
    assert json.loads(paths.Path("cut/manifest.json").read_text())["resumed_after_epoch"] == 2


@pytest.mark.slow
def test_kill_9_at_any_moment_resumes_to_the_same_bytes(run):
    run["train"] |= {"epochs": 6, "samples_per_epoch": 200}
    whole = fresh(run, "whole")
    paths.Path("run.json").write_text(json.dumps(run))
    script = (
        "import json; from resegment import config, train, paths\n"
        "run = json.load(open('run.json'))\n"
        "train.fit(run, config.trained_by(run), paths.prepared('sample', 'native'),"
        " paths.Path('cut'), 'cpu', {})"
    )
    rng = np.random.default_rng(0)
    for _ in range(4):
        checkpoint.remove(run["run"])
        killed = 0
        while True:
            process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
            process.stdout.readline()  # the first sign of life: an epoch, or "resumed"
            time.sleep(rng.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL) if killed < 2 else process.wait()
            killed += 1
            if process.wait() == 0:
                break
        assert files.md5("cut/weights.safetensors") == whole[0]
        assert paths.Path("cut/history.csv").read_text() == whole[1]
        assert killed > 1


def test_it_learns(run):
    run["train"] |= {"epochs": 8, "samples_per_epoch": 32}
    rows = list(csv.DictReader(fit(run)[1].splitlines()))
    assert float(rows[-1]["train_loss"]) < 0.5 * float(rows[0]["train_loss"])
    assert float(rows[-1]["val_f1"]) > 0.9


def test_best_weights_are_those_of_the_best_epoch(run):
    run["train"] |= {"monitor": "val_f1", "weights": "best"}
    run["train"]["schedule"] |= {"name": "constant"}  # whose rates do not follow from the epochs
    rows = list(csv.DictReader(fresh(run, "best")[1].splitlines()))
    scores = [float(r["val_f1"]) for r in rows]
    best = json.loads(paths.Path("best/manifest.json").read_text())["best_epoch"]
    assert best == scores.index(max(scores)) + 1
    fresh(run, "cut", weights="last", epochs=best)  # a training that ends there has the same
    assert all(torch.equal(v, weights("cut")[k]) for k, v in weights("best").items())


def test_early_stopping_stops_after_patience_epochs(run):
    run["train"] |= {"epochs": 30, "early_stopping": 2}
    run["train"]["optimiser"]["lr"] = 1e-12  # nothing improves beyond the first epochs' noise
    run["train"]["schedule"] = {**run["train"]["schedule"], "name": "constant"}
    fit(run)
    manifest = json.loads(paths.Path("out/manifest.json").read_text())
    assert manifest["epochs_run"] == manifest["best_epoch"] + 2 < 30


def test_manifest_says_what_was_used(run):
    fit(run)
    manifest = json.loads(paths.Path("out/manifest.json").read_text())
    assert manifest["parameters"] == config.trained_by(run)
    assert manifest["fingerprints"]["data"] == files.md5(
        paths.prepared("sample", "native") / "manifest.json"
    )
    assert manifest["weights_md5"] == files.md5("out/weights.safetensors")
    assert manifest["versions"]["torch"] == torch.__version__
    assert {"losses.py", "train.py", "models/unet.py"} <= set(manifest["code"])
    assert manifest["cost"]["images"] == 4 * 12


def test_monitoring_without_validation_images_is_refused(run):
    folder = paths.prepared("sample", "native")
    text = (folder / "manifest.csv").read_text().replace(",val,", ",train,")
    (folder / "manifest.csv").write_text(text)
    run["train"]["monitor"] = "val_f1"
    with pytest.raises(UserError, match="train_loss"):
        fit(run)


def look(image, label, how, seed, corners=None):
    rng = np.random.default_rng(seed)
    return augment.see(image, label, augment.draw(how, rng, *label.shape, corners))


@pytest.mark.parametrize("crop", [None, 24])
def test_augmentation_moves_image_and_label_together(crop):
    how = AUGMENT | {"crop": crop, "flips": True, "rotate": 180.0, "scale": 0.2}
    how |= {"aspect": 0.1, "shift": 0.1, "warp": 0.8}
    label = np.zeros((40, 44), np.uint8)
    label[10:25, 5:30] = 1
    image = np.repeat(label[..., None] * 200, 3, 2)
    for i in range(20):
        x, y = look(image, label, how, i)
        assert x.shape[:2] == y.shape == ((crop, crop) if crop else (40, 44))
        assert set(np.unique(y)) <= {0, 1}
        assert ((x[..., 0] > 100) == y).mean() > 0.97  # they differ at interpolated edges only


def test_flips_and_crops_alone_lose_nothing():
    how = AUGMENT | {"crop": 16, "flips": True}
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (16, 16)).reshape(-1, 16, 16)
    for i in range(8):
        x, _ = look(image, image[..., 0], how, i)
        views = [x[..., 0], x[::-1, :, 0], x[:, ::-1, 0], x[::-1, ::-1, 0]]
        assert any((windows == v).all((1, 2)).any() for v in views)


def test_a_crop_inside_the_field_of_view_shows_nothing_else():
    fov = cv2.circle(np.zeros((60, 66), np.uint8), (33, 30), 25, 1, -1)
    corners = augment.corners_inside(fov > 0, 12)
    brute = [y * 66 + x for y in range(49) for x in range(55) if fov[y : y + 12, x : x + 12].all()]
    assert corners.tolist() == brute
    image = np.repeat(fov[..., None] * 200, 3, 2)
    for i in range(20):
        x, y = look(image, fov, AUGMENT | {"crop": 12, "inside_fov": True}, i, corners)
        assert y.all() and (x == 200).all()


def test_a_field_of_view_smaller_than_the_crop_is_said(run):
    run["train"]["augment"] |= {"crop": 32, "inside_fov": True}
    with pytest.raises(UserError, match=r"no square of 32 pixels: lower train\.augment\.crop"):
        fit(run)


def test_patches_inside_the_field_of_view_train(run):
    run["train"]["augment"] |= {"crop": 16, "inside_fov": True}
    assert fresh(run, "a") == fresh(run, "b")


def test_jitter_draws_each_change_within_its_limit():
    image = np.full((4, 4, 3), (150, 100, 50), np.uint8)
    none = Jitter().model_dump()
    assert augment.draw(AUGMENT, np.random.default_rng(0), 4, 4) is None

    def values(**limits):
        how = AUGMENT | {"jitter": none | limits}
        return np.array([look(image, image[..., 0], how, k)[0][0, 0] for k in range(40)], float)

    bright = values(brightness=0.3) / (150, 100, 50)
    assert 0.68 < bright.min() < 0.8 and 1.2 < bright.max() < 1.32
    assert np.abs(bright - bright.mean(1, keepdims=True)).max() < 0.02  # one factor for all
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(values(saturation=0.3) @ luma - [150, 100, 50] @ luma).max() < 1
    hue = values(hue=0.5)
    assert hue.max() <= 152 and hue.min() >= 48 and len(np.unique(hue.argmax(1))) == 3
    flat = values(contrast=1.0)
    assert flat.std(1).min() < 10 < 45 < flat.std(1).max()


def test_a_run_starts_from_another_runs_weights(run):
    fresh(run, "first")
    other = copy.deepcopy(run)
    other["train"] |= {"epochs": 1, "optimiser": run["train"]["optimiser"] | {"lr": 1e-12}}
    other["train"]["schedule"] |= {"name": "constant"}
    checkpoint.remove(other["run"])
    fit(other, "second", paths.Path("first/weights.safetensors"))
    a, b = weights("first"), weights("second")
    assert all(
        torch.allclose(a[k], b[k], atol=1e-6) for k in a if a[k].dim() and "running" not in k
    )
    prints = json.loads(paths.Path("second/manifest.json").read_text())["fingerprints"]
    assert prints["initial"] == files.md5(paths.Path("first/weights.safetensors"))


def test_weights_of_another_network_are_refused(run):
    fresh(run, "first")
    run["model"]["options"]["width"] = 6
    with pytest.raises(UserError, match=r"first/weights\.safetensors holds no weights"):
        fit(run, "second", paths.Path("first/weights.safetensors"))


def test_every_item_is_drawn_once_an_epoch_and_in_another_order_each_time():
    orders = [pairs.draws(10, None, 0, e) for e in (0, 1)]
    assert all(sorted(i for _, i in o) == list(range(10)) for o in orders)
    assert orders[0] != orders[1] and orders[0] == pairs.draws(10, None, 0, 0)
    longer = [i for _, i in pairs.draws(10, 25, 0, 0)]
    assert len(longer) == 25 and max(map(longer.count, range(10))) == 3


def test_a_cpu_gives_the_same_bits_under_either_determinism(run):
    fresh(run, "strict")
    fresh(run, "fast", determinism="fast")
    a, b = weights("strict"), weights("fast")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_training_from_the_device_learns_the_same(run, monkeypatch):
    """Its views differ in roundings, not in what they show; here the device is the CPU."""

    def loss(name: str) -> float:
        return float(fresh(run, name)[1].splitlines()[-1].split(",")[2])

    run["train"]["augment"] |= {"rotate": 180.0, "scale": 0.1, "flips": True}
    host = loss("host")
    monkeypatch.setattr(resident, "placed", resident.Resident)
    assert loss("device") == pytest.approx(host, rel=0.02) and loss("device") != host


@pytest.mark.slow
def test_a_network_in_one_graph_takes_the_same_steps():
    """What a GPU compiles under determinism fast is the same function: here without code for it."""
    how = {"loss": {"bce": 1.0}, "alpha": "one", "precision": "fp32"}
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (2, 16, 16, 3), np.uint8))
    label = torch.from_numpy(rng.integers(0, 2, (2, 16, 16), np.uint8))

    def losses_of(name: str, options: dict, compiled: bool) -> list[float]:
        train.reproducible(0, threads=1)
        model = models.build(name, options).to(memory_format=torch.channels_last)
        network = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        optimiser = torch.optim.Adam(model.parameters())
        cpu = torch.device("cpu")
        return [train.step(network, optimiser, image, label, how, cpu).item() for _ in range(3)]

    for name in ("rga_net", "mini_net"):
        assert np.allclose(*(losses_of(name, {}, c) for c in (False, True)), rtol=1e-4), name
