"""What a score costs (Pareto), and what its protocol alone does to it (sensitivity)."""

import dataclasses
from statistics import median

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from resegment import protocols
from resegment.figures.campaign import by_test_images, experiments, look

COSTS = {
    "total": "parameters",
    "macs": "multiply-adds for one image",
    "ms": "milliseconds for one image",
}
WIDE, TALL, CROWDED = 2.7, 2.9, 4.2  # one Pareto panel, inches; the height of more than 8 points
SHORT = {"se": "Se", "sp": "Sp", "acc": "Acc", "precision": "precision", "f1": "F1", "iou": "IoU",
         "auc": "AUC"}  # fmt: skip
SWITCHES = [field.name for field in dataclasses.fields(protocols.Protocol)]
COMMON = dataclasses.astuple(protocols.COMMON)


def costs(runs: list[dict], manifests: dict[str, dict]) -> pd.DataFrame:
    """total, macs, ms and model by experiment, nan where not recorded.

    ms: median over the runs of the same network at the same size, of whichever experiment.
    """
    rows, took = {}, {}
    for manifest in manifests.values():
        cost = manifest.get("cost", {})
        if cost.get("image_seconds") is not None:
            took.setdefault(_network(manifest), []).append(1000 * cost["image_seconds"])
    for name in experiments(runs):
        first = manifests[next(r["run"] for r in runs if r["experiment"] == name)]
        model, known = first.get("model", {}), took.get(_network(first))
        rows[name] = {
            "total": model.get("total"),
            "macs": model.get("macs"),
            "ms": median(known) if known else None,
            "model": model.get("name", "network"),
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype(dict.fromkeys(COSTS, float))


def _network(manifest: dict) -> str:
    """What decides how long an image takes: network, its size and that of the image."""
    model, cost = manifest.get("model", {}), manifest.get("cost", {})
    return str([model.get(k) for k in ("name", "total", "macs")] + [cost.get("image_size")])


def front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) bool: no other point has at most this cost x and at least this score y, one better."""
    x, y = np.asarray(x), np.asarray(y)
    no_worse = (x[:, None] <= x) & (y[:, None] >= y)
    better = (x[:, None] < x) | (y[:, None] > y)
    return ~(no_worse & better).any(axis=0)


def pareto(scores: pd.DataFrame, runs: list[dict], manifests: dict[str, dict]) -> Figure:
    """F1 under the common protocol against three costs, a row of panels, each with its own front,
    for what was scored on the same test images."""
    f1 = scores[(scores.protocol == "common") & (scores.metric == "f1")]
    names, cost = experiments(runs), costs(runs, manifests)
    measured = f1[f1.seed != "observer2"]
    groups = by_test_images(scores)
    models = list(dict.fromkeys(cost.model))
    colours = {name: look(models.index(cost.model[name]))["color"] for name in names}
    ends = ["value", "ci_low", "ci_high"]
    points = cost.join(measured.groupby("experiment")[ends].mean()).dropna(subset=["value"])
    lines = -(-len(names) // 3) + 1
    tall = CROWDED if max(map(len, groups.values())) > 8 else TALL
    size = (3 * WIDE + 0.7, tall * len(groups) + 0.17 * lines + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(groups), len(COSTS), squeeze=False, sharey="row")
    observed = f1[f1.seed == "observer2"].drop_duplicates("experiment").set_index("experiment")
    for (title, group), row in zip(groups.items(), panels, strict=True):
        human = observed.value.reindex(group).dropna().unique()
        reach = np.append(points.loc[points.index.isin(group), ends].to_numpy().ravel(), human)
        low, high = (np.nanmin(reach), np.nanmax(reach)) if np.isfinite(reach).any() else (0, 1)
        row[0].set_ylim(low - 0.08 * (high - low) - 0.004, high + 0.11 * (high - low) + 0.004)
        for ax, (column, words) in zip(row, COSTS.items(), strict=True):
            mine = points[points.index.isin(group)].dropna(subset=column)
            for value in human:
                ax.axhline(value, color="black", lw=0.9, ls=(0, (6, 3)))
            _panel(ax, mine[column], mine, colours, names, tall)
            ax.set_xlabel(f"{words} (log scale)", size=8)
        row[0].set_ylabel(f"F1, common protocol,\n{title}")
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=colours[n], label=f"{i + 1}  {n}")
        for i, n in enumerate(names)
    ]
    handles.append(Line2D([], [], color="#777777", ls=":", label="Pareto front (ringed)"))
    if len(observed):
        handles.append(Line2D([], [], color="black", ls=(0, (6, 3)), label="second observer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2)
    return figure


def _panel(
    ax: Axes, x: pd.Series, rows: pd.DataFrame, colours: dict, names: list[str], tall: float
) -> None:
    """Points with error bars, the front through the best, a number at each point."""
    ax.set_xscale("log")
    if not len(x):
        ax.text(0.5, 0.5, "not recorded", ha="center", transform=ax.transAxes)
        return
    y, best = rows.value, front(x, rows.value)
    order = np.argsort(x[best], kind="stable")
    ax.plot(x[best].iloc[order], y[best].iloc[order], color="#777777", ls=":",
            drawstyle="steps-post", zorder=1)  # fmt: skip
    for name, on_front in zip(rows.index, best, strict=True):
        ends = [[max(0, y[name] - rows.ci_low[name])], [max(0, rows.ci_high[name] - y[name])]]
        ring = {"mec": "black", "mew": 1.1} if on_front else {"mec": "white", "mew": 0.5}
        ax.errorbar(x[name], y[name], yerr=ends, fmt="o", ms=6 if on_front else 5,
                    color=colours[name], ecolor=colours[name], elinewidth=0.8, **ring)  # fmt: skip
    ratio = x.max() / x.min()
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if ratio > 300 else (1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_locator(NullLocator())
    reach = max(ratio**0.13, (6 / ratio) ** 0.5)  # a panel spans at least a factor of six
    ax.set_xlim(x.min() / reach, x.max() * reach)
    at = np.column_stack([np.log10(x), y])
    spans = np.array([np.ptp(np.log10(ax.get_xlim())), np.ptp(ax.get_ylim())])
    for name, shift in zip(rows.index, _clear(at / spans * (WIDE * 68, tall * 64)), strict=True):
        far = np.hypot(*shift) > 13
        ax.annotate(str(names.index(name) + 1), (x[name], y[name]), shift, size=7.5,
                    textcoords="offset points", ha="center", va="center", zorder=6,
                    arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "#555555",
                                "shrinkA": 3, "shrinkB": 2} if far else None)  # fmt: skip


def _clear(points: np.ndarray) -> list[np.ndarray]:
    """Where to put a small label near each of (n, 2) points (in typographic points): offsets, on
    widening rings, that hit neither a marker nor a label already placed."""
    taken, out = list(points), []
    for p in points:
        rings = [
            p + r * np.array([np.cos(a), np.sin(a)])
            for r in (12, 18, 25, 33, 43, 54)
            for a in np.arange(12) * np.pi / 6
        ]
        gaps = [min(np.hypot(*((q - t) / (1.3, 0.9))) for t in taken) for q in rings]
        free = [q for q, gap in zip(rings, gaps, strict=True) if gap > 8.5]
        best = free[0] if free else rings[int(np.argmax(gaps))]
        taken.append(best)
        out.append(best - p)
    return out


def moved(table: pd.DataFrame) -> pd.DataFrame:
    """sensitivity.csv as differences to the common protocol, means over seeds: columns
    experiment, SWITCHES, metric, value."""
    table = table.assign(threshold=table.threshold.astype(str))
    means = table.groupby(["experiment", *SWITCHES, "metric"], sort=False).value.mean()
    base = means.xs(COMMON, level=SWITCHES)
    return (means - base.reindex(means.index.droplevel(SWITCHES)).to_numpy()).reset_index()


def extents(differences: pd.DataFrame, metric: str) -> pd.Series:
    """By experiment: how far region, size and pooling move a metric, at the threshold of the
    training images."""
    kept = differences[(differences.threshold == "train") & (differences.metric == metric)]
    return kept.dropna(subset="value").groupby("experiment").value.agg(np.ptp)


def sensitivity(differences: pd.DataFrame, names: list[str]) -> Figure:
    """`moved` as dots: a block for each threshold, a panel for each metric, a row for each
    experiment; colour the region, lane and shape the pooling, filled or hollow the size. What lies
    beyond the panel (one in fifty may) is drawn on its border."""
    shown = [m for m in SHORT if m in set(differences.metric)]
    cuts = [c for c in ("train", "0.5") if c in set(differences.threshold)]
    each = max(0.23, min(0.34, 2.4 / len(names)))
    size = (10.4, len(cuts) * (each * len(names) + 0.75) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(cuts), len(shown), squeeze=False, sharey=True, sharex="row")
    regions = {"fov": look(0)["color"], "frame": look(1)["color"]}
    shapes = {"pixels": "o", "images": "^"}
    for cut, row in zip(cuts, panels, strict=True):
        block = differences[(differences.threshold == cut) & differences.metric.isin(shown)]
        known = block.value.dropna()
        ends = np.quantile(known, [0.01, 0.99]) if len(known) else (0, 0)
        low, high = ends + np.array([-0.002, 0.002])
        for metric, ax in zip(shown, row, strict=True):
            ax.axvline(0, color="#999999", lw=0.8)
            mine = block[(block.metric == metric) & block.experiment.isin(names)]
            mine = mine.dropna(subset="value")
            mine = mine.assign(value=mine.value.clip(low, high),
                               y=mine.experiment.map(names.index))  # fmt: skip
            ends = mine.groupby("y").value.agg(["min", "max"])
            ax.hlines(ends.index, ends["min"], ends["max"], lw=8, color="#e6e6e6",
                      capstyle="butt", zorder=1)  # fmt: skip
            for (region, space, pooling), dots in mine.groupby(SWITCHES[:3], sort=False):
                ax.plot(dots.value, dots.y + (-0.2 if pooling == "pixels" else 0.2), ls="",
                        marker=shapes[pooling], ms=4, mec=regions[region], mew=0.9,
                        color=regions[region] if space == "native" else "none",
                        clip_on=False)  # fmt: skip
            ax.set_title(SHORT[metric], size=9, weight="bold")
            ax.tick_params(labelsize=7)
            ax.locator_params(axis="x", nbins=3)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        words = "threshold of the training images" if cut == "train" else f"threshold {cut}"
        row[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        row[len(shown) // 2].set_xlabel(f"{words}: value minus the common protocol's", size=8.5)
    square = {"ls": "", "marker": "s"}
    handles = [
        Line2D([], [], color=regions["fov"], label="inside the field of view", **square),
        Line2D([], [], color=regions["frame"], label="whole frame", **square),
    ]
    plain = {"ls": "", "color": "#444444", "mew": 0.9, "ms": 5}
    handles += [
        Line2D([], [], marker="o", label="pixels pooled", **plain),
        Line2D([], [], marker="^", label="mean of the images", **plain),
        Line2D([], [], marker="o", label="the image's own size", **plain),
        Line2D([], [], marker="o", mfc="none", label="the network's size", **plain),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, columnspacing=1.1)
    return figure
