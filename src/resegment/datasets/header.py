"""What an image file says of itself, read before anything is allocated for its pixels."""

import re
import struct
from typing import NamedTuple

MAX_PIXELS = 40_000_000  # the largest original, of ISIC 2018, has 30.4 million
PNM = re.compile(rb"P([1-6])S(\d+)S(\d+)(?:S(\d+))?\s".replace(b"S", rb"(?:\s|#[^\n]*\n)+"))


class Header(NamedTuple):
    """height, width: pixels. bits: of a channel. alpha: whether there may be transparent pixels.

    turn: the orientation tag of a TIFF, which OpenCV obeys even when told not to; 1: as stored.
    """

    height: int
    width: int
    bits: int = 8
    cmyk: bool = False
    alpha: bool = False
    turn: int = 1


def objection(data: bytes) -> str:
    """Why a file is not decoded, as the end of a sentence about it; "" where it may be.

    Raises ValueError, struct.error or LookupError where the header cannot be read.
    """
    head = read(data)
    if not 0 < head.height * head.width <= MAX_PIXELS:
        return f"is {head.width}x{head.height} pixels by its header, no original is"
    if head.bits > 8:
        return f"has {head.bits} bits a channel, every original has 8"
    if head.turn in range(2, 9):
        return f"is turned by its TIFF orientation {head.turn}, no original is"
    return "is of four inks (CMYK), every original is RGB or grey" if head.cmyk else ""


def read(data: bytes) -> Header:
    """The header of a PNG, JPEG, GIF, TIFF or PNM file. Raises as `objection` does."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
        return Header(height, width, bits, alpha=colour in (4, 6) or b"tRNS" in data)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack_from("<HH", data, 6)
        return Header(height, width, alpha=True)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data, "<" if data[:1] == b"I" else ">")
    if found := PNM.match(data[:1000]):
        kind, width, height, most = (int(n or 0) for n in found.groups())
        return Header(height, width, 1 if kind in (1, 4) else 8 if most == 255 else 16)
    raise ValueError("of an unknown kind")


def _jpeg(data: bytes) -> Header:
    """From the frame header: ITU-T T.81, B.2.2."""
    at = 2
    while True:
        at = data.index(b"\xff", at)  # decoders, too, pass over what is no marker
        kind = data[at + 1]
        if kind in (0, 0xFF):
            at += 1
        elif kind == 1 or 0xD0 <= kind <= 0xD7:  # markers without a length
            at += 2
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return Header(height, width, bits, cmyk=channels == 4)
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _tiff(data: bytes, order: str) -> Header:
    """From the first directory: TIFF 6.0, section 2. Floats count as their bits, signed as 16."""
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    tags = {}
    for k in range(count):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, at + 2 + 12 * k)
        form, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("B", 1))
        where = at + 10 + 12 * k
        if size * number > 4:
            (where,) = struct.unpack_from(f"{order}I", data, where)
        if tag in (256, 257, 258, 262, 274, 277, 339):
            (tags[tag],) = struct.unpack_from(f"{order}{form}", data, where)
    bits = tags.get(258, 1) if tags.get(339, 1) in (1, 4) else max(16, tags.get(258, 1))
    alpha, turn = tags.get(277, 1) in (2, 4), tags.get(274, 1)
    return Header(tags[257], tags[256], bits, tags.get(262) == 5, alpha, turn)
