"""One self-contained page per campaign: reports/<campaign>/report.html.

Everything is inside the file (style, script, drawings, pictures), so it opens from a disk without
a network. The page is made of plain values prepared here and of templates/report.html; every
value passes through jinja2's escaping.
"""

import re
from itertools import groupby
from pathlib import Path
from statistics import median

import jinja2
import pandas as pd

from resegment import figures, files, native, paths, published, verdicts
from resegment.datasets import registry
from resegment.errors import UserError
from resegment.figures.papers import NAMES
from resegment.report import evidence, pictures

TEMPLATES = Path(__file__).parents[1] / "templates"
METRICS = {
    "se": ("Se", "sensitivity, recall"),
    "sp": ("Sp", "specificity"),
    "acc": ("Acc", "accuracy"),
    "precision": ("Pr", "precision"),
    "f1": ("F1", "F1 score, Dice coefficient"),
    "iou": ("IoU", "intersection over union, Jaccard index"),
    "mcc": ("MCC", "Matthews correlation coefficient"),
    "auc": ("AUC", "area under the ROC curve"),
    "ap": ("AP", "average precision"),
}
FURTHER = {  # calibration and structure
    "ece": ("ECE", "expected calibration error of 15 bins, 0 is best"),
    "brier": ("Brier", "mean squared error of the probabilities, 0 is best"),
    "cldice": ("clDice", "Dice coefficient of the centrelines"),
    "betti0_error": ("Betti 0 error", "how far the number of connected parts is off, 0 is best"),
    "betti1_error": ("Betti 1 error", "how far the number of holes is off, 0 is best"),
    "se_thin": ("Se, thin", "sensitivity on the pixels of thin vessels"),
    "se_thick": ("Se, thick", "sensitivity on the pixels of thick vessels"),
}
ALL = METRICS | FURTHER
COUNTED = {"params_m": "parameters, M", "trainable": "trainable parameters", "gmacs": "GMACs"}
COUNTED |= {"val_loss_rise": "rise of the validation loss"}
DIGITS = {
    "betti0_error": 1,
    "betti1_error": 1,
    "params_m": 6,
    "trainable": 0,
}  # of a number; of the rest, 4


def build(campaign: str, runs: list[dict]) -> None:
    """Write the page of a campaign (the name of its folder in reports/) after its figures.

    Each run: run, experiment, budget, dataset, seed, protocol, geometry and splits {id: split}.
    """
    runs = [{**r, "anchor": _anchor("run", r["run"].removeprefix(f"{campaign}/"))} for r in runs]
    links = {run["run"]: run["anchor"] for run in runs}
    scores = figures.table(campaign, "scores")
    found = [_found(name, runs, scores) for name in figures.experiments(runs)]
    ledger = _ledger(figures.table(campaign, "ledger"), links, found)
    panels = [_panel(run, scores) for run in runs]
    costs = [_cost(e["name"], panels) for e in found]
    claims = evidence.claims(figures.table(campaign, "claims"), found)
    audit = evidence.records(figures.table(campaign, "audit"))
    deviations = _deviations(ledger, runs)
    page = {
        "campaign": campaign,
        "budgets": sorted({run["budget"] for run in runs} - {"paper"}),
        "sample": any(run["dataset"] == "sample" for run in runs),
        "found": found,
        "observers": _observers(scores, runs),
        "leaders": _leaders(found),
        "ledger": ledger,
        "tally": {
            v: sum(c["verdict"] == v for p in ledger for c in p["rows"]) for v in verdicts.NUMBER
        },
        "deviations": deviations,
        "claims": claims,
        "claim_tally": {v: sum(c["verdict"] == v for c in claims) for v in verdicts.CLAIM},
        "comparisons": evidence.comparisons(figures.table(campaign, "comparisons")),
        "sensitivity": evidence.sensitivity(figures.table(campaign, "sensitivity"), found),
        "moved": evidence.MOVED,
        "audit": audit,
        "parts": evidence.papers(NAMES, found, claims, audit, deviations),
        "datasets": [_dataset(name, runs) for name in dict.fromkeys(r["dataset"] for r in runs)],
        "panels": panels,
        "costs": costs,
        "cross": _cross(figures.table(campaign, "cross"), found),
        "timed_on": sorted({device for cost in costs for device in cost["ms"]}),
        **{k: sum(p["cost"].get(k, 0) for p in panels) for k in ("wall_seconds", "cpu_seconds")},
        "images": _images(campaign, runs),
        "captions": figures.CAPTIONS,
        "said": figures.captions(campaign),
        "metrics": METRICS,
        "further": FURTHER,
        "known": {k: v[1] for k, v in ALL.items()},
        "labels": {k: v[0] for k, v in ALL.items()} | COUNTED,
        "papers": NAMES,
    }
    loader = jinja2.FileSystemLoader(TEMPLATES)
    env = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=True,
                             undefined=jinja2.StrictUndefined)  # fmt: skip
    env.filters |= {"number": _number, "duration": _duration}
    env.globals["digits"] = lambda metric: DIGITS.get(metric, 4)
    with files.atomic(paths.reports(campaign) / "report.html") as tmp:
        tmp.write_text(env.get_template("report.html").render(page), encoding="utf-8")


def _anchor(kind: str, name: str) -> str:
    """An id for the page: letters, digits and hyphens only."""
    return f"{kind}-{re.sub('[^A-Za-z0-9_-]+', '-', name)}"


def _number(value: float | None, digits: int = 4) -> str:
    """A fraction with four decimals; a dash where there is no number."""
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    """Seconds in the unit a person would say."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _cell(rows: pd.DataFrame) -> dict:
    """The scores of one metric over the seeds: mean, sd (None for one seed), mean interval."""
    mean = rows.value.mean()
    return {
        "mean": mean,
        "sd": rows.value.std(ddof=1) if len(rows) > 1 else None,
        "low": rows.ci_low.mean(),
        "high": rows.ci_high.mean(),
        "order": -1.0 if pd.isna(mean) else mean,
    }


def _cells(rows: pd.DataFrame) -> dict:
    return {metric: _cell(rows[rows.metric == metric]) for metric in ALL}


def _found(name: str, runs: list[dict], scores: pd.DataFrame) -> dict:
    """What one experiment measured, under the common protocol and under its paper's."""
    mine = [run for run in runs if run["experiment"] == name]
    first, group = mine[0], _anchor("runs", name)
    rows = scores[(scores.experiment == name) & (scores.seed != "observer2")]
    if rows.empty:
        raise UserError(f"reports: scores.csv has no row of {name}: run `snakemake` or `dvc repro`")
    common, own = (rows[rows.protocol == p] for p in ("common", first["protocol"]))
    return {
        "name": name,
        "runs": mine,
        "dataset": first["dataset"],
        "paper": first.get("paper"),
        "rows": first.get("rows", []),
        "protocol": first["protocol"],
        "meaning": _meaning(first),
        "group": group,
        "target": group if len(mine) > 1 else first["anchor"],
        "n_images": int(common.n_images.iloc[0]),
        "common": _cells(common),
        "own": _cells(own),
        "threshold": common.threshold.mean(),
        "own_threshold": own.threshold.mean(),
    }


def _meaning(run: dict) -> str:
    """The paper's protocol in words, as the scores were made with it."""
    path = paths.scores(run["run"]) / "manifest.json"
    known = files.read_json(path).get("protocols", {}) if path.exists() else {}
    if not (p := known.get(run["protocol"])):
        return ""
    return (
        f"{'pixels inside the field of view' if p['region'] == 'fov' else 'all pixels'}, "
        f"{'original size' if p['space'] == 'native' else 'the size the network sees'}, "
        f"{'pooled over images' if p['pooling'] == 'pixels' else 'mean of the images'}, threshold "
        f"{'frozen on the training images' if p['threshold'] == 'train' else p['threshold']}"
    )


def _observers(scores: pd.DataFrame, runs: list[dict]) -> list[dict]:
    """Second observers under the common protocol: one per dataset and set of test images."""
    out = {}
    rows = scores[(scores.seed == "observer2") & (scores.protocol == "common")]
    for name in figures.experiments(runs):
        mine = rows[rows.experiment == name].drop_duplicates("metric").dropna(subset="value")
        if len(mine):
            about = mine.dataset.iloc[0], int(mine.n_images.iloc[0])
            one = dict(zip(("dataset", "n_images"), about, strict=True), values=_cells(mine))
            out.setdefault((*about, *mine.value), one)
    return list(out.values())


def _ledger(table: pd.DataFrame, links: dict, found: list[dict]) -> list[dict]:
    """The ledger by paper: rows with the place of their runs on the page, deviations as lists,
    those that all rows of a paper share apart."""
    table = table.astype(object).where(table.notna(), None)
    groups = {e["name"]: e["group"] for e in found}
    rows = table.to_dict("records")
    for row in rows:
        row["deviations"] = (row["deviations"] or "").split()
        known = [links[r] for r in (row["runs"] or "").split() if r in links]
        several = len(known) > 1 and row["experiment"] in groups
        row["target"] = groups[row["experiment"]] if several else next(iter(known), None)
    parts = []
    for paper, members in groupby(rows, lambda row: row["paper"]):
        members = list(members)
        named = [row["deviations"] for row in members if row["deviations"]]
        shared = [d for d in (named or [[]])[0] if all(d in n for n in named)]
        for row in members:
            row["deviations"] = [d for d in row["deviations"] if d not in shared]
        parts.append({"paper": paper, "rows": members, "shared": shared})
    return parts


def _leaders(found: list[dict]) -> list[dict]:
    """The highest F1 of those that were tested on the same images."""
    tested: dict[tuple, list[dict]] = {}
    for e in found:
        tested.setdefault((e["dataset"], e["n_images"]), []).append(e)
    return [max(group, key=lambda e: e["common"]["f1"]["order"]) for group in tested.values()]


def _deviations(ledger: list[dict], runs: list[dict]) -> list[dict]:
    """Rows of deviations.csv that the ledger names or that belong to a paper of these runs."""
    named = {d for part in ledger for d in part["shared"]}
    named |= {d for part in ledger for row in part["rows"] for d in row["deviations"]}
    papers = {"all", *(run.get("paper") for run in runs)}
    rows = published.deviations().to_dict("records")
    kept = [row for row in rows if row["id"] in named or row["paper"] in papers]
    return [{**row, "anchor": _anchor("deviation", row["id"])} for row in kept]


def _dataset(name: str, runs: list[dict]) -> dict:
    """What is known of a dataset, and how many images stand in each split."""
    images = list(native.manifest(name).values())
    splits = {}
    for run in (r for r in runs if r["dataset"] == name):
        parts = list(run["splits"].values())
        counts = tuple(parts.count(part) for part in native.SPLITS)
        splits.setdefault(counts, []).append(run["experiment"])
    return {
        "name": name,
        "about": registry.load().get(name),
        "images": len(images),
        "subjects": len({i["subject"] for i in images}),
        "sizes": sorted({f"{i['width']} × {i['height']}" for i in images}),
        "fov": sorted({i["fov_source"] for i in images}),
        "second": sum(bool(i["observer2"]) for i in images),
        "splits": [(counts, list(dict.fromkeys(names))) for counts, names in splits.items()],
    }


def _panel(run: dict, scores: pd.DataFrame) -> dict:
    """One run with its manifest: what was asked, where it comes from, what it cost and measured."""
    path = paths.run(run["run"]) / "manifest.json"
    if not path.exists():
        raise UserError(f"{path} is not here: run `snakemake` or `dvc repro` to train the run")
    manifest = files.read_json(path)
    mine = scores[(scores.run == run["run"]) & (scores.seed != "observer2")]
    protocols = list(dict.fromkeys(["common", run["protocol"]]))
    parts = {p: mine[mine.protocol == p].set_index("metric") for p in protocols}
    values = {
        metric: [
            rows.loc[metric].to_dict() if metric in rows.index else None for rows in parts.values()
        ]
        for metric in ALL
        if any(metric in rows.index for rows in parts.values())
    }
    facts = ("model", "device", "versions", "cost", "fingerprints", "parameters")
    rest = {k: v for k, v in manifest.items() if k not in (*facts, "weights_md5")}
    return {
        "run": run,
        "manifest": manifest,
        "origin": manifest.get("origin", {}),
        "cost": manifest.get("cost", {}),
        "tables": {
            "Parameters": _flat(manifest.get("parameters", {})),
            "Fingerprints": _flat(manifest.get("fingerprints", {})),
            "Device, versions and cost": _flat({k: manifest.get(k, {}) for k in facts[:4]}),
            "The rest of the manifest": _flat(rest),
        },
        "protocols": protocols,
        "values": values,
    }


def _cross(table: pd.DataFrame, found: list[dict]) -> dict | None:
    """F1 under the common protocol of every experiment on every dataset its campaign names, its
    own test images among them; None where it names none."""
    rows = table[(table.metric == "f1") & (table.protocol == "common")]
    if rows.empty:
        return None
    parts = []
    for e in found:
        mine = rows[rows.experiment == e["name"]]
        cells = {d: _cell(mine[mine.scored_on == d]) for d in mine.scored_on.unique()}
        parts.append({**e, "cells": cells | {e["dataset"]: e["common"]["f1"]}})
    return {"datasets": sorted({d for p in parts for d in p["cells"]}), "rows": parts}


def _cost(name: str, panels: list[dict]) -> dict:
    """What the network of one experiment costs, by the manifests of its runs, None where they do
    not say: parameters, multiply-adds at the size it saw, MiB as float32, and for each device the
    milliseconds an image took, the median over seeds."""
    manifests = [p["manifest"] for p in panels if p["run"]["experiment"] == name]
    model = manifests[0].get("model", {})
    options = manifests[0].get("parameters", {}).get("model", {}).get("options")
    sizes = [m["cost"]["image_size"] for m in manifests if m.get("cost", {}).get("image_size")]
    took = {}
    for m in manifests:
        if (seconds := m.get("cost", {}).get("image_seconds")) is not None:
            took.setdefault(_device(m.get("device", {})), []).append(1000 * seconds)
    total, macs = model.get("total"), model.get("macs")
    return {
        "name": name,
        "model": model.get("name"),
        "options": _flat(options) if options else [],
        "trainable": model.get("trainable"),
        "total": total,
        "size": sizes[0] if sizes else None,
        "gmacs": None if macs is None else macs / 1e9,
        "mib": None if total is None else total * 4 / 2**20,
        "ms": {device: median(times) for device, times in took.items()},
    }


def _device(device: dict) -> str:
    """A manifest's device in words; threads matter to a CPU only."""
    words = f"{device.get('type', 'device')}: {device.get('name', 'not recorded')}"
    threads = device.get("threads")
    if device.get("type") != "cpu" or threads is None:
        return words
    return f"{words}, {threads} thread{'' if threads == 1 else 's'}"


def _flat(value: object, name: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, text) rows."""
    if isinstance(value, dict):
        return [row for k, v in value.items() for row in _flat(v, f"{name}.{k}".lstrip("."))]
    return [(name, "–" if value is None else str(value))]


def _images(campaign: str, runs: list[dict]) -> dict[str, list[str]]:
    """Data URIs by name, `pictures.inside`, with everything a page cannot do without."""
    folder = paths.reports(campaign)
    out = pictures.inside(folder)
    needed = ["figures/roc.svg", "figures/pr.svg", "pictures/data.png"]
    for name in figures.experiments(runs):
        needed += [f"figures/training_{name}.svg", f"pictures/{name}.png"]
    if absent := [name for name in needed if name not in out]:
        raise UserError(f"{folder / absent[0]} is not here: run `resegment figures {campaign}`")
    return out
