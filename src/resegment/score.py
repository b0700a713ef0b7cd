"""Turn a run's probability maps into histograms, and these into scores under every protocol.

The truth is the first observer's label (deviation all-02-second-observer).
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from resegment import files, metrics, native, paths
from resegment.errors import UserError
from resegment.geometry import restore, to_network_mask
from resegment.protocols import Protocol, evaluate, evaluate_masks

NAMED = (*metrics.COUNTS, *metrics.METRICS)


def score(
    run_id: str,
    dataset: str,
    geometry: dict,
    protocols: Mapping[str, Protocol],
    splits: Mapping[str, str],
) -> None:
    """Score every predicted image of a run and write runs/<run>/scores/ in one step.

    Reads runs/<run>/predictions/<id>.png (16-bit gray, network resolution) for every id of
    `splits` (id -> train, val or test) and the masks of data/native/<dataset>. Holds one image at
    a time; only the histograms grow (1 MiB per image and space). Equal inputs give equal bytes.
    Raises UserError for a missing, unreadable or ill-sized map or mask.
    """
    if not protocols or "observer2" in protocols:
        raise UserError("params.yaml: protocols needs an entry, and none may be called observer2")
    rows = [row for i, row in native.manifest(dataset).items() if i in splits]
    wanted = {p.space for p in protocols.values()} | {"native"}
    spaces = [s for s in ("native", "network") if s in wanted]
    counts = np.zeros((len(rows), len(spaces), 2, 2, metrics.LEVELS), np.uint32)
    observer = np.zeros((len(rows), len(spaces), 2, 4), np.uint32)
    for i, row in enumerate(rows):
        counts[i], observer[i] = _count(run_id, dataset, geometry, row, spaces)

    ids = [row["id"] for row in rows]
    parts = [splits[i] for i in ids]
    test = np.array(parts) == "test"
    summary, images, roc, pr = {}, [], [], []
    for name, protocol in protocols.items():
        values, per_image, hist = evaluate(protocol, counts, parts, spaces)
        summary[name] = {"split": "test", **_plain(values)}
        for i, part in enumerate(parts):
            cells = [per_image[k][i] for k in NAMED]
            images.append([name, part, ids[i], values["threshold"], *cells])
        roc += [[name, *xy] for xy in zip(*metrics.roc_curve(hist), strict=True)]
        pr += [[name, *xy] for xy in zip(*metrics.pr_curve(hist), strict=True)]
    arrays = {"counts": counts, "ids": ids, "splits": parts, "spaces": spaces}
    if all(row["observer2"] for row, tested in zip(rows, test, strict=True) if tested):
        arrays["observer2"] = observer
        summary["observer2"] = {
            name: {"split": "test", **_plain(evaluate_masks(protocol, observer[test], spaces))}
            for name, protocol in protocols.items()
        }

    with files.atomic_folder(paths.scores(run_id)) as folder:
        np.savez_compressed(folder / "histograms.npz", **arrays)
        files.write_json(folder / "metrics.json", summary)
        _write_csv(folder / "images.csv", ("protocol", "split", "id", "threshold", *NAMED), images)
        _write_csv(folder / "roc.csv", ("protocol", "fpr", "tpr"), roc)
        _write_csv(folder / "pr.csv", ("protocol", "recall", "precision"), pr)
        # what `stats.intervals` needs beside the numbers: what each protocol's name meant here
        described = {name: vars(protocol) for name, protocol in protocols.items()}
        files.write_manifest(folder, run=run_id, dataset=dataset, protocols=described)


def frozen(protocols: Mapping[str, Protocol], run_id: str) -> dict[str, Protocol]:
    """The protocols with the thresholds that `run_id` chose on its own training images."""
    path = paths.scores(run_id) / "metrics.json"
    if not path.exists():
        raise UserError(f"{path} is missing: score {run_id} on its own images first")
    own = files.read_json(path)
    return {n: replace(p, threshold=own[n]["threshold"]) for n, p in protocols.items()}


def _count(
    run_id: str, dataset: str, geometry: dict, row: dict, spaces: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Histograms (space, part, class, 65536) of one map and counts (space, part, 4) of the second
    observer (zeros without one)."""
    size = int(row["height"]), int(row["width"])
    masks = {k: native.mask(dataset, row, k) for k in ("label", "fov", "observer2") if row[k]}
    small = {k: to_network_mask(m, geometry) for k, m in masks.items()}
    path = paths.predictions(run_id) / f"{row['id']}.png"
    probability = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if probability is None or probability.dtype != np.uint16 or probability.ndim != 2:
        raise UserError(f"{path} is no 16-bit gray map: run the prediction of {run_id} again")
    if probability.shape != small["label"].shape:
        is_, must = (f"{s[0]}x{s[1]}" for s in (probability.shape, small["label"].shape))
        raise UserError(f"{path} is {is_}, its recipe makes {must}: predict {run_id} again")

    hists = np.empty((len(spaces), 2, 2, metrics.LEVELS), np.uint32)
    observer = np.zeros((len(spaces), 2, 4), np.uint32)
    for s, space in enumerate(spaces):
        at = masks if space == "native" else small
        p = restore(probability, geometry, size) if space == "native" else probability
        for part, region in enumerate((at["fov"], ~at["fov"])):
            hists[s, part] = metrics.histogram(p, at["label"], region)
            if "observer2" in at:
                observer[s, part] = metrics.counts_of_mask(at["observer2"], at["label"], region)
    return hists, observer


def _text(value: object) -> str:
    """Nine significant digits (a threshold survives them); empty for undefined."""
    if isinstance(value, float | np.floating) or isinstance(value, np.ndarray):
        return "" if np.isnan(value) else f"{float(value):.9g}"
    return str(value)


def _plain(values: Mapping) -> dict:
    """JSON numbers as `_text` writes them: int, float or null."""

    def number(value):
        if value is None or np.isnan(value):
            return None
        return int(value) if np.asarray(value).dtype.kind in "iu" else float(f"{value:.9g}")

    return {k: number(v) for k, v in values.items()}


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[list]) -> None:
    with files.atomic(path) as tmp, open(tmp, "w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_text(cell) for cell in row] for row in rows)
