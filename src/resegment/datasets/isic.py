"""What the two ISIC sets share: dermoscopic images of any size, one lesion mask each.

No list of ids comes with the papers, so the ids are those of the files: ISIC_0000000.jpg with
ISIC_0000000_Segmentation.png. Superpixels, attributions and notes in the archives are ignored.
There is no field of view.
"""

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from resegment.datasets import registry
from resegment.datasets.record import Record
from resegment.errors import UserError

NAME = re.compile(r"(ISIC_[0-9]{1,20})(\.jpe?g|_segmentation\.png)", re.I)


def parse(name: str) -> tuple[str, str] | None:
    """(id, "image" or "label") of a file by its name, or None for any other file."""
    found = NAME.fullmatch(re.split(r"[/\\]", name)[-1])
    if not found:
        return None
    return found[1].upper(), "label" if found[2].lower().endswith("png") else "image"


def hold_out(ids: list[str]) -> dict[str, str]:
    """{id: "train" or "val"}: of ids in name order the last 5 % are val, one at least."""
    learn = len(ids) - max(1, round(len(ids) / 20)) if len(ids) > 1 else len(ids)
    return {id: "train" if k < learn else "val" for k, id in enumerate(ids)}


def folders(path: str) -> list[str]:
    """The folders (and archives) of a path in lower case, the innermost first."""
    return re.split(r"[/\\]", path.lower())[-2::-1]


def names(root: Path) -> tuple[str, ...]:
    """Every file below `root`, as a path below it; walked again only where a folder changed."""
    inside = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    return _names(root, tuple(p.stat().st_mtime_ns for p in [root, *inside] if p.exists()))


@lru_cache(maxsize=1)
def _names(root: Path, stamps: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def read(dataset: str, root: Path, id: str, files: dict[str, str], part: str) -> Record:
    """Read one image and its mask. Raises UserError where they are missing, broken, ill-sized."""
    if not files:
        raise UserError(f"{root} has no image {id!r} of {dataset}: {registry.get(dataset).remedy}")
    found = registry.parts(dataset, root, files)
    return Record(
        id=id,
        subject=id,
        image=found["image"],
        label=found["label"],
        fov=np.ones(found["label"].shape, bool),
        fov_source="frame",
        part=part,
        file=registry.locate(root, files["image"]),
    )
