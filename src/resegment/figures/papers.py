"""The papers' own figures of results, re-made from the runs of a campaign.

Each is one entry of PICTURES or CURVES; whatever a campaign has no run of is left out, and its
caption says so. The papers do not name the images they show: here they are the first test images
by id. A prediction is thresholded as the paper's protocol says, and shown at the image's own size.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from resegment import native, paths
from resegment.errors import UserError
from resegment.figures import curves
from resegment.figures.campaign import shown
from resegment.figures.sheets import analytic_mask, levels, sheet
from resegment.metrics import above

NAMES = {
    "rga": "RGA-Net",
    "rsan": "RSAN",
    "bcdu": "ConvLSTM U-Net",
    "hybridnetseg": "HybridNetSeg",
    "mininet": "Mini-Net",
}


class Picture(NamedTuple):
    """lines: (dataset, experiments) each; columns: (title, view, which of the experiments);
    images: how many of each line; turned: the lines stand side by side."""

    paper: str
    number: int
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    columns: tuple[tuple[str, str, int], ...]
    images: int
    turned: bool = False


IMAGE, TRUTH = ("image", "image", 0), ("ground truth", "label", 0)
ANALYTIC = (IMAGE, TRUTH, ("prediction", "mask", 0), ("analytic mask", "errors", 0))
ABLATION = ("Backbone", "Backbone+DropBlock", "RSAN")
PICTURES = (
    Picture("rga", 2, (("drive", ("rga-drive",)),), ANALYTIC, 3),
    Picture("rga", 3, (("chase_db1", ("rga-chase",)),), ANALYTIC, 3),
    Picture(
        "rsan",
        5,
        (
            ("drive", ("rsan-drive-backbone", "rsan-drive-dropblock", "rsan-drive")),
            ("chase_db1", ("rsan-chase-backbone", "rsan-chase-dropblock", "rsan-chase")),
        ),
        (IMAGE, *((title, "map", k) for k, title in enumerate(ABLATION)), TRUTH),
        1,
    ),
    Picture("bcdu", 1, (("drive", ("bcdu-drive",)),), (IMAGE, TRUTH, ("prediction", "map", 0)), 3),
    Picture(
        "hybridnetseg",
        3,
        (
            ("drive", ("hybridnetseg-drive",)),
            ("chase_db1", ("hybridnetseg-chase",)),
            ("hrf", ("hybridnetseg-hrf",)),
        ),
        (("RGB", "image", 0), TRUTH, ("probability map", "map", 0)),
        1,
        turned=True,
    ),
    Picture(
        "mininet",
        2,
        (
            ("monuseg", ("mininet-monuseg",)),
            ("chase_db1", ("mininet-chase",)),
            ("isic2018", ("mininet-isic2018",)),
        ),
        (IMAGE, TRUTH, ("prediction", "errors", 0)),
        2,
    ),
)
CURVES = (("bcdu", 2, "pr", "bcdu-drive"), ("bcdu", 3, "roc", "bcdu-drive"))
WORDS = {"pr": "precision-recall curve", "roc": "ROC curve"}


def draw_pictures(runs: list[dict], folder: Path) -> dict[str, str]:
    """Write <folder>/paper_<paper>_<number>.png for each of PICTURES that has a run.

    Returns {file name: caption}.
    """
    out = {}
    for p in PICTURES:
        have = {r["experiment"] for r in runs}
        lines = [(d, names) for d, names in p.lines if have & set(names)]
        if lines:
            name = f"paper_{p.paper}_{p.number}.png"
            ran = {k for _, names in lines for k, n in enumerate(names) if n in have}
            columns = [c for c in p.columns if c[1] in ("image", "label") or c[2] in ran]
            rows, said = _rows(p, lines, columns, runs)
            titles = [c[0] for c in columns]
            if p.turned:
                titles, rows = _turned(titles, rows)
            errors = any(c[1] == "errors" for c in columns)
            sheet(tuple(titles), rows, folder / name, legend=errors)
            out[name] = _caption(p, lines, said, columns, runs)
    return out


def _turned(titles: list[str], rows: list[tuple[str, list]]) -> tuple[list[str], list]:
    """The same cells with rows and columns exchanged."""
    cells = zip(*(cells for _, cells in rows), strict=True)
    return [title for title, _ in rows], list(zip(titles, map(list, cells), strict=True))


def _rows(
    p: Picture, lines: list, columns: list, runs: list[dict]
) -> tuple[list[tuple[str, list]], list[str]]:
    """The rows of cells of a sheet, and which images they show in words."""
    have, rows, said = {r["experiment"] for r in runs}, [], []
    for _, names in lines:
        of_name = {n: shown(runs, n) for n in names if n in have}
        first = next(iter(of_name.values()))
        known = native.manifest(first["dataset"])
        ids = sorted(id for id, part in first["splits"].items() if part == "test")[: p.images]
        said.append(f"{first['dataset']} {', '.join(ids)}")
        for id in ids:
            image = native.image(first["dataset"], known[id])
            label, fov = (native.mask(first["dataset"], known[id], m) for m in ("label", "fov"))
            cells = [
                {"image": image, "label": label}[view]
                if view in ("image", "label")
                else _view(view, of_name.get(names[k]), id, label, fov)
                for _, view, k in columns
            ]
            rows.append((f"{first['dataset']}: {id}", cells))
    return rows, said


def _view(
    view: str, run: dict | None, id: str, label: np.ndarray, fov: np.ndarray
) -> np.ndarray | str:
    """A run's map, mask or errors of an image as a cell of a sheet."""
    if run is None:
        return "not run"
    map_ = levels(run, id, label.shape)
    if view == "map":
        return map_
    mask = above(map_, threshold(run))
    return mask if view == "mask" else analytic_mask(mask, label, np.ones_like(fov))


def threshold(run: dict) -> float:
    """What decides vessel under the protocol of the run's paper."""
    path = paths.scores(run["run"]) / "images.csv"
    rows = pd.read_csv(path, usecols=["protocol", "threshold"])
    if not len(mine := rows[rows.protocol == run["protocol"]]):
        raise UserError(f"{path} has no protocol {run['protocol']}: score {run['run']} again")
    return float(mine.threshold.iloc[0])


def _caption(p: Picture, lines: list, said: list[str], columns: list, runs: list[dict]) -> str:
    """Which figure it is, which runs and images it shows, and what of the paper's is not there."""
    have = {r["experiment"] for r in runs}
    used = [n for _, names in lines for n in names if n in have]
    absent = [n for _, names in p.lines for n in names if n not in have]
    other = [(d, shown(runs, n)["dataset"]) for d, names in lines for n in names if n in have]
    views = ", ".join(title for title, *_ in columns)
    text = [
        f"{NAMES[p.paper]}, figure {p.number}, re-made: {'rows' if p.turned else 'columns'} "
        f"{views}. {_runs(used, runs)} The first test images by name: {'; '.join(said)} (the paper "
        "does not say which it shows)."
    ]
    views = {view for _, view, _ in columns}
    if "map" in views:
        text.append("Maps: probability of vessel, black 0, white 1.")
    if views & {"mask", "errors"}:
        cuts = ", ".join(dict.fromkeys(f"{threshold(shown(runs, n)):.4g}" for n in used))
        text.append(f"Vessel is what exceeds {cuts}, as the paper's protocol says.")
    if "errors" in views:
        text.append("Green: found (TP); black: rightly left (TN); blue: invented (FP); red: missed")
        text[-1] += " (FN)."
    for wanted, got in dict.fromkeys(other):
        if wanted != got:
            text.append(f"Images of {got} take the place of {wanted}.")
    if absent:
        text.append(f"Left out, not run in this campaign: {', '.join(absent)}.")
    return " ".join(text)


def _runs(names: list[str], runs: list[dict]) -> str:
    """The runs shown, and their budget where it is not the papers'."""
    return _listed([shown(runs, n) for n in names])


def _listed(used: list[dict]) -> str:
    names, seeds = dict.fromkeys(r["experiment"] for r in used), {r["seed"] for r in used}
    budgets = sorted({r["budget"] for r in used} - {"paper"})
    seed = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
    budget = f", budget {', '.join(budgets)}: no reproduction" if budgets else ""
    return f"Shown: {', '.join(names)}; {seed}{budget}."


def draw_curves(
    table: pd.DataFrame, scores: pd.DataFrame, runs: list[dict]
) -> dict[str, tuple[Figure, str]]:
    """{file name without suffix: (figure, caption)} of each of CURVES that has a run."""
    out = {}
    for paper, number, curve, name in CURVES:
        mine = [r for r in runs if r["experiment"] == name]
        if not mine:
            continue
        figure = curves.single(curve, table, scores, mine[0])
        words = f"{NAMES[paper]}, figure {number}, re-made: {WORDS[curve]} under the paper's "
        words += f"protocol ({mine[0]['protocol']}), one line a seed. {_listed(mine)}"
        if mine[0]["dataset"] != "drive":
            words += f" Images of {mine[0]['dataset']} take the place of drive."
        out[f"paper_{paper}_{number}"] = (figure, words)
    return out
