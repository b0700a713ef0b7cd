"""STARE: 20 fundus images, 700 x 605, two observers (ah, vk), no field-of-view masks.

The labels are grey (P5) although named .ppm, and the official tars hold .ppm.gz files; both forms
are read. There is no official split: data/splits/stare.csv is that of RGA-Net.
"""

from pathlib import Path

from resegment.datasets import fov, registry
from resegment.datasets.record import Record
from resegment.errors import UserError

NUMBERS = (1, 2, 3, 4, 5, 44, 77, 81, 82, 139, 162, 163, 235, 236, 239, 240, 255, 291, 319, 324)
IDS = tuple(f"im{n:04d}" for n in NUMBERS)


def files(id: str) -> dict[str, str]:
    """The files an id cannot do without: what each is -> its path below the root."""
    return {"image": f"stare-images/{id}.ppm", "label": f"labels-ah/{id}.ah.ppm"}


def ids(root: Path) -> dict[str, str | None]:
    """Every id of STARE -> None if `read` can read it from `root`, else the reason it cannot."""
    return {id: registry.missing(root, files(id)) for id in IDS}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, a folder with stare-images/, labels-ah/ and labels-vk/.

    Raises UserError for an unknown id and for files that are missing, broken or of another size.
    """
    if id not in IDS:
        raise UserError(f"STARE has no image {id!r}: its ids are {', '.join(IDS)}")
    needed = files(id)
    second = f"labels-vk/{id}.vk.ppm"
    if registry.locate(root, second):
        needed["second observer"] = second
    parts = registry.parts("stare", root, needed, most=fov.VESSELS)
    return Record(
        id=id,
        subject=id,
        image=parts["image"],
        label=parts["label"],
        fov=fov.derive(parts["image"]),
        fov_source="derived",
        observer2=parts.get("second observer"),
    )
