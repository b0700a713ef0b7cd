"""Lossless 8-bit and 1-bit PNG files, fast: rows filtered by numpy, deflated by Intel's ISA-L.

A 512 x 512 fundus image takes a quarter of the time that OpenCV's own writer needs at level 1, for
about the same bytes: python -m benchmarks prepare.
"""

import struct
from pathlib import Path

import numpy as np
from isal import isal_zlib

GREY, RGB = 0, 2  # colour types of the PNG specification, section 11.2.1
UP = 2  # filter: the byte above is subtracted


def write(path: Path, array: np.ndarray) -> None:
    """(h, w, 3) or (h, w) uint8, or (h, w) bool as a 1-bit file that readers open as 0 and 255."""
    height, width = array.shape[:2]
    depth, colour = (1 if array.dtype == bool else 8), (RGB if array.ndim == 3 else GREY)
    rows = np.packbits(array, axis=1) if depth == 1 else array.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, 1)), (b"IEND", b""))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n")
        for name, body in chunks:
            check = isal_zlib.crc32(body, isal_zlib.crc32(name))
            f.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", check))
