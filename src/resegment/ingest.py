"""From a dataset's own files to the canonical form that everything later reads.

One folder a dataset, joined by id: 8-bit RGB images (PNG, or the original JPEG), 0/255 masks, a
manifest. Readers and their traps end here.
"""

import csv
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from resegment import paths
from resegment.datasets import registry, sums
from resegment.datasets.record import Record
from resegment.errors import UserError
from resegment.files import atomic_folder, write_image, write_manifest

COLUMNS = ("id", "subject", "height", "width", "image", "label", "fov", "fov_source", "observer2")


def ingest(dataset: str) -> None:
    """Write data/native/<dataset>/ from data/raw/<dataset>/: every usable image or nothing.

    Raises UserError where nothing is usable, with the command that gets the set.
    """
    source, root = registry.reader(dataset), paths.raw(dataset)
    known = source.ids(root)
    usable = [i for i, reason in known.items() if reason is None]
    if not usable:
        raise UserError(
            f"{root} holds no usable image of {dataset}: `resegment data status {dataset}` tells "
            f"what is missing, `resegment data add {dataset} PATH` takes an archive or a folder"
        )
    if left := {i: reason for i, reason in known.items() if reason}:
        first = next(iter(left))
        said = f"ingest {dataset}: without {len(left)} of {len(known)}, {first}: {left[first]}"
        print(said, file=sys.stderr)
    with atomic_folder(paths.native(dataset)) as out:
        rows = []
        for i in tqdm(usable, desc=f"ingest {dataset}", disable=None):
            record = source.read(root, i)
            _check(record, i, source.__file__)
            masks = {"label": record.label, "fov": record.fov, "observer2": record.observer2}
            row = dict.fromkeys(COLUMNS, "") | {
                "id": i, "subject": record.subject, "fov_source": record.fov_source,
                "height": record.label.shape[0], "width": record.label.shape[1],
                "image": _image(out, record), "part": record.part,
            }  # fmt: skip
            for name, mask in masks.items():
                if mask is not None:
                    row[name] = f"{i}_{name}.png"
                    write_image(out / row[name], mask.astype(np.uint8) * 255)
            rows.append(row)
        with open(out / "manifest.csv", "w", newline="") as f:
            columns = [*COLUMNS, *(["part"] if any(row["part"] for row in rows) else [])]
            table = csv.DictWriter(f, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        strange = len(sums.read(paths.registry(dataset)).unverified)
        write_manifest(
            out, dataset=dataset, images=len(rows), **({"unverified": strange} if strange else {})
        )


def _check(record: Record, id: str, file: str) -> None:
    """Raise UserError where what the reader in `file` gave is not what `Record` promises."""
    if record.id != id:
        raise UserError(f"{file}: `read` of {id} gave the id {record.id!r}: give {id!r}")
    size = np.shape(record.image)[:2]
    for what in ("image", "label", "fov", "observer2"):
        pixels, wanted = getattr(record, what), (*size, 3) if what == "image" else size
        kind = "uint8" if what == "image" else "bool"
        if pixels is None and what == "observer2":
            continue
        found = None if pixels is None else f"{np.asarray(pixels).dtype} {np.shape(pixels)}"
        if found != f"{kind} {wanted}":
            raise UserError(f"{file}: the {what} of {id} is {found}: give {kind} {wanted}")


def _image(out: Path, record: Record) -> str:
    """Write `record.image` and return the file's name.

    A JPEG stays as it is where reading it gives the same pixels (no EXIF rotation, say): a third
    of the space of a PNG.
    """
    if record.file and record.file.suffix.lower() in (".jpg", ".jpeg"):
        kept = out / f"{record.id}_image.jpg"
        shutil.copyfile(record.file, kept)
        if np.array_equal(cv2.imread(str(kept), cv2.IMREAD_COLOR_RGB), record.image):
            return kept.name
        kept.unlink()
    name = f"{record.id}_image.png"
    write_image(out / name, record.image[..., ::-1])
    return name
