"""From canonical images to training pairs on disk: geometry first, then flips and rotations.

RGA-Net, section IV.A: 20 images become 7,260 = 20 x 363, "horizontal flip, vertical flip and
rotations of 1 to 360 degrees". STARE's 10 become 10,830 = 10 x 1,083 where every rotation is
flipped both ways, too: `flip_rotations`, deviation rga-16-stare-variants. Every image outside the
test split is written; the validation images' variants are written with the others and left out of
training (deviation rga-07-validation). Training reads the untouched ones and makes the others
itself (`pairs`): what stands here is the paper's set, to be looked at and used elsewhere.
"""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from resegment import native, paths, png, variants
from resegment.enhance import enhance
from resegment.errors import UserError
from resegment.files import atomic_folder, write_manifest
from resegment.geometry import to_network, to_network_mask

COLUMNS = ("sample", "id", "split", "operation", "angle", "image", "label", "fov")


def prepare(dataset: str, split: str, name: str, recipe: dict, geometry: dict) -> None:
    """Write data/prepared/<split>/<name>/: lossless uint8 pairs and where each came from."""
    rows, splits = native.manifest(dataset), native.split(split, dataset)
    given = paths.split(split)
    separate(given if given.exists() else paths.native(dataset) / "manifest.csv", splits, rows)
    learn = [i for i in rows if splits.get(i, "test") != "test"]
    cv2.setNumThreads(1)
    with atomic_folder(paths.prepared(split, name)) as out:

        def write(i: str) -> list[dict]:
            image = enhance(native.image(dataset, rows[i]), recipe["enhance"])
            names = ("label", "fov") if recipe["fov"] else ("label",)
            image = to_network(image, geometry)
            masks = {n: to_network_mask(native.mask(dataset, rows[i], n), geometry) for n in names}
            made = []
            for k, how in enumerate(variants.operations(recipe)):
                sample = f"{i}-{k:04d}"
                row = dict(sample=sample, id=i, split=splits[i], operation=how[0],
                           angle=f"{how[1]:g}", image=f"{sample}_image.png", fov="")  # fmt: skip
                png.write(out / row["image"], variants.apply(image, *how, cv2.INTER_LINEAR))
                for name, mask in masks.items():
                    row[name] = f"{sample}_{name}.png"
                    turned = variants.apply(mask.view(np.uint8), *how, cv2.INTER_NEAREST)
                    png.write(out / row[name], turned.view(bool))
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


def separate(file: Path, splits: dict[str, str], rows: dict[str, dict]) -> None:
    """Raise UserError unless there is something to learn and to test, and no subject in both.

    Training and validation may share one: CHASE_DB1's do.
    """
    for part in ("train", "test"):
        if part not in splits.values():
            raise UserError(f"{file} names no image of {part}: move one there, or add one")
    known: dict[str, dict[str, str]] = {}
    for i, part in splits.items():
        known.setdefault(rows[i].get("subject") or i, {})[i] = part
    for subject, parts in known.items():
        if "test" in parts.values() and {*parts.values()} != {"test"}:
            ids = ", ".join(f"{i} ({part})" for i, part in parts.items())
            raise UserError(f"{file}: {ids} are of one subject, {subject}: let all of them be "
                            "test, or none")  # fmt: skip
