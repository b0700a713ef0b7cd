"""HRF: 45 fundus images of 45 people, 3504 x 2336: 15 with diabetic retinopathy (dr), 15 with
glaucoma (g), 15 healthy (h).

Two traps: the images' extensions differ in case (01_dr.JPG, 01_g.jpg), and the masks of the field
of view are RGB. There is no official split: data/splits/hrf.csv is that of HybridNetSeg.
"""

from pathlib import Path

from resegment.datasets import fov, registry
from resegment.datasets.record import Record
from resegment.errors import UserError

IDS = tuple(f"{i:02d}_{kind}" for i in range(1, 16) for kind in ("dr", "g", "h"))


def files(id: str) -> dict[str, str]:
    """The files an id cannot do without: what each is -> its path below the root."""
    return {
        "image": f"images/{id}.{'JPG' if id.endswith('dr') else 'jpg'}",
        "label": f"manual1/{id}.tif",
        "mask": f"mask/{id}_mask.tif",
    }


def ids(root: Path) -> dict[str, str | None]:
    """Every id of HRF -> None if `read` can read it from `root`, else the reason it cannot."""
    return {id: registry.missing(root, files(id)) for id in IDS}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, a folder with images/, manual1/ and mask/.

    Raises UserError for an unknown id and for files that are missing, broken or of another size.
    """
    if id not in IDS:
        raise UserError(f"HRF has no image {id!r}: its ids are 01_dr, 01_g, 01_h to 15_h")
    parts = registry.parts("hrf", root, files(id), most=fov.VESSELS)
    return Record(
        id=id,
        subject=id,
        image=parts["image"],
        label=parts["label"],
        fov=parts["mask"],
        fov_source="given",
        file=registry.locate(root, files(id)["image"]),
    )
