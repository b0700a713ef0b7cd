"""ISIC 2016 part 1: lesions, 900 training and 379 test images in four folders.

File names do not tell training from test, so each needs a folder or an archive whose name says it.
Of the training images the last 5 % in name order are val.
"""

import re
from functools import lru_cache
from pathlib import Path

from resegment.datasets import isic, registry
from resegment.datasets.record import Record

HINT = "each file must lie in a folder or an archive whose name says train or test"
PARTS = {"train": "Training", "training": "Training", "test": "Test", "testing": "Test"}


def files(id: str, part: str) -> dict[str, str]:
    """The two files of an id of part "Training" or "Test": what each is -> path below the root."""
    folder = f"ISBI2016_ISIC_Part1_{part}"
    return {
        "image": f"{folder}_Data/{id}.jpg",
        "label": f"{folder}_GroundTruth/{id}_Segmentation.png",
    }


def _part(path: str) -> str | None:
    """ "Training" or "Test", as the innermost folder says that names either."""
    for folder in isic.folders(path):
        for word in re.split("[^a-z]+", folder):
            if word in PARTS:
                return PARTS[word]
    return None


def place(path: str) -> str | None:
    """Where a file, however it was packed, belongs below the root; None: not of this set."""
    found, part = isic.parse(path), _part(path)
    return files(found[0], part)[found[1]] if found and part else None


@lru_cache(maxsize=2)
def layout(names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """{id: its two files} of every id that one of `names` belongs to, in name order.

    An id that stands in both parts is a test image only: nothing is learnt from it.
    """
    known = {(isic.parse(n)[0], _part(n)) for n in names if place(n)}
    parts = {id: part for id, part in sorted(known, key=lambda k: (k[0], k[1] == "Test"))}
    return {id: files(id, part) for id, part in parts.items()}


def ids(root: Path) -> dict[str, str | None]:
    """Every id found below `root` -> None if `read` can read it, else the reason it cannot."""
    return {id: registry.missing(root, needed) for id, needed in layout(isic.names(root)).items()}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, which holds the four official folders.

    Raises UserError for an unknown id and for files that are missing, broken or of another size.
    """
    known = layout(isic.names(root))
    learn = isic.hold_out([i for i, f in known.items() if "_Training_" in f["image"]])
    return isic.read("isic2016", root, id, known.get(id, {}), learn.get(id, "test"))
