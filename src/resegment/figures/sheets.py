"""Pictures with dataset pixels: sheets of cells side by side, and errors at full resolution."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from resegment import native, paths
from resegment.errors import UserError
from resegment.files import write_image
from resegment.geometry import restore
from resegment.metrics import above

TP, FN, FP = (0, 255, 0), (255, 0, 0), (0, 0, 255)  # RGB; RGA-Net figs 2-3, Mini-Net fig 2
# the same three on a gray image, told apart by colour-blind readers too (after Okabe and Ito)
SEEN = {TP: (0, 158, 115), FN: (255, 90, 40), FP: (86, 180, 233)}
CELL = 565  # widest image of a sheet, px: DRIVE stays at its own size, larger sets are reduced
SAMPLES = 4  # images of each dataset on the contact sheet
DIM = 0.45  # how bright the image under an overlay is
GRAYS = 24  # in so many steps: a third of the bytes of 256


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


def levels(run: dict, id: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint16: the run's probability map of an image, at that image's own size."""
    file = paths.predictions(run["run"]) / f"{id}.png"
    if (stored := cv2.imread(str(file), cv2.IMREAD_UNCHANGED)) is None:
        raise UserError(f"{file} is missing or no image: run `snakemake` or `dvc repro` again")
    return restore(stored, run["geometry"], size)


def grid(run: dict, folder: Path) -> list[dict]:
    """Image | ground truth | prediction | analytic mask of the best, median and worst test image
    as <experiment>.png; the errors of best and worst at their own size as
    <experiment>_overlay_<id>.png. Returns `examples`, with "overlay" where one was drawn."""
    known, rows, found = native.manifest(run["dataset"]), [], examples(run)
    for e in found:
        image = native.image(run["dataset"], known[e["id"]])
        label, fov = (native.mask(run["dataset"], known[e["id"]], m) for m in ("label", "fov"))
        map_ = levels(run, e["id"], label.shape)
        mask = analytic_mask(above(map_, e["threshold"]), label, fov)
        rows.append((f"{e['rank']}: {e['id']}, F1 {e['f1']:.4f}", [image, label, map_, mask]))
        if e["rank"] != "median":
            e["overlay"] = f"{run['experiment']}_overlay_{e['id']}.png"
            write_image(folder / e["overlay"], overlay(image, mask)[..., ::-1])
    titles = ("image", "ground truth", "prediction", "analytic mask")
    sheet(titles, rows, folder / f"{run['experiment']}.png", legend=True)
    return found


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB image, dimmed and gray, under the pixels of `analytic_mask` as SEEN."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * (GRAYS / 256)
    steps = (np.floor(gray) * (256 / GRAYS * DIM)).astype(np.uint8)
    out = np.repeat(steps[..., None], 3, axis=-1)
    for colour, seen in SEEN.items():
        out[(mask == colour).all(axis=-1)] = seen
    return out


def data(runs: list[dict], path: Path) -> None:
    """Four images of each dataset, spread over its list, with all that is known of them."""
    rows = []
    for dataset in dict.fromkeys(r["dataset"] for r in runs):
        splits = [r["splits"] for r in runs if r["dataset"] == dataset]
        known = list(native.manifest(dataset).values())
        for i in np.unique(np.linspace(0, len(known) - 1, SAMPLES).round().astype(int)):
            masks = (native.mask(dataset, known[i], m) for m in ("label", "fov", "observer2"))
            cells = [native.image(dataset, known[i]), *(m for m in masks if m is not None)]
            name = known[i]["id"]
            used = " or ".join(dict.fromkeys(s.get(name, "not used") for s in splits))
            rows.append((f"{dataset}: {name} ({used})", cells))
    sheet(("image", "ground truth", "field of view", "second observer"), rows, path)


def sheet(titles: tuple, rows: list[tuple[str, list]], path: Path, legend: bool = False) -> None:
    """Place the cells pixel by pixel on a white page; row titles above, column titles on top.

    A cell is (H, W, 3) uint8 RGB, (H, W) bool, (H, W) uint16 with 65535 as white, or a text for
    what is not there.
    """
    rows = [(t, [c if isinstance(c, str) else _fit(c) for c in cells]) for t, cells in rows]
    drawn = [[c for c in cells if not isinstance(c, str)] for _, cells in rows]
    wide = max(c.shape[1] for cells in drawn for c in cells)
    gap, line = wide // 40, wide // 11
    tall = [max(c.shape[0] for c in cells) for cells in drawn]
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
            if isinstance(cell, str):
                write(gap + k * (wide + gap), y + h / 2, cell, color="#666666")
                continue
            place = (gap + k * (wide + gap), height - y - cell.shape[0])
            figure.figimage(cell, *place, cmap="gray", vmin=0, vmax=255)
        y += h + gap
    words = (("TP: vessel found", TP), ("FN: vessel missed", FN), ("FP: vessel invented", FP))
    for k, (text, colour) in enumerate(words if legend else ()):
        box = {"facecolor": np.array(colour) / 255, "edgecolor": "#555555", "pad": line * 0.1}
        x = gap + (k + len(titles) - 3) * (wide + gap)  # under the last three columns
        write(x + line * 0.12, y + line * 0.35, "  ", bbox=box)
        write(x + line * 0.8, y + line * 0.35, text)
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
