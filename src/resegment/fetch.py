"""Original data: what is there (status), taking in a copy (add), downloading an open set (get).

A copy is judged by the content of its files, so it may be packed anew, unpacked, renamed or
nested. Archives are opened as if from an enemy: members are written under numbers of our own, never
under their names; links, devices, escaping names and bombs are refused.
"""

import contextlib
import errno
import fcntl
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests
from tqdm import tqdm

from resegment import files, paths
from resegment.datasets import chase_db1, drive, registry
from resegment.errors import UserError

READERS = {"drive": drive, "chase_db1": chase_db1}
MAX_BYTES = 4 << 30  # unpacked from one archive; the largest, of HRF, holds below 2 GiB
MAX_FILES = 20_000
MAX_DEPTH = 4  # archives within archives; a .tar.gz counts as two
CHUNK = 1 << 20
TRIES = 3  # connections an address gets, each going on where the last was cut
TIMEOUT = (10, 60)  # seconds to connect, seconds of silence


def status(names: Iterable[str] | None = None) -> list[dict]:
    """What is known and held of each dataset (default: all), one dict each:

    name, title, access, licence, homepage, folder; expected, present (numbers of files); missing,
    altered (paths below folder); usable (ids), unusable (id -> reason), both None where resegment
    has no reader; next: what the user does now, "" when all is there.
    """
    return [_status(registry.get(name)) for name in names or registry.load()]


def _status(dataset: registry.Dataset) -> dict:
    folder, expected = paths.raw(dataset.name), dataset.expected()
    wrong = {}
    for file, digest in expected.items():
        if not (folder / file).is_file():
            wrong[file] = "missing"
        elif files.sha256(folder / file) != digest:
            wrong[file] = "altered"
    return {
        "name": dataset.name,
        "title": dataset.title,
        "access": dataset.access,
        "licence": dataset.licence,
        "homepage": dataset.homepage,
        "folder": str(folder),
        "expected": len(expected),
        "present": len(expected) - len(wrong),
        "missing": [file for file, what in wrong.items() if what == "missing"],
        "altered": [file for file, what in wrong.items() if what == "altered"],
        **_ids(dataset.name, wrong),
        "next": (dataset.remedy if wrong else "") if expected else _unverifiable(dataset),
    }


def _ids(name: str, wrong: dict[str, str]) -> dict:
    """Which ids can be used, by what is wrong with which file."""
    if name not in READERS:
        return {"usable": None, "unusable": None}
    unusable = {}
    for id in READERS[name].IDS:
        for what, file in READERS[name].files(id).items():
            if file in wrong:
                unusable.setdefault(id, f"{what} {file} is {wrong[file]}")
    return {"usable": [id for id in READERS[name].IDS if id not in unusable], "unusable": unusable}


def _unverifiable(dataset: registry.Dataset) -> str:
    return f"{dataset.name} is listed only: the hashes of its files are not known and no reader is"


# -- add ------------------------------------------------------------------------------------------


def add(name: str, path: str | Path | Iterable[str | Path]) -> dict:
    """Copy the original files of dataset `name` found in `path` to data/raw/<name>/, read-only.

    path: an archive (zip, tar, tar.gz), a folder, or several of them. Returns `status` of the
    dataset and added, already (numbers of files), rejected (path below folder that is still
    missing -> the file of that name whose content is another), problems (archives inside a folder
    that could not be opened). Raises UserError when `path` holds no original file at all, or is an
    archive that is broken or unsafe.
    """
    dataset = registry.get(name)
    given = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
    for p in given:
        if not p.exists():
            raise UserError(f"{p} does not exist: give the archive or the folder that holds {name}")
    wanted = {digest: file for file, digest in dataset.expected().items()}
    if not wanted:
        raise UserError(_unverifiable(dataset))
    known = {Path(file).name.lower(): file for file in wanted.values()}

    added, already, rejected, problems = 0, 0, {}, []
    with _workplace(paths.raw(name)) as tmp, tqdm(unit=" files", disable=None) as bar:
        for p in given:
            for shown, source in _Unpack(tmp, problems).walk(p, str(p)):
                digest = files.sha256(source)
                if digest in wanted:
                    new = _install(source, paths.raw(name) / wanted[digest], digest)
                    added, already = added + new, already + (not new)
                elif target := known.get(re.split(r"[/\\]", shown.lower())[-1]):
                    rejected[target] = shown
                bar.update()
    if not added and not already:
        found = f"{len(rejected)} have an original's name but another content" if rejected else ""
        raise UserError("; ".join(filter(None, (
            f"{', '.join(map(str, given))} holds no original file of {dataset.title}", found,
            *problems, f"see {dataset.homepage} for the originals",
        ))))  # fmt: skip
    now = _status(dataset)
    rejected = {file: shown for file, shown in rejected.items() if file in now["missing"]}
    wrong = dict.fromkeys(now["missing"], "missing") | dict.fromkeys(now["altered"], "altered")
    wrong |= {file: f"altered in {shown}" for file, shown in rejected.items()}
    now |= _ids(name, wrong)
    return {**now, "added": added, "already": already, "rejected": rejected, "problems": problems}


def _install(source: Path, target: Path, digest: str) -> bool:
    """Copy `source` to `target`, read-only, unless it is there already. True when copied."""
    if target.is_file() and files.sha256(target) == digest:
        return False
    with files.atomic(target) as tmp:
        shutil.copyfile(source, tmp)
        if files.sha256(tmp) != digest:
            raise UserError(f"{source} changed while it was copied: run the command again")
        tmp.chmod(0o444)
    return True


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, for one `add` at a time; removed even after a kill."""
    with _disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.parent / f".{folder.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            files.sweep(folder)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as tmp:
                yield Path(tmp)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Say in plain words that a disk is full or a path not allowed."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "check the path and your rights to it"
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror or error}: {remedy}") from error


# -- unpacking ------------------------------------------------------------------------------------


@dataclass
class _Unpack:
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


# -- get ------------------------------------------------------------------------------------------


def get(name: str, *, mirror: str | None = None, into: str | Path | None = None) -> dict:
    """Download the archives of an open dataset, then `add` them. Returns what `add` returns.

    mirror: base URL that also holds the archives under their names, tried when the source fails.
    into: folder that keeps the archives; by default they are removed once added. An interrupted
    download leaves NAME.part there and goes on from it next time.
    Raises UserError where an account is needed (saying where), or no source gives the right bytes.
    """
    dataset = registry.get(name)
    if dataset.access != "open":
        raise UserError(f"{dataset.title} is not open to download: {dataset.remedy}")
    now = _status(dataset)
    if not dataset.expected():
        raise UserError(now["next"])
    if not now["next"]:
        return {**now, "added": 0, "already": now["present"], "rejected": {}, "problems": []}
    folder = Path(into) if into else paths.raw(name).parent / ".downloads" / name
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        targets = [_download(a, folder / a.name, mirror) for a in dataset.archives]
    result = add(name, targets)
    if not into:
        shutil.rmtree(folder)
    return result


def _download(archive: registry.Archive, target: Path, mirror: str | None) -> Path:
    """Fetch one archive to `target`, from the first address that gives the right bytes."""
    if _right(archive, target):
        return target
    part = target.with_name(f"{target.name}.part")
    failures = []
    addresses = [archive.url, archive.mirror, mirror and f"{mirror.rstrip('/')}/{archive.name}"]
    for url in filter(None, addresses):
        for _ in range(TRIES):
            before = part.stat().st_size if part.exists() else 0
            try:
                _stream(url, part, https_only=not (archive.sha256 or archive.md5))
            except requests.RequestException as error:
                failures.append(f"{url}: {error}")
                if part.stat().st_size > before:
                    continue  # it was cut: go on from there
                break
            if _right(archive, part):
                os.replace(part, target)
                return target
            part.unlink()
            failures.append(f"{url}: the checksum is not that of the registry")
            if not before:
                break  # wrong from its first byte to its last: no use in asking again
    raise UserError(
        f"{archive.name} could not be downloaded ({'; '.join(dict.fromkeys(failures))}): run the "
        "command again to go on, name a mirror, or get it by hand and `resegment data add` it"
    )


def _right(archive: registry.Archive, path: Path) -> bool:
    """Whether `path` is there with the registry's checksum; any content is where it has none."""
    if not path.is_file():
        return False
    if archive.sha256:
        return files.sha256(path) == archive.sha256
    return not archive.md5 or files.md5(path) == archive.md5


def _stream(url: str, part: Path, https_only: bool) -> None:
    """Append to `part` what it lacks of `url`. What has come stays, whatever is raised."""
    with open(part, "ab") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part} is being downloaded by another process: wait for it") from None
        have = out.tell()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if https_only and not answer.url.startswith("https:"):
                raise requests.HTTPError("without a known checksum only https is trusted")
            if have and answer.status_code == 416:
                return  # nothing was left to send
            answer.raise_for_status()
            if answer.status_code != 206:
                have = 0  # the server does not resume: from the start
                out.truncate(0)
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise requests.HTTPError("the server sent another range than the one asked for")
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            unit = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
            with tqdm(initial=have, total=total, **unit) as bar:
                for chunk in answer.iter_content(CHUNK >> 4):
                    out.write(chunk)
                    bar.update(len(chunk))
