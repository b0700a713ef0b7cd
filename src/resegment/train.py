"""Training: one linear function from a resolved run to its weights.

All randomness of an epoch follows from (seed, epoch, index), so a resumed training is the same
training bit for bit (on one kind of device, with one number of threads).
"""

import contextlib
import csv
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn
from tqdm import tqdm

from resegment import __version__, checkpoint, closure, costs, devices, losses, models, resident
from resegment.errors import UserError
from resegment.files import atomic, fingerprint, md5, write_json
from resegment.models.layers import forward_padded, to_input
from resegment.pairs import Pairs, draws

HISTORY = ("epoch", "lr", "train_loss", "val_loss", "val_f1", "val_acc")
RISING = {"val_f1", "val_acc"}


def make_optimiser(model: nn.Module, how: dict) -> torch.optim.Optimizer:
    common = {"lr": how["lr"], "weight_decay": how["weight_decay"]}
    if how["name"] == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=how["momentum"], **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[how["name"]]
    return kind(model.parameters(), betas=tuple(how["betas"]), eps=how["eps"], **common)


def make_schedule(optimiser: torch.optim.Optimizer, how: dict, steps: int, lr: float, falls: bool):
    """None, or a torch scheduler: `onecycle` steps after every batch, the others every epoch."""
    s = torch.optim.lr_scheduler
    match how["name"]:
        case "step":
            return s.MultiStepLR(optimiser, how["milestones"], how["factor"])
        case "plateau":
            mode = "min" if falls else "max"
            return s.ReduceLROnPlateau(optimiser, mode, how["factor"], how["patience"])
        case "onecycle":
            return s.OneCycleLR(optimiser, max_lr=lr, total_steps=steps)


def autocast(device: torch.device, train: dict) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=train["precision"] == "bf16")


@torch.no_grad()
def validate(
    model: nn.Module, batches: Iterable[list[Tensor]], train: dict, device: torch.device
) -> dict:
    """Mean loss, and F1 and accuracy at 0.5 pooled over all pixels, at the network's resolution."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    counts = torch.zeros(3, dtype=torch.int64, device=device)  # tp, errors, pixels
    n = 0
    for image, label in batches:
        target = label.to(device).unsqueeze(1)
        with autocast(device, train):
            logits = forward_padded(model, to_input(image, device))
        loss += losses.total(logits, target.float(), train["loss"]).double()  # without alpha
        vessel = logits > 0
        errors = (vessel != target.bool()).sum()
        counts += torch.stack([(vessel & target.bool()).sum(), errors, vessel.new_tensor(
            vessel.numel(), dtype=torch.int64)])  # fmt: skip
        n += 1
    tp, errors, pixels = counts.tolist()
    f1 = 2 * tp / (2 * tp + errors) if tp + errors else float("nan")
    return {"val_loss": loss.item() / n, "val_f1": f1, "val_acc": 1 - errors / pixels}


def reproducible(seed: int, threads: int, strict: bool = True) -> None:
    """Fix what torch leaves open: threads, algorithms, and the generator of initial weights.

    strict: on a GPU, only algorithms that repeat their bits, where torch has them. A CPU repeats
    its bits either way.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.use_deterministic_algorithms(strict, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not strict
    torch.manual_seed(seed)


def compiled(model: nn.Module, device: torch.device, train: dict) -> nn.Module:
    """What a step calls: on a GPU that need not repeat its bits, operations fused and launched as
    one CUDA graph; else the network itself."""
    if device.type != "cuda" or train["determinism"] == "strict":
        return model
    return torch.compile(model, mode="reduce-overhead", dynamic=False)


def fit(
    run: dict,
    trained_by: dict,
    prepared: Path,
    out: Path,
    device: str,
    origin: dict,
    initial: Path | None = None,
) -> None:
    """Train `run` on the prepared set and write weights.safetensors, history.csv, manifest.json.

    run: as `config.resolve` gives it; trained_by: the part of it that decides the weights;
    device: "cpu" or "cuda"; origin: where the code came from, copied into the manifest;
    initial: the weights of another run of the same network to begin with. An unfinished training
    with the same parameters, data and code is taken up where it stopped; the checkpoint stays until
    the caller, satisfied with the result, removes it.
    Raises UserError where a loss or a weight is not finite, on exhausted memory, on an unusable
    set; the checkpoints of the epochs before stay.
    """
    train, device = run["train"], torch.device(device)
    started, clock, cpu = time.time(), time.monotonic(), time.process_time()
    code = {name: md5(f) for name, f in closure.files(
        "resegment.train", f"resegment.models.{run['model']['name']}").items()}  # fmt: skip
    prints = {
        "parameters": fingerprint(trained_by),
        "data": md5(prepared / "manifest.json"),
        "code": fingerprint(code),
    }
    if initial:
        prints["initial"] = md5(initial)

    # 1. Data: the training pairs, and the untouched validation images.
    with open(prepared / "manifest.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    learn = [r for r in rows if r["split"] == "train"]
    check = [r for r in rows if r["split"] == "val" and r["operation"] == "none"]
    if not learn:
        raise UserError(f"{prepared}/manifest.csv has no training pairs: see data/splits")
    if train["monitor"] != "train_loss" and not check:
        raise UserError(
            f"params.yaml: train.monitor {train['monitor']} needs validation images, and split "
            f"{run['split']} has none: use train_loss"
        )
    pairs = Pairs(prepared, learn, train["augment"], run["seed"])
    untouched = dict.fromkeys(train["augment"]) | {"jitter": {}}
    held_out = Pairs(prepared, check, untouched, run["seed"]) if check else None

    # 2. Model, optimiser, schedule.
    reproducible(run["seed"], train["threads"], train["determinism"] == "strict")
    model = models.build(run["model"]["name"], run["model"]["options"])
    if initial:
        models.load(model, initial)
    model = model.to(device, memory_format=torch.channels_last)
    optimiser = make_optimiser(model, train["optimiser"])
    per_epoch = -(-(train["samples_per_epoch"] or len(pairs)) // train["batch_size"])
    falls = train["monitor"] not in RISING
    schedule = make_schedule(
        optimiser, train["schedule"], per_epoch * train["epochs"], train["optimiser"]["lr"], falls
    )
    kind = train["schedule"]["name"]
    network = compiled(model, device, train)
    threads = train["workers"]
    if device.type == "cuda":
        threads = threads or 2
    pairs = resident.placed(pairs, device)

    # 3. Resume where a killed training of the same parameters, data and code stopped.
    saved = checkpoint.path(run["run"], prints)
    state = checkpoint.load(saved, prints, code)
    history, best, done, spent = [], None, 0, {"wall": 0.0, "cpu": 0.0}
    if state:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if schedule:
            schedule.load_state_dict(state["schedule"])
        history, best, done, spent = (state[k] for k in ("history", "best", "epoch", "spent"))
        print(f"{run['run']}: resumed after epoch {done} of {train['epochs']}", flush=True)
    resumed = done

    # 4. Epochs.
    quiet = not sys.stderr.isatty()
    bar = tqdm(total=train["epochs"], initial=done, unit="epoch", desc=run["run"], disable=quiet)
    stopped = stale(best, done, train)
    for epoch in range(done, 0 if stopped else train["epochs"]):
        torch.manual_seed(int(np.random.default_rng([run["seed"], epoch]).integers(2**62)))
        pairs.epoch = epoch
        order = draws(len(pairs), train["samples_per_epoch"], run["seed"], epoch)
        lr = optimiser.param_groups[0]["lr"]
        model.train()
        total = torch.zeros((), device=device)
        with devices.memory(f"{run['run']}, a step", smaller(train)):
            for image, label in pairs.batches(order, train["batch_size"], threads):
                loss = step(network, optimiser, image, label, train, device, epoch)
                total += loss * len(image)
                if kind == "onecycle":
                    schedule.step()
        row = {"epoch": epoch + 1, "lr": lr, "train_loss": total.item() / len(order)}
        if held_out:
            whole = [(i, i) for i in range(len(held_out))]
            with devices.memory(f"{run['run']}, validation at batch 1", SMALLER):
                row |= validate(model, held_out.batches(whole, 1, threads), train, device)
        weights = weights_of(model)
        finite(run["run"], row, weights)
        watched = row[train["monitor"]]
        if kind == "plateau":
            schedule.step(watched)
        elif kind == "step":
            schedule.step()
        history.append(row)
        if best is None or better(watched, best["value"], falls):
            best = {"value": watched, "epoch": epoch + 1, "model": weights}
        done = epoch + 1
        now = {"wall": spent["wall"] + time.monotonic() - clock,
               "cpu": spent["cpu"] + time.process_time() - cpu}  # fmt: skip
        checkpoint.save(saved, {
            "prints": prints, "code": code, "model": weights, "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict() if schedule else None,
            "history": history, "best": best, "epoch": done, "spent": now,
        })  # fmt: skip
        bar.update()
        if quiet:
            figures = " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch")
            print(f"epoch {done}/{train['epochs']} {figures} {now['wall']:.0f} s", flush=True)
        if stale(best, done, train):
            break
    bar.close()

    # 5. What came out.
    whole, _ = (held_out or pairs).first()
    size = list(whole.shape[:2])
    keep = best["model"] if train["weights"] == "best" else weights_of(model)
    header = {"run": run["run"], "model": run["model"], "fingerprints": prints}
    with atomic(out / "weights.safetensors") as tmp:
        tmp.write_bytes(serialise(keep, {"resegment": json.dumps(header, sort_keys=True)}))
    with atomic(out / "history.csv") as tmp, open(tmp, "w", newline="") as f:
        table = csv.DictWriter(f, HISTORY, lineterminator="\n")
        table.writeheader()
        table.writerows(history)
    record = {
        "run": run["run"], "campaign": run["campaign"], "experiment": run["experiment"],
        "seed": run["seed"], "budget": run["budget"], "dataset": run["dataset"],
        "parameters": trained_by, "fingerprints": prints, "code": code,
        "weights_md5": md5(out / "weights.safetensors"),
        "history_md5": md5(out / "history.csv"), "epochs_run": done,
        "best_epoch": best["epoch"], "weights_of": train["weights"],
        "model": {"name": run["model"]["name"], **models.count(model),
                  "macs": costs.cost(**run["model"], height=size[0], width=size[1])["macs"]},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": np.__version__, "opencv": cv2.__version__,
                     "resegment": __version__},
        "device": describe(device, train, run["model"]["name"]),
        "cost": {"wall_seconds": round(spent["wall"] + time.monotonic() - clock, 1),
                 "cpu_seconds": round(spent["cpu"] + time.process_time() - cpu, 1),
                 "images": done * (train["samples_per_epoch"] or len(pairs)),
                 "image_size": size, "image_seconds": image_seconds(model, whole, device),
                 "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "resumed_after_epoch": resumed, "origin": origin,
    }  # fmt: skip
    write_json(out / "manifest.json", record | {"seal": fingerprint(record)})


def step(
    model, optimiser, image: Tensor, label: Tensor, train: dict, device, epoch: int = 0
) -> Tensor:
    """One optimiser step on a batch of uint8 pairs; returns the detached loss, without alpha."""
    target = label.to(device, non_blocking=True).unsqueeze(1).float()
    try:
        with autocast(device, train):
            logits = forward_padded(model, to_input(image, device))
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise UserError("a batch of one crop has a single pixel at the network's deepest level, of "
                        "which batch normalisation makes nothing: raise train.augment.crop or "
                        "train.batch_size in params.yaml") from None  # fmt: skip
    loss = losses.total(logits, target, train["loss"], train["alpha"])
    optimiser.zero_grad(set_to_none=True)
    (losses.alpha(train["alpha"], epoch) * loss).backward()
    optimiser.step()
    return loss.detach()


SMALLER = "set precision to bf16, or take a recipe with smaller images, in params.yaml"


def smaller(train: dict) -> str:
    """What to change where a step does not fit into memory."""
    half = train["batch_size"] // 2
    return f"set train.batch_size to {half} in params.yaml" if half else SMALLER


def better(value: float, than: float, falls: bool) -> bool:
    """Of a monitored value; an undefined F1 (nothing to find, nothing found) is the worst."""
    return not math.isnan(value) and (math.isnan(than) or (value < than if falls else value > than))


def finite(run_id: str, row: dict, weights: dict[str, Tensor]) -> None:
    """Raise UserError where a loss of an epoch or a weight after it is NaN or infinite."""
    lost = [f"the {name.replace('_', ' ')} is {row[name]}" for name in ("train_loss", "val_loss")
            if not math.isfinite(row.get(name, 0))]  # fmt: skip
    floats = {k: v for k, v in weights.items() if v.is_floating_point()}
    lost += [f"{k} is not finite" for k, v in floats.items() if not torch.isfinite(v).all()][:1]
    if lost:
        raise UserError(f"{run_id}: epoch {row['epoch']}: {', '.join(lost)}: lower "
                        "train.optimiser.lr in params.yaml, or use precision fp32")  # fmt: skip


@torch.inference_mode()
def image_seconds(model: nn.Module, image: np.ndarray, device: torch.device) -> float:
    """Seconds of one forward pass of one image, batch 1, float32: the median of five after one."""
    model.eval()
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    took = []
    for _ in range(6):
        start = time.perf_counter()
        forward_padded(model, to_input(batch, device)).cpu()  # waits for a GPU
        took.append(time.perf_counter() - start)
    return round(float(np.median(took[1:])), 5)


def stale(best: dict | None, done: int, train: dict) -> bool:
    """Early stopping: the monitored value has not improved for that many epochs."""
    patience = train["early_stopping"]
    return bool(patience and best and done - best["epoch"] >= patience)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}


def describe(device: torch.device, train: dict, network: str) -> dict:
    """The device as the manifest records it."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {"type": device.type, "name": name, "threads": train["threads"],
            "precision": train["precision"], "cores": os.cpu_count(),
            "determinism": train["determinism"],
            "kernel": models.kernel(network, device.type)}  # fmt: skip
