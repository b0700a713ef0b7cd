"""Bad training: what goes wrong between the first step and the weights."""

import json
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from training import fit, fresh

from resegment import checkpoint, devices, files, models, paths, predict, train
from resegment.errors import UserError

SCRIPT = """
import json, sys
from resegment import config, devices, paths, train
from resegment.errors import UserError
run = json.load(open("run.json"))
devices.tune_allocator()
try:
    train.fit(run, config.trained_by(run), paths.prepared("sample", "native"), paths.Path("out"),
              "cpu", {})
except UserError as e:
    sys.exit(f"resegment: {e}")
"""


def cut(run, monkeypatch, epoch: int, name="cut"):
    """Train, and stop as by a signal right after the checkpoint of an epoch."""
    save = checkpoint.save

    def save_and_die(file, state):
        save(file, state)
        if state["epoch"] == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            fit(run, name)


def saved() -> dict[bool, "paths.Path"]:
    """{whether it is the older: checkpoint}"""
    return {".before" in f.name: f for f in paths.CHECKPOINTS.rglob("[!.]*.pt")}


def constant(run, **optimiser):
    run["train"]["optimiser"] |= optimiser
    run["train"]["schedule"] = run["train"]["schedule"] | {"name": "constant"}


@pytest.mark.fault("Bad training", "A learning rate at which the loss becomes NaN or infinite",
                   "one sentence with the epoch and the remedy; no weights are written, the "
                   "checkpoints before stay")  # fmt: skip
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_a_loss_that_is_not_finite(run, optimiser):
    constant(run, name=optimiser, lr=1e30)
    with pytest.raises(UserError, match=r"epoch 1: .*lower train\.optimiser\.lr"):
        fit(run)
    assert not paths.Path("out").exists() and not saved()


@pytest.mark.fault("Bad training", "Weights that the last step of an epoch made NaN or infinite, "
                   "though its loss was finite",
                   "the epoch fails with the weight's name; nothing of it is saved")  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(run, value, monkeypatch):
    step, count = train.step, []

    def spoilt(model, *rest):
        loss = step(model, *rest)
        count.append(1)
        if len(count) == 6:  # the last step of epoch 2
            with torch.no_grad():
                model.head.weight.view(-1)[0] = value
        return loss

    run["train"] |= {"monitor": "train_loss"}
    monkeypatch.setattr(train, "step", spoilt)
    monkeypatch.setattr(train, "validate", lambda *_: {"val_loss": 0.1, "val_f1": 1, "val_acc": 1})
    with pytest.raises(UserError, match=r"epoch 2: head\.weight is not finite: lower"):
        fit(run)
    assert checkpoint._read(saved()[False])["epoch"] == 1


@pytest.mark.fault("Bad training", "A validation loss of NaN or infinity",
                   "one sentence with the epoch; not taken for the best epoch")  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite(run, value, monkeypatch):
    monkeypatch.setattr(train, "validate", lambda *_: {"val_loss": value, "val_f1": 0,
                                                       "val_acc": 0})  # fmt: skip
    with pytest.raises(UserError, match=f"epoch 1: the val loss is {value}"):
        fit(run)


@pytest.mark.fault("Bad training", "A monitored F1 that is undefined: no vessel in the validation "
                   "labels and none found",
                   "such an epoch is never the best while another has a value")  # fmt: skip
def test_an_undefined_f1_is_never_the_best(run, monkeypatch):
    values = iter([float("nan"), 0.4, float("nan"), 0.3])
    monkeypatch.setattr(train, "validate", lambda *_: {"val_loss": 0.1, "val_f1": next(values),
                                                       "val_acc": 0})  # fmt: skip
    run["train"] |= {"monitor": "val_f1", "weights": "best"}
    fit(run)
    assert json.loads(paths.Path("out/manifest.json").read_text())["best_epoch"] == 2


SAID = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 68719476736 bytes."),
        RuntimeError("std::bad_alloc"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        np._core._exceptions._ArrayMemoryError((4,), np.dtype("u1")), MemoryError()]  # fmt: skip


@pytest.mark.fault("Bad training", "Memory exhausted in a step or in validation, as torch, CUDA, "
                   "numpy and C++ say it",
                   "one sentence with the batch size to try; at batch 1 what else to "
                   "change")  # fmt: skip
@pytest.mark.parametrize("where", ["step", "validate"])
@pytest.mark.parametrize("error", SAID, ids=lambda e: type(e).__name__)
def test_exhausted_memory(run, error, where, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, where, fail)
    remedy = {"step": r"a step: .*batch_size to 2 in", "validate": "batch 1: .*smaller images"}
    with pytest.raises(UserError, match=remedy[where]):
        fit(run)
    run["train"]["batch_size"] = 1
    with pytest.raises(UserError, match="smaller images"):
        fit(run)


def test_other_errors_are_no_matter_of_memory():
    with pytest.raises(RuntimeError, match="memory format"), devices.memory("a step", "less"):
        raise RuntimeError("required rank 4 tensor to use channels_last memory format")


@pytest.mark.slow
@pytest.mark.fault("Bad training", "A process that may not have the memory its batches need "
                   "(address space limited)",
                   "the real allocator fails in mid-step: the same sentence, exit "
                   "code 1")  # fmt: skip
def test_memory_that_the_system_refuses(run):
    run["train"] |= {"batch_size": 512, "samples_per_epoch": 512}
    run["model"]["options"] |= {"width": 512, "depth": 2}
    paths.Path("run.json").write_text(json.dumps(run))

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)

    r = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True,
                       preexec_fn=limit, env=os.environ)  # fmt: skip
    assert r.returncode == 1 and "Traceback" not in r.stderr, r.stderr[-2000:]
    assert re.search(r"memory is exhausted: set train\.batch_size to 256", r.stderr), r.stderr


@pytest.mark.fault("Bad training", "A training interrupted within a validation",
                   "resumed after the last whole epoch, to the same bytes")  # fmt: skip
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_an_interrupted_validation(run, epoch, monkeypatch):
    whole = fresh(run, "whole")
    checkpoint.remove(run["run"])
    validate, count = train.validate, []

    def interrupted(model, batches, *rest):
        count.append(1)
        if len(count) == epoch:
            next(iter(batches))
            raise KeyboardInterrupt
        return validate(model, batches, *rest)

    with monkeypatch.context() as m:
        m.setattr(train, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(run, "cut")
    assert fit(run, "cut") == whole
    after = json.loads(paths.Path("cut/manifest.json").read_text())["resumed_after_epoch"]
    assert after == epoch - 1


def flipped(file, rng) -> str:
    """One bit of a file turned; says which."""
    data = bytearray(file.read_bytes())
    at, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[at] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {at}"


@pytest.mark.fault("Bad training", "One bit of the newest checkpoint flipped, or its end cut off, "
                   "at seeded places",
                   "said; the checkpoint before it is used, and the weights are the same "
                   "bytes")  # fmt: skip
def test_a_damaged_checkpoint(run, monkeypatch, capsys, tried):
    whole = fresh(run, "whole")
    checkpoint.remove(run["run"])
    cut(run, monkeypatch, 3)
    newest, before = saved()[False], saved()[True]
    kept = {f: f.read_bytes() for f in (newest, before)}
    prints = torch.load(newest, weights_only=True)["prints"]
    code = torch.load(newest, weights_only=True)["code"]
    rng = np.random.default_rng(6)
    for k in range(200):
        newest.write_bytes(kept[newest])
        if k % 4:
            what = flipped(newest, rng)
        else:
            left = int(rng.integers(len(kept[newest])))
            newest.write_bytes(kept[newest][:left])
            what = f"cut to {left} bytes"
        state = checkpoint.load(newest, prints, code)
        assert state and state["epoch"] == 2, what
        assert f"checkpoint {newest} is damaged: not used" in capsys.readouterr().out, what
    tried(200)
    assert fit(run, "cut") == whole
    assert "resumed after epoch 2" in capsys.readouterr().out


@pytest.mark.fault("Bad training", "Both checkpoints damaged",
                   "said of each; training starts from the beginning, to the same "
                   "bytes")  # fmt: skip
def test_two_damaged_checkpoints(run, monkeypatch, capsys):
    whole = fresh(run, "whole")
    checkpoint.remove(run["run"])
    cut(run, monkeypatch, 3)
    for file in saved().values():
        flipped(file, np.random.default_rng(0))
    assert fit(run, "cut") == whole
    said = capsys.readouterr().out
    assert said.count("is damaged: not used") == 2 and "resumed" not in said


@pytest.mark.fault("Bad training", "A checkpoint of other parameters, data, code or initial "
                   "weights",
                   "not resumed, and what differs is said")  # fmt: skip
@pytest.mark.parametrize("change", ["parameters", "data", "code"])
def test_a_checkpoint_of_something_else(run, change, capsys, monkeypatch):
    fit(run, "a")
    if change == "parameters":
        run["train"]["loss"] = {"dice": 1.0}
    elif change == "data":
        files.write_manifest(paths.prepared("sample", "native"), other=1)
    else:
        real = train.md5
        monkeypatch.setattr(
            train, "md5", lambda f: "other" if str(f).endswith("losses.py") else real(f)
        )
    capsys.readouterr()
    fit(run, "b")
    said, what = capsys.readouterr().out, "code (losses.py)" if change == "code" else change
    assert "resumed after" not in said
    assert re.search(rf"\(epoch 4\) belongs to other {re.escape(what)}: not resumed", said), said


@pytest.mark.fault("Bad training", "A checkpoint of another run copied to this run's name",
                   "not used, and what differs is said")  # fmt: skip
def test_a_checkpoint_under_a_false_name(run, capsys):
    first = fit(run, "a")
    mine = saved()[False]
    run["seed"] = 1
    fit(run, "b")
    theirs = max(paths.CHECKPOINTS.rglob("[!.]*.pt"), key=os.path.getmtime)
    for file in (mine, checkpoint.older(mine)):
        file.write_bytes(theirs.read_bytes())
    capsys.readouterr()
    run["seed"] = 0
    assert fit(run, "c") == first
    assert f"checkpoint {mine} belongs to other parameters: not used" in capsys.readouterr().out


@pytest.mark.fault("Bad training", "Weights that overflow only when a map is drawn",
                   "one sentence; no map is written")  # fmt: skip
@pytest.mark.parametrize("patch", [None, 16])
def test_a_map_that_is_no_number(patch):
    def draw(x):
        return torch.full((len(x), 1, *x.shape[-2:]), torch.nan, dtype=torch.float64)

    image, how = np.zeros((32, 32, 3), np.uint8), {"patch": patch, "stride": patch}
    with pytest.raises(UserError, match="no number"):
        predict.probability(draw, image, torch.device("cpu"), how)


@pytest.mark.fault("Bad training", "Options of a network that are unknown, of another kind than "
                   "their default, zero, negative or too many",
                   "one sentence with the option and what must stand there")  # fmt: skip
@pytest.mark.parametrize(("name", "options"), [
    ("unet", {"width": 0}), ("unet", {"width": True}), ("unet", {"norm": "no"}),
    ("unet", {"depth": -1}), ("unet", {"depth": 2.0}), ("unet", {"colour": 1}),
    ("rga_net", {"attention": "no"}), ("rga_net", {"filters": [8, 16]}),
    ("rga_net", {"filters": [8, 16, 24, 0]}), ("rga_net", {"filters": 8}),
    ("rga_net", {"partial_decoder": "other"}), ("rsan", {"variant": 1}), ("rsan", {"keep": "1"}),
    ("rsan", {"block": None}), ("bcdu_net", {"width": 0}), ("bcdu_net", {"dense": "3"}),
    ("mini_net", {"reading": True}), ("hybridnetseg", {"supervised": "x"}),
    ("hybridnetseg", {"grouped": 1}),
])  # fmt: skip
def test_options_of_another_kind(name, options):
    with pytest.raises(UserError, match=f"params.yaml: model.options of {name}: "):
        models.build(name, options)


@pytest.mark.fault("Bad training", "A batch of one crop so small that a channel has one value left",
                   "one sentence: raise the crop or the batch size")  # fmt: skip
def test_a_crop_too_small(run):
    run["train"] |= {"batch_size": 1}
    run["train"]["augment"]["crop"] = 1
    with pytest.raises(UserError, match=r"raise train\.augment\.crop or train\.batch_size"):
        fit(run)
