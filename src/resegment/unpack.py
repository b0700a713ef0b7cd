"""Looking into archives as if an enemy had packed them.

Members are written under numbers of our own, never under their names; links, devices, escaping
names, encrypted members and bombs are refused by name.
"""

import contextlib
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from resegment.errors import UserError

MAX_BYTES = 16 << 30  # unpacked from one archive; the largest, of ISIC 2018, holds 10.4 GiB
MAX_FILES = 20_000
MAX_DEPTH = 4  # archives within archives; a .tar.gz counts as two
CHUNK = 1 << 20


@dataclass
class Unpack:
    """Every file in a folder or archive, one at a time, archives within archives too.

    Members live in `folder` only until the next is asked for. `problems` collects the archives
    inside a given folder that could not be opened; one that was named by the user raises.
    """

    folder: Path
    problems: list[str]
    members: int = 0
    size: int = 0

    def walk(self, path: Path, shown: str, depth: int = 0) -> Iterator[tuple[str, Path]]:
        """Yield (name to show, path to read) of every plain file."""
        if path.is_dir():
            for here, folders, names in os.walk(path):
                folders.sort()
                for file in (Path(here) / name for name in sorted(names)):
                    self.members = self.size = 0
                    try:
                        if file.is_file():
                            yield from self.walk(file, str(file), depth + 1)
                    except UserError as error:
                        self.problems.append(str(error))
        elif depth < MAX_DEPTH and (members := _opener(path, shown)):
            for name, stream in members(path, shown):
                inner = f"{shown}/{name}"
                copy = self._write(stream, inner)
                yield from self.walk(copy, inner, depth + 1)
                copy.unlink()
        else:
            yield shown, path

    def _write(self, stream: IO[bytes], shown: str) -> Path:
        self.members += 1
        copy = self.folder / str(self.members)
        with open(copy, "wb") as out, _damage(shown):
            while chunk := stream.read(CHUNK):
                self.size += len(chunk)
                if self.size > MAX_BYTES or self.members > MAX_FILES:
                    out.truncate(0)
                    raise UserError(
                        f"{shown}: over {MAX_FILES} files or {MAX_BYTES >> 20} MiB unpacked, more "
                        "than any dataset holds: unpack it yourself and add the folder"
                    )
                out.write(chunk)
        return copy


def _opener(path: Path, shown: str):
    """The function that lists the members of the archive `path`, by its first bytes, or None."""
    with open(path, "rb") as f:
        head = f.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip
    if head[:2] == b"\x1f\x8b":
        return _gzip
    if head[257:262] == b"ustar" or shown.lower().endswith(".tar"):  # old tars have no magic
        return _tar
    return None


def _zip(path: Path, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage(shown), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0: packed on Windows
            _refuse(shown, member.filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            if member.flag_bits & 1:
                raise UserError(f"{shown}: {member.filename!r} is encrypted: unpack it yourself")
        for member in archive.infolist():
            if not member.is_dir():
                with _damage(f"{shown}/{member.filename}"), archive.open(member) as stream:
                    yield member.filename, stream


def _tar(path: Path, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage(shown), _Sips(path) as file, tarfile.TarFile(fileobj=file) as archive:
        for member in archive:
            _refuse(shown, member.name, not (member.isreg() or member.isdir()))
            if member.isreg():
                with _damage(f"{shown}/{member.name}"):
                    yield member.name, archive.extractfile(member)
        file.seek(archive.offset)
        if file.read(512).strip(b"\0"):  # tarfile stops at a header it cannot read, without a word
            raise tarfile.ReadError("a broken header")


def _gzip(path: Path, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    name = re.sub(r"\.tgz$", ".tar", Path(shown).name, flags=re.I)
    with _damage(shown), gzip.open(path) as stream:
        yield re.sub(r"\.gz$", "", name, flags=re.I), stream


class _Sips(io.FileIO):
    """A file read in small pieces only: a tar header may claim gigabytes of extended names."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 16 * CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _refuse(shown: str, name: str, special: bool) -> None:
    path = name.replace("\\", "/")
    if special:
        raise UserError(f"{shown}: {name!r} is a link or a device, refused, unpack it yourself")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise UserError(f"{shown}: {name!r} leads out of the archive, refused, unpack it yourself")


@contextlib.contextmanager
def _damage(shown: str) -> Iterator[None]:
    """Say in plain words that an archive is cut or corrupt."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error,
            lzma.LZMAError, EOFError, NotImplementedError) as error:  # fmt: skip
        raise UserError(
            f"{shown} is truncated, damaged or of an unknown kind ({error}): get it again"
        ) from error
