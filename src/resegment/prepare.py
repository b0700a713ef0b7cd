"""From canonical images to training pairs on disk: geometry first, then flips and rotations.

RGA-Net, section IV.A: 20 images become 7,260 = 20 x 363, "horizontal flip, vertical flip and
rotations of 1 to 360 degrees". Rotations fill with black, sample the image bilinearly and the
label by nearest neighbour, and keep 360 degrees, the identity once more (deviation
rga-10-rotations). STARE's 10 become 10,830 = 10 x 1,083 where every rotation is flipped both ways,
too: `flip_rotations`, deviation rga-16-stare-variants. Every image outside the test split is
written; the validation images' variants are written with the others and left out of training
(deviation rga-07-validation).
"""

import csv
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from resegment import native, paths
from resegment.enhance import enhance
from resegment.files import atomic_folder, write_manifest
from resegment.geometry import to_network, to_network_mask

COLUMNS = ("sample", "id", "split", "operation", "angle", "image", "label", "fov")


def operations(recipe: dict) -> list[tuple[str, float]]:
    """(operation, angle in degrees) of every variant of one image, the untouched one first."""
    flips = [("hflip", 0.0), ("vflip", 0.0)] if recipe["flips"] else []
    n = recipe["rotations"]
    turned = ("rotate", "rotate-hflip", "rotate-vflip") if recipe["flip_rotations"] else ("rotate",)
    angles = [360 * k / n for k in range(1, n + 1)]
    return [("none", 0.0), *flips, *((way, angle) for angle in angles for way in turned)]


def apply(array: np.ndarray, operation: str, angle: float, interpolation: int) -> np.ndarray:
    """One operation on an (h, w[, 3]) array; angles turn counter-clockwise about the centre."""
    if angle % 360:
        h, w = array.shape[:2]
        turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, 1.0)
        array = cv2.warpAffine(array, turn, (w, h), flags=interpolation)
    if operation.endswith("flip"):
        return cv2.flip(array, 1 if operation.endswith("hflip") else 0)
    return array


def variants(image: np.ndarray, masks: dict[str, np.ndarray], recipe: dict) -> Iterator[tuple]:
    """(operation, angle, image, {name: mask}) of every variant; masks 0/255 uint8."""
    for operation, angle in operations(recipe):
        turned = {k: apply(m, operation, angle, cv2.INTER_NEAREST) for k, m in masks.items()}
        yield operation, angle, apply(image, operation, angle, cv2.INTER_LINEAR), turned


def prepare(dataset: str, split: str, name: str, recipe: dict, geometry: dict) -> None:
    """Write data/prepared/<split>/<name>/: lossless uint8 pairs and where each came from."""
    rows, splits = native.manifest(dataset), native.split(split, dataset)
    learn = [i for i in rows if splits.get(i, "test") != "test"]
    cv2.setNumThreads(1)
    with atomic_folder(paths.prepared(split, name)) as out:

        def write(i: str) -> list[dict]:
            image = enhance(native.image(dataset, rows[i]), recipe["enhance"])
            names = ("label", "fov") if recipe["fov"] else ("label",)
            masks = {
                name: to_network_mask(native.mask(dataset, rows[i], name), geometry)
                .astype(np.uint8) * 255 for name in names
            }  # fmt: skip
            made = []
            views = variants(to_network(image, geometry), masks, recipe)
            for k, (operation, angle, x, turned) in enumerate(views):
                sample = f"{i}-{k:04d}"
                row = dict(sample=sample, id=i, split=splits[i], operation=operation,
                           angle=f"{angle:g}", image=f"{sample}_image.png", fov="")  # fmt: skip
                _write(out / row["image"], x[..., ::-1])
                for name, mask in turned.items():
                    row[name] = f"{sample}_{name}.png"
                    _write(out / row[name], mask)
                made.append(row)
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV releases the GIL
            made = list(tqdm(pool.map(write, learn), total=len(learn), disable=None,
                             desc=f"prepare {split}/{name}"))  # fmt: skip
        with open(out / "manifest.csv", "w", newline="") as f:
            table = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(row for rows in made for row in rows)
        write_manifest(out, dataset=dataset, split=split, pairs=sum(map(len, made)), recipe=recipe)


def _write(path: Path, array: np.ndarray) -> None:
    """Lossless PNG at zlib level 1: a tenth of the time of level 6 for 5 % more bytes."""
    if not cv2.imwrite(str(path), array, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"{path} could not be written")
