"""ROC and precision-recall curves with the spread of the images, training, reliability."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resegment import metrics
from resegment.figures.campaign import by_test_images, experiments, look, test_histograms

AREA = {"roc": "auc", "pr": "ap"}
AXES = {
    "roc": ("false positive rate (share of background, 1 - Sp)", "true positive rate (Se)"),
    "pr": (
        "recall (share of vessel pixels found, Se)",
        "precision (share of found that is vessel)",
    ),
}
SWEPT = {"roc": metrics.roc_curve, "pr": metrics.pr_curve}
AT = {"roc": np.linspace(0, 1, 201) ** 2, "pr": np.linspace(0, 1, 201)}  # where a band is known
BAND = (0.05, 0.95)
FEW = 3  # so many bands can lie over each other; more get a panel each
ACROSS = 4  # panels in a row


def bands(run: dict) -> dict[str, np.ndarray | None]:
    """{curve: (2, 201)}: the 5 and 95 % quantile over the test images of y at each x of AT.

    Under the common protocol; None where fewer than two images have both classes.
    """
    out, hists = {}, test_histograms(run)
    for curve, swept in SWEPT.items():
        lines = [xy for xy in map(swept, hists) if len(xy[0])]
        heights = [np.interp(AT[curve], x, y) for x, y in lines]
        out[curve] = np.quantile(heights, BAND, axis=0) if len(heights) > 1 else None
    return out


def draw(
    curve: str, curves: pd.DataFrame, scores: pd.DataFrame, runs: list[dict], known: dict
) -> Figure:
    """Per set of test images the unit square and the part where the dots are; bands (`known`:
    {experiment: `bands`}) there, or with more than FEW experiments in a panel for each below."""
    lines = curves[(curves.protocol == "common") & (curves.curve == curve)]
    scores = scores[scores.protocol == "common"]
    once = scores.drop_duplicates(["experiment", "seed", "metric"])
    points = once.pivot(index=["experiment", "seed"], columns="metric", values="value")
    names, groups = experiments(runs), by_test_images(scores)
    looks = {name: look(i) for i, name in enumerate(names)}
    below = {d: -(-len(g) // ACROSS) if len(g) > FEW else 0 for d, g in groups.items()}
    heights = [h for d in groups for h in (3.6, *[2.1] * below[d])]
    figure = Figure(figsize=(8.6, sum(heights) + 0.1 * len(names) + 0.4), layout="constrained")
    grid, row = figure.add_gridspec(len(heights), ACROSS, height_ratios=heights), 0
    areas = {n: _area(points.loc[n].drop(index="observer2", errors="ignore"), curve) for n in names}
    for images, group in groups.items():
        whole, near = (figure.add_subplot(grid[row, k : k + 2]) for k in (0, 2))
        dots = []
        for name in group:
            for ax in (whole, near):
                _lines(ax, lines[lines.experiment == name], lw=1, **looks[name])
                if len(group) <= FEW:
                    _band(ax, curve, known[name], looks[name]["color"])
            for seed, values in points.loc[name].iterrows():
                style = ("D", "black") if seed == "observer2" else ("o", looks[name]["color"])
                dots.append((*_point(curve, values), *style))
        _frame(curve, whole, near, dots)
        whole.set(title=f"{images}: the whole range")
        first = max(group, key=lambda n: areas[n][0])
        for k, name in enumerate(group if len(group) > FEW else ()):
            ax = figure.add_subplot(grid[row + 1 + k // ACROSS, k % ACROSS])
            _guides(ax, curve)
            _lines(ax, lines[lines.experiment == first], lw=0.9, color="#777777")
            _band(ax, curve, known[name], looks[name]["color"])
            _lines(ax, lines[lines.experiment == name], lw=1.2, color=looks[name]["color"])
            mine = [d for d in dots if d[3] in ("black", looks[name]["color"])]
            _dots(ax, [d for d in mine if d[2] == "D" or d[:2] in _of(curve, points.loc[name])])
            ax.set(xlim=near.get_xlim(), ylim=near.get_ylim())
            ax.set_title(f"{_wrapped(name)}\n{AREA[curve].upper()} {areas[name][1]}", size=7.5)
            ax.tick_params(labelsize=7)
        row += 1 + below[images]
    label = AREA[curve].upper()
    handles = [Line2D([], [], label=f"{n}: {label} {areas[n][1]}", **looks[n]) for n in names]
    if "observer2" in set(scores.seed):
        diamond = {"ls": "", "marker": "D", "ms": 4, "color": "black"}
        handles.append(Line2D([], [], label="second observer", **diamond))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, handlelength=3.2)
    return figure


def _area(rows: pd.DataFrame, curve: str) -> tuple[float, str]:
    """Mean over seeds of AUC or AP, -1 where undefined, and as text with the sd of several."""
    values = rows[AREA[curve]]
    mean = values.mean()
    sd = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return -1.0 if pd.isna(mean) else mean, f"{mean:.4f}{sd}"


def _of(curve: str, rows: pd.DataFrame) -> list[tuple[float, float]]:
    return [_point(curve, values) for _, values in rows.iterrows()]


def _wrapped(name: str) -> str:
    """A long name in two lines, broken at the hyphen nearest its middle."""
    if len(name) <= 24 or "-" not in name:
        return name
    at = min((i for i, c in enumerate(name) if c == "-"), key=lambda i: abs(i - len(name) / 2))
    return f"{name[: at + 1]}\n{name[at + 1 :]}"


def _lines(ax: Axes, rows: pd.DataFrame, **how) -> None:
    for _, line in rows.groupby("seed"):
        ax.plot(line.x, line.y, **how)


def _band(ax: Axes, curve: str, known: dict, colour: str) -> None:
    if known[curve] is not None:
        ax.fill_between(AT[curve], *known[curve], color=colour, alpha=0.16, lw=0)


def _point(curve: str, row: pd.Series) -> tuple[float, float]:
    """A row of scores as a point of that curve's plane."""
    return (1 - row["sp"], row["se"]) if curve == "roc" else (row["se"], row["precision"])


def _guides(ax: Axes, curve: str) -> None:
    """The diagonal of chance, or lines of equal F1."""
    if curve == "roc":
        ax.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
    for f1 in np.arange(0.1, 1, 0.1) if curve == "pr" else ():
        recall = np.linspace(f1 / (2 - f1), 1, 100)
        ax.plot(recall, f1 * recall / (2 * recall - f1), color="#cccccc", lw=0.6)


def _dots(ax: Axes, dots: list[tuple]) -> None:
    """(x, y, marker, colour) each, diamonds last."""
    for x, y, marker, colour in sorted(dict.fromkeys(dots), key=lambda d: d[2] == "D"):
        ax.plot(x, y, marker=marker, ms=5, color=colour, mec="white", mew=0.7, zorder=5)


def _frame(curve: str, whole: Axes, near: Axes, dots: list[tuple]) -> None:
    """Guides, dots, labels and limits of the two panels."""
    for ax in (whole, near):
        _guides(ax, curve)
        _dots(ax, dots)
        ax.set_xlabel(AXES[curve][0], size=7.5)
    whole.set_ylabel(AXES[curve][1], size=7.5)
    whole.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    near.set(title="around the thresholds used")
    if known := [d[:2] for d in dots if np.isfinite(d[:2]).all()]:
        low, high = np.clip([np.min(known, 0) - 0.08, np.max(known, 0) + 0.08], 0, 1)
        near.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def single(curve: str, curves: pd.DataFrame, scores: pd.DataFrame, run: dict) -> Figure:
    """One experiment's curve under its paper's protocol, every seed, as papers print it."""
    mine = (curves.experiment == run["experiment"]) & (curves.protocol == run["protocol"])
    rows = scores[(scores.experiment == run["experiment"]) & (scores.protocol == run["protocol"])]
    area = rows[(rows.metric == AREA[curve]) & (rows.seed != "observer2")]
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    ax = figure.subplots()
    _guides(ax, curve)
    _lines(ax, curves[mine & (curves.curve == curve)], color=look(0)["color"])
    value = _area(area.rename(columns={"value": AREA[curve]}), curve)[1]
    title = f"{run['experiment']} on {run['dataset']}\narea under the curve {value}"
    ax.set(xlabel=AXES[curve][0], ylabel=AXES[curve][1], title=title)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return figure


def training(history: pd.DataFrame) -> Figure:
    """Loss, validation F1 if there is any, and the learning rate under it, against epoch."""
    scored = history.val_f1.notna().any()
    heights = [3, 2, 1.4] if scored else [3, 1.4]
    figure = Figure(figsize=(7, sum(heights) * 0.8 + 0.6), layout="constrained")
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    marker, handles = "o" if history.epoch.nunique() < 15 else None, []
    for i, (seed, rows) in enumerate(history.groupby("seed", sort=False)):
        style = {"color": look(i)["color"], "marker": marker, "ms": 3, "lw": 1.2}
        handles.append(Line2D([], [], label=f"seed {seed}", **style))
        axes[0].plot(rows.epoch, rows.train_loss, **style)
        for ax, name, dash in ((axes[0], "val_loss", "--"), (axes[1], "val_f1", "-")):
            if len(known := rows.dropna(subset=name)):
                ax.plot(known.epoch, known[name], ls=dash, **style)
        axes[-1].plot(rows.epoch, rows.lr, drawstyle="steps-mid", **style)
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


def reliability(table: pd.DataFrame, names: list[str]) -> Figure:
    """Predicted against observed share of vessel, a panel for each experiment, a line for each
    seed; a marker is as large as its bin has pixels (area by the logarithm)."""
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(max(2.15 * across + 0.6, 4), 2.25 * down + 0.4), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat
    for i, (name, ax) in enumerate(zip(names, panels, strict=False)):
        ax.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
        errors, colour = [], look(i)["color"]
        for _, rows in table[(table.experiment == name) & (table.n > 0)].groupby("seed"):
            share = rows.n / rows.n.sum()
            errors.append((share * (rows.predicted - rows.observed).abs()).sum())
            ax.plot(rows.predicted, rows.observed, color=colour, lw=1)
            area = 3 + 27 * np.log10(1 + rows.n) / np.log10(1 + rows.n.max())
            ax.scatter(rows.predicted, rows.observed, s=area, color=colour, lw=0, zorder=3)
        ax.set_title(f"{_wrapped(name)}\nECE {np.mean(errors):.4f}", size=7.5)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.xaxis.set_tick_params(labelbottom=True, labelsize=7)
        ax.yaxis.set_tick_params(labelleft=True, labelsize=7)
    for ax in panels:  # what is left of the last row
        ax.set_axis_off()
    figure.supxlabel("predicted probability of vessel (mean of the bin)", size=8.5)
    figure.supylabel("observed share of vessel", size=8.5)
    return figure
