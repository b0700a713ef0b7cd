"""Writing files so that they are either whole or absent, naming their content, and saying what a
disk refuses."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resegment.errors import Unreadable


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed onto `path`.

    The temporary name keeps the suffix, because encoders choose the format by it. What a killed
    writer of `path` left is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_file(path)
    tmp = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with _named(path, tmp):
            yield tmp
            with open(tmp, "rb") as f:
                os.fsync(f.fileno())
            os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; on success it takes the place of `path`.

    Dying midway leaves the old folder (or none) and a hidden one that `sweep` removes. A link is
    replaced, never followed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    sweep(path)
    with _named(path):
        tmp = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    tmp.chmod(0o755)
    try:
        with _named(path, tmp):
            yield tmp
            old = tmp.with_name(f"{tmp.name}.old")
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                os.replace(path, old)  # a kill while it is deleted leaves no half under its name
            os.replace(tmp, path)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


@contextlib.contextmanager
def _named(path: Path, tmp: Path | None = None) -> Iterator[None]:
    """Let an error name what is being made: a failed write names nothing, or the temporary."""
    try:
        yield
    except OSError as e:
        at = str(tmp and (e.filename2 or e.filename) or path).replace(str(tmp), str(path), 1)
        if e.errno is not None:
            setattr(e, "filename2" if e.filename2 else "filename", at)
        raise


FREE = "free some space, then run the command again"
RIGHTS = "check the path and your rights to it"
ANOTHER = "a file stands where a folder must be, or the reverse: move it away"
REMEDIES = {
    errno.ENOSPC: FREE, errno.EDQUOT: FREE,
    errno.EACCES: RIGHTS, errno.EPERM: RIGHTS, errno.EROFS: RIGHTS,
    errno.ENOENT: "it was removed, or never made: make it, or get it, again",
    errno.ENOTDIR: ANOTHER, errno.EISDIR: ANOTHER, errno.EEXIST: ANOTHER, errno.ENOTEMPTY: ANOTHER,
    errno.ELOOP: "its links lead in a circle: remove them",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EFBIG: "the disk, or `ulimit -f`, allows no file as large",
    errno.EIO: "the disk fails: copy what matters to another",
    errno.EMFILE: "allow more open files with `ulimit -n`",
    errno.ENOMEM: "free some memory, then run the command again",
}  # fmt: skip


def trouble(error: OSError, where: object = "the output") -> str:
    """What the system refused, as a sentence: file, reason, remedy. where: if it names no file."""
    at = error.filename2 or error.filename or where  # of a copy, the second is what is written
    remedy = REMEDIES.get(error.errno, "check the path")
    return f"{at}: {error.strerror or error}: {remedy}"


def open_streams() -> None:
    """Lead output that somebody closed (`>&-`) to nowhere, lest a file that is opened next, and
    takes its number, receive it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))


def sweep(path: Path) -> None:
    """Remove what a killed `atomic_folder(path)` left beside `path`."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _sweep_file(path: Path) -> None:
    """Remove what writers of `path` left that are no longer alive: `.stem.PID.suffix`."""
    for name in os.listdir(path.parent):
        if name.startswith(f".{path.stem}.") and name.endswith(path.suffix):
            pid = name[len(path.stem) + 2 : len(name) - len(path.suffix)]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                (path.parent / name).unlink(missing_ok=True)


def _digest(path: str | Path, name: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, name).hexdigest()


def md5(path: str | Path) -> str:
    """Hex MD5 of a file's content: the name DVC gives it."""
    return _digest(path, "md5")


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's content: how the registry names originals."""
    return _digest(path, "sha256")


def fingerprint(value: object) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_image(path: str | Path, pixels: object, options: tuple[int, ...] = ()) -> None:
    """As cv2.imwrite, which says nothing, or not the reason, where it cannot write."""
    import cv2

    Path(path).write_bytes(cv2.imencode(Path(path).suffix, pixels, options)[1])


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON, sorted and indented, atomically."""
    with atomic(path) as tmp:
        tmp.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n")


AGAIN = "`dvc checkout` or git brings it back if it is recorded, else make it again"


def read_json(path: str | Path) -> dict:
    """The object in a JSON file. Raises Unreadable where there is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise Unreadable(f"{path} is not whole ({e}): {AGAIN}") from None
    if not isinstance(found, dict):
        raise Unreadable(f"{path} holds no object of JSON: {AGAIN}")
    return found


def table(path: str | Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file by the names in its first line, `columns` among them.

    Raises Unreadable where it is cut in a line, no UTF-8, or without one of the columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            lines = [line for line in csv.reader(f, strict=True) if line]
    except (ValueError, csv.Error) as e:
        raise Unreadable(f"{path} is no table ({e}): {AGAIN}") from None
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if absent := [c for c in columns if header.count(c) != 1]:
        if any(mark in "".join(header) for mark in ";\t"):
            raise Unreadable(f"{path} separates its columns by semicolons or tabs: save it with "
                             "commas")  # fmt: skip
        raise Unreadable(f"{path} must have one column {absent[0]} in its first line: {AGAIN}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise Unreadable(f"{path}: row {number} has {len(row)} cells, the first line "
                             f"{len(header)}: {AGAIN}")  # fmt: skip
    return [dict(zip(header, row, strict=True)) for row in rows]


def named(folder: str | Path) -> dict[str, str]:
    """{file: MD5} as the manifest.json of a folder names them; empty where it names none.

    Raises Unreadable where it is none.
    """
    manifest = Path(folder) / "manifest.json"
    known = read_json(manifest).get("files", {})
    if not isinstance(known, dict):
        raise Unreadable(f"{manifest} does not name its files: {AGAIN}")
    return known


def write_manifest(folder: str | Path, **extra: object) -> None:
    """Write `folder/manifest.json`: the MD5 of every file beside it, and `extra`."""
    folder = Path(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [n for n in names if n != "manifest.json"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        files = dict(zip(names, pool.map(md5, (folder / n for n in names)), strict=True))
    write_json(folder / "manifest.json", {"files": files, **extra})
