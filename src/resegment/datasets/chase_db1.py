"""CHASE_DB1: both eyes of 14 children, 999 x 960, two observers, no field-of-view masks.

One flat folder of Image_01L.jpg, Image_01L_1stHO.png (1 bit), Image_01L_2ndHO.png. There is no
official split; data/splits/chase_db1.csv and chase_db1-8-20.csv hold the two the papers used.
"""

from pathlib import Path

from resegment.datasets import fov, registry
from resegment.datasets.record import Record
from resegment.errors import UserError

IDS = tuple(f"{child:02d}{eye}" for child in range(1, 15) for eye in "LR")


def files(id: str) -> dict[str, str]:
    """The files an id cannot do without: what each is -> its path below the root."""
    return {"image": f"Image_{id}.jpg", "label": f"Image_{id}_1stHO.png"}


def ids(root: Path) -> dict[str, str | None]:
    """Every id of CHASE_DB1 -> None if `read` can read it from `root`, else the reason."""
    return {id: registry.missing(root, files(id)) for id in IDS}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, the flat folder of CHASE_DB1.

    Raises UserError for an unknown id and for files that are missing, broken or of another size.
    """
    if id not in IDS:
        raise UserError(f"CHASE_DB1 has no image {id!r}: its ids are 01L, 01R to 14L, 14R")
    needed = files(id)
    second = f"Image_{id}_2ndHO.png"
    if registry.locate(root, second):
        needed["second observer"] = second
    parts = registry.parts("chase_db1", root, needed, most=fov.VESSELS)
    return Record(
        id=id,
        subject=id[:2],
        image=parts["image"],
        label=parts["label"],
        fov=fov.derive(parts["image"]),
        fov_source="derived",
        observer2=parts.get("second observer"),
        file=registry.locate(root, needed["image"]),
    )
