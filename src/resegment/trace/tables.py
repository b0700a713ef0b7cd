"""From a line of a campaign's table to the runs behind it."""

import csv
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from resegment import config, files, paths, published, stats
from resegment.errors import Unreadable, UserError
from resegment.files import read_json
from resegment.trace import lock_now, on_disk, past, trace
from resegment.trace import text as text_of_run
from resegment.trace.upstream import recorded, shown

NEEDED = {  # the columns of a line that can be computed again
    "scores.csv": ("run", "seed", "protocol", "metric", "value"),
    "cross.csv": ("run", "scored_on", "protocol", "metric", "value"),
    "ledger.csv": ("runs", "protocol", "metric", "mean", "sd"),
}


def split(target: str) -> tuple[str, int] | None:
    """("reports/a/ledger.csv", 12) of "reports/a/ledger.csv:12"; None for anything else."""
    table, _, number = target.rpartition(":")
    return (table, int(number)) if table and re.fullmatch("[0-9]{1,9}", number) else None


def line(target: str, at: str | None = None) -> dict[str, str]:
    """A line of a committed table as {column: text}; the header is line 1.

    Raises UserError where there is no such file or line.
    """
    path, number = split(target)
    try:
        rows = list(csv.reader(shown(path, at).splitlines(), strict=True))
    except csv.Error as e:
        raise UserError(f"{path} is no table ({e}): name one of reports") from None
    if not 2 <= number <= len(rows):
        raise UserError(f"{path} has no line {number}: it has lines 2 to {len(rows)}")
    header, row = rows[0], rows[number - 1]
    if len(row) != len(header) or len(set(header)) < len(header):
        raise UserError(f"{target} has {len(row)} cells under {len(header)} names: that is no line "
                        "of a table")  # fmt: skip
    return dict(zip(header, row, strict=True))


def runs(target: str, row: dict[str, str], lock: dict) -> list[tuple[str, str | None]]:
    """(run, the other dataset it was scored on or None) of every run that a line is made of.

    Columns say which: runs, run, experiment and seed, or a and b, which are experiments with every
    seed in dvc.lock. Raises UserError for a table that names no run.
    """
    campaign = Path(split(target)[0]).parent.name
    if row.get("runs"):
        return [(r, None) for r in row["runs"].split()]
    if row.get("run"):
        return [(row["run"], row.get("scored_on"))]
    if row.get("experiment") and row.get("seed"):
        return [(f"{campaign}/{row['experiment']}/s{row['seed']}", None)]
    found = [
        (name.partition("@")[2], None)
        for experiment in f"{row.get('a', '')} {row.get('b', '')}".split()
        for name in sorted(lock, key=_numbers)
        if re.fullmatch(rf"score@{re.escape(campaign)}/{re.escape(experiment)}/s\d+", name)
    ]
    if not found:
        raise UserError(f"{target} names no run of dvc.lock (in runs, run, experiment and seed, or "
                        "a and b)")  # fmt: skip
    return found


def _of_papers(row: dict[str, str]) -> bool:
    """Whether a line is of the papers' own tables, of which no run knows (audit.csv)."""
    return "row" in row and not {"runs", "run", "experiment", "a"} & row.keys()


def _numbers(name: str) -> list:
    """A key by which s10 comes after s9."""
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]


def follow(target: str, at: str | None = None) -> dict:
    """A line of a table, whether the table is the recorded one, and the trace of each of its runs.

    A run that cannot be traced has {"run", "problem"}. Raises UserError as `line` and `runs` do.
    """
    row = line(target, at)
    lock = recorded(at) if at else lock_now()
    table = split(target)[0]
    made = {o["path"]: (name, o["md5"]) for name, s in lock.items() for o in s.get("outs", [])}
    maker, digest = made.get(table, (None, None))
    papers, found = [], []
    if maker and _of_papers(row):
        deps = [d["path"] for d in lock[maker].get("deps", [])]
        papers = [path for path in deps if path.startswith("data/published/")]
    else:
        found = [_traced(run, on, at, lock) for run, on in runs(target, row, lock)]
    return {"target": target, "line": row, "stage": maker, "md5": digest, "papers": papers,
            "recorded": None if at else on_disk(Path(table)) == digest, "runs": found}  # fmt: skip


def _traced(run_id: str, on: str | None, at: str | None, lock: dict) -> dict:
    try:
        if at:
            scores = paths.scores(paths.cross(run_id, on)) if on else None
            return past.recorded(run_id, at, scores and str(scores))
        run = config.find(config.load(), run_id)
        return trace(run, "", "", published.applying(run["paper"]), on, lock)
    except UserError as e:
        return {"run": run_id, "problem": str(e)}


def text(found: dict) -> str:
    """What `follow` found, as lines for a person."""
    lines = [found["target"], *(f"  {k:14} {v}" for k, v in found["line"].items())]
    lines += [f"  {'stage':14} {found['stage'] or 'none in dvc.lock'}"]
    if found["recorded"] is not None:
        said = "agrees" if found["recorded"] else "DIFFERS"
        lines += [f"  {said:14} this table is the one that dvc.lock records"]
    lines += [f"  {'made from':14} {path}" for path in found["papers"]]
    if found["line"].get("seed") == "observer2":
        lines += ["  the second observer: of the masks (native) and the geometry alone"]
    out = ["\n".join(lines)]
    for run in found["runs"]:
        if "problem" in run:
            out.append(f"  run         {run['run']}\n  not known   {run['problem']}")
        else:
            out.append((text_of_run if "agreement" in run else past.text)(run))
    return "\n\n".join(out)


def disagreements(table: Path) -> list[str]:
    """`disagreement` of every line of a table."""
    try:
        lines, known = files.table(table), cache(read_json)
    except Unreadable as e:
        return [str(e)]
    return [said for n, row in enumerate(lines, 2)
            for said in disagreement(f"{table}:{n}", row, known)]  # fmt: skip


def disagreement(
    target: str, row: dict[str, str], known: Callable[[Path], dict] = read_json
) -> list[str]:
    """Where a line of scores.csv, cross.csv or ledger.csv is not what metrics.json gives.

    `value` is computed anew from the run's file, `mean` and `sd` from those of all seeds, where
    they are here. Other tables give no line: their MD5 alone is judged, by `verify`. known: what
    reads a file, once for many lines.
    """
    name = Path(split(target)[0]).name
    if absent := [k for k in NEEDED.get(name, ()) if k not in row]:
        return [f"{target}: the table has no column {absent[0]}"]
    if name in ("scores.csv", "cross.csv"):
        run = paths.cross(row["run"], row["scored_on"]) if "scored_on" in row else row["run"]
        behind, columns = [paths.scores(run) / "metrics.json"], ("value",)
    elif name == "ledger.csv":
        file = "scores/metrics.json" if row["protocol"] else "manifest.json"
        behind = [paths.run(r) / file for r in row["runs"].split()]
        columns = ("mean", "sd")
    else:
        return []
    if not all(f.is_file() for f in behind):
        return []
    try:
        values = [_value(known(f), row) for f in behind]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        return [f"{target}: what {behind[0].parent} has gives no number ({type(e).__name__}: {e})"]
    if name == "ledger.csv":
        values = list(stats.over_seeds(values))
    those = f"{behind[0]}{f' and {len(behind) - 1} more' if behind[1:] else ''}"
    now = {k: stats.decimals(v) for k, v in zip(columns, values, strict=True)}
    return [f"{target}: {k} is {row[k]}, {those} gives {v}"
            for k, v in now.items() if v != row[k]]  # fmt: skip


def _value(known: dict, row: dict[str, str]) -> float:
    """The number of a line in one run's file; the manifest's where the network alone decides it."""
    if not row["protocol"]:
        return known["model"]["trainable"] / 1e6
    known = known["observer2"] if row.get("seed") == "observer2" else known
    value = known.get(row["protocol"], {}).get(row["metric"])
    return math.nan if value is None else value + 0.0
