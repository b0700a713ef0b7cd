"""Images a second of each paper's training at its own size and batch, and the roofline of bytes.

    python -m benchmarks.throughput [--device cpu|cuda] [--seconds 10] [--runs NAME...] [--write]

A GPU's table, mainly; a CPU measures the same in more time. The whole training is timed: draws,
views, batches, steps; not validation and checkpoints. Images are noise of the right size. The
roofline: every layer's output and its gradient, written once and read once at the precision, as
fast as the device copies memory.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE / "throughput.csv"
RUNS = ("rga-drive", "rsan-drive", "bcdu-drive", "hybridnetseg-drive", "mininet-drive")
COLUMNS = ("device", "run", "height", "width", "batch", "precision", "determinism", "images_per_s",
           "roofline_images_per_s", "share", "paper_images", "paper_minutes", "peak_mb", "torch",
           "date")  # fmt: skip


def images(run: dict, recipe: dict, folder: Path) -> list[dict]:
    """Write four pairs of noise at the network's size; returns the rows of all their variants."""
    import cv2
    import numpy as np

    from resegment import estimate, png, variants

    h, w = estimate.size(run["dataset"], run["geometry"])
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (h, w, 3), np.uint8), (0, 0), 3)
        png.write(folder / f"{i}.png", noise)
        png.write(folder / f"{i}-label.png", noise[..., 1] > np.quantile(noise[..., 1], 0.9))
        png.write(folder / f"{i}-fov.png", np.ones((h, w), bool))
        rows += [dict(id=str(i), operation=how, angle=angle, image=f"{i}.png",
                      label=f"{i}-label.png", fov=f"{i}-fov.png")
                 for how, angle in variants.operations(recipe)]  # fmt: skip
    return rows


def copies(device) -> float:
    """Bytes a second that the device reads, and as many that it writes, copying memory."""
    import torch

    a = torch.zeros(2**28, dtype=torch.uint8, device=device)  # more than any cache holds
    b = torch.empty_like(a)
    best = 0.0
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        b.copy_(a)
        wait(device)
        best = max(best, a.nbytes / (time.perf_counter() - start))
    return best


def wait(device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def moved(model, height: int, width: int) -> int:
    """Values that all layers write for one image, going forward."""
    import copy

    import torch

    from resegment.models.layers import forward_padded

    found = []
    model = copy.deepcopy(model).cpu()
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *call: found.append(call[2].numel()))
    with torch.no_grad():
        forward_padded(model, torch.zeros(1, 3, height, width))
    return sum(found)


def measure(run: dict, recipe: dict, device, seconds: float) -> dict:
    """One row of the table."""
    import torch

    from resegment import estimate, models, resident, train, variants
    from resegment.pairs import Pairs, draws

    how = run["train"]
    with tempfile.TemporaryDirectory() as folder:
        rows = images(run, recipe, Path(folder))
        pairs = resident.placed(Pairs(Path(folder), rows, how["augment"], 0), device)
        crop = how["augment"]["crop"]
        height, width = (crop, crop) if crop else pairs.first()[1].shape
    train.reproducible(0, how["threads"], how["determinism"] == "strict")
    model = models.build(run["model"]["name"], run["model"]["options"])
    model = model.to(device, memory_format=torch.channels_last).train()
    network = train.compiled(model, device, how)
    optimiser = train.make_optimiser(model, how["optimiser"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def some(epoch: int, count: int) -> float:
        pairs.epoch = epoch
        order = draws(len(rows), count * how["batch_size"], 0, epoch)
        wait(device)
        start = time.perf_counter()
        for image, label in pairs.batches(order, how["batch_size"], how["workers"] or 2):
            train.step(network, optimiser, image, label, how, device, epoch)
        wait(device)
        return time.perf_counter() - start

    some(0, 3)  # compiles, captures, chooses algorithms
    each = some(1, 2) / 2
    count = max(2, round(seconds / each))
    rate = count * how["batch_size"] / some(2, count)
    size = 2 if how["precision"] == "bf16" else 4
    roof = copies(device) / (2 * size * moved(model, height, width))
    known = len(variants.operations(recipe)) * estimate.parts(run["split"], run["dataset"])["train"]
    total = how["epochs"] * (how["samples_per_epoch"] or known)
    return {
        "device": name(device), "run": run["experiment"], "height": height, "width": width,
        "batch": how["batch_size"], "precision": how["precision"],
        "determinism": how["determinism"], "images_per_s": rate, "roofline_images_per_s": roof,
        "share": rate / roof, "paper_images": total, "paper_minutes": total / rate / 60,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else "",
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def name(device) -> str:
    import torch

    from resegment import train

    how = {"threads": torch.get_num_threads(), "precision": "", "determinism": ""}
    return train.describe(device, how, "unet")["name"]


def main() -> None:
    ask = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    ask.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    ask.add_argument("--seconds", type=float, default=10, help="of every row, about")
    ask.add_argument("--runs", nargs="+", default=RUNS, choices=RUNS)
    ask.add_argument("--write", action="store_true", help=f"keep the rows in {TABLE.name}")
    given = ask.parse_args()
    from resegment import devices

    if given.device == "cpu":
        devices.tune_allocator()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from resegment import config

    device, params = torch.device(given.device), config.load()
    modes = ("strict", "fast") if given.device == "cuda" else ("strict",)
    rows = []
    for experiment in given.runs:
        run = config.find(params, f"papers-drive-paper/{experiment}/s0")
        recipe = params.recipes[run["recipe"]].model_dump()
        for precision in ("fp32", "bf16"):
            for mode in modes:
                run["train"] |= {"precision": precision, "determinism": mode}
                found = measure(run, recipe, device, given.seconds)
                rows.append({k: f"{v:.4g}" if isinstance(v, float) else v
                             for k, v in found.items()})  # fmt: skip
                print(" ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    if given.write:
        keep = []
        if TABLE.exists():
            with open(TABLE, newline="") as f:
                new = {(r["device"], r["run"]) for r in rows}
                keep = [r for r in csv.DictReader(f) if (r["device"], r["run"]) not in new]
        with open(TABLE, "w", newline="") as f:
            table = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows([*keep, *rows])


if __name__ == "__main__":
    main()
