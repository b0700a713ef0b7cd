"""What a campaign will cost before anything starts: multiply-adds, hours of one core, gigabytes.

Upper bounds: early stopping may end a training sooner, and files are smaller than their pixels.
Hours are those at the rate of the finished runs of the same network in this checkout, or at `RATE`.
"""

import contextlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

from resegment import costs, files, native, paths, schema
from resegment.datasets import registry, sample
from resegment.geometry import resized
from resegment.variants import operations

RATE = 16e9  # multiply-adds a second of one core of an AMD EPYC: RGA-Net on 128-pixel crops
BACKWARD = 3  # a training step is worth three forward passes
LARGEST = 4499, 6748  # px, height and width: of ISIC 2018, whose images are of any size
SIDE = 128  # px of the square on which networks are counted: cost grows with the area


@dataclass(frozen=True)
class Cost:
    """macs: multiply-adds of training, and of drawing all maps. seconds: of one core, of both.

    disk: bytes of prepared pairs (their key and size: shared by runs), and of weights and maps.
    """

    training: float
    drawing: float
    seconds: float
    pairs: tuple[str, float]
    disk: float


@cache
def network(name: str, options: str) -> tuple[float, int]:
    """(multiply-adds a pixel, parameters) of a network, its options as JSON."""
    found = costs.cost(name, json.loads(options), SIDE, SIDE)
    return found["macs"] / SIDE**2, found["total"]


@cache
def parts(split: str, dataset: str) -> Counter:
    """How many images are train, val and test. Empty where that is known only with the data."""
    file, ingested = paths.split(split), paths.native(dataset) / "manifest.csv"
    if file.exists():
        return Counter(row["split"] for row in files.table(file, "split"))
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
def rates() -> dict[str, float]:
    """{network: multiply-adds a second of one core} of the finished CPU trainings in runs/."""
    found: dict[str, list[float]] = {}
    for file in sorted(paths.run("").glob("*/*/*/manifest.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            m = files.read_json(file)  # an estimate goes by what is whole
            if m["device"]["type"] == "cpu":
                h, w = m["cost"]["image_size"]
                crop = m["parameters"]["train"]["augment"]["crop"]
                area = crop**2 if crop else h * w
                macs = BACKWARD * m["model"]["macs"] / (h * w) * area * m["cost"]["images"]
                found.setdefault(m["model"]["name"], []).append(macs / m["cost"]["cpu_seconds"])
    return {name: sum(values) / len(values) for name, values in found.items()}


def estimate(run: dict, recipe: schema.Recipe) -> Cost:
    """The cost of one run; of maps on other datasets too."""
    name, train = run["model"]["name"], run["train"]
    per_pixel, total = network(name, json.dumps(run["model"]["options"], sort_keys=True))
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
        training, drawing, (training + drawing) / rates().get(name, RATE),
        (f"{run['split']}/{run['recipe']}", pairs), 4 * total + 2 * pixels,
    )  # fmt: skip


def passes(inference: dict) -> float:
    """How often a pixel goes through the network: once, or in every patch that covers it."""
    return (inference["patch"] / inference["stride"]) ** 2 if inference["patch"] else 1.0


def summary(runs: list[dict], params: schema.Params) -> str:
    """A line for each campaign, and how the hours were made."""
    heads = {"runs": 6, "training": 17, "maps": 15, "core hours": 13, "disk": 10}
    lines = [f"{'campaign':20}" + "".join(f"{k:>{w}}" for k, w in heads.items())]
    for name in dict.fromkeys(run["campaign"] for run in runs):
        found = [estimate(r, params.recipes[r["recipe"]]) for r in runs if r["campaign"] == name]
        disk = sum(dict(c.pairs for c in found).values()) + sum(c.disk for c in found)
        lines.append(
            f"{name:20}{len(found):6}{sum(c.training for c in found) / 1e12:12,.1f} TMAC"
            f"{sum(c.drawing for c in found) / 1e12:10,.1f} TMAC"
            f"{sum(c.seconds for c in found) / 3600:13,.1f}{disk / 1e9:7,.2f} GB"
        )
    known = sum(r["model"]["name"] in rates() for r in runs)
    lines.append(f"at most; core hours at the rate of finished runs for {known} of {len(runs)} "
                 f"runs, at {RATE / 1e9:.0f} GMAC/s for the others")  # fmt: skip
    return "\n".join(lines)
