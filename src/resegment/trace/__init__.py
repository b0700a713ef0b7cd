"""From a number back to everything that made it: parameters, data, code, weights, maps.

The chain is read from dvc.lock (what DVC recorded), the run's manifest (what the training saw),
the files on disk and git; `agreement` says where the four tell the same story.
"""

import json
import subprocess
from collections.abc import Iterable
from hashlib import md5 as md5_of
from pathlib import Path

from resegment import config, dialects, paths, proof
from resegment.errors import UserError
from resegment.files import AGAIN, fingerprint, md5, read_json


def files_md5(folder: Path) -> dict[str, str]:
    """{name: MD5} of every file in a folder."""
    return {p.relative_to(folder).as_posix(): md5(p) for p in folder.rglob("*") if p.is_file()}


def dvc_name(files: dict[str, str]) -> str:
    """The name DVC gives a folder: the MD5 of the sorted list of its files' names and MD5s."""
    entries = [{"md5": digest, "relpath": name} for name, digest in sorted(files.items())]
    return md5_of(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def folder_md5(folder: Path) -> str:
    return dvc_name(files_md5(folder))


def trace(
    run: dict,
    metric: str,
    protocol: str,
    deviations: list[str],
    on: str | None = None,
    lock: dict | None = None,
) -> dict:
    """Everything behind `metric` of a run under a protocol of scores/metrics.json.

    run: as `config.resolve` gives it; metric: "" for everything but the value; deviations: ids
    that apply to its paper; on: the other dataset whose maps are meant; lock: `lock_now()` if it
    is known. Parameters and inference are those that the manifests of weights and maps name, and
    params.yaml's where these are not here. `agreement` holds None where a file that would tell is
    not here. Raises UserError where the number or the record of its making does not exist.
    """
    lock, maps = lock or lock_now(), paths.cross(run["run"], on) if on else run["run"]
    file, values = number(run, maps, metric, protocol)
    data, cross = f"{run['split']}/{run['recipe']}", "-cross" if on else ""
    stages = {
        "ingest": _stage(lock, f"ingest@{on or run['dataset']}"),
        "prepare": _stage(lock, f"prepare@{data}", f"prepare-large@{data}"),
        "train": _stage(lock, f"train@{run['run']}", f"train-from@{run['run']}"),
        "predict": _stage(lock, f"predict{cross}@{maps}"),
        "score": _stage(lock, f"score{cross}@{maps}"),
    }
    manifest_file = paths.run(run["run"]) / "manifest.json"
    manifest = _manifest(manifest_file) if manifest_file.exists() else None
    here = {
        "weights": f"runs/{run['run']}/weights.safetensors",
        "maps": f"runs/{maps}/predictions",
        "scores": f"runs/{maps}/scores",
        "data": f"data/prepared/{data}",
        "native": f"data/native/{on or run['dataset']}",
    }
    maker = {"weights": "train", "maps": "predict", "scores": "score", "data": "prepare",
             "native": "ingest"}  # fmt: skip
    recorded = {k: stages[maker[k]]["outs"].get(path) for k, path in here.items()}
    found = _git_record(recorded["scores"])
    by_manifest = manifest or {"fingerprints": {}}
    drawn_file = paths.predictions(maps) / "manifest.json"
    drawn = read_json(drawn_file) if drawn_file.exists() else {}
    used = {"threshold_used": values["threshold"]} if "threshold" in values else {}
    scored = bool(protocol) and (not metric or bool(used))  # a count of parameters has no protocol
    return {
        "run": run["run"],
        "metric": metric,
        "value": values.get(metric),
        "protocol": {"name": protocol, **_definition(protocol), **used} if scored else {},
        "budget": run["budget"],
        "file": str(file),
        "data": {"dataset": run["dataset"], **({"scored on": on} if on else {})},
        "parameters": manifest["parameters"] if manifest else config.trained_by(run),
        "inference": drawn.get("inference", run["inference"]),
        "md5": recorded,
        "code": {"fingerprint": by_manifest["fingerprints"].get("code"),
                 **by_manifest.get("origin", {})},
        **{k: by_manifest.get(k, {}) for k in ("device", "versions", "cost")},
        "deviations": deviations,
        "recorded_in_commit": found,
        "agreement": {
            "maps were scored that were predicted":
                stages["score"]["deps"].get(here["maps"]) == recorded["maps"],
            "weights predicted that were trained":
                stages["predict"]["deps"].get(here["weights"]) == recorded["weights"],
            "training read the prepared data":
                stages["train"]["deps"].get(here["data"]) == recorded["data"],
            "manifest names these weights":
                manifest and manifest["weights_md5"] == recorded["weights"],
            "manifest has the parameters of params.yaml": manifest and
                manifest["fingerprints"]["parameters"] == fingerprint(config.trained_by(run)),
            "dvc.lock has the parameters of params.yaml": _params_agree(stages.values()),
            "source files are those of dvc.lock": all(
                on_disk(Path(path)) == digest for s in stages.values()
                for path, digest in s["deps"].items() if path.startswith("src/")),
            "files on disk are those of dvc.lock": _agree(
                (digest := on_disk(Path(path))) and digest == recorded[k]
                for k, path in here.items() if k in ("weights", "maps", "scores")),
            "this dvc.lock entry is committed to git": found is not None,
        },
    }  # fmt: skip


def _agree(answers: Iterable[bool | None]) -> bool | None:
    """False if one is, else None if one is not known, else True."""
    answers = list(answers)
    return False if False in answers else None if None in answers else True


def asked(target: str, protocol: str) -> list[tuple[dict, str]]:
    """(run, protocol) of every run that a run's id or a published row stands for.

    An id such as drive-lite/rga-drive/s0/on-stare gives the run with `on`, that other dataset. A
    row stands for the runs in dvc.lock that measure it, or, if none is, for all that would;
    protocol: "" for `common`, or the row's own. Raises UserError for what is not known.
    """
    params = config.load()
    if "/" in target:
        run_id, _, dataset = target.partition("/on-")
        run = config.find(params, run_id)
        if dataset and dataset not in run["cross"]:
            have = ", ".join(run["cross"]) or "none"
            raise UserError(f"{paths.PARAMS}: {run_id} is not scored on {dataset!r}; cross: {have}")
        return [(run | {"on": dataset or None}, protocol or "common")]
    from resegment import published  # pandas is slow to come

    published.row(target)
    every = config.runs(params, tuple(params.campaigns))
    runs = [r for r in every if target in r["rows"] and r["dataset"] == r["rows_dataset"]]
    if not runs:
        raise UserError(f"params.yaml: no run measures the published row {target}")
    lock = lock_now()
    runs = [r for r in runs if f"score@{r['run']}" in lock] or runs
    return [(r, protocol or r["protocol"]) for r in runs]


def lock_now() -> dict:
    """{stage: its entry} of dvc.lock."""
    if not Path("dvc.lock").exists():
        raise UserError("dvc.lock is missing: run `snakemake` or `dvc repro` first")
    from resegment.trace.upstream import recorded  # which imports from here

    return recorded()


def _stage(lock: dict, *names: str) -> dict:
    """{"deps": {path: md5}, "outs": {path: md5}, "params": {key: value}} of the first there is."""
    entry = next((lock[name] for name in names if name in lock), None)
    if entry is None:
        raise UserError(f"dvc.lock has no stage {names[0]}: `dvc repro {names[0]}`, with a "
                        "campaign active that has it")  # fmt: skip
    sides = {side: {x["path"]: x.get("md5") for x in entry.get(side, [])}
             for side in ("deps", "outs")}  # fmt: skip
    return sides | {"params": entry.get("params", {}).get(str(paths.PARAMS), {})}


def number(run: dict, maps: str, metric: str, protocol: str) -> tuple[Path, dict]:
    """The file that has a metric of a run, and what it says beside it (nothing for no metric).

    maps: the run, or its id on another dataset. A count of parameters is the training's own.
    """
    from resegment import claims  # pandas is slow to come

    file = source(run["run"], maps, metric)
    if not claims.counted(metric):
        return file, value(file, metric, protocol) if metric else {}
    if not file.exists():
        raise UserError(missing(file, proof.training(run)))
    return file, {metric: claims.value(run, metric, {run["run"]: {"model": {}} | read_json(file)})}


def source(run_id: str, maps: str, metric: str) -> Path:
    """The file that has a metric of a run; maps: the run, or its id on another dataset."""
    from resegment import claims  # pandas is slow to come

    if claims.counted(metric):
        return paths.run(run_id) / "manifest.json"
    return paths.scores(maps) / "metrics.json"


def missing(file: Path, stage: str) -> str:
    """That a file is not here, and how it comes."""
    return (f"{file} is missing: `dvc pull` it, or `dvc repro {stage}`, with a campaign active "
            "that has it")  # fmt: skip


def value(file: Path, metric: str, protocol: str) -> dict:
    """What a metrics.json has under a protocol, the metric among it. Raises UserError if not."""
    if not file.exists():
        maps = str(file.parent.parent.relative_to("runs"))
        raise UserError(missing(file, f"score{'-cross' if '/on-' in maps else ''}@{maps}"))
    values = read_json(file)
    have = [p for p, found in values.items() if isinstance(found, dict) and p != "observer2"]
    if protocol not in have:
        raise UserError(f"{file} has no protocol {protocol!r}; it has {', '.join(have)}")
    if metric not in values[protocol]:
        raise UserError(f"{file} has no metric {metric!r}; it has {', '.join(values[protocol])}")
    return values[protocol]


def _manifest(file: Path) -> dict:
    """The manifest of a training, as far as a trace shows it."""
    found = read_json(file)
    shown = ("fingerprints", "origin", "device", "versions", "cost")
    lost = [k for k in shown if not isinstance(found.get(k, {}), dict)]
    lost += [k for k in ("fingerprints", "weights_md5", "parameters") if k not in found]
    if lost or "parameters" not in found["fingerprints"]:
        raise UserError(f"{file} is not as training writes it ({', '.join(lost) or 'fingerprints'})"
                        f": {AGAIN}")  # fmt: skip
    return found


def _definition(protocol: str) -> dict:
    known = config.load().protocols
    if protocol not in known:
        raise UserError(f"{paths.PARAMS} has no protocol {protocol!r}, only {', '.join(known)}: "
                        "`--at COMMIT` shows a number as it was")  # fmt: skip
    return known[protocol].model_dump()


def _params_agree(stages: Iterable[dict]) -> bool:
    from resegment.trace.upstream import at_key, differences  # which imports from here

    tree = dialects.read(paths.PARAMS.read_text(), str(paths.PARAMS))
    recorded = [item for s in stages for item in s["params"].items()]
    return not any(differences(k, v, at_key(tree, k)) for k, v in recorded)


def on_disk(path: Path) -> str | None:
    """The MD5 that DVC gives what is there; None where nothing is."""
    if path.is_dir():
        return folder_md5(path)
    return md5(path) if path.exists() else None


def _git_record(digest: str | None) -> str | None:
    """The oldest commit whose dvc.lock holds this digest, while HEAD's still does."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout

    if digest is None or digest not in git("show", "HEAD:dvc.lock"):
        return None
    return git("log", f"-S{digest}", "--format=%H", "--", "dvc.lock").split()[-1]


def text(found: dict) -> str:
    """The trace as lines for a person."""
    p, at = found["protocol"], found["file"]
    lines = [f"{found['metric']} = {found['value']}"] if found["metric"] else []
    lines += [f"  published   {found['published']}"] if found.get("published") else []
    lines += [
        f"  run         {found['run']} (budget {found['budget']})",
        f"  file        {at}{'' if Path(at).exists() else ' (not here: `dvc checkout`)'}",
    ]
    if p:
        used = f" ({p['threshold_used']})" if "threshold_used" in p else ""
        lines += [
            f"  protocol    {p['name']}: {p['region']}, {p['space']} size, "
            f"{'pooled' if p['pooling'] == 'pixels' else 'mean of images'}, "
            f"threshold {p['threshold']}{used}"
        ]
    lines += [f"  md5         {k:8} {v}" for k, v in found["md5"].items()]
    for key in ("data", "parameters", "inference", "code", "device", "versions", "cost"):
        lines += [f"  {key:11} {name}: {json.dumps(v)}" for name, v in found[key].items()]
    lines += [f"  deviations  {', '.join(found['deviations']) or 'none'}"]
    lines += [f"  commit      {found['recorded_in_commit'] or 'not committed'}"]
    said = {True: "agrees", False: "DIFFERS", None: "not known"}
    lines += [f"  {said[ok]:11} {name}" for name, ok in found["agreement"].items()]
    return "\n".join(lines)
