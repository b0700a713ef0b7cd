"""The weights that come with the package: NAME.safetensors, NAME.json, NAME.md in `weights/`.

The JSON says where the weights come from and what was measured of them; the card is that, for
people. `ship` makes all three from a finished run.
"""

import json
import math
from pathlib import Path

from resegment import closure
from resegment.errors import UserError
from resegment.files import md5, read_json

FOLDER = closure.PACKAGE / "weights"
MOST = 4_000_000  # bytes of the folder
EYES = "drive"  # whose weights serve where none are named
LEGEND = """\
*: used where no --model is given. F1 and AUC: test images, inside the field of view, at their own
size, pixels pooled, with the 95 % interval over images"""


def file(name: str, kind: str) -> Path:
    """kind: safetensors, json or md."""
    return FOLDER / f"{name}.{kind}"


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def load(name: str) -> dict:
    """What is known of a model. Raises UserError where there is none, or its weights differ."""
    if name not in names():
        have = ", ".join(names()) or "none yet: `resegment ship RUN` makes some from a finished run"
        raise UserError(f"no weights are called {name!r}; with this package come: {have}")
    known = read_json(file(name, "json"))
    if not file(name, "safetensors").is_file() or (
        md5(file(name, "safetensors")) != known["weights_md5"]
    ):
        raise UserError(f"{file(name, 'safetensors')} is not the file that {name}.json describes: "
                        "install the package again, or `git checkout` both")  # fmt: skip
    return known


def default() -> str:
    """The weights of DRIVE with the best F1 on validation images; test images have no say.

    Raises UserError where there are none.
    """
    f1 = {n: k["validation"]["f1"] for n in names() if (k := load(n))["dataset"] == EYES}
    if not f1:
        remedy = (f"name others with --model: {', '.join(names())}" if names() else
                  "`resegment ship RUN` makes them from a finished run")  # fmt: skip
        raise UserError(f"no weights of {EYES} come with this package: {remedy}")
    return max(f1, key=lambda n: rank(f1[n]))


def rank(f1: float | None) -> float:
    """An F1 to be compared by: where none is known, below all."""
    return -1.0 if f1 is None or math.isnan(f1) else f1


def text() -> str:
    """Every model with its figures, a line each."""
    if not names():
        return "no weights come with this package yet: `resegment ship RUN` makes some"
    first = default() if any(load(n)["dataset"] == EYES for n in names()) else None
    rows = [("", "name", "parameters", "trained on", "budget", "validation F1", "test F1", "AUC")]
    for name in names():
        known = load(name)
        scores = known["measured"][known["dataset"]]["scores"]
        rows.append((
            "*" if name == first else "", name, f"{known['model']['parameters']:,}",
            known["dataset"], known["budget"]["name"], number(known["validation"]["f1"]),
            interval(scores["f1"]), interval(scores["auc"]),
        ))  # fmt: skip
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ([cell.ljust(w) for cell, w in zip(row, wide, strict=True)] for row in rows)
    return "\n".join([*("  ".join(row).rstrip() for row in aligned), "", LEGEND])


def number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def interval(score: list[float | None]) -> str:
    """Of [value, low, high]: `0.8209 (0.8137 to 0.8281)`."""
    value, *ends = map(number, score)
    return value if "-" in ends else f"{value} ({ends[0]} to {ends[1]})"


SHOWN = {"f1": "F1", "se": "sensitivity", "sp": "specificity", "acc": "accuracy", "auc": "AUC"}
WORDS = {
    "fov": "inside the field of view", "frame": "the whole frame", "native": "at their own size",
    "network": "at the network's size", "pixels": "pixels pooled", "images": "mean of the images",
}  # fmt: skip
REDUCED = "  It is a declared reduction of the paper's schedule: the weights reproduce no paper.\n"


def card(known: dict) -> str:
    """The model card, Markdown, of what `load` gives."""
    model, data, budget, origin = (known[k] for k in ("model", "data", "budget", "origin"))
    images, seeds, scale, prints = (known[k] for k in ("images", "seeds", "scale", "fingerprints"))
    train, kept, own = known["parameters"]["train"], known["validation"], known["dataset"]
    options = ", ".join(f"{k} {json.dumps(v)}" for k, v in model["options"].items())
    crop = train["augment"]["crop"]
    seen = f"crops of {crop}x{crop} pixels" if crop else "images"
    campaign, experiment, _ = known["run"].split("/")
    measured = sorted(known["measured"].items(), key=lambda found: found[0] != own)
    rows = [[where, str(m["images"]), *(interval(m["scores"][k]) for k in SHOWN)]
            for where, m in measured]  # fmt: skip
    protocol, second = (known["measured"][own][k] for k in ("protocol", "second_observer_f1"))
    sd = f" ± {seeds['sd']:.4f} (standard deviation)" if seeds["sd"] is not None else ""
    return f"""\
# {known["name"]}

Blood vessels in colour photographs of the retina, by the network `{model["name"]}`
({", ".join(filter(None, [options, f"{model['parameters']:,} parameters"]))}).
Made by `resegment ship`, every number out of `{known["name"]}.json`, which says more.

## Where it comes from

* Data: {data["title"]}; {images["train"]} images to learn from, {images["val"]} for validation,
  {images["test"]} for the test. Terms: {data["licence"]}
  ({data["homepage"] or "made here"}). No image is in the weights; whether those terms
  bind them, too, is yours to judge.
* Budget: **{budget["name"]}**, {budget["epochs"]} epochs, {budget["samples"]:,} {seen} in all,
  {budget["wall_seconds"]:,.0f} s ({budget["cpu_seconds"]:,.0f} CPU-seconds) on a machine with
  {known["device"]["name"]}.
{REDUCED if known["paper"] and budget["name"] != "paper" else ""}\
* Seed {known["parameters"]["seed"]}, chosen: {seeds["chosen"]}. Weights of epoch {kept["epoch"]},
  F1 {number(kept["f1"])} on the validation images, measured as below.
* Run `{known["run"]}` of {known["trained"]}, code of commit {origin["git_commit"]}\
{", altered" if origin["git_dirty"] else ""}.
* Fingerprints: parameters `{prints["parameters"]}`,
  data `{prints["data"]}`, code `{prints["code"]}`,
  weights `{known["weights_md5"]}`.

## What was measured

Test images, {", ".join(WORDS[protocol[k]] for k in ("region", "space", "pooling"))};
threshold {known["threshold"]["value"]:.4f}, {known["threshold"]["chosen"]}. In
brackets the 95 % interval over images.

| test images of | n | {" | ".join(SHOWN.values())} |
|---|---|---|---|---|---|---|
{chr(10).join(f"| {' | '.join(row)} |" for row in rows)}

F1 of all {len(seeds["f1"])} seeds on {own}: {seeds["mean"]:.4f}{sd}. \
{f"A second person on the same images: {second:.4f}." if second else ""}

## What it is for, and what not

* Research on colour photographs of the retina. **It is no medical device**: nobody has tested it
  for diagnosis, screening or treatment.
* It knows the eyes and cameras of its data alone. On others expect less than the table says, least
  on ill eyes: haemorrhages, scars and the rim of the optic disc can pass for vessels, and vessels
  about a pixel wide are missed.
* A photograph is resized until its field of view is {scale["diameter"]} pixels wide, like those of
  the training images. Another angle of view than theirs makes vessels of another width.

## To repeat it

All runs of the campaign are trained again. The same bits come only of the same kind of CPU, number
of threads and PyTorch; elsewhere expect scores within the spread of the seeds.

```sh
git checkout {origin["git_commit"]}
make setup && . .venv/bin/activate
resegment data status {own}   # what is missing, and where to get it
# params.yaml: active: [{campaign.removesuffix(f"-{budget['name']}")}]
resegment plan && snakemake --cores 2
resegment ship {campaign}/{experiment} --name {known["name"]}
```
"""
