"""Twenty images to 7,260 pairs on disk, and the same pairs into training batches.

DRIVE where data/native/drive is, else the sample set's images over and over: see `source`.
"""

import csv
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import Case

RECIPE = {"resize": [512, 512], "pad": None, "width": None, "enhance": [], "fov": False,
          "flips": True, "rotations": 360, "flip_rotations": False}  # fmt: skip
ROOT = Path.cwd()
BATCH = 4


def source() -> str:
    return "drive" if (ROOT / "data/native/drive/manifest.csv").exists() else "sample"


def checkout() -> str:
    """Go to an empty folder with 20 images to prepare and a split that learns from all of them."""
    from resegment import ingest, native, paths

    name = source()
    os.chdir(tempfile.mkdtemp())
    paths.SPLITS.mkdir(parents=True)
    if name == "drive":
        paths.native("drive").parent.mkdir(parents=True)
        paths.native("drive").symlink_to(ROOT / paths.native("drive"))
    else:
        ingest.ingest("sample")
    ids = sorted(native.manifest(name))[:20]
    lines = ["id,split", *(f"{i},train" for i in ids)]
    paths.split("bench").write_text("\n".join(lines) + "\n")
    return name


def size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir())


def ours():
    from resegment import paths, prepare

    name = checkout()
    yield 1
    prepare.prepare(name, "bench", "all", RECIPE, RECIPE)
    folder = paths.prepared("bench", "all")
    with open(folder / "manifest.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    keep = {r["sample"]: pixels(folder / r["image"], folder / r["label"]) for r in rows[:3]}
    found = {"pairs": len(rows), "bytes": size(folder), "first": keep}
    shutil.rmtree(Path.cwd())
    return found


def pixels(image: Path, label: Path) -> list[np.ndarray]:
    import cv2

    return [cv2.imread(str(image)), cv2.imread(str(label), 0)]


def files(name: str) -> list[tuple[Path, Path]]:
    from resegment import native, paths

    folder, rows = paths.native(name), native.manifest(name)
    return [(folder / rows[i]["image"], folder / rows[i]["label"])
            for i in native.split("bench", name)]  # fmt: skip


def loop(pairs: int, save):
    """A plain loop over images and angles; seconds are scaled up to the number that we write."""

    def side():
        name = checkout()
        images = files(name)
        each = -(-pairs // len(images))
        work = [(k, angle) for k in range(len(images)) for angle in range(each)][:pairs]
        save(*images[0], 1, "warm")
        yield pairs / (363 * len(images))
        for k, angle in work:
            save(*images[k], angle, f"{k}-{angle}")
        shutil.rmtree(Path.cwd())

    return side


def opencv(image: Path, label: Path, angle: int, out: str) -> None:
    import cv2

    x = cv2.resize(cv2.imread(str(image)), (512, 512))
    y = cv2.resize(cv2.imread(str(label), 0), (512, 512), interpolation=cv2.INTER_NEAREST)
    turn = cv2.getRotationMatrix2D((255.5, 255.5), angle, 1)
    cv2.imwrite(f"{out}.png", cv2.warpAffine(x, turn, (512, 512)))
    cv2.imwrite(f"{out}-y.png", cv2.warpAffine(y, turn, (512, 512), flags=cv2.INTER_NEAREST))


def skimage(image: Path, label: Path, angle: int, out: str) -> None:
    from skimage import img_as_ubyte, io, transform

    x = transform.rotate(transform.resize(io.imread(image), (512, 512)), angle)
    y = transform.resize(io.imread(label) > 127, (512, 512), order=0)
    y = transform.rotate(y.astype(float), angle, order=0)
    io.imsave(f"{out}.png", img_as_ubyte(x), check_contrast=False)
    io.imsave(f"{out}-y.png", img_as_ubyte(y), check_contrast=False)


def warped():
    """The floor: every variant computed on all cores, nothing written."""
    from concurrent.futures import ThreadPoolExecutor

    import cv2

    from resegment import geometry, native, variants

    name = checkout()
    rows = native.manifest(name)
    ids = list(native.split("bench", name))
    cv2.setNumThreads(1)

    def turn(i: str) -> None:
        x = geometry.to_network(native.image(name, rows[i]), RECIPE)
        y = geometry.to_network_mask(native.mask(name, rows[i], "label"), RECIPE).view(np.uint8)
        for how in variants.operations(RECIPE):
            variants.apply(x, *how, cv2.INTER_LINEAR)
            variants.apply(y, *how, cv2.INTER_NEAREST)

    yield 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(turn, ids))
    shutil.rmtree(Path.cwd())


def written(a: dict, _: None) -> str:
    assert a["pairs"] % 363 == 0 and a["pairs"] >= 5000
    for image, label in a["first"].values():
        assert image.shape == (512, 512, 3) and set(np.unique(label)) <= {0, 255}
    return f"{a['pairs']} pairs, {a['bytes'] / 1e9:.2f} GB"


def prepared(rotations: int = 36):
    """(folder, rows) of fewer variants of the same images."""
    from resegment import paths, prepare

    name = checkout()
    prepare.prepare(name, "bench", "some", RECIPE | {"rotations": rotations}, RECIPE)
    folder = paths.prepared("bench", "some")
    with open(folder / "manifest.csv", newline="") as f:
        return folder, list(csv.DictReader(f))


def still() -> dict:
    from resegment import schema

    return schema.Augment().model_dump()


def total(batches) -> tuple[int, float]:
    """Items and the sum of all their eights of bytes: every one has been touched."""
    n, sums = 0, 0
    for batch in batches:
        n += len(batch[0])
        sums += sum(int(x.numpy().reshape(-1).view(np.int64).sum()) for x in batch)
    return n, sums


def from_memory():
    from resegment.pairs import Pairs, draws

    folder, rows = prepared()
    pairs = Pairs(folder, rows, still(), 0)
    total(pairs.batches(draws(len(pairs), 40, 0, 0), BATCH, 2))
    pairs.epoch = 1
    yield len(pairs)
    found = total(pairs.batches(draws(len(pairs), None, 0, 1), BATCH, 2))
    shutil.rmtree(Path.cwd())
    return found


def from_png():
    import cv2
    import torch
    from torch.utils.data import DataLoader, Dataset

    from resegment.pairs import draws

    folder, rows = prepared()

    class Files(Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int):
            image = cv2.imread(str(folder / rows[i]["image"]), cv2.IMREAD_COLOR_RGB)
            label = cv2.imread(str(folder / rows[i]["label"]), 0) // 255
            return torch.from_numpy(image), torch.from_numpy(label)

    def batches():
        order = [i for _, i in draws(len(rows), None, 0, 1)]
        return DataLoader(Files(), BATCH, sampler=order, num_workers=2)

    next(iter(batches()))
    yield len(rows)
    found = total(batches())
    shutil.rmtree(Path.cwd())
    return found


def copied():
    """The floor: the same bytes copied in memory, and summed as the others are."""
    import torch

    from resegment.pairs import Pairs

    folder, rows = prepared(1)
    pairs = Pairs(folder, rows, still(), 0)
    item = [torch.from_numpy(np.stack([x] * BATCH)) for x in pairs[0, 0]]
    n = 780
    yield n
    total([x.clone() for x in item] for _ in range(n // BATCH))
    shutil.rmtree(Path.cwd())


def equal(a: tuple, b: tuple) -> str:
    assert a == b, (a, b)
    return "the same bytes"


STEP = f"{source()}, 20 images -> 7,260 pairs of 512x512 on disk, lossless, with manifest"
if source() == "sample":
    STEP = STEP.replace("20 images -> 7,260", "16 images -> 5,808")

CASES = [
    Case("prepare-opencv", STEP, ours, "a plain OpenCV loop (200 pairs, scaled up)",
         loop(200, opencv), warped, "every variant computed, nothing written", ratio=4,
         same=written, rounds=3),
    Case("prepare-skimage", STEP, ours, "a plain scikit-image loop (20 pairs, scaled up)",
         loop(20, skimage), ratio=50, same=written, rounds=2),
    Case("load", "a pair of them in a batch of 4 (uint8, shuffled, epoch 2), 2 threads",
         from_memory, "PNG decoded per item in a DataLoader with 2 workers", from_png, copied,
         "the bytes copied and summed once", ratio=2, same=equal, rounds=3),
]  # fmt: skip
