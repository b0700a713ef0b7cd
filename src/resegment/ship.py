"""From a finished run to weights that come with the package: nothing in them is typed by hand.

A run is shipped only if `proof` has no doubt of it, nor of the other seeds, whose scores its card
quotes beside its own. Which seed it is, validation images decide.
"""

import json
import math
import re
from pathlib import Path

import numpy as np

from resegment import config, drawn, native, paths, proof, schema, shipped, stats
from resegment.datasets import photograph, registry
from resegment.errors import UserError
from resegment.files import atomic, md5, read_json, table
from resegment.metrics import METRICS

PROTOCOL = "common"


def ship(name: str, params: schema.Params, called: str = "") -> str:
    """Write NAME.safetensors, NAME.json and NAME.md of a run; returns NAME.

    name: a run, or CAMPAIGN/EXPERIMENT for that of its seeds with the best F1 on validation images.
    called: NAME, else the experiment's. Raises UserError for a run that is not finished or not
    proven, one that did not learn from fundus photographs, where another experiment's weights have
    that name, and where all would be more than `shipped.MOST` bytes.
    """
    seeds, run, how = chosen(name, params)
    called = called or run["experiment"]
    if not re.fullmatch("[a-z0-9][a-z0-9_-]*", called):
        raise UserError(f"--name {called}: use small letters, digits, - and _ alone")
    proof.demand(seeds, params)
    if called in shipped.names():
        other = read_json(shipped.file(called, "json"))["run"].rpartition("/")[0]
        if other != run["run"].rpartition("/")[0]:
            raise UserError(f"{called} is the name of {other}'s weights: give --name, or remove "
                            f"{shipped.file(called, 'json')}")  # fmt: skip
    known = provenance(called, run, seeds, how)
    weights = (paths.run(run["run"]) / proof.WEIGHTS).read_bytes()
    text = json.dumps(known, sort_keys=True, indent=1) + "\n"
    card = shipped.card(json.loads(text))  # of what stands there: keys in its order
    made = {"safetensors": weights, "json": text.encode(), "md": card.encode()}
    others = [p for p in shipped.FOLDER.glob("*.*") if p.stem != called]
    total = sum(p.stat().st_size for p in others) + sum(map(len, made.values()))
    if total > shipped.MOST:
        raise UserError(f"{shipped.FOLDER} would hold {total / 1e6:.1f} MB, and packages should "
                        f"stay below {shipped.MOST / 1e6:.0f}: ship a smaller network, or remove "
                        "one from there")  # fmt: skip
    for kind, data in made.items():
        with atomic(shipped.file(called, kind)) as tmp:
            tmp.write_bytes(data)
    shipped.load(called)  # the file whose MD5 the run's manifest has, proven above
    return called


def chosen(name: str, params: schema.Params) -> tuple[list[dict], dict, str]:
    """All finished seeds of an experiment, the one to ship, and how it was chosen."""
    known = config.runs(params, tuple(params.campaigns))
    seeds = [r for r in known if name in (r["run"], r["run"].rpartition("/")[0])]
    if not seeds:
        config.find(params, name)  # says that there is none
    named = seeds[0]["run"] == name
    if missing := [file for r in seeds for file in _needed(r) if not file.is_file()]:
        raise UserError(f"{missing[0]} is missing: `dvc checkout`, or train, predict and score "
                        "the run first")  # fmt: skip
    if named:
        run, group = seeds[0], name.rpartition("/")[0]
        also = [r for r in known if r["run"].rpartition("/")[0] == group]
        seeds = [r for r in also if all(f.is_file() for f in _needed(r))]
        return seeds, run, "named"
    run = max(seeds, key=lambda r: shipped.rank(validation(r)["f1"]))
    return seeds, run, f"the best F1 on validation images of {len(seeds)} seeds"


def _needed(run: dict) -> list[Path]:
    at = paths.run(run["run"])
    scored = [paths.scores(run["run"]) / n for n in ("metrics.json", proof.MANIFEST)]
    return [*(at / n for n in proof.TRAINED), *scored]


def validation(run: dict) -> dict:
    """The epoch whose weights were kept, and their F1 on the validation images, None without any:
    protocol common, at the threshold that is shipped."""
    manifest = read_json(paths.run(run["run"]) / proof.MANIFEST)
    epoch = manifest["best_epoch" if manifest["weights_of"] == "best" else "epochs_run"]
    rows = table(paths.scores(run["run"]) / "images.csv", "protocol", "split", "tp", "fp", "fn")
    seen = [r for r in rows if (r["protocol"], r["split"]) == (PROTOCOL, "val")]
    tp, fp, fn = (sum(int(r[k]) for r in seen) for k in ("tp", "fp", "fn"))
    f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None  # without vessels it is undefined
    return {"epoch": epoch, "f1": _plain(f1)}


def provenance(name: str, run: dict, seeds: list[dict], how: str) -> dict:
    """All that is known of a model, as NAME.json holds it."""
    manifest = read_json(paths.run(run["run"]) / proof.MANIFEST)
    scores = read_json(paths.scores(run["run"]) / "metrics.json")
    entry = registry.load().get(run["dataset"])
    f1 = {str(r["seed"]): read_json(paths.scores(r["run"]) / "metrics.json")[PROTOCOL]["f1"]
          for r in seeds}  # fmt: skip
    mean, sd = stats.over_seeds(list(f1.values()))
    parts = list(drawn.of(run)["splits"].values())
    return {
        "name": name,
        "run": run["run"],
        "paper": run["paper"],
        "weights_md5": manifest["weights_md5"],
        "fingerprints": manifest["fingerprints"],
        "manifest_md5": md5(paths.run(run["run"]) / proof.MANIFEST),
        "scores_md5": md5(paths.scores(run["run"]) / proof.MANIFEST),
        "origin": manifest["origin"],
        "versions": manifest["versions"],
        "device": manifest["device"],
        "trained": manifest["started"],
        "model": run["model"] | {"parameters": manifest["model"]["trainable"]},
        "parameters": manifest["parameters"],
        "budget": {"name": run["budget"], "epochs": manifest["epochs_run"],
                   "samples": manifest["cost"]["images"],
                   **{k: manifest["cost"][k] for k in ("wall_seconds", "cpu_seconds")}},
        "dataset": run["dataset"],
        "images": {part: parts.count(part) for part in ("train", "val", "test")},
        "data": {k: getattr(entry, k) for k in ("title", "licence", "homepage", "cite")}
        if entry else {"title": "procedural fundus images", "licence": "that of this package",
                       "homepage": "", "cite": ""},
        "scale": scale(run),
        **{k: run[k] for k in ("geometry", "enhance", "inference")},
        "threshold": {"value": scores[PROTOCOL]["threshold"],
                      "chosen": f"best pooled F1 on the training images, protocol {PROTOCOL}"},
        "seeds": {"chosen": how, "f1": f1, "mean": _plain(mean), "sd": _plain(sd)},
        "validation": validation(run),
        "measured": dict(_measured(run, d) for d in (None, *run["cross"])
                         if (paths.scores(_key(run, d)) / "metrics.json").is_file()),
    }  # fmt: skip


def scale(run: dict) -> dict:
    """The frame (height, width) of the training images, and the median of their fields of view's
    diameters, px, found as in any photograph."""
    rows, parts = native.manifest(run["dataset"]), drawn.of(run)["splits"]
    images = [native.image(run["dataset"], rows[i]) for i in parts if parts[i] == "train"]
    eyes = [photograph.eye(image) for image in images]
    frames = {image.shape[:2] for image in images}
    diameter = int(np.median([eye.diameter for eye in eyes]))
    frame = min(frames)
    if len(frames) > 1 or diameter > min(frame) or not all(eye.found for eye in eyes):
        raise UserError(f"{run['run']} cannot be shipped: its scale is unknown, for the training "
                        f"images of {run['dataset']} are not all of one size with all of the field "
                        "of view in sight")  # fmt: skip
    return {"diameter": diameter, "frame": list(frame)}


def _key(run: dict, dataset: str | None) -> str:
    return paths.cross(run["run"], dataset) if dataset else run["run"]


def _measured(run: dict, dataset: str | None) -> tuple[str, dict]:
    """A dataset, and the scores of its test images with their 95 % intervals over images."""
    folder = paths.scores(_key(run, dataset))
    found = read_json(folder / "metrics.json")
    bounds = stats.intervals(folder, PROTOCOL)
    values = {m: [_plain(x) for x in (found[PROTOCOL][m], *bounds[m])] for m in METRICS}
    second = found.get("observer2", {}).get(PROTOCOL, {}).get("f1")
    return dataset or run["dataset"], {
        "images": found[PROTOCOL]["n_images"], "scores": values, "second_observer_f1": second,
        "protocol": read_json(folder / proof.MANIFEST)["protocols"][PROTOCOL],
    }  # fmt: skip


def _plain(value: float | None) -> float | None:
    """A number as JSON has it."""
    return None if value is None or math.isnan(value) else round(value, 9)
