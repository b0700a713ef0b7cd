"""Any fundus photograph that somebody has: opened as it is seen, and brought to a network's scale.

The readers refuse what no original is; here everything is taken that can show a retina. A network
knows vessels of the widths that its training images had, so a photograph is cut and resized until
its field of view is as wide as theirs, in a frame of their size.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from resegment.datasets import fov, header, registry
from resegment.errors import UserError

KINDS = ("jpg", "jpeg", "png", "tif", "tiff", "ppm", "pgm", "gif", "bmp")
SHORT = 700  # px, the shorter side of the image in which a field of view is sought
LONG = 4  # times as long as wide is no photograph of an eye
LONGEST = 200  # bytes of a name, so that those of its results can be written
NEAR = 0.01  # nothing is resized where the fields of view differ by less than this share


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


class Eye(NamedTuple):
    """fov: (H, W) bool, the field of view; box: around it, px.

    found: False where there is no visible aperture; then all of the frame counts as inside, and the
    scale is a guess.
    """

    fov: np.ndarray
    box: Box
    found: bool

    @property
    def diameter(self) -> int:
        """px; cameras cut the disc at the top or at the sides, hardly at both."""
        return max(self.box.height, self.box.width)


def chosen(given: Iterable[Path], out: Path) -> dict[str, Path]:
    """{stem: file} of images, and of those right inside folders; none of them lies in `out`.

    A file that is named is taken whatever it is called, of a folder those called as KINDS are.
    Raises UserError where there is none or one is not here, and where results would take the place
    of an original or of each other.
    """
    found: dict[Path, Path] = {}
    for path in given:
        here = [path]
        if path.is_dir():
            here = [f for f in _visible(path) if _taken(f)]
            if not here:
                raise UserError(f"{path} holds no image ({', '.join(KINDS)}): give a folder that "
                                "does, or the files themselves")  # fmt: skip
        elif not path.is_file():
            said = "neither a file nor a folder" if path.exists() else "not here"
            raise UserError(f"{path} is {said}: check its name")
        found |= {f.resolve(): f for f in here}
    stems: dict[str, Path] = {}
    for real, file in found.items():
        if out.resolve() in (real.parent, file.parent.resolve()):
            raise UserError(f"--out {out} is the folder of {file}, where results could take the "
                            f"place of originals: give another, e.g. {out / 'maps'}")  # fmt: skip
        if len(os.fsencode(file.stem)) > LONGEST:
            raise UserError(f"{file}: its name leaves no room for those of its results: use one of "
                            f"at most {LONGEST} bytes")  # fmt: skip
        other = stems.setdefault(file.stem, file)
        if other is not file:
            raise UserError(f"{other} and {file} would both become {file.stem}_mask.png: rename "
                            "one, or give each an --out of its own")  # fmt: skip
    return stems


def passed_over(given: Iterable[Path], out: Path) -> list[Path]:
    """What `chosen` does not take of folders: other kinds, folders in them, links to nowhere."""
    inside = [f for path in given if path.is_dir() for f in _visible(path)]
    return [f for f in inside if not _taken(f) and f.resolve() != out.resolve()]


def _visible(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.iterdir()) if not f.name.startswith(".")]


def _taken(file: Path) -> bool:
    return file.is_file() and file.suffix.lower()[1:] in KINDS


def read(file: Path) -> tuple[np.ndarray, list[str]]:
    """(H, W, 3) uint8 RGB, and remarks on it.

    Pixels lie as viewers show them: an EXIF orientation is applied. Of 16 bits those in use are
    brought to 8; what is transparent is black; of several pages the first is read. Raises
    UserError, naming the file, for what is no photograph, and OSError.
    """
    if file.stat().st_size > registry.MAX_BYTES:
        raise UserError(f"{file} is over {registry.MAX_BYTES >> 20} MiB: compress or reduce it")
    try:
        data = registry.content(file)
        head = _bitmap(data) if data[:2] == b"BM" else header.read(data)
        why = _objection(head)
        if not why:
            pixels, remarks = _decoded(np.frombuffer(data, np.uint8), head.alpha)
            why = registry._mistaken(pixels, "image")
    except (EOFError, cv2.error, struct.error, LookupError, ValueError):
        why = f"is truncated or not an image ({', '.join(KINDS)})"
    if why:
        raise UserError(f"{file} {why}")
    return pixels, remarks


def _bitmap(data: bytes) -> header.Header:
    """Of a BMP, which no original is: its height is negative where rows run downwards."""
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return header.Header(abs(height), width)


def _objection(head: header.Header) -> str:
    if not 0 < head.height * head.width <= header.MAX_PIXELS:
        return (f"is {head.width}x{head.height} pixels by its header: reduce it to at most "
                f"{header.MAX_PIXELS // 10**6} million")  # fmt: skip
    if max(head.height, head.width) > LONG * min(head.height, head.width):
        return f"is {head.width}x{head.height} pixels: cut it to the eye"
    if head.bits > 16:
        return f"has {head.bits} bits a channel: save it with 8 or 16"
    return "is of four inks (CMYK): save it as RGB" if head.cmyk else ""


def _decoded(data: np.ndarray, alpha: bool) -> tuple[np.ndarray, list[str]]:
    """As `read`. Raises ValueError where OpenCV cannot."""
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError
    remarks = []
    if alpha:  # OpenCV says what is transparent only of pixels as they are stored
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        full = np.iinfo(stored.dtype).max
        if stored.ndim == 3 and stored.shape[2] == 4 and stored[..., 3].min() < full:
            if np.ptp(stored[..., 3]):
                share = stored[..., 3:] / np.float32(full)
                pixels = (stored[..., 2::-1] * share).astype(stored.dtype)
                remarks.append("transparent pixels are taken as black")
            else:
                remarks.append("equally transparent everywhere: taken as opaque")
    if pixels.dtype == np.uint16:
        bits = max(8, int(pixels.max()).bit_length())  # cameras store 12 in 16, too
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / (2**bits - 1))
        remarks.append(f"{bits} bits were reduced to 8")
    if np.ptp(pixels[::5, ::5], axis=2).max() <= 8:
        remarks.append("grey: the network learned from colour")
    return pixels, remarks


def eye(image: np.ndarray) -> Eye:
    """The field of view of (H, W, 3) uint8, as `fov.derive` finds it in the image made smaller."""
    height, width = image.shape[:2]
    shrink = SHORT / min(height, width)
    if shrink < 1:
        small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        inside = fov.derive(small)
        grey = cv2.resize(inside * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR)
        inside = grey > 127
    else:
        inside = fov.derive(image)
    left, top, *size = cv2.boundingRect(inside.view(np.uint8))
    return Eye(inside, Box(top, left, *reversed(size)), not inside.all())


def window(of: Eye, diameter: int, frame: tuple[int, int]) -> Box:
    """What of an image becomes a frame (h, w) with a field of view `diameter` wide in its middle.

    It may reach beyond the image.
    """
    scale = of.diameter / diameter
    if abs(scale - 1) < NEAR and of.box.height <= frame[0] and of.box.width <= frame[1]:
        scale = 1.0
    height, width = (max(1, round(side * scale)) for side in frame)
    top = of.box.top + (of.box.height - height) // 2
    return Box(top, of.box.left + (of.box.width - width) // 2, height, width)


def cut(image: np.ndarray, box: Box, frame: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8: a `window` at the frame's size, black off the image."""
    out = np.zeros((box.height, box.width, 3), np.uint8)
    here, there = _overlap(box, image.shape[:2])
    out[there] = image[here]
    return _resized(out, frame)


def paste(map_: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """(h, w) uint16 -> (H, W) uint16: the way back from `cut`, 0 where nothing was drawn."""
    out = np.zeros(size, np.uint16)
    here, there = _overlap(box, size)
    out[here] = _resized(map_, (box.height, box.width))[there]
    return out


def _overlap(box: Box, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where box and image meet: in the image, and in the box."""
    sides = ((box.top, box.height, size[0]), (box.left, box.width, size[1]))
    ends = [(max(start, 0), min(start + n, most)) for start, n, most in sides]
    return (tuple(slice(a, b) for a, b in ends),
            tuple(slice(a - side[0], b - side[0])
                  for (a, b), side in zip(ends, sides, strict=True)))  # fmt: skip


def _resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if array.shape[:2] == size:
        return array
    how = cv2.INTER_AREA if size[0] < array.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(array, size[::-1], interpolation=how)
