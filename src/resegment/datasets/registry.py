"""What is known of each dataset: where it comes from, its licence, and the hash of every file.

datasets.yaml holds the sources, <name>.sha256 the content of the original files. A copy is judged
by the content of its files, however it was packed.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import yaml

from resegment import paths
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
    """One entry of datasets.yaml. access: "open", "register" or "request"."""

    name: str
    title: str
    access: str
    licence: str
    homepage: str
    cite: str
    files: str
    archives: tuple[Archive, ...]
    notes: str = ""

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
        """Relative path -> sha256 of every original file; empty where no hashes are known."""
        path = paths.registry(self.name)
        if not path.exists():
            return {}
        lines = path.read_text().splitlines()
        return {line[66:]: line[:64] for line in lines if line.strip()}


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
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be understood ({error}): restore it from git") from None


def get(name: str) -> Dataset:
    """The dataset called `name`. Raises UserError, listing the known names."""
    known = load()
    if name not in known:
        raise UserError(f"no dataset is called {name!r}: the known names are {', '.join(known)}")
    return known[name]


def missing(root: Path, files: dict[str, str]) -> str | None:
    """The first of `files` (what it is -> relative path) that root lacks, as a reason, or None."""
    for what, name in files.items():
        if not (root / name).is_file():
            return f"{what} {name} is missing"
    return None


def decode(dataset: str, root: Path, name: str, what: str) -> np.ndarray:
    """Read `root/name`: an "image" as (H, W, 3) uint8 RGB, anything else as (H, W) bool.

    A mask is True above 127: palette GIFs decode to {3, 253} and 1-bit PNGs to {0, 255}.
    Raises UserError naming the file when it is missing, truncated or no image.
    """
    path = root / name
    colour = what == "image"
    try:
        data = np.fromfile(path, np.uint8)  # from memory: OpenCV then refuses a cut file
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    except FileNotFoundError:
        raise UserError(f"{path} ({what}) is missing: {get(dataset).remedy}") from None
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise UserError(
            f"{path} ({what}) is truncated or not an image: delete it and {get(dataset).remedy}"
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if colour else pixels > 127


def same_size(dataset: str, root: Path, parts: dict[str, tuple[str, np.ndarray]]) -> None:
    """Raise UserError unless all parts (what -> (file, pixels)) have the first one's H x W."""
    (first, (reference, image)), *others = parts.items()
    for what, (name, pixels) in others:
        if pixels.shape[:2] != image.shape[:2]:
            size, wanted = (f"{p.shape[1]}x{p.shape[0]}" for p in (pixels, image))
            raise UserError(
                f"{root / name} ({what}) is {size} but {first} {reference} is {wanted}: "
                f"delete the altered one and {get(dataset).remedy}"
            )
