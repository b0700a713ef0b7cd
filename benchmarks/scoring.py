"""Scoring the maps of 20 DRIVE images: files to metrics, curves, structure and intervals.

Labels and fields of view are DRIVE's where `data/native/drive` is, else drawn; the maps are the
labels, blurred and with noise.
"""

import contextlib
import csv
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks import Case

IDS = [f"{i:02}" for i in range(1, 21)]
SIZE = (584, 565)
DRIVE = Path("data/native/drive").resolve()
RUN = "bench-full/maps/s0"
AS_IS = {"resize": None, "pad": None, "width": None}
METRICS = ("se", "sp", "acc", "precision", "f1", "iou", "mcc", "auc", "ap", "brier")
RESAMPLES = 2000


def masks(i: str) -> tuple[np.ndarray, np.ndarray]:
    """(label, field of view) of an image, bool."""
    if DRIVE.exists():
        return tuple(
            cv2.imread(str(DRIVE / f"{i}_{k}.png"), cv2.IMREAD_UNCHANGED) > 0
            for k in ("label", "fov")
        )
    rng = np.random.default_rng(int(i))
    drawn = np.zeros(SIZE, np.uint8)
    for width in rng.integers(1, 9, 60):
        walk = np.cumsum(rng.normal(0, 12, (40, 2)), 0) + rng.random(2) * SIZE[::-1]
        cv2.polylines(drawn, [walk.astype(np.int32)], False, 1, int(width))
    fov = np.hypot(*np.ogrid[-292:292, -282:283]) < 270
    return (drawn > 0) & fov, fov


def probability(i: str) -> np.ndarray:
    """A map, uint16."""
    label, _ = masks(i)
    noise = np.random.default_rng(100 + int(i)).normal(0, 0.15, label.shape)
    p = cv2.GaussianBlur(label.astype(np.float64), (0, 0), 1.5) + cv2.blur(noise, (3, 3))
    return np.rint(np.clip(p, 0, 1) * 65535).astype(np.uint16)


@contextlib.contextmanager
def scored_set(ids: list[str]):
    """A temporary checkout with the masks and maps of `ids` (01 to 20, repeated as 01x1 ...)."""
    from resegment import native, paths

    columns = ("id", "subject", "height", "width", "image", "label", "fov", "fov_source",
               "observer2")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        data, maps = paths.native("bench"), paths.predictions(RUN)
        data.mkdir(parents=True)
        maps.mkdir(parents=True)
        with open(data / "manifest.csv", "w", newline="") as f:
            table = csv.writer(f)
            table.writerow(columns)
            for i in ids:
                label, fov = masks(i[:2])
                for kind, mask in (("label", label), ("fov", fov)):
                    cv2.imwrite(str(data / f"{i}_{kind}.png"), mask * np.uint8(255))
                cv2.imwrite(str(maps / f"{i}.png"), probability(i[:2]))
                table.writerow([i, i, *label.shape, "", f"{i}_label.png", f"{i}_fov.png", "given",
                                ""])  # fmt: skip
        assert list(native.manifest("bench")) == ids
        yield


def protocols() -> dict:
    """Those of params.yaml, at fixed thresholds, as another set's images are scored."""
    from resegment.protocols import Protocol

    return {
        "common": Protocol("fov", "native", "pixels", 0.5),
        "frame-network-images": Protocol("frame", "network", "images", 0.5),
        "frame-native-pixels": Protocol("frame", "native", "pixels", 0.5),
        "fov-native-pixels": Protocol("fov", "native", "pixels", 0.5),
    }


def scoring():
    cv2.setNumThreads(1)
    from resegment import paths, score, stats
    from resegment.files import read_json

    with scored_set(IDS):
        yield 1
        score.score(RUN, "bench", AS_IS, protocols(), dict.fromkeys(IDS, "test"))
        for name in protocols():
            stats.intervals(paths.scores(RUN), name)
        return read_json(paths.scores(RUN) / "metrics.json")["common"]


def sklearn():
    """Every metric of one resample (here the images as they are); 2,000 more cost 2,000 times."""
    import sklearn.metrics as sk

    with scored_set(IDS):
        yield 1 / (RESAMPLES + 1)
        truth, p = [], []
        for i in IDS:
            label, fov = (cv2.imread(f"data/native/bench/{i}_{k}.png", 0) > 0
                          for k in ("label", "fov"))  # fmt: skip
            maps = cv2.imread(f"runs/{RUN}/predictions/{i}.png", cv2.IMREAD_UNCHANGED)
            truth.append(label[fov])
            p.append(maps[fov] / 65535)
        y, p = np.concatenate(truth), np.concatenate(p)
        mask = p > 0.5
        (tn, fp), _ = sk.confusion_matrix(y, mask)
        return {
            "se": sk.recall_score(y, mask), "sp": tn / (tn + fp), "acc": sk.accuracy_score(y, mask),
            "precision": sk.precision_score(y, mask), "f1": sk.f1_score(y, mask),
            "iou": sk.jaccard_score(y, mask), "mcc": sk.matthews_corrcoef(y, mask),
            "auc": sk.roc_auc_score(y, p), "ap": sk.average_precision_score(y, p),
            "brier": sk.brier_score_loss(y, p),
        }  # fmt: skip


def one_pass():
    maps = [probability(i).ravel() for i in IDS]
    np.bincount(maps[0], minlength=65536)
    yield 1
    for values in maps:
        np.bincount(values, minlength=65536)


def agree(ours: dict, other: dict) -> str:
    off = max(abs(ours[k] - other[k]) for k in METRICS)
    assert off <= 1e-6, f"metrics differ by {off}"
    return f"{len(METRICS)} metrics equal to {off:.1g}"


CASES = [
    Case(
        "scoring",
        "20 DRIVE maps: 11 metrics, curves, 5 measures of structure, 2,000 resamples, 4 protocols",
        scoring, ratio=50,
        against="scikit-learn per metric, one protocol, no structure; 1 of 2,001 resamples, scaled",
        other=sklearn, floor=one_pass, floor_is="np.bincount of the 16-bit values", same=agree,
        rounds=3,
    ),
]  # fmt: skip
