"""Reading the canonical form: what `ingest` wrote, and which id stands in which split."""

import cv2
import numpy as np

from resegment import paths
from resegment.errors import UserError
from resegment.files import table

SPLITS = ("train", "val", "test")
COLUMNS = ("id", "height", "width", "image", "label", "fov", "observer2")


def manifest(dataset: str) -> dict[str, dict]:
    """{id: row of data/native/<dataset>/manifest.csv}."""
    file = paths.native(dataset) / "manifest.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing: run `resegment ingest {dataset}`")
    rows = table(file, *COLUMNS)
    known = {row["id"]: row for row in rows}
    sizes = [row[k] for row in rows for k in ("height", "width")]
    if len(known) < len(rows) or not all(n.isdecimal() and int(n) for n in sizes):
        raise UserError(f"{file}: ids must be unique, heights and widths whole numbers: run "
                        f"`resegment ingest {dataset}` again")  # fmt: skip
    return known


def split(name: str, dataset: str) -> dict[str, str]:
    """{id: train|val|test} of data/splits/<name>.csv, every id of which must have been ingested.

    Where no such file is and name is the set's own, the split that its reader found in the files.
    """
    file = paths.split(name)
    if not file.exists() and name == dataset:
        found = {id: row["part"] for id, row in manifest(dataset).items() if row.get("part")}
        if found:
            return found
    if not file.exists():
        raise UserError(f"{file} is missing: params.yaml names the split {name!r}")
    rows = table(file, "id", "split")
    given = {row["id"]: row["split"] for row in rows}
    wrong = sorted(set(given.values()) - set(SPLITS))
    if wrong or len(given) < len(rows):
        raise UserError(f"{file}: ids must be unique and split one of {', '.join(SPLITS)}")
    missing = sorted(set(given) - set(manifest(dataset)))
    if missing:
        raise UserError(
            f"{file} needs {len(missing)} image(s) that {dataset} lacks: {', '.join(missing[:8])}"
            f": `resegment data status {dataset}` tells why"
        )
    return given


def image(dataset: str, row: dict) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    return _read(dataset, row, "image", cv2.IMREAD_COLOR_RGB)


def mask(dataset: str, row: dict, name: str) -> np.ndarray | None:
    """(H, W) bool: label, fov or observer2; None where the set has none."""
    return _read(dataset, row, name, cv2.IMREAD_GRAYSCALE) > 127 if row[name] else None


def _read(dataset: str, row: dict, column: str, how: int) -> np.ndarray:
    file = paths.native(dataset) / row[column]
    pixels = cv2.imread(str(file), how) if file.is_file() else None
    if pixels is None or pixels.shape[:2] != (int(row["height"]), int(row["width"])):
        raise UserError(
            f"{file} is not the {row['height']}x{row['width']} picture of its manifest: run "
            f"`resegment ingest {dataset}` again"
        )
    return pixels
