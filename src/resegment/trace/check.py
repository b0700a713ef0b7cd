"""Whether what is here is what dvc.lock records behind a number, a file or a line of a table."""

from pathlib import Path

from resegment import config, files, paths, proof
from resegment.datasets import sums
from resegment.errors import UserError
from resegment.trace import asked, number, source, tables
from resegment.trace.upstream import behind, described, read, recorded, verify


def check(target: str, metric: str, protocol: str) -> dict:
    """Hash everything behind a run or a published row (with a metric), a file or a table's line.

    `altered`: one line for each thing that is not as recorded. `absent`: what is recorded and not
    here, so that nothing is known of it. Raises UserError where there is no such number or file.
    """
    line = tables.split(target)
    values, row, wrong, lost = [], {}, [], []
    if metric:
        runs = asked(target, protocol)
        ids = [paths.cross(r["run"], r["on"]) if r.get("on") else r["run"] for r, _ in runs]
        folders = [str(paths.scores(i)) for i in ids]
        for i, (run, name) in zip(ids, runs, strict=True):
            if not (file := source(run["run"], i, metric)).exists():
                lost.append(str(file))
                continue
            value = number(run, i, metric, name)[1][metric]
            values.append({"run": i, "metric": metric, "protocol": name, "value": value})
        campaigns = dict.fromkeys(run["campaign"] for run, _ in runs)
        wrong += [said for c in campaigns for said in _of_row(c, target, metric)]
    else:
        folders = [line[0] if line else target]
        row = tables.line(target) if line else {}
        wrong += tables.disagreement(target, row) if line else []
    lock = recorded()
    stages = {name: s for file in folders for name, s in behind(file, lock).items()}
    wrong = verify(stages, read(str(paths.PARAMS))) + broken(stages) + wrong
    wrong += [said for said in _tables(stages) if said not in wrong]
    return {"target": target, "values": values, "line": row, "stages": stages, "altered": wrong,
            "absent": [*lost, *absent(stages)]}  # fmt: skip


def broken(stages: dict[str, dict]) -> list[str]:
    """Where the chain of fingerprints of the runs among `stages` does not hold: what a manifest
    says of parameters, code, data and weights, whatever dvc.lock was made to say."""
    trained = [name.partition("@")[2] for name in stages if name.startswith("train")]
    out: list[str] = []
    for run in trained:
        try:
            params = config.load()
            out += [f"{run}: {said}" for _, said in proof.doubts(config.find(params, run), params)]
        except UserError as e:
            out.append(f"{run}: {e}")
    return out


def _tables(stages: dict[str, dict]) -> list[str]:
    """Lines of the tables that `stages` made with a number that metrics.json does not give."""
    made = [Path(out["path"]) for stage in stages.values() for out in stage.get("outs", [])]
    return [said for table in made if table.name in tables.NEEDED and table.is_file()
            for said in tables.disagreements(table)]  # fmt: skip


def _of_row(campaign: str, row: str, metric: str) -> list[str]:
    """Lines of a campaign's ledger with a published number that its runs no longer give."""
    table = paths.reports(campaign) / "ledger.csv"
    if not table.is_file():
        return []
    lines = list(enumerate(files.table(table, "row", "metric", *tables.NEEDED["ledger.csv"]), 2))
    return [said for number, line in lines if (line["row"], line["metric"]) == (row, metric)
            for said in tables.disagreement(f"{table}:{number}", line)]  # fmt: skip


def absent(stages: dict[str, dict]) -> list[str]:
    """The recorded files and folders, and the originals of a registry, that are not here."""
    recorded = dict.fromkeys(entry["path"] for stage in stages.values() for side in ("deps", "outs")
                             for entry in stage.get(side, []))  # fmt: skip
    out = [path for path in recorded if not Path(path).exists()]
    for path in (Path(p) for p in recorded):
        if path == paths.registry(path.stem) and path.exists():
            known = sums.read(path).expected
            lost = [name for name in known if not (paths.raw(path.stem) / name).is_file()]
            out += [f"{paths.raw(path.stem)} ({len(lost)} of {len(known)} files)"] if lost else []
    return out


def text(found: dict) -> str:
    """What `check` found, as lines for a person; the verdict last."""
    lines = [found["target"]]
    lines += [f"  {v['metric']} = {v['value']} ({v['run']}, {v['protocol']})"
              for v in found["values"]]  # fmt: skip
    lines += [f"  {k:14} {v}" for k, v in found["line"].items()]
    lines += [described(found["stages"])]
    lines += [f"  ALTERED     {line}" for line in found["altered"]]
    lines += [f"  not here    {line}" for line in found["absent"]]
    altered, lost = len(found["altered"]), len(found["absent"])
    if lost:
        lines += ["  `dvc checkout` or `dvc pull` brings recorded files; `resegment data status` "
                  "says where originals come from"]  # fmt: skip
    judged = f"{altered} altered" if altered else "what is here is as recorded"
    verdict = f"{judged}; {lost} not here, so not verified" if lost else judged
    return "\n".join([*lines, verdict if altered or lost else "all as recorded"])
