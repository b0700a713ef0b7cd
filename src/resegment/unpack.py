"""Looking into archives as if an enemy had packed them.

Members are written under numbers of our own, never under their names; links, devices, escaping
names, encrypted members and bombs are refused by name.
"""

import contextlib
import errno
import gzip
import io
import itertools
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from resegment.errors import UserError

MAX_BYTES = 16 << 30  # unpacked from one archive; the largest, of ISIC 2018, holds 10.4 GiB
MAX_RATIO = 1000  # unpacked to packed, from SMALL on; HRF's masks as plain TIFF in a zip have 270
SMALL = 64 << 20
MAX_FILES = 20_000
MAX_DEPTH = 4  # archives within archives; a .tar.gz counts as two
MAX_NAME = 1000  # characters
CHUNK = 1 << 20
NAMED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
# What zipfile, tarfile and the decompressors raise for bytes that no writer of archives makes.
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError,
          ValueError, RuntimeError, LookupError, OverflowError, MemoryError)  # fmt: skip


@dataclass
class Unpack:
    """Every file in a folder or archive, one at a time, archives within archives too.

    Members live in `folder` only until the next is asked for. `problems` collects what was not
    read: what a given folder holds that could not be opened, and what is behind the end of a tar;
    an archive that was named by the user and cannot be opened raises.
    """

    folder: Path
    problems: list[str]
    members: int = 0
    size: int = 0
    room: int = 0

    def walk(self, path: Path, shown: str, depth: int = 0) -> Iterator[tuple[str, Path]]:
        """Yield (name to show, path to read) of every plain file."""
        if path.is_dir():
            yield from self._folder(path, shown)
        elif not path.is_file():  # reading a fifo or a device may never end
            raise UserError(f"{shown} is neither a file nor a folder: give an archive or a folder")
        elif members := _opener(path, shown):
            if depth == 0:
                self.members = self.size = 0
                self.room = min(MAX_BYTES, max(SMALL, MAX_RATIO * path.stat().st_size))
            if depth == MAX_DEPTH:
                raise UserError(
                    f"{shown} is an archive within {MAX_DEPTH} others: unpack it yourself and add "
                    "the folder"
                )
            for name, stream in members(path, shown, self.problems):
                inner = f"{shown}/{name}"
                with self._copy(stream, inner) as copy:
                    yield from self.walk(copy, inner, depth + 1)
        else:
            yield shown, path

    def _folder(self, path: Path, shown: str) -> Iterator[tuple[str, Path]]:
        def unread(error: OSError) -> None:
            where = plain(str(error.filename))
            self.problems.append(f"{where}: {error.strerror}: check your rights to it")

        for here, folders, names in os.walk(path, onerror=unread):
            folders.sort()
            for file in (Path(here) / name for name in sorted(names)):
                try:
                    if file.is_file():
                        yield from self.walk(file, f"{shown}/{plain(str(file.relative_to(path)))}")
                except UserError as error:
                    self.problems.append(str(error))
                except PermissionError as error:
                    unread(error)

    @contextlib.contextmanager
    def _copy(self, stream: IO[bytes], shown: str) -> Iterator[Path]:
        self.members += 1
        copy = self.folder / str(self.members)
        try:
            with open(copy, "wb") as out, _damage(shown):
                while chunk := stream.read(CHUNK):
                    self.size += len(chunk)
                    if self.size > self.room or self.members > MAX_FILES:
                        raise _bomb(shown, self.room)
                    out.write(chunk)
            yield copy
        finally:
            copy.unlink(missing_ok=True)


def plain(name: str) -> str:
    """`name` for one line of a terminal: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def _bomb(shown: str, room: int = MAX_BYTES) -> UserError:
    return UserError(
        f"{shown}: over {MAX_FILES} files or {room >> 20} MiB unpacked, more than any dataset "
        "holds: unpack it yourself and add the folder"
    )


def _opener(path: Path, shown: str):
    """The function that lists the members of the archive `path`, by its first bytes, or None."""
    with open(path, "rb") as f:
        head = f.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip
    if head[:2] == b"\x1f\x8b":
        return _gzip
    if head[257:262] == b"ustar" or (head and shown.lower().endswith(".tar")):  # old: no magic
        return _tar
    if shown.lower().endswith(NAMED):
        raise UserError(
            f"{shown} is no archive that can be read (zip, tar, tar.gz): get it again, or unpack "
            "it yourself and add the folder"
        )
    return None


def _zip(path: Path, shown: str, problems: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage(shown), _Sips(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_FILES:
            raise _bomb(shown)
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0: packed on Windows
            _refuse(shown, member.orig_filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            if member.flag_bits & 1:
                raise UserError(f"{shown}: {member.filename!r} is encrypted: unpack it yourself")
        _complete(file, members)
        for member in members:
            if not member.is_dir():
                name = plain(member.filename)
                with _damage(f"{shown}/{name}"), archive.open(member) as stream:
                    yield name, stream


def whole(path: Path) -> bool:
    """Whether a zip can be read to its end and every member is what its checksum says."""
    try:
        with _damage(str(path)), _Sips(path) as file, zipfile.ZipFile(file) as archive:
            _complete(file, archive.infolist())
            return archive.testzip() is None
    except UserError:
        return False


def _complete(file: IO[bytes], members: list[zipfile.ZipInfo]) -> None:
    """Raise BadZipFile where the directory lost members, lists the same bytes twice, or has another
    checksum than stands before a member.

    zipfile looks at none: a damaged length hides entries, a bomb's members overlap, and zeros make
    an empty file, whose checksum is zero.
    """
    file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16) - 22))
    tail = file.read()
    (count,) = struct.unpack_from("<H", tail, tail.rindex(b"PK\x05\x06") + 10)
    if count not in (0xFFFF, len(members)):  # 0xFFFF: the number stands elsewhere, zip64
        raise zipfile.BadZipFile(f"{len(members)} of {count} members are listed")
    order = sorted(members, key=lambda m: m.header_offset)
    for one, other in itertools.pairwise(order):
        if one.header_offset + 30 + one.compress_size > other.header_offset:
            raise zipfile.BadZipFile(f"{one.filename!r} and {other.filename!r} overlap")
    for member in order:
        file.seek(member.header_offset + 6)
        flags, crc = struct.unpack("<H6xL", file.read(12).ljust(12, b"\0"))
        if crc != member.CRC and not flags & 8:  # 8: it stands behind the member
            raise zipfile.BadZipFile(f"{member.filename!r} has two checksums")


def _tar(path: Path, shown: str, problems: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage(shown), _Sips(path) as file, tarfile.TarFile(fileobj=file) as archive:
        for count in itertools.count():
            before, member = archive.offset, archive.next()
            archive.members.clear()  # each holds a copy of the archive's global headers
            if member is None:
                break
            if count == MAX_FILES:
                raise _bomb(shown)
            if member.size < 0 or archive.offset <= before * bool(count):
                raise tarfile.ReadError("a header of a negative size")
            _refuse(shown, member.name, not (member.isreg() or member.isdir()))
            if member.isreg():
                name = plain(member.name)
                with _damage(f"{shown}/{name}"):
                    yield name, archive.extractfile(member)
        file.seek(archive.offset)  # tarfile stops without a word at a header it cannot read
        end = file.read(512)
        if len(end) < 512 or end.strip(b"\0"):
            raise tarfile.ReadError("a broken header" if end else "no end mark")
        while more := file.read(CHUNK):
            if more.strip(b"\0"):  # a member whose header is lost, or what old writers left there
                problems.append(f"{shown}: what stands behind its end mark was not read")
                break


def _gzip(path: Path, shown: str, problems: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    name = re.sub(r"\.tgz$", ".tar", shown.rpartition("/")[2], flags=re.I)
    with _damage(shown), gzip.open(path) as stream:
        yield re.sub(r"\.gz$", "", name, flags=re.I), stream


class _Sips(io.FileIO):
    """A file read in small pieces only: a header may claim gigabytes of names or of members."""

    def read(self, size: int = -1) -> bytes:
        data = super().read(size if 0 <= size <= 4 * CHUNK else 4 * CHUNK + 1)
        if len(data) > 4 * CHUNK:
            raise tarfile.ReadError(f"a header of over {4 * CHUNK} bytes")
        return data


def _refuse(shown: str, name: str, special: bool) -> None:
    path = name.replace("\\", "/")
    if not name or "\0" in name or len(name) > MAX_NAME:
        raise UserError(f"{shown}: {name[:60]!r} is no name of a file, refused, unpack it yourself")
    if special:
        raise UserError(f"{shown}: {name!r} is a link or a device, refused, unpack it yourself")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise UserError(f"{shown}: {name!r} leads out of the archive, refused, unpack it yourself")


@contextlib.contextmanager
def _damage(shown: str) -> Iterator[None]:
    """Say in plain words that an archive is cut or corrupt."""
    try:
        yield
    except (*BROKEN, OSError) as error:
        # bz2 and gzip raise OSError without a number; a damaged offset leads before the file
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{shown} is truncated, damaged or of an unknown kind ({error}): get it again"
        ) from error
