"""Predict and score a trained run again, beside what is here, and compare.

On the machine and with the torch that the run's manifest names, maps and scores must be the same
bit for bit. Elsewhere 99.9 % of a map's pixels must lie within 655 of its 65,535 levels (0.01 of
probability), and the metrics of metrics.py within 0.001; counts, thresholds and the measures of
structure follow from the maps and are not judged there.
"""

import contextlib
import tempfile
from pathlib import Path

import cv2
import numpy as np

from resegment import devices, drawn, paths
from resegment.errors import UserError
from resegment.files import md5, read_json
from resegment.metrics import METRICS
from resegment.protocols import Protocol

LEVELS, SHARE, METRIC = 655, 0.999, 0.001


def rerun(run: dict, metric: str, protocol: str, protocols: dict[str, Protocol]) -> dict:
    """Compare a run's maps and scores with those made anew in a temporary folder.

    run: as `config.resolve` gives it, with `on` where the maps of another dataset are meant.
    Returns the value as recorded and again, how it was judged, and `differences`, one line each.
    Raises UserError where weights, manifest, maps or scores are not here.
    """
    on = run.get("on")
    maps, dataset, splits = drawn.of(run, on).values()
    needed = [paths.run(run["run"]) / name for name in ("weights.safetensors", "manifest.json")]
    if on:
        needed.append(paths.scores(run["run"]) / "metrics.json")
    old = paths.run(maps)
    for file in (*needed, old / "predictions/manifest.json", old / "scores/metrics.json"):
        if not file.exists():
            raise UserError(f"{file} is missing: `dvc checkout` or `dvc pull` brings it")
    manifest, recorded = read_json(needed[1]), read_json(old / "scores/metrics.json")
    if metric not in recorded.get(protocol, {}):
        raise UserError(f"{old / 'scores/metrics.json'} has no {metric} under {protocol}: name "
                        f"another, e.g. f1 under {next(iter(recorded))}")  # fmt: skip
    wanted = "cpu" if manifest["device"]["type"] == "cpu" else "auto"
    with tempfile.TemporaryDirectory() as folder, devices.claim(wanted) as device:
        root = Path(folder)
        (root / "data").symlink_to(Path("data").resolve())
        for file in needed:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).symlink_to(file.resolve())
        with contextlib.chdir(root):
            here = _again(run, dataset, splits, maps, protocols, device)
        other = [f"{k} is {here[k]}, the manifest has {then}" for k, then in _then(manifest).items()
                 if here[k] != then]  # fmt: skip
        new = root / paths.run(maps)
        again = read_json(new / "scores/metrics.json")
        differences = _maps(old / "predictions", new / "predictions", exact=not other)
        differences += _metrics(recorded, again, exact=not other)
    return {
        "run": maps, "metric": metric, "protocol": protocol, "value": recorded[protocol][metric],
        "again": again.get(protocol, {}).get(metric), "exact": not other, "because": other,
        "maps": len(splits), "protocols": sorted(set(recorded) & set(again) - {"observer2"}),
        "differences": differences,
    }  # fmt: skip


def _again(run: dict, dataset: str, splits: dict, maps: str, protocols: dict, device: str) -> dict:
    """Predict and score in the current directory; says on what, as `_then` does."""
    import torch

    from resegment import predict, score, train

    if maps != run["run"]:
        protocols = score.frozen(protocols, run["run"])
    predict.predict(run, device, dataset, splits, paths.predictions(maps))
    score.score(maps, dataset, run["geometry"], protocols, splits)
    described = train.describe(torch.device(device), run["train"], run["model"]["name"])
    return _then({"device": described, "versions": {"torch": torch.__version__}})


def _then(manifest: dict) -> dict:
    """What decides the bits, out of a run's manifest."""
    return {**{k: manifest["device"].get(k) for k in ("type", "name", "threads", "kernel")},
            "torch": manifest["versions"]["torch"]}  # fmt: skip


def _maps(old: Path, new: Path, exact: bool) -> list[str]:
    """`map: what differs` for every map that is not the same."""
    names = {folder: {p.name for p in folder.glob("*.png")} for folder in (old, new)}
    lines = [f"{old / n}: is not among the {what}" for where, what in
             ((old, "recorded maps"), (new, "maps made again"))
             for n in sorted(names[old] ^ names[new]) if n not in names[where]]  # fmt: skip
    for name in sorted(names[old] & names[new]):
        if md5(old / name) == md5(new / name):
            continue
        a, b = (cv2.imread(str(f / name), cv2.IMREAD_UNCHANGED) for f in (old, new))
        if a is None or a.shape != b.shape:
            lines.append(f"{old / name}: is no map of {b.shape[0]}x{b.shape[1]}")
            continue
        off = np.abs(a.astype(np.int64) - b)
        if exact or (off <= LEVELS).mean() < SHARE:
            lines.append(f"{old / name}: {(off > 0).mean():.2%} of its pixels differ, by at most "
                         f"{off.max()} of 65535 levels; {(off > LEVELS).mean():.2%} by more than "
                         f"{LEVELS}")  # fmt: skip
    return lines


def _metrics(old: dict, new: dict, exact: bool) -> list[str]:
    """`protocol metric: then ..., again ...` of what was recorded and is not the same."""
    lines = []
    for protocol, values in old.items():
        if protocol == "observer2":
            continue  # of labels alone
        now = new.get(protocol, {})
        for name, then in values.items():
            judged = exact or name in METRICS
            if judged and not _same(then, now.get(name), 0 if exact else METRIC):
                lines.append(f"{protocol} {name}: recorded {then}, again {now.get(name)}")
    return lines


def _same(a, b, tolerance: float) -> bool:
    if isinstance(a, str) or a is None or b is None:
        return a == b
    return abs(a - b) <= tolerance


def text(found: dict) -> str:
    """What `rerun` found, as lines for a person; the verdict last."""
    how = ("bit for bit: device, its name, threads, kernel and torch are the manifest's"
           if found["exact"] else f"within tolerances ({LEVELS} levels for {SHARE:.1%} of a map's "
           f"pixels, metrics {METRIC}): {'; '.join(found['because'])}")  # fmt: skip
    n = len(found["differences"])
    verdict = "the same again" if found["exact"] else "the same within tolerances"
    return "\n".join([
        f"{found['metric']} = {found['value']} recorded, {found['again']} again",
        f"  run         {found['run']}",
        f"  protocol    {found['protocol']}",
        f"  compared    {found['maps']} maps, scores under {', '.join(found['protocols'])}",
        f"  judged      {how}",
        *(f"  DIFFERS     {line}" for line in found["differences"]),
        f"{n} differ" if n else verdict,
    ])  # fmt: skip
