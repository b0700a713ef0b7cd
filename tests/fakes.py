"""Small fake datasets in the official layouts: {path below the set's top folder: bytes}."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from resegment.datasets import hrf, monuseg, stare

H, W = 48, 56


def encoded(suffix: str, pixels: np.ndarray, **options) -> bytes:
    """RGB, RGBA or grey pixels as a file of that kind."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:]),
                                 **options)  # fmt: skip
    return out.getvalue()


def photograph(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """(H, W, 3) uint8: a red disc cut at top and bottom, on black."""
    rows, columns = np.mgrid[:height, :width]
    inside = np.hypot(rows - height / 2, columns - width / 2) < 0.47 * width
    light = np.random.default_rng(seed).integers(140, 200, (height, width))
    return (inside[..., None] * np.stack([light, light * 0.5, light * 0.2], 2)).astype(np.uint8)


def mask(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """(H, W) uint8: one white row, another for each seed below H."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[seed % height] = 255
    return pixels


def stare_files(ids=stare.IDS[:2]) -> dict[str, bytes]:
    out = {}
    for k, id in enumerate(ids):
        out[f"stare-images/{id}.ppm"] = encoded(".ppm", photograph(k, 121, 140))
        for who, row in (("ah", 50), ("vk", 70)):  # grey (P5), although named .ppm
            out[f"labels-{who}/{id}.{who}.ppm"] = encoded(".ppm", mask(row + k, 121, 140))
    return out


def hrf_files(ids=hrf.IDS[:2]) -> dict[str, bytes]:
    out = {}
    for k, id in enumerate(ids):
        names = hrf.files(id)
        out[names["image"]] = encoded(".jpg", photograph(k))
        out[names["label"]] = encoded(".tif", mask(k + 10))
        out[names["mask"]] = encoded(".tif", np.full((H, W, 3), 255 - k, np.uint8))
    return out


def isic2016_files(train: int = 20, test: int = 4) -> dict[str, bytes]:
    """With the folders and the numbers that interleave of the official archives."""
    out = {}
    for k in range(train + test):
        part, id = "Test" if k % 6 == 5 and k // 6 < test else "Training", f"ISIC_{k:07d}"
        folder, size = f"ISBI2016_ISIC_Part1_{part}", (30 + k, 40)
        out[f"{folder}_Data/{id}.jpg"] = encoded(".jpg", photograph(k, *size))
        out[f"{folder}_GroundTruth/{id}_Segmentation.png"] = encoded(".png", mask(k, *size))
    return out


def isic2018_files(count: int = 26) -> dict[str, bytes]:
    out = {"ISIC2018_Task1-2_Training_Input/ATTRIBUTION.txt": b"thanks"}
    for k in range(count):
        id, size = f"ISIC_{k:07d}", (30 + k, 40)
        image, label = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
        out[f"{image}/{id}.jpg"] = encoded(".jpg", photograph(k, *size))
        out[f"{image}/{id}_superpixels.png"] = encoded(".png", photograph(k, *size))
        out[f"{label}/{id}_segmentation.png"] = encoded(".png", mask(k, *size))
    return out


def aperio(*annotations: list[list[tuple[float, float]]]) -> bytes:
    """Annotations of regions of vertices (x, y), as ImageScope writes them."""
    text = '<Annotations MicronsPerPixel="0.25">'
    for regions in annotations:
        text += "<Annotation><Regions><RegionAttributeHeaders/>"
        for points in regions:
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
            text += f"<Region><Vertices>{vertices}</Vertices></Region>"
        text += "</Regions></Annotation>"
    return f"{text}</Annotations>".encode()


def square(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def monuseg_files(ids=(monuseg.IDS[0], monuseg.TEST[0])) -> dict[str, bytes]:
    """As the archives are: two folders of training, one of test."""
    out = {}
    for k, id in enumerate(ids):
        training = "MoNuSeg 2018 Training Data"
        folders = (f"{training}/Tissue Images", f"{training}/Annotations")
        if id in monuseg.TEST:
            folders = ("MoNuSegTestData",) * 2
        out[f"{folders[0]}/{id}.tif"] = encoded(".tif", photograph(k))
        out[f"{folders[1]}/{id}.xml"] = aperio([square(5, 6 + k % 8, 10)])
    return out


MAKERS = {
    "stare": stare_files, "hrf": hrf_files, "isic2016": isic2016_files,
    "isic2018": isic2018_files, "monuseg": monuseg_files,
}  # fmt: skip


def folder(at: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(data)
    return at


def zipped(at: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(at.with_suffix(".zip"), "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return at.with_suffix(".zip")


def tarred(at: Path, contents: dict[str, bytes], packed: bool = False) -> Path:
    """A tar; packed: of files that are .gz each, as STARE's are."""
    path = at.with_name(f"{at.name}.tar")
    with tarfile.open(path, "w") as archive:
        for name, data in contents.items():
            data = gzip.compress(data) if packed else data
            member = tarfile.TarInfo(f"{name}.gz" if packed else name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an encoded image, by the decoder that readers use."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
