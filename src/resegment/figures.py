"""A campaign in pictures: training curves, ROC and PR curves, the papers' grid, the data.

Drawings go to reports/<campaign>/figures (SVG, no dataset pixels, may be published) and whatever
holds dataset pixels to reports/<campaign>/pictures (PNG, never in git). The same inputs give the
same bytes: no date, no version and no random id is written.
"""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resegment import native, paths
from resegment.errors import UserError
from resegment.files import atomic_folder, write_manifest
from resegment.geometry import restore

STYLE = Path(__file__).with_name("style.mplstyle")
TP, FN, FP = (0, 255, 0), (255, 0, 0), (0, 0, 255)  # RGB; RGA-Net figs 2-3, Mini-Net fig 2
CELL = 565  # widest image of a sheet, px: DRIVE stays at its own size, larger sets are reduced
SAMPLES = 4  # images of each dataset on the contact sheet
AREA = {"roc": "auc", "pr": "ap"}
AXES = {
    "roc": ("false positive rate (share of background, 1 - Sp)", "true positive rate (Se)"),
    "pr": (
        "recall (share of vessel pixels found, Se)",
        "precision (share of found that is vessel)",
    ),
}

CAPTIONS = {
    "roc": "ROC curves under the common protocol, one line per seed. Right: around the operating "
    "points. Dot: the threshold frozen on the training images; diamond: the second observer.",
    "pr": "Precision-recall curves under the common protocol, one line per seed. Grey lines join "
    "points of equal F1 (0.1 to 0.9); dots and diamond as above.",
    "training": "Loss, F1 on the validation images (if there are any) and learning rate, epoch by "
    "epoch, one colour per seed. Solid: training, dashed: validation.",
    "grid": "Best, median and worst test image by F1 under the common protocol. Prediction: "
    "probability of vessel, black 0, white 1. Analytic mask: green vessel found (TP), red vessel "
    "missed (FN), blue vessel invented (FP), black the rest and all outside the field of view.",
    "data": "Images as published, with the first observer's label, the field of view and, where "
    "there is one, the second observer's label.",
}


def table(campaign: str, name: str) -> pd.DataFrame:
    """Read reports/<campaign>/<name>.csv. Seeds and printed numbers are text."""
    path = paths.reports(campaign) / f"{name}.csv"
    if not path.exists():
        raise UserError(f"{path} is not here: run `snakemake` or `dvc repro` to make it")
    return pd.read_csv(path, dtype={"seed": str, "published": str})


def build(campaign: str, runs: list[dict]) -> None:
    """Write every figure and picture of a campaign (the name of its folder in reports/).

    Each run: run, experiment, budget, dataset, seed, protocol, geometry and splits {id: split}.
    """
    curves, scores, history = (table(campaign, t) for t in ("curves", "scores", "history"))
    folder = paths.reports(campaign)
    with matplotlib.rc_context(fname=STYLE):
        drawn = {curve: _curves(curve, curves, scores, runs) for curve in AXES}
        for name in experiments(runs):
            drawn[f"training_{name}"] = _training(history[history.experiment == name])
        with atomic_folder(folder / "figures") as out:
            for name, figure in drawn.items():
                figure.savefig(out / f"{name}.svg", metadata={"Date": None, "Creator": None})
            write_manifest(out)
        with atomic_folder(folder / "pictures") as out:
            for name in experiments(runs):
                _grid(shown(runs, name), out / f"{name}.png")
            _data(runs, out / "data.png")
            write_manifest(out)


def experiments(runs: list[dict]) -> list[str]:
    """The experiments in the order of the runs, each once."""
    return list(dict.fromkeys(r["experiment"] for r in runs))


def shown(runs: list[dict], experiment: str) -> dict:
    """The run whose images are shown: seed 0, or the lowest there is."""
    return min((r for r in runs if r["experiment"] == experiment), key=lambda r: r["seed"])


def _point(curve: str, row: pd.Series) -> tuple[float, float]:
    """A row of scores as a point of that curve's plane."""
    return (1 - row["sp"], row["se"]) if curve == "roc" else (row["se"], row["precision"])


def _curves(curve: str, curves: pd.DataFrame, scores: pd.DataFrame, runs: list[dict]) -> Figure:
    """A row of two panels per dataset: the unit square, and the part where the dots are."""
    lines = curves[(curves.protocol == "common") & (curves.curve == curve)]
    scores = scores[scores.protocol == "common"]
    once = scores.drop_duplicates(["experiment", "seed", "metric"])
    points = once.pivot(index=["experiment", "seed"], columns="metric", values="value")
    names, datasets = experiments(runs), list(dict.fromkeys(r["dataset"] for r in runs))
    height = 3.7 * len(datasets) + 0.1 * len(names) + 0.4
    figure = Figure(figsize=(8, height), layout="constrained")
    panels = figure.subplots(len(datasets), 2, squeeze=False)
    dots, handles = {d: [] for d in datasets}, []
    for i, name in enumerate(names):
        dataset, look = shown(runs, name)["dataset"], _look(i)
        for _, line in lines[lines.experiment == name].groupby("seed"):
            for ax in panels[datasets.index(dataset)]:
                ax.plot(line.x, line.y, lw=1, **look)
        for seed, row in points.loc[name].iterrows():
            style = ("D", "black") if seed == "observer2" else ("o", look["color"])
            dots[dataset].append((*_point(curve, row), *style))
        areas = points.loc[name].drop(index="observer2", errors="ignore")[AREA[curve]]
        label = f"{name}: {AREA[curve].upper()} {areas.mean():.4f}"
        label += f" ± {areas.std(ddof=1):.4f}" if len(areas) > 1 else ""
        handles.append(Line2D([], [], label=label, **look))
    if "observer2" in set(scores.seed):
        diamond = {"ls": "", "marker": "D", "ms": 4, "color": "black"}
        handles.append(Line2D([], [], label="second observer", **diamond))
    for dataset, (whole, near) in zip(datasets, panels, strict=True):
        _frame(curve, whole, near, dots[dataset])
        whole.set(title=f"{dataset}: the whole range")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=3.2)
    return figure


def _look(i: int) -> dict:
    """Colour and dash of the i-th experiment: 8 colours, then the same with another dash."""
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {"color": colours[i % 8], "ls": ("-", "--", ":", "-.")[i // 8 % 4]}


def _frame(curve: str, whole: Axes, near: Axes, dots: list[tuple]) -> None:
    """Guides, dots (x, y, marker, colour), labels and limits of the two panels."""
    for ax in (whole, near):
        if curve == "roc":
            ax.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        for f1 in np.arange(0.1, 1, 0.1) if curve == "pr" else ():
            recall = np.linspace(f1 / (2 - f1), 1, 100)
            ax.plot(recall, f1 * recall / (2 * recall - f1), color="#cccccc", lw=0.6)
        for x, y, marker, colour in sorted(dict.fromkeys(dots), key=lambda d: d[2] == "D"):
            ax.plot(x, y, marker=marker, ms=5, color=colour, mec="white", mew=0.7, zorder=5)
        ax.set_xlabel(AXES[curve][0], size=7.5)
        ax.set_ylabel(AXES[curve][1], size=7.5)
    whole.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    near.set(title="around the thresholds used")
    if known := [d[:2] for d in dots if np.isfinite(d[:2]).all()]:
        low, high = np.clip([np.min(known, 0) - 0.08, np.max(known, 0) + 0.08], 0, 1)
        near.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _training(history: pd.DataFrame) -> Figure:
    """Loss, validation F1 if there is any, and the learning rate under it, against epoch."""
    scored = history.val_f1.notna().any()
    heights = [3, 2, 1.4] if scored else [3, 1.4]
    figure = Figure(figsize=(7, sum(heights) * 0.8 + 0.6), layout="constrained")
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    marker, handles = "o" if history.epoch.nunique() < 15 else None, []
    for i, (seed, rows) in enumerate(history.groupby("seed", sort=False)):
        look = {"color": _look(i)["color"], "marker": marker, "ms": 3, "lw": 1.2}
        handles.append(Line2D([], [], label=f"seed {seed}", **look))
        axes[0].plot(rows.epoch, rows.train_loss, **look)
        for ax, name, dash in ((axes[0], "val_loss", "--"), (axes[1], "val_f1", "-")):
            if len(known := rows.dropna(subset=name)):
                ax.plot(known.epoch, known[name], ls=dash, **look)
        axes[-1].plot(rows.epoch, rows.lr, drawstyle="steps-mid", **look)
    kinds = {"training": "-", "validation": "--"} if history.val_loss.notna().any() else {}
    handles += [Line2D([], [], ls=ls, label=k, color="#666666") for k, ls in kinds.items()]
    figure.legend(handles=handles, ncols=5, loc="outside upper right")
    axes[0].set(ylabel="loss (no unit)", ylim=(0, None))
    if scored:
        axes[1].set(ylabel="validation F1\n(0 to 1)", ylim=(0, 1))
    axes[-1].set(ylabel="learning rate\n(log scale)", xlabel="epoch", yscale="log")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    return figure


def analytic_mask(prediction: np.ndarray, label: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """(H, W) bool each -> (H, W, 3) uint8 RGB: TP green, FN red, FP blue, all else black."""
    out = np.zeros((*label.shape, 3), np.uint8)
    out[fov & prediction & label] = TP
    out[fov & ~prediction & label] = FN
    out[fov & prediction & ~label] = FP
    return out


def examples(run: dict) -> list[dict]:
    """Best, median and worst test image of a run: their rows of images.csv, and "rank"."""
    path = paths.scores(run["run"]) / "images.csv"
    rows = pd.read_csv(path, dtype={"id": str})
    rows = rows[(rows.protocol == "common") & (rows.split == "test")].dropna(subset="f1")
    if rows.empty:
        raise UserError(f"{path} has no test image with an F1 under common: score the run again")
    rows = rows.sort_values(["f1", "id"], ascending=[False, True]).to_dict("records")
    places = {"best": 0, "median": len(rows) // 2, "worst": len(rows) - 1}
    first = {place: rank for rank, place in reversed(places.items())}  # few images: each once
    return [{**rows[place], "rank": rank} for place, rank in sorted(first.items())]


def _grid(run: dict, path: Path) -> None:
    """The papers' figure: image | ground truth | prediction | analytic mask, three images."""
    known, rows = native.manifest(run["dataset"]), []
    for e in examples(run):
        image = native.image(run["dataset"], known[e["id"]])
        label, fov = (native.mask(run["dataset"], known[e["id"]], m) for m in ("label", "fov"))
        file = paths.predictions(run["run"]) / f"{e['id']}.png"
        if (stored := cv2.imread(str(file), cv2.IMREAD_UNCHANGED)) is None:
            raise UserError(f"{file} is missing or no image: run `snakemake` or `dvc repro` again")
        levels = restore(stored, run["geometry"], label.shape)
        mask = analytic_mask(levels / 65535 > e["threshold"], label, fov)
        rows.append((f"{e['rank']}: {e['id']}, F1 {e['f1']:.4f}", [image, label, levels, mask]))
    _sheet(("image", "ground truth", "prediction", "analytic mask"), rows, path, legend=True)


def _data(runs: list[dict], path: Path) -> None:
    """Four images of each dataset, spread over its list, with all that is known of them."""
    rows = []
    for dataset in dict.fromkeys(r["dataset"] for r in runs):
        splits = next(r["splits"] for r in runs if r["dataset"] == dataset)
        known = list(native.manifest(dataset).values())
        for i in np.unique(np.linspace(0, len(known) - 1, SAMPLES).round().astype(int)):
            masks = (native.mask(dataset, known[i], m) for m in ("label", "fov", "observer2"))
            cells = [native.image(dataset, known[i]), *(m for m in masks if m is not None)]
            name = known[i]["id"]
            rows.append((f"{dataset}: {name} ({splits.get(name, 'not used')})", cells))
    _sheet(("image", "ground truth", "field of view", "second observer"), rows, path)


def _sheet(titles: tuple, rows: list[tuple[str, list]], path: Path, legend: bool = False) -> None:
    """Place the cells pixel by pixel on a white page; row titles above, column titles on top.

    A cell is (H, W, 3) uint8 RGB, (H, W) bool or (H, W) uint16 with 65535 as white.
    """
    rows = [(title, [_fit(c) for c in cells]) for title, cells in rows]
    wide = max(c.shape[1] for _, cells in rows for c in cells)
    gap, line = wide // 40, wide // 11
    tall = [max(c.shape[0] for c in cells) for _, cells in rows]
    titles = titles[: max(len(cells) for _, cells in rows)]
    width = len(titles) * (wide + gap) + gap
    height = line * (2 if legend else 1) + sum(h + line + gap for h in tall)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)

    def write(x: float, y: float, text: str, **how) -> None:
        figure.text(x / width, 1 - y / height, text, va="center", fontsize=line * 0.42, **how)

    for k, title in enumerate(titles):
        write(gap + k * (wide + gap), line * 0.55, title, weight="bold")
    y = line
    for (title, cells), h in zip(rows, tall, strict=True):
        write(gap, y + line * 0.5, title)
        y += line
        for k, cell in enumerate(cells):
            place = (gap + k * (wide + gap), height - y - cell.shape[0])
            figure.figimage(cell, *place, cmap="gray", vmin=0, vmax=255)
        y += h + gap
    words = (("TP: vessel found", TP), ("FN: vessel missed", FN), ("FP: vessel invented", FP))
    for k, (text, colour) in enumerate(words if legend else ()):
        box = {"facecolor": np.array(colour) / 255, "edgecolor": "#555555", "pad": line * 0.1}
        write(gap + (k + 1) * (wide + gap) + line * 0.12, y + line * 0.35, "  ", bbox=box)
        write(gap + (k + 1) * (wide + gap) + line * 0.8, y + line * 0.35, text)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _fit(cell: np.ndarray) -> np.ndarray:
    """A cell in 8 bits, reduced to CELL px in width, or with the pixels of a tiny one repeated."""
    if cell.dtype != np.uint8:
        cell = (cell * (255 if cell.dtype == bool else 1 / 257)).round().astype(np.uint8)
    h, w = cell.shape[:2]
    if w > CELL:
        return cv2.resize(cell, (CELL, round(h * CELL / w)), interpolation=cv2.INTER_AREA)
    times = max(1, 300 // w)
    return cell.repeat(times, axis=0).repeat(times, axis=1)
