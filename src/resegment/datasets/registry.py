"""What is known of each dataset: where it comes from, its licence, and the hash of every file.

datasets.yaml holds the sources, <name>.sha256 the content of the original files. A copy is judged
by the content of its files, however it was packed.
"""

import gzip
import importlib
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import yaml

from resegment import paths
from resegment.datasets import sums
from resegment.errors import UserError


@dataclass(frozen=True)
class Archive:
    """One file of the official source. url is None when only a person can fetch it (a login).

    sha256, md5: of the archive as officially published, or None where unknown.
    mirror: another address of the same bytes, or None.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None
    mirror: str | None = None


@dataclass(frozen=True)
class Dataset:
    """One entry of datasets.yaml. access: "open", "register" or "request".

    size: height and width in pixels where all images share them, images: how many are train, val
    and test where no split file lists them; both for estimates only.
    """

    name: str
    title: str
    access: str
    licence: str
    homepage: str
    cite: str
    files: str
    archives: tuple[Archive, ...]
    notes: str = ""
    size: tuple[int, int] | None = None
    images: dict[str, int] | None = None

    @property
    def remedy(self) -> str:
        """What the user does to have the files, as the end of a sentence."""
        if self.access == "open":
            return f"run `resegment data get {self.name}` or `resegment data add {self.name} PATH`"
        wanted = " and ".join(a.name for a in self.archives)
        return (
            f"ask for {wanted or 'the files'} at {self.homepage}, then run "
            f"`resegment data add {self.name} PATH` with the folder that holds what you got"
        )

    def expected(self) -> dict[str, str]:
        """Relative path -> sha256 of every file known; empty where no hashes are."""
        return sums.read(paths.registry(self.name)).expected


@cache
def _load(path: Path, stamp: int) -> dict[str, Dataset]:
    entries = yaml.safe_load(path.read_text())
    return {
        name: Dataset(name, **{**entry, "archives": tuple(Archive(**a) for a in entry["archives"])})
        for name, entry in entries.items()
    }


def load() -> dict[str, Dataset]:
    """Every known dataset by name, in the order of data/registry/datasets.yaml."""
    path = paths.REGISTRY / "datasets.yaml"
    try:
        return _load(path.absolute(), path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run resegment from the root of its checkout") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UserError(f"{path} cannot be understood ({error}): restore it from git") from None


def get(name: str) -> Dataset:
    """The dataset called `name`. Raises UserError, listing the known names."""
    known = load()
    if name not in known:
        raise UserError(f"no dataset is called {name!r}: the known names are {', '.join(known)}")
    return known[name]


def reader(name: str) -> ModuleType:
    """The module that reads a dataset: `ids(root)`, `read(root, id)`, and what it needs.

    That is IDS and `files(id)`, or, where ids are known only from the files, `layout(names)` and
    `place(name)` (datasets/isic.py).
    """
    try:
        module = importlib.import_module(f"resegment.datasets.{name}")
    except ModuleNotFoundError:
        module = None
    if not (hasattr(module, "ids") and hasattr(module, "read")):
        raise UserError(f"no reader for dataset {name!r} in src/resegment/datasets")
    return module


def locate(root: Path, name: str) -> Path | None:
    """Where `name` lies below `root`, or None.

    Copies differ in the case of names, in their folders and in packing (.gz): what counts then is
    the file's own name, where just one file has it.
    """
    if (root / name).is_file():
        return root / name
    found = [p for p in root.rglob("*") if _fold(p.name) == _fold(name) and p.is_file()]
    return found[0] if len(found) == 1 else None


def _fold(name: str) -> str:
    return name.rpartition("/")[2].lower().removesuffix(".gz")


def missing(root: Path, files: dict[str, str]) -> str | None:
    """The first of `files` (what it is -> relative path) that root lacks, as a reason, or None."""
    for what, name in files.items():
        if not locate(root, name):
            return f"{what} {name} is missing"
    return None


def decode(dataset: str, root: Path, name: str, what: str) -> np.ndarray:
    """Read `root/name`: an "image" as (H, W, 3) uint8 RGB, anything else as (H, W) bool.

    A mask is True above 127: palette GIFs decode to {3, 253} and 1-bit PNGs to {0, 255}.
    EXIF orientation is not applied: labels were drawn on the stored pixels.
    Raises UserError naming the file when it is missing, truncated or no image.
    """
    path = locate(root, name)
    remedy = f"delete it and {get(dataset).remedy}"
    if not path:
        raise UserError(f"{root / name} ({what}) is missing: {get(dataset).remedy}")
    how = cv2.IMREAD_COLOR if what == "image" else cv2.IMREAD_GRAYSCALE
    try:  # from memory: OpenCV then refuses a cut file
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data = np.frombuffer(data, np.uint8)
        pixels = cv2.imdecode(data, how | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, EOFError, zlib.error, cv2.error):
        pixels = None
    if pixels is None:
        raise UserError(f"{path} ({what}) is truncated or not an image: {remedy}")
    if what == "image":
        if data[:2].tobytes() in (b"II", b"MM") and _sheer(data):
            raise UserError(f"{path} ({what}) is partly transparent, no original is: {remedy}")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if pixels.any() and pixels.max() <= 127:
        raise UserError(
            f"{path} ({what}) has no grey value above {pixels.max()}, in the original inside is "
            f"255: {remedy}"
        )
    return pixels > 127


def _sheer(tiff: np.ndarray) -> bool:
    """Whether a TIFF has transparent pixels: OpenCV would darken them, not drop the channel."""
    pixels = cv2.imdecode(tiff, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    return (
        pixels is not None
        and pixels.ndim == 3
        and pixels.shape[2] == 4
        and (pixels[..., 3].min() < 255)
    )


def parts(dataset: str, root: Path, files: dict[str, str]) -> dict[str, np.ndarray]:
    """Decode `files` (what -> relative path), all of one size: what -> pixels as in `decode`."""
    found = {what: decode(dataset, root, name, what) for what, name in files.items()}
    same_size(dataset, {what: (locate(root, files[what]), p) for what, p in found.items()})
    return found


def same_size(dataset: str, parts: dict[str, tuple[Path, np.ndarray]]) -> None:
    """Raise UserError unless all parts (what -> (file, pixels)) have the first one's H x W."""
    (first, (reference, image)), *others = parts.items()
    for what, (path, pixels) in others:
        if pixels.shape[:2] != image.shape[:2]:
            size, wanted = (f"{p.shape[1]}x{p.shape[0]}" for p in (pixels, image))
            raise UserError(
                f"{path} ({what}) is {size} but {first} {reference.name} is {wanted}: "
                f"delete the altered one and {get(dataset).remedy}"
            )
