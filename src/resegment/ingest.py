"""From a dataset's own files to the canonical form that everything later reads.

One folder a dataset, joined by id: 8-bit RGB images, 0/255 masks, a manifest. Readers and their
traps end here.
"""

import csv
import importlib
from types import ModuleType

import cv2
import numpy as np
from tqdm import tqdm

from resegment import paths
from resegment.errors import UserError
from resegment.files import atomic_folder, write_manifest

COLUMNS = ("id", "subject", "height", "width", "image", "label", "fov", "fov_source", "observer2")


def reader(dataset: str) -> ModuleType:
    """The module that reads a dataset: `ids(root)` and `read(root, id)`."""
    try:
        return importlib.import_module(f"resegment.datasets.{dataset}")
    except ModuleNotFoundError:
        raise UserError(f"no reader for dataset {dataset!r} in src/resegment/datasets") from None


def ingest(dataset: str) -> None:
    """Write data/native/<dataset>/ from data/raw/<dataset>/: every usable image or nothing.

    Raises UserError where nothing is usable, with the command that gets the set.
    """
    source, root = reader(dataset), paths.raw(dataset)
    usable = [i for i, reason in source.ids(root).items() if reason is None]
    if not usable:
        raise UserError(
            f"{root} holds no usable image of {dataset}: `resegment data status {dataset}` tells "
            f"what is missing, `resegment data add {dataset} PATH` takes an archive or a folder"
        )
    with atomic_folder(paths.native(dataset)) as out:
        rows = []
        for i in tqdm(usable, desc=f"ingest {dataset}", disable=None):
            record = source.read(root, i)
            masks = {"label": record.label, "fov": record.fov, "observer2": record.observer2}
            row = dict.fromkeys(COLUMNS, "") | {
                "id": i, "subject": record.subject, "fov_source": record.fov_source,
                "height": record.label.shape[0], "width": record.label.shape[1],
                "image": f"{i}_image.png",
            }  # fmt: skip
            cv2.imwrite(str(out / row["image"]), record.image[..., ::-1])
            for name, mask in masks.items():
                if mask is not None:
                    row[name] = f"{i}_{name}.png"
                    cv2.imwrite(str(out / row[name]), mask.astype(np.uint8) * 255)
            rows.append(row)
        with open(out / "manifest.csv", "w", newline="") as f:
            table = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        write_manifest(out, dataset=dataset, images=len(rows))
