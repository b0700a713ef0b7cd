"""ISIC 2018 task 1: lesions, the 2,594 official training images.

Mini-Net's 2,000 / 600 are the numbers of ISIC 2017; here the first 2,000 in name order are for
training, of which the last 100 are val, and the other 594 test (deviation
mininet-14-isic2018-split). A partial copy is divided in the same shares.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from resegment.datasets import isic, registry
from resegment.datasets.record import Record

TOTAL, TEST = 2594, 594
OTHER = re.compile(r"(validation|test)_(input|groundtruth|data)")  # of the same challenge


def files(id: str) -> dict[str, str]:
    """The files an id cannot do without: what each is -> its path below the root."""
    return {
        "image": f"ISIC2018_Task1-2_Training_Input/{id}.jpg",
        "label": f"ISIC2018_Task1_Training_GroundTruth/{id}_segmentation.png",
    }


def place(path: str) -> str | None:
    """Where a file, however it was packed, belongs below the root; None: not of this set."""
    found = isic.parse(path)
    if not found or any(map(OTHER.search, isic.folders(path))):
        return None
    return files(found[0])[found[1]]


@lru_cache(maxsize=2)
def layout(names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """{id: its two files} of every id that one of `names` belongs to, in name order."""
    return {id: files(id) for id in sorted({isic.parse(n)[0] for n in names if place(n)})}


def parts(ids: Iterable[str]) -> dict[str, str]:
    """{id: "train", "val" or "test"} of ids in name order."""
    ids = list(ids)
    learn = len(ids) - round(len(ids) * TEST / TOTAL)
    return isic.hold_out(ids[:learn]) | dict.fromkeys(ids[learn:], "test")


def ids(root: Path) -> dict[str, str | None]:
    """Every id found below `root` -> None if `read` can read it, else the reason it cannot."""
    return {id: registry.missing(root, needed) for id, needed in layout(isic.names(root)).items()}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, which holds the two official folders.

    Raises UserError for an unknown id and for files that are missing, broken or of another size.
    """
    known = layout(isic.names(root))
    return isic.read("isic2018", root, id, known.get(id, {}), parts(known).get(id, ""))
