"""What a coarser tiling costs: a finished ConvLSTM U-Net, its test images drawn at several strides.

    python -m benchmarks.strides RUN [--strides 5 16 32] [--engine onnx] [--write]

F1 at 0.5 and AUC, pooled over the field of view of all test images at their own size; seconds of
one image on one thread.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np

TABLE = Path(__file__).parent / "strides.csv"
COLUMNS = ("run", "budget", "engine", "images", "stride", "patches", "seconds_an_image", "f1",
           "f1_lost", "auc", "machine")  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser(prog="python -m benchmarks.strides", description=__doc__)
    ask.add_argument("run", help="e.g. drive-lite/bcdu-drive/s0")
    ask.add_argument("--strides", type=int, nargs="+", default=(5, 16, 32))
    ask.add_argument("--engine", choices=("torch", "onnx"), default="onnx")
    ask.add_argument("--write", action="store_true", help=f"keep the rows in {TABLE.name}")
    given = ask.parse_args()
    from resegment import config, devices

    devices.tune_allocator()
    run = config.find(config.load(), given.run)
    rows = []
    for stride in given.strides:
        rows.append(measure(run, stride, given.engine))
        rows[-1]["f1_lost"] = rows[0]["f1"] - rows[-1]["f1"]
        print(rows[-1], flush=True)
    if given.write:
        with open(TABLE, "w", newline="") as f:
            table = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
                            for row in rows)  # fmt: skip


def measure(run: dict, stride: int, engine: str) -> dict:
    """One row: the test images at one stride."""
    import torch

    from benchmarks.__main__ import machine
    from resegment import metrics, native, predict
    from resegment.enhance import enhance
    from resegment.geometry import restore, to_network

    torch.set_num_threads(1)
    cpu, table = torch.device("cpu"), native.manifest(run["dataset"])
    test = [i for i, s in native.split(run["split"], run["dataset"]).items() if s == "test"]
    draw = predict.drawing(predict.load(run, cpu), cpu, engine)
    pooled, spent, patches = 0, 0.0, 0
    for i in test:
        image = to_network(enhance(native.image(run["dataset"], table[i]), run["enhance"]),
                           run["geometry"])  # fmt: skip
        start = time.process_time()
        tiles = {"patch": 64, "stride": stride}
        found = predict.probability(draw, image, cpu, tiles)
        spent += time.process_time() - start
        label, fov = (native.mask(run["dataset"], table[i], k) for k in ("label", "fov"))
        found = restore(found, run["geometry"], label.shape)
        pooled = pooled + metrics.histogram(found, label, fov).astype(np.int64)
        patches = int(np.prod([-(-max(n - 64, 0) // stride) + 1 for n in image.shape[:2]]))
    values = metrics.score(pooled, 0.5)
    return {
        "run": run["run"], "budget": run["budget"], "engine": engine, "images": len(test),
        "stride": stride, "patches": patches, "seconds_an_image": spent / len(test),
        "f1": float(values["f1"]), "auc": float(values["auc"]), "machine": machine(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
