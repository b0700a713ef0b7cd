"""What is known of each dataset: where it comes from, its licence, and the hash of every file.

datasets.yaml holds the sources, <name>.sha256 the content of the original files. A copy is judged
by the content of its files, however it was packed.
"""

import gzip
import struct
import zlib
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import yaml

from resegment import closure, paths
from resegment.datasets import header, sums
from resegment.errors import UserError

MAX_BYTES = 128 << 20  # of one file; the largest of ISIC 2018 has 91 MB of pixels
GREYS = 0.3  # share of a mask's pixels that may be neither dark nor bright
FIELD = 0.3  # least share of a frame that a given field of view covers; DRIVE's has 0.68


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
    entries, known = yaml.safe_load(path.read_text()), {}
    needed = [f.name for f in fields(Dataset) if f.default is MISSING and f.name != "name"]
    for name, entry in entries.items():
        if lacking := [field for field in needed if field not in entry]:
            raise ValueError(f"{name} lacks {', '.join(lacking)}")
        archives = tuple(Archive(**a) for a in entry["archives"])
        known[name] = Dataset(name, **{**entry, "archives": archives})
    return known


def load() -> dict[str, Dataset]:
    """Every known dataset by name, in the order of data/registry/datasets.yaml."""
    path = paths.REGISTRY / "datasets.yaml"
    try:
        return _load(path.absolute(), path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run resegment from the root of its checkout") from None
    except (yaml.YAMLError, TypeError, LookupError, AttributeError, ValueError,
            RecursionError) as error:  # fmt: skip
        why = " ".join(str(error).split())  # YAML speaks in several lines
        raise UserError(
            f"{path} cannot be understood ({why}): mend it, or restore it from git"
        ) from None


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
        module = closure.load(f"resegment.datasets.{name}")
    except ModuleNotFoundError:
        module = None
    if not (hasattr(module, "ids") and hasattr(module, "read")):
        raise UserError(f"no reader for dataset {name!r} in src/resegment/datasets")
    return module


def locate(root: Path, name: str) -> Path | None:
    """Where `name` lies below `root`, or None.

    Copies differ in the case of names, in their folders and in packing (.gz): what counts then is
    the end of the path, else the file's own name, where just one file has it.
    """
    if (root / name).is_file():
        return root / name
    end = _fold(f"/{name}")
    found = [p for p in root.rglob("*") if _fold(p.name) == end.rpartition("/")[2] and p.is_file()]
    found = [p for p in found if _fold(p.as_posix()).endswith(end)] or found
    return found[0] if len(found) == 1 else None


def _fold(name: str) -> str:
    return name.lower().removesuffix(".gz")


def missing(root: Path, files: dict[str, str]) -> str | None:
    """The first of `files` (what it is -> relative path) that root lacks, as a reason, or None."""
    found = {name: locate(root, name) for name in files.values()}
    for what, name in files.items():
        others = [path for other, path in found.items() if other != name]
        if not found[name] or found[name] != root / name and found[name] in others:
            return f"{what} {name} is missing"  # images/1.png is no masks/1.png
    return None


def decode(dataset: str, root: Path, name: str, what: str) -> np.ndarray:
    """Read `root/name`: an "image" as (H, W, 3) uint8 RGB, anything else as (H, W) bool.

    A mask is True above 127: palette GIFs decode to {3, 253} and 1-bit PNGs to {0, 255}. Of a grey
    image all channels are alike, of several pages or frames the first is read, what follows the
    image in its file is not read, EXIF orientation is not applied: labels were drawn on the stored
    pixels. Raises UserError naming the file when it is missing, truncated, no image, of more than
    8 bits, CMYK, transparent, too large for an original, an image in place of a mask or a mask in
    place of an image.
    """
    path = locate(root, name)
    remedy = f"delete it and {get(dataset).remedy}"
    if not path:
        raise UserError(f"{root / name} ({what}) is missing: {get(dataset).remedy}")
    how = cv2.IMREAD_COLOR_RGB if what == "image" else cv2.IMREAD_GRAYSCALE
    try:  # from memory: OpenCV then refuses a cut file
        data = content(path)
        why = header.objection(data) or _transparent(data)
        how |= cv2.IMREAD_IGNORE_ORIENTATION
        pixels = None if why else cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except (cv2.error, struct.error, LookupError, ValueError):
        why, pixels = "", None
    if pixels is not None:
        why = _mistaken(pixels, what)
    elif not why:
        why = "is truncated or not an image (PNG, JPEG, GIF, TIFF or PNM)"
    if why:
        raise UserError(f"{path} ({what}) {why}: {remedy}")
    return pixels if what == "image" else pixels > 127


def content(path: Path) -> bytes:
    """The bytes of a file, of a .gz those inside.

    Raises ValueError where they are too many, or the .gz is cut or none.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as f:
            data = f.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"no whole .gz: {error}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"over {MAX_BYTES >> 20} MiB")
    return data


def _transparent(data: bytes) -> str:
    """An objection to transparent pixels: OpenCV drops or blends that channel without a word."""
    if not header.read(data).alpha:
        return ""
    how = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    if pixels is None or pixels.ndim < 3 or pixels.shape[2] != 4 or pixels[..., 3].min() == 255:
        return ""
    return "is partly transparent, no original is"


def _mistaken(pixels: np.ndarray, what: str) -> str:
    """An objection to an image without content, or to an image and a mask in each other's place.

    Between the darkest and the brightest eighth lie over 60 % of a fundus photograph, none of an
    original mask, 12 % of one that was smoothed and reduced ten times.
    """
    low, high = int(pixels.min()), int(pixels.max())
    grey = pixels if pixels.ndim == 2 else pixels[..., 1]
    rise = (high - low) / 8
    between = np.count_nonzero((grey > low + rise) & (grey < high - rise)) / grey.size
    if what == "image":
        if (pixels == pixels[0, 0]).all():
            return "is of one colour everywhere"
        colourless = np.ptp(pixels[::5, ::5], axis=2).max() <= 8
        return "is a mask, not an image" if colourless and between < GREYS / 4 else ""
    if between > GREYS:
        return f"is no mask: {between:.0%} of its pixels are neither dark nor bright"
    if 0 < high <= 127:
        return f"has no grey value above {high}, in the original inside is 255"
    return ""


def parts(
    dataset: str, root: Path, files: dict[str, str], most: float = 1.0
) -> dict[str, np.ndarray]:
    """Decode `files` (what -> relative path), all of one size: what -> pixels as in `decode`.

    most: the share of the frame that a label, of either observer, may fill. One that marks nothing,
    or more, is refused, and so is a field of view of less than FIELD: one may be the other, or
    inverted.
    """
    found = {what: decode(dataset, root, name, what) for what, name in files.items()}
    same_size(dataset, {what: (locate(root, files[what]), p) for what, p in found.items()})
    shares = {"label": (0.0, most), "second observer": (0.0, most), "mask": (FIELD, 1.0)}
    for what, (least, top) in shares.items():
        if what in found:
            plausible(dataset, locate(root, files[what]), what, found[what], least, top)
    return found


def plausible(
    dataset: str, path: Path, what: str, mask: np.ndarray, least: float = 0.0, most: float = 1.0
) -> None:
    """Raise UserError unless a mask marks something, and its share is in `least`..`most`."""
    if not mask.any() or not least <= mask.mean() <= most:
        raise UserError(
            f"{path} ({what}) marks {mask.mean():.0%} of the frame, no original does: delete it "
            f"and {get(dataset).remedy}"
        )


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
