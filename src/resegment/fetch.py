"""Original data: what is there (status), taking in a copy (add), downloading an open set (get).

A copy is judged by the content of its files, so it may be packed anew, unpacked, renamed or nested.
"""

import contextlib
import errno
import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from resegment import files, paths
from resegment.datasets import chase_db1, drive, registry
from resegment.download import download
from resegment.errors import UserError
from resegment.unpack import Unpack

READERS = {"drive": drive, "chase_db1": chase_db1}


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
            for shown, source in Unpack(tmp, problems).walk(p, str(p)):
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
        targets = [download(a, folder / a.name, mirror) for a in dataset.archives]
    result = add(name, targets)
    if not into:
        shutil.rmtree(folder)
    return result
