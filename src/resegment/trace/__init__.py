"""From a number back to everything that made it: parameters, data, code, weights, maps.

The chain is read from dvc.lock (what DVC recorded), the run's manifest (what the training saw),
the files on disk and git; `agreement` says where the four tell the same story.
"""

import json
import subprocess
from hashlib import md5 as md5_of
from pathlib import Path

import yaml

from resegment import config, paths
from resegment.errors import UserError
from resegment.files import fingerprint, md5, read_json

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml: slower, the same answer
    from yaml import SafeLoader as Loader


def folder_md5(folder: Path) -> str:
    """The name DVC gives a folder: the MD5 of the sorted list of its files' names and MD5s."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = [{"md5": md5(p), "relpath": p.relative_to(folder).as_posix()} for p in files]
    entries.sort(key=lambda e: e["relpath"])
    return md5_of(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def trace(run: dict, metric: str, protocol: str, deviations: list[str]) -> dict:
    """Everything behind `metric` of a run under a protocol of scores/metrics.json.

    run: as `config.resolve` gives it; deviations: ids that apply to its paper. Raises
    UserError where the number or the record of its making does not exist.
    """
    lock = _lock()
    scores = paths.scores(run["run"]) / "metrics.json"
    values = _value(scores, metric, protocol)
    stages = {v: _stage(lock, f"{v}@{run['run']}") for v in ("train", "predict", "score")}
    data = f"{run['split']}/{run['recipe']}"
    prepared = next((_stage(lock, f"{v}@{data}") for v in ("prepare", "prepare-large")
                     if f"{v}@{data}" in lock), None)  # fmt: skip
    if prepared is None:
        raise UserError(f"dvc.lock has no stage for data/prepared/{data}: run `dvc repro`")
    stages = {"ingest": _stage(lock, f"ingest@{run['dataset']}"), "prepare": prepared, **stages}
    manifest = read_json(paths.run(run["run"]) / "manifest.json")
    here = {
        "weights": f"runs/{run['run']}/weights.safetensors",
        "maps": f"runs/{run['run']}/predictions",
        "scores": f"runs/{run['run']}/scores",
        "data": f"data/prepared/{data}",
        "native": f"data/native/{run['dataset']}",
    }
    maker = {"weights": "train", "maps": "predict", "scores": "score", "data": "prepare",
             "native": "ingest"}  # fmt: skip
    recorded = {k: stages[maker[k]]["outs"].get(path) for k, path in here.items()}
    found = _git_record(recorded["scores"])
    return {
        "run": run["run"],
        "metric": metric,
        "value": values[metric],
        "protocol": {"name": protocol, **_definition(protocol),
                     "threshold_used": values["threshold"]},
        "budget": run["budget"],
        "file": str(scores),
        "parameters": config.trained_by(run),
        "md5": recorded,
        "code": {"fingerprint": manifest["fingerprints"]["code"], **manifest.get("origin", {})},
        "device": manifest["device"],
        "versions": manifest["versions"],
        "cost": manifest["cost"],
        "deviations": deviations,
        "recorded_in_commit": found,
        "agreement": {
            "maps were scored that were predicted":
                stages["score"]["deps"].get(here["maps"]) == recorded["maps"],
            "weights predicted that were trained":
                stages["predict"]["deps"].get(here["weights"]) == recorded["weights"],
            "training read the prepared data":
                stages["train"]["deps"].get(here["data"]) == recorded["data"],
            "manifest names these weights": manifest["weights_md5"] == recorded["weights"],
            "manifest has the parameters of params.yaml":
                manifest["fingerprints"]["parameters"] == fingerprint(config.trained_by(run)),
            "dvc.lock has the parameters of params.yaml": all(
                _params_agree(s["params"]) for s in stages.values()),
            "source files are those of dvc.lock": all(
                _on_disk(Path(path)) == digest for s in stages.values()
                for path, digest in s["deps"].items() if path.startswith("src/")),
            "files on disk are those of dvc.lock": all(
                _on_disk(Path(path)) == recorded[k] for k, path in here.items()
                if k in ("weights", "maps", "scores")),
            "this dvc.lock entry is committed to git": found is not None,
        },
    }  # fmt: skip


def _lock() -> dict:
    try:
        return yaml.load(Path("dvc.lock").read_text(), Loader)["stages"]
    except FileNotFoundError:
        raise UserError("dvc.lock is missing: run `snakemake` or `dvc repro` first") from None


def _stage(lock: dict, name: str) -> dict:
    """{"deps": {path: md5}, "outs": {path: md5}, "params": {key: value}} of a stage."""
    if name not in lock:
        raise UserError(f"dvc.lock has no stage {name}: run `dvc repro {name}`")
    entry = lock[name]
    sides = {side: {x["path"]: x.get("md5") for x in entry.get(side, [])}
             for side in ("deps", "outs")}  # fmt: skip
    return sides | {"params": entry.get("params", {}).get(str(paths.PARAMS), {})}


def _value(file: Path, metric: str, protocol: str) -> dict:
    if not file.exists():
        run = file.parent.parent.relative_to("runs")
        raise UserError(f"{file} is missing: `dvc pull` it, or run `dvc repro score@{run}`")
    values = read_json(file)
    if protocol not in values:
        raise UserError(f"{file} has no protocol {protocol!r}; it has {', '.join(values)}")
    if metric not in values[protocol]:
        raise UserError(f"{file} has no metric {metric!r}; it has {', '.join(values[protocol])}")
    return values[protocol]


def _definition(protocol: str) -> dict:
    return config.load().protocols[protocol].model_dump()


def _params_agree(recorded: dict) -> bool:
    from resegment.trace.upstream import at_key, differences  # which imports from here

    tree = yaml.load(paths.PARAMS.read_text(), Loader)
    return not any(differences(k, v, at_key(tree, k)) for k, v in recorded.items())


def _on_disk(path: Path) -> str | None:
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
    p = found["protocol"]
    lines = [
        f"{found['metric']} = {found['value']}",
        f"  run         {found['run']} (budget {found['budget']})",
        f"  file        {found['file']}",
        f"  protocol    {p['name']}: {p['region']}, {p['space']} size, "
        f"{'pooled' if p['pooling'] == 'pixels' else 'mean of images'}, "
        f"threshold {p['threshold']} ({p['threshold_used']})",
    ]
    lines += [f"  md5         {k:8} {v}" for k, v in found["md5"].items()]
    for key in ("parameters", "code", "device", "versions", "cost"):
        lines += [f"  {key:11} {name}: {json.dumps(v)}" for name, v in found[key].items()]
    lines += [f"  deviations  {', '.join(found['deviations']) or 'none'}"]
    lines += [f"  commit      {found['recorded_in_commit'] or 'not committed'}"]
    lines += [f"  {'agrees' if ok else 'DIFFERS':11} {name}"
              for name, ok in found["agreement"].items()]  # fmt: skip
    return "\n".join(lines)
