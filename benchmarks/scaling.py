"""How cost grows: prepare, train, predict and score at one, two and four times the size.

Synthetic images and maps in a temporary checkout; one thread. A case's name ends in how many times
the images, pixels or epochs it has; seconds beside those of the first case, and growth of memory,
say whether it is linear and flat. Against the same step at one time the size: `ratio` near 1/2 and
1/4 is linear.
"""

import contextlib
import csv
import tempfile
from functools import partial

import cv2
import numpy as np

from benchmarks import Case
from benchmarks.scoring import AS_IS, RUN, protocols, scored_set

SIDE, IMAGES, EPOCHS = 128, 8, 1
RECIPE = {"resize": None, "pad": None, "width": None, "enhance": [], "fov": False, "flips": True,
          "rotations": 4, "flip_rotations": False}  # fmt: skip
TRAIN = {"epochs": 1, "batch_size": 4, "samples_per_epoch": 8, "loss": {"bce": 1.0}}


@contextlib.contextmanager
def checkout(images: int, pixels: int):
    """A temporary checkout with a native set `bench` of training images, of `pixels` x SIDE^2."""
    from resegment import native, paths

    height, width = SIDE, SIDE * pixels
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        data = paths.native("bench")
        data.mkdir(parents=True)
        paths.split("bench").parent.mkdir(parents=True)
        with (
            open(data / "manifest.csv", "w", newline="") as f,
            open(paths.split("bench"), "w", newline="") as g,
        ):
            table, split = csv.writer(f), csv.writer(g)
            table.writerow(("id", "subject", "height", "width", "image", "label", "fov",
                            "fov_source", "observer2"))  # fmt: skip
            split.writerow(("id", "split"))
            for k in range(images):
                i = f"{k:03}"
                picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                cv2.imwrite(str(data / f"{i}_image.png"), picture)
                for kind, mask in (("label", picture[..., 0] > 200), ("fov", picture[..., 0] >= 0)):
                    cv2.imwrite(str(data / f"{i}_{kind}.png"), mask * np.uint8(255))
                names = [f"{i}_{kind}.png" for kind in ("image", "label", "fov")]
                table.writerow([i, i, height, width, *names, "given", ""])
                split.writerow([i, "train"])
        (data / "manifest.json").write_text("{}\n")
        assert len(native.split("bench", "bench")) == images
        yield


def one_thread() -> None:
    from resegment import devices

    devices.tune_allocator()
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def prepare(images: int = 1, pixels: int = 1):
    cv2.setNumThreads(1)
    from resegment import prepare as stage

    with checkout(IMAGES * images, pixels):
        stage.prepare("bench", "bench", "bench", RECIPE, AS_IS)  # warm-up
        yield 1
        stage.prepare("bench", "bench", "bench", RECIPE, AS_IS)


def train(epochs: int = 1, pixels: int = 1, images: int = 1):
    one_thread()
    from resegment import config, paths, prepare, schema, train

    settings = schema.Train(**TRAIN | {"epochs": EPOCHS * epochs}).model_dump(mode="json")
    settings["samples_per_epoch"] *= images
    run = {"run": "bench-full/unet/s0", "campaign": "bench-full", "experiment": "unet",
           "budget": "full", "seed": 0, "split": "bench", "dataset": "bench", "recipe": "bench",
           "geometry": AS_IS, "enhance": [], "model": {"name": "unet", "options": {}},
           "train": settings, "initial": None}  # fmt: skip
    with checkout(IMAGES * images, pixels):
        prepare.prepare("bench", "bench", "bench", RECIPE | {"rotations": 0}, AS_IS)
        prepared = paths.prepared("bench", "bench")

        def fit(name: str, train_as: dict) -> None:
            one = run | {"run": f"bench-full/{name}/s0", "train": train_as}
            train.fit(one, config.trained_by(one), prepared, paths.run(one["run"]), "cpu", {})

        fit("first", settings | {"epochs": 1, "samples_per_epoch": 4})  # warm-up
        yield 1
        fit("unet", settings)


def predict(images: int = 1, pixels: int = 1):
    one_thread()
    from safetensors.torch import save_file

    from resegment import models, paths, predict

    run = {"run": "bench-full/unet/s0", "model": {"name": "unet", "options": {}},
           "train": {"threads": 1}, "enhance": [], "geometry": AS_IS,
           "inference": {"patch": None, "stride": None, "engine": "torch"}}  # fmt: skip
    with checkout(IMAGES * images, pixels):
        folder = paths.run(run["run"])
        folder.mkdir(parents=True)
        save_file(models.build("unet", {}).state_dict(), folder / "weights.safetensors")
        splits = {f"{k:03}": "train" for k in range(IMAGES * images)}
        predict.predict(run, "cpu", "bench", {"000": "train"}, paths.predictions("warm-up"))
        yield 1
        predict.predict(run, "cpu", "bench", splits, paths.predictions(run["run"]))


def score(images: int = 1):
    cv2.setNumThreads(1)
    from resegment import score as stage

    ids = [f"{k % 20 + 1:02}x{k // 20}" for k in range(10 * images)]
    with scored_set(ids):
        stage.score(RUN, "bench", AS_IS, protocols(), {ids[0]: "test"})  # warm-up
        yield 1
        stage.score(RUN, "bench", AS_IS, protocols(), dict.fromkeys(ids, "test"))


def grown(side, what: str, by: str) -> list[Case]:
    first = partial(side)
    return [
        Case(
            f"{side.__name__}-{by}-{n}",
            f"{what}, {n} x {by}",
            partial(side, **{by: n}),
            against=f"1 x {by}" if n > 1 else "",
            other=first if n > 1 else None,
            rounds=3,
        )  # fmt: skip
        for n in (1, 2, 4)
    ]


UNIT = f"{IMAGES} images of {SIDE}x{SIDE}"
CASES = [
    *grown(prepare, f"prepare {UNIT}, flips and 4 rotations", "images"),
    *grown(prepare, f"prepare {UNIT}, flips and 4 rotations", "pixels"),
    *grown(train, f"train a U-Net, {EPOCHS} epoch of 8 samples of {SIDE}x{SIDE}", "epochs"),
    *grown(train, f"train a U-Net, {EPOCHS} epoch of 8 samples of {SIDE}x{SIDE}", "images"),
    *grown(train, f"train a U-Net, {EPOCHS} epoch of 8 samples of {SIDE}x{SIDE}", "pixels"),
    *grown(predict, f"predict {UNIT} by a U-Net", "images"),
    *grown(predict, f"predict {UNIT} by a U-Net", "pixels"),
    *grown(score, "score 10 maps of 584x565", "images"),
]
