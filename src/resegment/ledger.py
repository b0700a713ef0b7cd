"""A campaign's scores in tables, and beside every published number what was measured.

scores.csv   one row per run, protocol and metric, with the 95 % image-bootstrap interval of that
             run; the second observer once per experiment, as the seed `observer2`.
ledger.csv   one row per published number that an experiment of the campaign re-measures;
             `deviations`: all of its paper, of which some concern other experiments.
claims.csv   one row per claim of the papers whose experiments are in the campaign (`claims`).
comparisons.csv  every two experiments on the same test images, F1 under the common protocol:
             the difference a - b, its intervals over images (`low`, `high`) and over seeds, p of
             the paired test over images, and p adjusted by Holm for the number of pairs on those
             images; then every experiment and the second observer, `observer2`, with a Holm of
             their own.
sensitivity.csv  every run under all 16 protocols: how the protocol alone moves each metric.
calibration.csv  of every run under the common protocol: bins of equal width, the mean probability
             in each and the share of vessel pixels.
audit.csv    what the published rows imply of themselves (`audit`); the same for every campaign.
curves.csv   the ROC (x = false positive rate, y = true positive rate) and precision-recall
             (x = recall, y = precision) of every run, under the common protocol and its paper's:
             every other point of roc.csv and pr.csv in its scores, which have all protocols.
history.csv  every epoch of every run.
images.csv   every score of every test image of every run.
runs.csv     what the manifest of every run says, one row per value.
cross.csv    scores of every run on other datasets' test images, at its own thresholds.

Seed and image uncertainty stay apart: `mean` and `sd` (ddof = 1) are over seeds; `image_ci_*` is
the mean over seeds of the lower and of the upper bounds of the runs' bootstrap intervals, which is
the interval of one typical run, not of the seed mean.
"""

import contextlib
import csv
import itertools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from resegment import audit, claims, files, metrics, paths, protocols, published, stats, verdicts
from resegment.errors import UserError
from resegment.metrics import METRICS, STRUCTURE
from resegment.stats import decimals

SCORES = ("campaign", "experiment", "budget", "dataset", "seed", "protocol", "metric", "value",
          "ci_low", "ci_high", "threshold", "n_images", "run")  # fmt: skip
LEDGER = ("paper", "table", "row", "method", "dataset", "metric", "published", "experiment",
          "budget", "protocol", "n_seeds", "mean", "sd", "image_ci_low", "image_ci_high",
          "difference", "verdict", "reason", "deviations", "runs")  # fmt: skip
COMPARISONS = ("dataset", "metric", "a", "b", "difference", "low", "high", "seeds_low",
               "seeds_high", "p", "p_holm", "n_images", "n_subjects", "n_seeds")  # fmt: skip
SENSITIVITY = ("experiment", "dataset", "seed", "region", "space", "pooling", "threshold", "metric",
               "value")  # fmt: skip
CALIBRATION = ("experiment", "seed", "bin_low", "bin_high", "n", "predicted", "observed")
CURVES = ("experiment", "seed", "protocol", "curve", "x", "y")
RUNS = ("experiment", "seed", "key", "value")
CROSS = ("campaign", "experiment", "budget", "trained_on", "scored_on", *SCORES[4:])
AXES = {"roc": ("fpr", "tpr"), "pr": ("recall", "precision")}


def build(campaign: str, runs: list[dict]) -> None:
    """Write the tables above into reports/<campaign> from the scores of `runs`.

    runs: resolved runs (`config.runs`) of one campaign under one budget. Nothing is written before
    everything is read. Equal inputs give equal bytes. Raises UserError for a run that is not
    scored, a row id no paper has, or a row measured on another dataset than its experiment.
    """
    experiments: dict[str, list[dict]] = {}
    for run in runs:
        experiments.setdefault(run["experiment"], []).append(run)
    measured = {run["run"]: _measured(run) for run in runs}
    rows = audit.recorded()
    groups = experiments.values()
    apart = {e: audit.incomparable(rows, _tested(group[0])) for e, group in experiments.items()}
    tables = {
        "scores": (SCORES, [r for group in groups for r in _scores(group, measured)]),
        "ledger": (LEDGER, [r for group in groups for r in _ledger(group, measured, apart)]),
        "claims": _named(claims.HEADER, claims.table(runs, measured, apart)),
        "comparisons": _named(COMPARISONS, _comparisons(list(groups), measured)),
        "sensitivity": _named(
            SENSITIVITY, [r for run in runs for r in measured[run["run"]]["sensitivity"]]
        ),
        "audit": _named(audit.COLUMNS, rows),
        "calibration": _named(
            CALIBRATION, [r for run in runs for r in measured[run["run"]]["calibration"]]
        ),
        "curves": (CURVES, [r for run in runs for r in _curves(run)]),
        "history": _together(runs, "epoch", lambda r: paths.run(r) / "history.csv"),
        "images": _together(runs, "split", lambda r: paths.scores(r) / "images.csv", split="test"),
        "runs": _named(RUNS, [r | dict(zip(RUNS[2:], leaf, strict=True)) for r in runs
                              for leaf in _leaves(measured[r["run"]]["manifest"])]),
        "cross": (CROSS, [r for run in runs for d in run["cross"] for r in _cross(run, d)]),
    }  # fmt: skip
    for name, (header, rows) in tables.items():
        with files.atomic(paths.reports(campaign) / f"{name}.csv") as tmp:
            with open(tmp, "w", newline="") as f:
                out = csv.writer(f, lineterminator="\n")
                out.writerow(header)
                out.writerows(rows)


def _measured(run: dict) -> dict:
    """What a run left: scores and intervals by protocol, of the run and of the second observer,
    and what other tables make of its histograms, which are read once."""
    folder = paths.scores(run["run"])
    own = _json(folder / "metrics.json", run)
    manifest = _json(paths.run(run["run"]) / "manifest.json", run)
    observer = own.pop("observer2", {})
    if run["protocol"] not in own:
        raise UserError(f"{folder} has no protocol {run['protocol']}: score {run['run']} again")
    return {
        "scores": own,
        "bounds": {name: stats.intervals(folder, name) for name in own},
        "observer2": observer,
        "observer2_bounds": {name: stats.intervals(folder, name, True) for name in observer},
        "sensitivity": _sensitivity(run),
        "calibration": _calibration(run),
        "manifest": manifest,
        "model": manifest.get("model", {}),
    }


def _tested(run: dict) -> str:
    """A run's test images as data/published/testsets.csv names them: first to last id."""
    stored = stats.stored(paths.scores(run["run"]))
    ids = sorted(stored["ids"][stored["splits"] == "test"].tolist())
    return f"{ids[0]}-{ids[-1]}" if ids else ""


def _scores(group: list[dict], measured: dict) -> Iterable[list]:
    """Rows of one experiment's runs, then of the second observer as its first run met it."""
    for run in group:
        of_run = measured[run["run"]]
        for protocol, values in of_run["scores"].items():
            yield from _metrics(run, run["seed"], protocol, values, of_run["bounds"][protocol])
    first = group[0]
    second = measured[first["run"]]
    for protocol, values in second["observer2"].items():
        bounds = second["observer2_bounds"][protocol]
        drawn = {k: v for k, v in values.items() if v is not None}  # a mask has no AUC
        yield from _metrics(first, "observer2", protocol, drawn, bounds)


def _cross(run: dict, dataset: str) -> Iterable[list]:
    """Rows of one run on another dataset."""
    folder = paths.scores(paths.cross(run["run"], dataset))
    for protocol, values in _json(folder / "metrics.json", run).items():
        if protocol != "observer2":
            bounds = stats.intervals(folder, protocol)
            for row in _metrics(run, run["seed"], protocol, values, bounds):
                yield [*row[:4], dataset, *row[4:]]


def _metrics(
    run: dict, seed: int | str, protocol: str, values: dict, bounds: dict[str, stats.Interval]
) -> Iterable[list]:
    for metric in (*METRICS, *STRUCTURE):
        if metric in values:
            yield [*(run[k] for k in ("campaign", "experiment", "budget", "dataset")), seed,
                   protocol, metric, decimals(values[metric]), *map(decimals, bounds[metric]),
                   decimals(values.get("threshold")), values.get("n_images"),
                   run["run"]]  # fmt: skip


def _ledger(group: list[dict], measured: dict, apart: dict) -> Iterable[list]:
    """Rows of one experiment: its published cells, unless it ran on another dataset."""
    first = group[0]
    if first["dataset"] != first["rows_dataset"] or not first["rows"]:
        return
    known, reasons = published.cells(), apart[first["experiment"]]
    for row_id in first["rows"]:
        found = published.row(row_id, known)
        where = f"params.yaml: experiments.{first['experiment']}.rows names {row_id}, which was"
        if not found["rerun"].any():
            raise UserError(f"{where} quoted and not measured by its authors: name another row")
        for cell in found[found["rerun"]].to_dict("records"):
            if cell["dataset"] not in ("", first["dataset"]):
                used = f"{cell['dataset']}, not on {first['dataset']}"
                raise UserError(f"{where} measured on {used}: name another row")
            if cell["metric"] in (*METRICS, "params_m"):
                entry = _entry(cell, group, measured, reasons.get(cell["cell"]))
                if entry:
                    yield entry


def _entry(cell: dict, group: list[dict], measured: dict, apart: str | None) -> list | None:
    """The ledger row of one published number; None where the parameter count is not known."""
    first, metric, names = group[0], cell["metric"], [r["run"] for r in group]
    values = [claims.value(run, metric, measured) for run in group]
    protocol, seeds, images = "", None, None
    if not claims.counted(metric):
        protocol, seeds = first["protocol"], stats.seed_interval(values)
        images = claims.mean_bounds(group, metric, measured)
    elif any(map(math.isnan, values)):
        return None
    mean, sd = stats.over_seeds(values)
    budget = claims.judged(first, metric)
    rule = (budget, cell["value"], cell["resolution"], mean, seeds, images, apart)
    said, reason = verdicts.of_number(*rule)
    method = cell["method"] + (f" ({cell['variant']})" if cell["variant"] else "")
    applied = published.applying(first["paper"])
    return [
        cell["paper"], cell["table"], cell["row"], method, cell["dataset"], metric,
        cell["printed"], first["experiment"], first["budget"], protocol, len(values),
        decimals(mean), decimals(sd), *map(decimals, images or (None, None)),
        decimals(mean - cell["value"]), said, reason,
        " ".join(applied), " ".join(names),
    ]  # fmt: skip


def _comparisons(groups: list[list[dict]], measured: dict) -> list[dict]:
    """Every pair of experiments with the same test images, and each with the second observer."""
    out, sets = [], {}
    for group in groups:
        sets.setdefault((group[0]["dataset"], group[0]["split"]), []).append(group)
    for members in sets.values():
        seen = [g for g in members if measured[g[0]["run"]]["observer2"]]
        for pairs in (itertools.combinations(members, 2), [(group, None) for group in seen]):
            rows = [_compared(*pair, measured) for pair in pairs]
            tried = [row for row in rows if not math.isnan(row["p"])]
            for row, p in zip(tried, stats.holm([row["p"] for row in tried]), strict=True):
                row["p_holm"] = float(p)
            out += rows
    return out


def _compared(a: list[dict], b: list[dict] | None, measured: dict) -> dict:
    """One pair; b: None for the second observer, who has no seeds."""
    folders = ([paths.scores(r["run"]) for r in group] if group else None for group in (a, b))
    f1 = [[claims.value(r, "f1", measured, "common") for r in group] for group in (a, b or [])]
    if b:
        ends = stats.seed_difference(*f1)
    else:
        observer = measured[a[0]["run"]]["observer2"]["common"]["f1"]
        ends = stats.seed_interval([value - observer for value in f1[0]])
    return {
        **stats.paired(*folders, "common", "f1"),
        **dict(zip(("seeds_low", "seeds_high"), ends or (None, None), strict=True)),
        "dataset": a[0]["dataset"], "metric": "f1", "a": a[0]["experiment"],
        "b": b[0]["experiment"] if b else "observer2", "p_holm": math.nan,
    }  # fmt: skip


def _sensitivity(run: dict) -> list[dict]:
    """One run under every protocol."""
    stored = stats.stored(paths.scores(run["run"]))
    rows = protocols.sensitivity(stored["counts"], stored["splits"], list(stored["spaces"]))
    return [run | row | {"threshold": str(row["threshold"])} for row in rows]


def _calibration(run: dict) -> list[dict]:
    """The calibration curve of one run, test images pooled."""
    stored = stats.stored(paths.scores(run["run"]))
    hists = protocols.select(stored["counts"], protocols.COMMON, list(stored["spaces"]))
    curve = metrics.calibration(hists[stored["splits"] == "test"].sum(0, dtype="int64"))
    return [run | dict(zip(curve, x, strict=True)) for x in zip(*curve.values(), strict=True)]


def _curves(run: dict) -> Iterable[list]:
    for curve, (x, y) in AXES.items():
        file = paths.scores(run["run"]) / f"{curve}.csv"
        table = _table(file, run, "protocol", x, y)
        for protocol, points in itertools.groupby(table, lambda p: p["protocol"]):
            if protocol in ("common", run["protocol"]):  # those that are drawn
                *most, last = points
                for point in (*most[::2], last):
                    yield [run["experiment"], run["seed"], protocol, curve, point[x], point[y]]


def _together(
    runs: list[dict], needed: str, where: Callable[[str], Path], **only: str
) -> tuple[tuple[str, ...], list[list]]:
    """Header and rows of one table of those that all runs have, with the columns that they have.

    needed: one of them. where: of a run's id. only: the value that a row must have in a column.
    """
    found = {r["run"]: _table(where(r["run"]), r, needed) for r in runs}
    columns = list(dict.fromkeys(k for rows in found.values() for row in rows for k in row))
    return ("experiment", "seed", *columns), [
        [run["experiment"], run["seed"], *(row.get(k, "") for k in columns)]
        for run in runs
        for row in found[run["run"]]
        if all(row[k] == v for k, v in only.items())
    ]


def _leaves(value: object, key: str = "") -> Iterable[tuple[str, str]]:
    """("cost.cpu_seconds", "51.3") of every value in a tree; a list is one value."""
    if isinstance(value, dict) and value:
        for k, v in value.items():
            yield from _leaves(v, f"{key}.{k}" if key else k)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def _table(path: Path, run: dict, *columns: str) -> list[dict]:
    with _needed(run):
        return files.table(path, *columns)


def _json(path: Path, run: dict) -> dict:
    with _needed(run):
        return files.read_json(path)


@contextlib.contextmanager
def _needed(run: dict):
    try:
        yield
    except FileNotFoundError as e:
        raise UserError(f"{e.filename} is missing: train and score {run['run']} first") from None


def _named(header: tuple[str, ...], rows: list[dict]) -> tuple[tuple[str, ...], list[list]]:
    """Rows as the columns of a table; floats with six decimals."""

    def cell(value):
        return decimals(value) if value is None or isinstance(value, float) else value

    return header, [[cell(row[k]) for k in header] for row in rows]
