"""What a campaign will cost before anything starts: multiply-adds, core hours, disk, memory.

Multiply-adds and disk are upper bounds: early stopping may end a training sooner, and files are
smaller than their pixels. Hours are those at the slowest rate of finished runs of the same network
and precision in this checkout, or at `RATE`. Memory is within a quarter of what was measured, but
for BCDU-Net on small patches, which took 1.8 times as much.
"""

import contextlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from resegment import costs, files, models, native, paths, schema, sound
from resegment.datasets import registry, sample
from resegment.errors import UserError
from resegment.geometry import resized
from resegment.models.layers import forward_padded
from resegment.variants import operations

RATE = 16e9  # multiply-adds a second of one core of an AMD EPYC: RGA-Net on 128-pixel crops
BACKWARD = 3  # a training step is worth three forward passes
LARGEST = 4499, 6748  # px, height and width: of ISIC 2018, whose images are of any size
SIDE = 128  # px of the square on which networks are counted: cost grows with the area
RUNTIME = 0.43e9  # bytes of a training on a CPU before its first step: Python, PyTorch, the images
STEP = {"fp32": 2, "bf16": 1}  # bytes of a step for each byte that float32 keeps for backward


@dataclass(frozen=True)
class Cost:
    """macs: multiply-adds of training, and of drawing all maps. seconds: of one core, of both.

    disk: bytes of prepared pairs (their key and size: shared by runs), and of weights and maps.
    memory: bytes of the training, on a CPU.
    """

    training: float
    drawing: float
    seconds: float
    pairs: tuple[str, float]
    disk: float
    memory: float


@cache
def network(name: str, options: str) -> tuple[float, int]:
    """(multiply-adds a pixel, parameters) of a network, its options as JSON."""
    sound.whole(name, options)
    found = costs.cost(name, json.loads(options), SIDE, SIDE)
    return found["macs"] / SIDE**2, found["total"]


@cache
def kept(name: str, options: str) -> float:
    """Bytes a pixel that a network's forward pass keeps for its backward pass, in float32."""
    try:
        found = _kept("meta", name, json.loads(options))
    except RuntimeError:  # it looks at values
        found = _kept("cpu", name, json.loads(options))
    return found / SIDE**2


def _kept(device: str, name: str, options: dict) -> int:
    with torch.device(device):
        model, image = models.build(name, options), torch.zeros(1, 3, SIDE, SIDE)
    storages = {}

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            storages[x.untyped_storage()._cdata] = x.untyped_storage()  # alive: none comes twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = forward_padded(model.train(), image)
    del out
    return sum(s.nbytes() for s in storages.values())


@cache
def parts(split: str, dataset: str) -> Counter:
    """How many images are train, val and test. Empty where that is known only with the data."""
    file, ingested = paths.split(split), paths.native(dataset) / "manifest.csv"
    if file.exists():
        return Counter(row["split"] for row in files.table(file, "split"))
    if not hasattr(registry.reader(dataset), "layout"):  # no rule finds the split in the files
        raise UserError(f"{file} is missing: list in it, as id,split, which images of {dataset} "
                        "are train, val and test, then run `resegment plan` again")  # fmt: skip
    if ingested.exists():
        return Counter(row["part"] for row in files.table(ingested, "part"))
    return Counter(registry.get(dataset).images)


def size(dataset: str, geometry: dict) -> tuple[int, int]:
    """Height and width of what the network sees of an image whole."""
    if geometry["pad"]:
        return tuple(geometry["pad"])
    if geometry["resize"]:
        return tuple(geometry["resize"])
    own = largest(dataset)
    return resized(own, geometry) or own


@cache
def largest(dataset: str) -> tuple[int, int]:
    """Height and width of a set's images; of the largest where they differ."""
    if dataset == "sample":
        return sample.HEIGHT, sample.WIDTH
    if known := registry.get(dataset).size:
        return tuple(known)
    if not (paths.native(dataset) / "manifest.csv").is_file():
        return LARGEST
    sizes = ((int(r["height"]), int(r["width"])) for r in native.manifest(dataset).values())
    return max(sizes, key=math.prod)


@cache
def rates() -> dict[tuple[str, str, str], float]:
    """{kind of training: multiply-adds a second of one core} of the finished ones in runs/."""
    found: dict[tuple[str, str, str], float] = {}
    for file in sorted(paths.run("").glob("*/*/*/manifest.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            m = files.read_json(file)  # an estimate goes by what is whole
            if m["device"]["type"] == "cpu":
                h, w = m["cost"]["image_size"]
                crop = m["parameters"]["train"]["augment"]["crop"]
                area = crop**2 if crop else h * w
                macs = BACKWARD * m["model"]["macs"] / (h * w) * area * m["cost"]["images"]
                key, rate = kind(m["parameters"]), macs / m["cost"]["cpu_seconds"]
                found[key] = min(rate, found.get(key, rate))
    return found


def kind(trained: dict) -> tuple[str, str, str]:
    """What a training's speed depends on: network, options, precision."""
    model = trained["model"]
    return model["name"], _options(model), trained["train"]["precision"]


def _options(model: dict) -> str:
    return json.dumps(model["options"], sort_keys=True)


def estimate(run: dict, recipe: schema.Recipe) -> Cost:
    """The cost of one run; of maps on other datasets too."""
    name, train = run["model"]["name"], run["train"]
    options = _options(run["model"])
    per_pixel, total = network(name, options)
    count, (h, w) = parts(run["split"], run["dataset"]), size(run["dataset"], run["geometry"])
    variants = len(operations(recipe.model_dump()))
    crop = train["augment"]["crop"]
    area = crop**2 if crop else h * w
    images = train["epochs"] * (train["samples_per_epoch"] or variants * count["train"])
    training = BACKWARD * per_pixel * area * images
    shown = [(count.total(), (h, w))]
    shown += [(parts(d, d)["test"], size(d, run["geometry"])) for d in run["cross"]]
    pixels = sum(n * y * x for n, (y, x) in shown)
    drawing = per_pixel * pixels * passes(run["inference"])
    pairs = (count["train"] + count["val"]) * variants * h * w * (4 + recipe.fov)
    return Cost(
        training, drawing, (training + drawing) / rates().get(kind(run), RATE),
        (f"{run['split']}/{run['recipe']}", pairs), 4 * total + 2 * pixels,
        RUNTIME + STEP[train["precision"]] * kept(name, options) * area * train["batch_size"],
    )  # fmt: skip


def passes(inference: dict) -> float:
    """How often a pixel goes through the network: once, or in every patch that covers it."""
    return (inference["patch"] / inference["stride"]) ** 2 if inference["patch"] else 1.0


def summary(runs: list[dict], params: schema.Params) -> str:
    """A line for each campaign, and how the hours were made."""
    heads = {"runs": 6, "training": 17, "maps": 15, "core hours": 13, "disk": 10, "memory": 10}
    lines = [f"{'campaign':20}" + "".join(f"{k:>{w}}" for k, w in heads.items())]
    for name in dict.fromkeys(run["campaign"] for run in runs):
        found = [estimate(r, params.recipes[r["recipe"]]) for r in runs if r["campaign"] == name]
        disk = sum(dict(c.pairs for c in found).values()) + sum(c.disk for c in found)
        lines.append(
            f"{name:20}{len(found):6}{sum(c.training for c in found) / 1e12:12,.1f} TMAC"
            f"{sum(c.drawing for c in found) / 1e12:10,.1f} TMAC"
            f"{sum(c.seconds for c in found) / 3600:13,.1f}{disk / 1e9:7,.2f} GB"
            f"{max(c.memory for c in found) / 1e9:7,.1f} GB"
        )
    known = sum(kind(r) in rates() for r in runs)
    lines.append(
        "multiply-adds, disk: at most; memory: of the largest training, on a CPU; core hours: at "
        f"the slowest rate of such trainings here for {known} of {len(runs)} runs, at "
        f"{RATE / 1e9:.0f} GMAC/s for the others"
    )
    return "\n".join(lines)
