"""A campaign in pictures: curves, costs, protocols, the papers' figures, errors, the data.

Drawings go to reports/<campaign>/figures (SVG, no dataset pixels, may be published) and whatever
holds dataset pixels to reports/<campaign>/pictures (PNG, never in git). figures/captions.json
holds what is to be said under each of them. The same inputs give the same bytes: no date, no
version and no random id is written.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from resegment import files, paths
from resegment.errors import UserError
from resegment.figures import curves, papers, sheets, tradeoffs
from resegment.figures.campaign import experiments, manifest, shown, table

__all__ = ["CAPTIONS", "build", "captions", "experiments", "shown", "table"]

STYLE = Path(__file__).parents[1] / "style.mplstyle"

CAPTIONS = {
    "roc": "ROC curves under the common protocol, one line per seed. Right: around the operating "
    "points. Dot: the threshold frozen on the training images; diamond: the second observer. "
    "Light band: where nine in ten test images of one run lie (5 to 95 % quantile of the true "
    "positive rate at each false positive rate). Where there is a panel for each experiment, grey "
    "is the curve with the largest area.",
    "pr": "Precision-recall curves under the common protocol, one line per seed. Grey lines join "
    "points of equal F1 (0.1 to 0.9); dots and diamond as above. Light band: where nine in ten "
    "test images of one run lie (5 to 95 % quantile of precision at each recall). Where there is a "
    "panel for each experiment, grey is the curve with the largest area.",
    "training": "Loss, F1 on the validation images (if there are any) and learning rate, epoch by "
    "epoch, one colour per seed. Solid: training, dashed: validation.",
    "grid": "Best, median and worst test image by F1 under the common protocol. Prediction: "
    "probability of vessel, black 0, white 1. Analytic mask: green vessel found (TP), red vessel "
    "missed (FN), blue vessel invented (FP), black the rest and all outside the field of view.",
    "data": "Images as published, with the first observer's label, the field of view and, where "
    "there is one, the second observer's label.",
    "reliability": "Calibration: of the pixels given a probability, the share that is vessel "
    "(common protocol's region and size, test images pooled, a line for each seed). On the dotted "
    "line a probability means what it says; below it the network claims too much. Larger markers "
    "hold more pixels. ECE: the mean distance from the line, weighted by pixels, of these bins.",
}


def build(campaign: str, runs: list[dict]) -> None:
    """Write every figure and picture of a campaign (the name of its folder in reports/).

    Each run: run, experiment, budget, dataset, seed, protocol, geometry and splits {id: split}.
    """
    folder = paths.reports(campaign)
    with matplotlib.rc_context(fname=STYLE):
        drawn = _drawings(campaign, runs)
        said = {f"figures/{name}.svg": words for name, (_, words) in drawn.items()}
        with files.atomic_folder(folder / "pictures") as out:
            said |= {f"pictures/{name}": words for name, words in _pictures(runs, out).items()}
            files.write_manifest(out)
        with files.atomic_folder(folder / "figures") as out:
            for name, (figure, _) in drawn.items():
                _save(figure, out / f"{name}.svg")
            files.write_json(out / "captions.json", said)
            files.write_manifest(out)


def _save(figure: Figure, path: Path) -> None:
    """Lay out once, then draw once: left to itself, matplotlib draws all of it to lay it out."""
    FigureCanvasSVG(figure)  # whose text has the widths it will be drawn with
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)
    for ax in figure.axes:  # the solver's last bits differ from run to run, and name clip paths
        ax.set_position(np.round(ax.get_position(original=True).bounds, 9))
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def captions(campaign: str) -> dict[str, str]:
    """{"figures/roc.svg": what to say under it} of every figure and picture of a campaign."""
    path = paths.reports(campaign) / "figures/captions.json"
    if not path.exists():
        raise UserError(f"{path} is not here: run `resegment figures {campaign}`")
    return files.read_json(path)


def _drawings(campaign: str, runs: list[dict]) -> dict[str, tuple[Figure, str]]:
    """{name: (figure, caption)} of everything that shows no pixel of a dataset."""
    points, scores, history, bins, protocols = (
        table(campaign, t) for t in ("curves", "scores", "history", "calibration", "sensitivity")
    )
    names, manifests = experiments(runs), {r["run"]: manifest(r) for r in runs}
    bands = {name: curves.bands(shown(runs, name)) for name in names}
    out = {c: (curves.draw(c, points, scores, runs, bands), CAPTIONS[c]) for c in curves.AXES}
    for name in names:
        rows = history[history.experiment == name]
        seeds = ", ".join(rows.seed.unique())
        words = f"{name}, seed{'s' if rows.seed.nunique() > 1 else ''} {seeds}."
        out[f"training_{name}"] = curves.training(rows), words
    out["calibration"] = curves.reliability(bins, names), CAPTIONS["reliability"]
    differences = tradeoffs.moved(protocols)
    words = _of_sensitivity(differences)
    out["sensitivity"] = tradeoffs.sensitivity(differences, names), words
    words = _of_pareto(runs, manifests)
    out["pareto"] = tradeoffs.pareto(scores, runs, manifests), words
    return out | papers.draw_curves(points, scores, runs)


def _pictures(runs: list[dict], folder: Path) -> dict[str, str]:
    """Write every picture; {file name: caption}."""
    out = {}
    for name in experiments(runs):
        run = shown(runs, name)
        found = sheets.grid(run, folder)
        who = f"{name}, seed {run['seed']}"
        ranks = ", ".join(f"{e['rank']} {e['id']} (F1 {e['f1']:.4f})" for e in found)
        out[f"{name}.png"] = f"{who}: {ranks}."
        for e in found:
            if "overlay" in e:
                out[e["overlay"]] = (
                    f"{who}: its {e['rank']} test image, {e['id']} (F1 {e['f1']:.4f} under the "
                    "common protocol), every pixel of it, the image dimmed. Green: vessel found "
                    "(TP); red: missed (FN); blue: invented (FP)."
                )
    out |= papers.draw_pictures(runs, folder)
    sheets.data(runs, folder / "data.png")
    return out | {"data.png": CAPTIONS["data"]}


def _of_sensitivity(differences: pd.DataFrame) -> str:
    moves = {m: tradeoffs.extents(differences, m) for m in tradeoffs.SHORT}
    said = ", ".join(
        f"{tradeoffs.SHORT[m]} {spans.median():.4f} (at most {spans.max():.4f})"
        for m, spans in moves.items()
        if len(spans)
    )
    return (
        "What the protocol alone does to a score: the same maps, scored in sixteen ways, as the "
        "difference to the common protocol (means over seeds). Grey bar: the whole range. The "
        "panels of a block share their scale; what lies further out stands on the border. At the "
        "threshold of the training images (first block), region, size and pooling move the score "
        f"of the median network by: {said}."
    )


def _of_pareto(runs: list[dict], manifests: dict[str, dict]) -> str:
    cost = tradeoffs.costs(runs, manifests)
    devices = {
        f"{d.get('type', 'device')} {d.get('name', 'not recorded')}"
        for d in (m.get("device", {}) for m in manifests.values())
    }
    text = (
        "F1 under the common protocol (mean over seeds) against what the network costs: parameters "
        "with the statistics of batch normalisation, multiply-adds and time for one whole image at "
        "the size the network saw. Bars: the 95 % interval from resampling the test images. One "
        "colour for each architecture; ringed and joined: nothing cheaper is better on the same "
        "images. Times were "
        f"measured on {', '.join(sorted(devices))}"
        f"{', which cannot be compared with one another' if len(devices) > 1 else ''}."
    )
    for column, title in tradeoffs.COSTS.items():
        if absent := list(cost.index[cost[column].isna()]):
            text += f" Not recorded, {title}: {', '.join(absent)}."
    return text
