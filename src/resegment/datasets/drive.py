"""DRIVE: 40 fundus images of 40 people, 565 x 584, with the camera's field of view given.

training/ holds 21-40, test/ 01-20. Two traps: the labels are GIFs, and those of the second
observer are palette GIFs whose grey values are {3, 253}. Today's official test.zip has no labels;
ids without them are not usable, and `ids` says so.
"""

from pathlib import Path

from resegment.datasets import fov, registry
from resegment.datasets.record import Record
from resegment.errors import UserError

IDS = tuple(f"{i:02d}" for i in range(1, 41))


def files(id: str) -> dict[str, str]:
    """The files an id cannot do without: what each is -> its path below the root."""
    part = "test" if int(id) <= 20 else "training"
    return {
        "image": f"{part}/images/{id}_{part}.tif",
        "label": f"{part}/1st_manual/{id}_manual1.gif",
        "mask": f"{part}/mask/{id}_{part}_mask.gif",
    }


def ids(root: Path) -> dict[str, str | None]:
    """Every id of DRIVE -> None if `read` can read it from `root`, else the reason it cannot."""
    return {id: registry.missing(root, files(id)) for id in IDS}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, a folder with DRIVE's training/ and test/.

    Raises UserError for an unknown id and for files that are missing, broken or of another size.
    """
    if id not in IDS:
        raise UserError(f"DRIVE has no image {id!r}: its ids are 01 to 40")
    needed = files(id)
    second = f"test/2nd_manual/{id}_manual2.gif"
    if registry.locate(root, second):  # the training images have no second observer
        needed["second observer"] = second
    parts = registry.parts("drive", root, needed, most=fov.VESSELS)
    return Record(
        id=id,
        subject=id,
        image=parts["image"],
        label=parts["label"],
        fov=parts["mask"],
        fov_source="given",
        observer2=parts.get("second observer"),
    )
