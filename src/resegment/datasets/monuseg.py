"""MoNuSeg 2018: nuclei in 30 training and 14 test tissue images of 1000 x 1000, one a patient.

The labels are Aperio XML polygons; their union is the mask. There is no field of view. The
registry knows the hashes of 13 of the 30 training annotations: a copy's others need --unverified.
"""

import math
import re
from pathlib import Path
from xml.parsers import expat

import cv2
import numpy as np

from resegment.datasets import registry
from resegment.datasets.record import Record
from resegment.errors import UserError

TRAIN = tuple(f"TCGA-{i}-01Z-00-DX1" for i in (
    "18-5592", "21-5784", "21-5786", "38-6178", "49-4488", "50-5931", "A7-A13E", "A7-A13F",
    "AR-A1AK", "AR-A1AS", "B0-5698", "B0-5710", "B0-5711", "CH-5767", "E2-A14V", "E2-A1B5",
    "G9-6336", "G9-6348", "G9-6356", "G9-6362", "G9-6363", "HE-7128", "HE-7129", "HE-7130",
)) + (
    "TCGA-AY-A8YK-01A-01-TS1", "TCGA-DK-A2I6-01A-01-TS1", "TCGA-G2-A2EK-01A-02-TSB",
    "TCGA-KB-A93J-01A-01-TS1", "TCGA-NH-A8F7-01A-01-TS1", "TCGA-RD-A8N9-01A-01-TS1",
)  # fmt: skip
TEST = tuple(f"TCGA-{i}" for i in (
    "2Z-A9J9-01A-01-TS1", "44-2665-01B-06-BS6", "69-7764-01A-01-TS1", "A6-6782-01A-01-BS1",
    "AC-A2FO-01A-01-TS1", "AO-A0J2-01A-01-BSA", "CU-A0YN-01A-02-BSB", "EJ-A46H-01A-03-TSC",
    "FG-A4MU-01B-01-TS1", "GL-6846-01A-01-BS1", "HC-7209-01A-01-TS1", "HT-8564-01Z-00-DX1",
    "IZ-8196-01A-01-BS1", "ZF-A9R5-01A-01-TS1",
))  # fmt: skip
IDS = (*sorted(TRAIN), *TEST)
FINE = 8  # polygons are drawn on a grid this much finer: vertices lie between pixels
FAR = 1e5  # px, further away a vertex only gives a direction


def files(id: str) -> dict[str, str]:
    """The files an id cannot do without: what each is -> its path below the root."""
    part = "test" if id in TEST else "train"
    return {"image": f"{part}/Tissue_Images/{id}.tif", "label": f"{part}/Annotations/{id}.xml"}


def ids(root: Path) -> dict[str, str | None]:
    """Every id of MoNuSeg -> None if `read` can read it from `root`, else the reason it cannot."""
    return {id: registry.missing(root, files(id)) for id in IDS}


def read(root: Path, id: str) -> Record:
    """Read one image from `root`, a folder with train/ and test/.

    Raises UserError for an unknown id, for files that are missing or broken, and for an XML with a
    DOCTYPE.
    """
    if id not in IDS:
        raise UserError(
            f"MoNuSeg has no image {id!r}: its ids are those of data/splits/monuseg.csv"
        )
    needed = files(id)
    image = registry.decode("monuseg", root, needed["image"], "image")
    xml = registry.locate(root, needed["label"])
    remedy = registry.get("monuseg").remedy
    if not xml:
        raise UserError(f"{root / needed['label']} (label) is missing: {remedy}")
    try:
        label = fill(polygons(registry.content(xml)), image.shape[:2])
    except (expat.ExpatError, ValueError, LookupError) as error:  # ... of an unknown encoding, too
        why = str(error)[:200]
        raise UserError(
            f"{xml} (label) is truncated or no Aperio XML ({why}): delete it and {remedy}"
        ) from None
    registry.plausible("monuseg", xml, "label", label)
    return Record(
        id=id,
        subject=id[:12],  # TCGA-<site>-<patient>
        image=image,
        label=label,
        fov=np.ones(label.shape, bool),
        fov_source="frame",
    )


def polygons(xml: bytes) -> list[np.ndarray]:
    """The regions of every Annotation of an Aperio XML, each (N, 2) float (x, y) px, N >= 3.

    (0, 0) is the corner of the first pixel, not its centre. Raises ValueError, KeyError or
    ExpatError.
    """
    regions: list[list[tuple[float, float]]] = []
    roots = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        roots.append(tag)
        if tag == "Region":
            regions.append([])
        elif tag == "Vertex":
            if not regions:
                raise ValueError("a Vertex outside every Region")
            vertex = float(attributes["X"]), float(attributes["Y"])
            if not all(map(math.isfinite, vertex)):
                raise ValueError(f"a Vertex at {vertex}")
            regions[-1].append(vertex)

    def doctype(*_) -> None:
        raise ValueError("it has a DOCTYPE, which may hide entities, and no original has one")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, doctype
    parser.Parse(xml, True)
    if roots[0] != "Annotations":
        name = roots[0] if re.fullmatch(r"[\w.:-]{1,40}", roots[0]) else "another"
        raise ValueError(f"its root is {name}, not Annotations")
    return [np.array(r) for r in regions if len(r) >= 3]


def fill(regions: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The union of filled polygons, (H, W) bool: True where a pixel's centre lies inside one."""
    height, width = size
    mask = np.zeros(size, bool)
    for region in regions:
        region = region.clip(-FAR, FAR)
        left, top = np.floor(region.min(axis=0)).astype(int).clip(0, None)
        right, bottom = np.ceil(region.max(axis=0)).astype(int).clip(None, (width, height))
        if left >= right or top >= bottom:
            continue
        canvas = np.zeros(((bottom - top) * FINE, (right - left) * FINE), np.uint8)
        points = np.rint((region - (left, top)) * FINE * 16).astype(np.int32)
        cv2.fillPoly(canvas, [points], 1, shift=4)  # 4 binary places: 1/16 of the fine grid
        mask[top:bottom, left:right] |= canvas[FINE // 2 :: FINE, FINE // 2 :: FINE] > 0
    return mask
