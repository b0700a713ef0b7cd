"""Turn a run's probability maps into histograms, and these into scores under every protocol.

The truth is the first observer's label (deviation all-02-second-observer).
"""

import csv
import math
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from resegment import closure, files, metrics, native, paths, structure
from resegment.errors import UserError
from resegment.geometry import restore, to_network_mask
from resegment.protocols import Protocol, evaluate, evaluate_masks, mean, select

SPACES = ("native", "network")
NAMED = (*metrics.COUNTS, *metrics.METRICS, *metrics.STRUCTURE)
EACH = ("id", "subject")
OBSERVED = (*metrics.COUNTS, *metrics.THRESHOLDED, *metrics.STRUCTURE)
Cut = tuple[str, str, float | None]  # region, space, threshold (None: the second observer's mask)


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
    a time; the histograms, 1 MiB per image and space, both of which are counted so that every
    protocol can be scored from them, wait on disk. The test images are read a second time, for
    their structure (metrics.STRUCTURE) at the thresholds that the histograms gave; under either
    pooling its score is the mean over images. Equal inputs give equal bytes. Raises UserError for a
    missing, unreadable or ill-sized map or mask.
    """
    if not protocols or "observer2" in protocols:
        raise UserError("params.yaml: protocols needs an entry, and none may be called observer2")
    with files.atomic_folder(paths.scores(run_id)) as folder, Waiting(folder) as counts:
        _score(run_id, dataset, geometry, protocols, splits, folder, counts)


def _score(run_id, dataset, geometry, protocols, splits, folder: Path, counts: "Waiting") -> None:
    rows = [row for i, row in native.manifest(dataset).items() if i in splits]
    observer = np.zeros((len(rows), len(SPACES), 2, 4), np.uint32)
    for i, row in enumerate(rows):
        hists, observer[i] = _count(run_id, dataset, geometry, row)
        counts.append(hists)

    ids, subjects = ([row[k] for row in rows] for k in ("id", "subject"))
    parts = [splits[i] for i in ids]
    scored = {name: evaluate(p, counts, parts, SPACES) for name, p in protocols.items()}
    cuts = {n: (p.region, p.space, scored[n][0]["threshold"]) for n, p in protocols.items()}
    test = np.flatnonzero(np.array(parts) == "test")
    built = {i: _structure(run_id, dataset, geometry, rows[i], set(cuts.values())) for i in test}
    nothing = dict.fromkeys(metrics.STRUCTURE, np.nan)  # of images that are not tested
    summary, images, roc, pr = {}, [], [], []
    for name, (values, per_image, hist) in scored.items():
        shapes = {i: built[i][cuts[name]] for i in test}
        summary[name] = {"split": "test", **_plain(values | _means(shapes.values()))}
        for i, part in enumerate(parts):
            known = {k: v[i] for k, v in per_image.items()} | shapes.get(i, nothing)
            of = ids[i], subjects[i], values["threshold"]
            images.append([name, part, *of, *(known[k] for k in NAMED)])
        roc += [[name, *xy] for xy in zip(*metrics.roc_curve(hist), strict=True)]
        pr += [[name, *xy] for xy in zip(*metrics.pr_curve(hist), strict=True)]
    arrays = {"ids": ids, "splits": parts, "spaces": SPACES}
    second = []
    if all(rows[i]["observer2"] for i in test):
        arrays["observer2"] = observer
        summary["observer2"], second = _observer(protocols, observer, built, rows)

    counts.save(folder / "histograms.npz", arrays)
    files.write_json(folder / "metrics.json", summary)
    _write_csv(folder / "images.csv", ("protocol", "split", *EACH, "threshold", *NAMED), images)
    if second:
        _write_csv(folder / "observer2.csv", ("protocol", *EACH, *OBSERVED), second)
    _write_csv(folder / "roc.csv", ("protocol", "fpr", "tpr"), roc)
    _write_csv(folder / "pr.csv", ("protocol", "recall", "precision"), pr)
    # what `stats.intervals` needs beside the numbers: what each protocol's name meant here
    described = {name: vars(protocol) for name, protocol in protocols.items()}
    # and what `proof` needs: from which maps and labels, of which split, by which code
    given = {"maps": paths.predictions(run_id), "images": paths.native(dataset)}
    given = {k: at / "manifest.json" for k, at in given.items()}
    files.write_manifest(
        folder, run=run_id, dataset=dataset, protocols=described,
        **{k: files.md5(file) for k, file in given.items() if file.exists()},
        splits=files.fingerprint(dict(splits)),
        code={n: files.md5(f) for n, f in closure.files("resegment.score").items()},
    )  # fmt: skip


class Waiting:
    """Histograms (image, space, part, class, 65536) uint32 in a nameless file, read in slices."""

    SHAPE = len(SPACES), 2, 2, metrics.LEVELS

    def __init__(self, folder: Path):
        self.file, self.n = tempfile.TemporaryFile(dir=folder), 0

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def append(self, hists: np.ndarray) -> None:
        self.file.write(hists.astype("<u4").tobytes())
        self.n += 1

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, some: slice) -> np.ndarray:
        first, last, _ = some.indices(self.n)
        size = math.prod(self.SHAPE)
        self.file.seek(4 * size * first)
        data = self.file.read(4 * size * (last - first))
        return np.frombuffer(data, "<u4").reshape(-1, *self.SHAPE)

    def save(self, path: Path, others: Mapping) -> None:
        """The same as numpy.savez_compressed(path, counts=all of it, **others), for np.load."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, values in others.items():
                with archive.open(f"{name}.npy", "w") as f:
                    np.lib.format.write_array(f, np.asarray(values))
            with archive.open("counts.npy", "w", force_zip64=True) as f:
                shape = {"descr": "<u4", "fortran_order": False, "shape": (self.n, *self.SHAPE)}
                np.lib.format.write_array_header_1_0(f, shape)
                for k in range(self.n):
                    f.write(self[k : k + 1].tobytes())


def _observer(
    protocols: Mapping[str, Protocol],
    counts: np.ndarray,
    built: Mapping[int, dict[Cut, dict]],
    images: list[dict],
) -> tuple[dict[str, dict], list[list]]:
    """The second observer of the test images (the keys of `built`): summary by protocol, and rows
    of observer2.csv. images: manifest rows; counts: (image, space, part, 4) of all of them."""
    summary, rows, test = {}, [], list(built)
    for name, protocol in protocols.items():
        values = evaluate_masks(protocol, counts[test], SPACES)
        shapes = {i: built[i][protocol.region, protocol.space, None] for i in test}
        summary[name] = {"split": "test", **_plain(values | _means(shapes.values()))}
        for i, mask in zip(test, select(counts[test], protocol, SPACES), strict=True):
            known = dict(zip(metrics.COUNTS, mask, strict=True)) | metrics.from_counts(mask)
            rows.append(
                [name, *(({**images[i], **known, **shapes[i]})[k] for k in (*EACH, *OBSERVED))]
            )
    return summary, rows


def frozen(protocols: Mapping[str, Protocol], run_id: str) -> dict[str, Protocol]:
    """The protocols with the thresholds that `run_id` chose on its own training images."""
    path = paths.scores(run_id) / "metrics.json"
    if not path.exists():
        raise UserError(f"{path} is missing: score {run_id} on its own images first")
    own = files.read_json(path)
    return {n: replace(p, threshold=own[n]["threshold"]) for n, p in protocols.items()}


def _read(
    run_id: str, dataset: str, geometry: dict, row: dict
) -> Iterable[tuple[dict[str, np.ndarray], np.ndarray]]:
    """In each of SPACES: the masks (label, fov, observer2 if there is one) and the map."""
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
    return (masks, restore(probability, geometry, size)), (small, probability)


def _count(run_id: str, dataset: str, geometry: dict, row: dict) -> tuple[np.ndarray, np.ndarray]:
    """Histograms (space, part, class, 65536) of one map and counts (space, part, 4) of the second
    observer (zeros without one)."""
    hists = np.empty((len(SPACES), 2, 2, metrics.LEVELS), np.uint32)
    observer = np.zeros((len(SPACES), 2, 4), np.uint32)
    for s, (at, probability) in enumerate(_read(run_id, dataset, geometry, row)):
        for part, region in enumerate((at["fov"], ~at["fov"])):
            hists[s, part] = metrics.histogram(probability, at["label"], region)
            if "observer2" in at:
                observer[s, part] = metrics.counts_of_mask(at["observer2"], at["label"], region)
    return hists, observer


def _structure(
    run_id: str, dataset: str, geometry: dict, row: dict, cuts: Collection[Cut]
) -> dict[Cut, dict[str, float]]:
    """metrics.STRUCTURE of one map at every cut, and of the second observer if there is one."""
    found = {}
    for space, read in zip(SPACES, _read(run_id, dataset, geometry, row), strict=True):
        (at, probability), here = read, [c for c in cuts if c[1] == space]
        truths = structure.truths(at["label"], at["fov"], {c[0] for c in here}) if here else {}
        for cut in here:
            found[cut] = structure.measure(metrics.above(probability, cut[2]), truths[cut[0]])
        if "observer2" in at:
            for region, truth in truths.items():
                found[region, space, None] = structure.measure(at["observer2"], truth)
    return found


def _means(images: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Each of metrics.STRUCTURE averaged over the images where it is defined."""
    return {k: mean([image[k] for image in images]) for k in metrics.STRUCTURE}


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
