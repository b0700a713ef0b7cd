"""A training of a second, for the tests of training and of its faults."""

import copy
import csv

import cv2
import numpy as np

from resegment import checkpoint, config, files, paths, train


def small(root):
    """A run of the sample campaign with a budget of a second, and in the current, empty folder its
    prepared set of four pairs, one of them for validation."""
    run = config.find(config.load(root / "params.yaml"), "sample-smoke/unet-drive/s0")
    run["model"]["options"] = {"width": 4, "depth": 2, "norm": True}
    run["train"] |= {"epochs": 4, "samples_per_epoch": 12, "batch_size": 4}
    run["train"]["augment"]["crop"] = 32
    folder = paths.prepared("sample", "native")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    fov = cv2.circle(np.zeros((40, 44), np.uint8), (22, 20), 18, 255, -1)
    rows = []
    for i in range(4):
        label = cv2.GaussianBlur(rng.random((40, 44)), (0, 0), 3) > 0.5
        image = (60 + 90 * ~label[..., None] + rng.integers(0, 40, (40, 44, 3))).astype(np.uint8)
        row = dict(sample=i, id=i, split="val" if i == 3 else "train", operation="none", angle=0,
                   image=f"{i}_image.png", label=f"{i}_label.png", fov=f"{i}_fov.png")  # fmt: skip
        cv2.imwrite(str(folder / row["image"]), image)
        cv2.imwrite(str(folder / row["label"]), label.astype(np.uint8) * 255)
        cv2.imwrite(str(folder / row["fov"]), fov)
        rows.append(row)
    with open(folder / "manifest.csv", "w", newline="") as f:
        table = csv.DictWriter(f, rows[0])
        table.writeheader()
        table.writerows(rows)
    files.write_manifest(folder)
    return run


def fit(run, name="out", initial=None):
    """Train, or go on; (MD5 of the weights, text of the history)."""
    out, prepared = paths.Path(name), paths.prepared("sample", "native")
    train.fit(run, config.trained_by(run), prepared, out, "cpu", {}, initial)
    return files.md5(out / "weights.safetensors"), (out / "history.csv").read_text()


def fresh(run, name, **change):
    """Train a changed copy from nothing."""
    run = copy.deepcopy(run)
    for key, value in change.items():
        (run if key in run else run["train"])[key] = value
    checkpoint.remove(run["run"])
    return fit(run, name)
