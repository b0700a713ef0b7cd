"""A number as it stood in an earlier commit, and what differs now.

params.yaml may have had another shape then, so everything is read from that commit's dvc.lock (what
DVC recorded) and its committed tables; nothing is validated against today's configuration.
"""

import csv
import json
import subprocess
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

from resegment import claims, paths
from resegment.errors import UserError
from resegment.trace import on_disk
from resegment.trace.upstream import at_key, behind, differences, read, shown
from resegment.trace.upstream import recorded as stages_of


def recorded(run_id: str, commit: str | None = None, scores: str | None = None) -> dict:
    """What dvc.lock has of a run, at a commit or now: parameters, code, md5 of every file.

    scores: another folder of scores of that run (on another dataset). Raises UserError, with near
    matches, where dvc.lock has no such run.
    """
    stages = behind(scores or str(paths.scores(run_id)), stages_of(commit))
    sides = {side: {x["path"]: x["md5"] for s in stages.values() for x in s.get(side, [])}
             for side in ("deps", "outs")}  # fmt: skip
    params = [s.get("params", {}).get(str(paths.PARAMS), {}) for s in stages.values()]
    return {
        "run": run_id,
        "commit": commit,
        "parameters": {k: v for of_stage in params for k, v in of_stage.items()},
        "code": {k: v for k, v in sides["deps"].items() if k.startswith("src/")},
        "md5": sides["outs"],
    }


def trace(run_id: str, metric: str, protocol: str, commit: str) -> dict:
    """A run's metric at a commit, everything dvc.lock then had behind it, and what differs now.

    The value is that of the committed scores.csv, of `commit` or of the next commit that has one.
    Raises UserError where neither has it.
    """
    own, _, dataset = run_id.partition("/on-")
    found = recorded(own, commit, str(paths.scores(run_id)))
    counted = claims.counted(metric)  # it has no protocol
    name = "runs.csv" if counted else "cross.csv" if dataset else "scores.csv"
    table = paths.reports(own.partition("/")[0]) / name
    source = _with_table(table, commit)
    text = shown(str(table), source)
    lock = stages_of(source)
    of_table = {o["path"]: o["md5"] for s in lock.values() for o in s.get("outs", [])}
    then, now = read(str(paths.PARAMS), commit), read(str(paths.PARAMS))
    return found | {
        "metric": metric,
        "value": _count(text, f"{table} of {source}", own, metric) if counted else
                 _value(text, f"{table} of {source}", own, metric, protocol, dataset),
        "protocol": "" if counted else protocol,
        "file": str(table),
        "from_commit": source,
        "differs_now": {
            "parameters": _changed(found["parameters"], now),
            "code": [k for k, v in found["code"].items() if on_disk(Path(k)) != v],
            "md5": [k for k, v in found["md5"].items() if on_disk(Path(k)) not in (v, None)],
        },
        "not_here": [k for k in found["md5"] if not Path(k).exists()],
        "agreement": {
            "dvc.lock then had the parameters of params.yaml then":
                not _changed(found["parameters"], then),
            "the committed table is the one dvc.lock recorded":
                of_table.get(str(table)) == md5(text.encode()).hexdigest(),
        },
    }  # fmt: skip


def measuring(row: str, commit: str) -> list[dict]:
    """The runs that measured a published row at a commit: {"run", "protocol"}.

    Raises UserError where that commit's params.yaml or dvc.lock has none.
    """
    tree, lock = read(str(paths.PARAMS), commit), stages_of(commit)
    made = {o["path"] for s in lock.values() for o in s.get("outs", [])}
    try:
        out = [found for found in _measuring(row, tree) if str(paths.scores(found["run"])) in made]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{paths.PARAMS} of {commit} has another shape: name a run of its dvc.lock "
                        "instead of the published row") from None  # fmt: skip
    if not out:
        raise UserError(f"dvc.lock of {commit} has no run that measured the published row {row}")
    return out


def _measuring(row: str, tree: dict) -> Iterator[dict]:
    for name, campaign in tree.get("campaigns", {}).items():
        for key in campaign["experiments"]:
            e = tree["experiments"][key]
            if row in e.get("rows", []) and campaign.get("dataset", e["dataset"]) == e["dataset"]:
                for seed in campaign["seeds"]:
                    yield {"run": f"{name}-{campaign['budget']}/{key}/s{seed}",
                           "protocol": e["protocol"]}  # fmt: skip


def _with_table(table: Path, commit: str) -> str:
    """`commit` itself, or the next commit that brought the table."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout

    if git("ls-tree", "--name-only", commit, "--", str(table)):
        return commit
    later = git("log", "--reverse", "--diff-filter=A", "--format=%h", f"{commit}..HEAD", "--",
                str(table)).split()  # fmt: skip
    if not later:
        raise UserError(
            f"git has no {table} in {commit} or later: that campaign's tables are not "
            f"committed; `git checkout {commit} && dvc checkout` brings the files"
        )
    return later[0]


def _lines(text: str, where: str, *columns: str) -> list[dict[str, str]]:
    table = list(csv.DictReader(text.splitlines()))
    if lost := set(columns) - set(table[0] if table else ()):
        raise UserError(f"{where} has no column {', '.join(sorted(lost))}")
    return table


def _count(text: str, where: str, run_id: str, metric: str) -> float:
    """A count of parameters, as `claims.value` takes it of a manifest."""
    _, experiment, seed = run_id.split("/")
    table = _lines(text, where, "experiment", "seed", "key", "value")
    model = {r["key"].partition(".")[2]: float(r["value"]) for r in table
             if (r["experiment"], f"s{r['seed']}") == (experiment, seed)
             and r["key"] in ("model.total", "model.trainable")}  # fmt: skip
    if not model:
        raise UserError(f"{where} has no line of {run_id}")
    return claims.value({"run": run_id}, metric, {run_id: {"model": model}})


def _value(
    text: str, where: str, run_id: str, metric: str, protocol: str, dataset: str = ""
) -> float:
    scored = ("scored_on",) if dataset else ()
    table = _lines(text, where, "run", "seed", "protocol", "metric", "value", *scored)
    rows = [r for r in table if r["run"] == run_id and r["seed"] != "observer2"
            and all(r[k] == dataset for k in scored)]  # fmt: skip
    if not rows:
        raise UserError(f"{where} has no line of {run_id}{f' on {dataset}' * bool(dataset)}")
    for column, name in (("protocol", protocol), ("metric", metric)):
        have = dict.fromkeys(r[column] for r in rows)
        if name not in have:
            raise UserError(f"{where} has no {column} {name!r}; it has {', '.join(have)}")
        rows = [r for r in rows if r[column] == name]
    try:
        return float(rows[0]["value"] or "nan")
    except ValueError as e:
        raise UserError(f"{where} has no number there: {e}") from None


def _changed(parameters: dict, tree: dict) -> list[str]:
    """`key: dvc.lock has ..., now it is ...` for every leaf that differs in a params.yaml."""
    return [line for k, v in parameters.items() for line in differences(k, v, at_key(tree, k))]


def text(found: dict) -> str:
    """What `recorded` or `trace` found, as lines for a person."""
    lines = []
    if "metric" in found:
        asked = found["commit"]
        later = "" if found["from_commit"] == asked else f" ({asked} has no such table yet)"
        lines += [
            f"{found['metric']} = {found['value']}",
            *([f"  published   {found['published']}"] if found.get("published") else []),
            f"  run         {found['run']} at {asked}",
            f"  file        {found['file']} of commit {found['from_commit']}{later}",
            *([f"  protocol    {found['protocol']}"] if found["protocol"] else []),
        ]
    else:
        lines += [f"  run         {found['run']}, as dvc.lock has it"]
    lines += [f"  md5         {v:36} {k}" for k, v in found["md5"].items()]
    lines += [f"  parameters  {k}: {json.dumps(v)}" for k, v in found["parameters"].items()]
    lines += [f"  code        {len(found['code'])} source files (--json lists their md5)"]
    if "metric" in found:
        differs = [f"{kind}: {_listed(names)}" for kind, names in found["differs_now"].items()
                   if names]  # fmt: skip
        lines += [f"  now         {'; '.join(differs) or 'nothing differs'}"]
        if found["differs_now"]["md5"] or found["not_here"]:
            how = f"`git checkout {found['commit']} && dvc checkout`"
            lines += [f"  files       {how} brings those of then"]
        lines += [f"  {'agrees' if ok else 'DIFFERS':11} {name}"
                  for name, ok in found["agreement"].items()]  # fmt: skip
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    """The first few of what differs, by name alone."""
    short = [n.partition(": ")[0] for n in names]
    return ", ".join(short[:6]) + (f" and {len(short) - 6} more" if len(short) > 6 else "")
