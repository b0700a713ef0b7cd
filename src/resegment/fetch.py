"""Original data: what is there (status), taking in a copy (add), downloading an open set (get).

A copy is judged by the content of its files, so it may be packed anew, unpacked, renamed or nested.
"""

import contextlib
import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from resegment import files, paths
from resegment.datasets import registry, sums
from resegment.download import download
from resegment.errors import UserError
from resegment.unpack import Unpack, plain


def status(names: Iterable[str] | None = None) -> list[dict]:
    """What is known and held of each dataset (default: all), one dict each:

    name, title, access, licence, homepage, folder; expected, present (numbers of files);
    unverified (number of expected files whose hash nobody vouches for); missing, altered (paths
    below folder); usable (ids), unusable (id -> reason); late (usable ids that were not ingested);
    next: what the user does now, "" when all is there.
    """
    return [_status(registry.get(name)) for name in names or registry.load()]


def _status(dataset: registry.Dataset) -> dict:
    folder, known = paths.raw(dataset.name), sums.read(paths.registry(dataset.name))
    wrong = {}
    for file, digest in known.expected.items():
        if not (folder / file).is_file():
            wrong[file] = "missing"
        elif files.sha256(folder / file) != digest:
            wrong[file] = "altered"
    ids = _ids(dataset.name, known, wrong)
    whole = known.expected and not wrong and not ids["unusable"]
    unhashed = [f for f in _needed(dataset.name, known) if f not in known.expected]
    late, remedy = _late(dataset.name, ids["usable"]), dataset.remedy
    if known.official and unhashed and not wrong:
        remedy = (f"no hash is known of {len(unhashed)} of the files needed: `resegment data add "
                  f"{dataset.name} PATH --unverified` takes them by their names")  # fmt: skip
    return {
        "name": dataset.name,
        "title": dataset.title,
        "access": dataset.access,
        "licence": dataset.licence,
        "homepage": dataset.homepage,
        "folder": str(folder),
        "expected": len(known.expected),
        "present": len(known.expected) - len(wrong),
        "unverified": len(known.unverified),
        "missing": [file for file, what in wrong.items() if what == "missing"],
        "altered": [file for file, what in wrong.items() if what == "altered"],
        **ids,
        "late": late,
        "next": "" if whole else remedy,
    }


def _late(name: str, usable: list[str]) -> list[str]:
    """The usable images that are not in data/native/NAME, which was written before they came: no
    stage can know, for a checkout does not track the originals."""
    manifest = paths.native(name) / "manifest.csv"
    known = [row["id"] for row in files.table(manifest, "id")] if manifest.is_file() else usable
    return sorted(set(usable) - set(known))


def _layout(name: str, known: sums.Sums) -> dict[str, dict[str, str]]:
    """{id: what each needed file is -> its path} of every id the reader can know of."""
    reader = registry.reader(name)
    if hasattr(reader, "layout"):
        return reader.layout(tuple(known.expected))
    return {id: reader.files(id) for id in reader.IDS}


def _needed(name: str, known: sums.Sums) -> list[str]:
    return [file for needed in _layout(name, known).values() for file in needed.values()]


def _ids(name: str, known: sums.Sums, wrong: dict[str, str]) -> dict:
    """Which ids can be used, by what is wrong with which file."""
    unusable, layout = {}, _layout(name, known)
    for id, needed in layout.items():
        for what, file in needed.items():
            reason = wrong.get(file, "" if file in known.expected else "missing, its hash unknown")
            if reason:
                unusable.setdefault(id, f"{what} {file} is {reason}")
    return {"usable": [id for id in layout if id not in unusable], "unusable": unusable}


def add(name: str, path: str | Path | Iterable[str | Path], *, unverified: bool = False) -> dict:
    """Copy the files of dataset `name` found in `path` to data/raw/<name>/, read-only.

    path: an archive (zip, tar, tar.gz), a folder, or several of them. A file is known by its hash.
    Where the set has no official hashes, or with `unverified`, it is known by its name too, and its
    hash goes to data/registry/<name>.sha256; an original always comes before such a file.

    Returns `status` of the dataset and added, already (numbers of files), taken (how many of them
    by their names), rejected (path below folder that is still missing -> the file of that name
    whose content is another), problems (archives inside a folder that could not be opened). Raises
    UserError when `path` holds no file of the set, or is an archive that is broken or unsafe.
    """
    dataset = registry.get(name)
    given = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
    for p in given:
        if not p.exists():
            raise UserError(
                f"{plain(str(p))} does not exist: give the archive or the folder that holds {name}"
            )
    with _workplace(paths.raw(name)) as tmp, tqdm(unit=" files", disable=None) as bar:

        def walk(problems: list[str]) -> Iterator[tuple[Path, str, str]]:
            for p in given:
                outside = len(plain(str(p.parent / "x"))) - 1  # folders above it say nothing
                for shown, source in Unpack(tmp, problems).walk(p, plain(str(p))):
                    yield source, shown, shown[outside:] if p.name else shown

        intake = Intake(name, unverified)
        if intake.any and any(len(same) > 1 for same in intake.names.values()):
            for found in walk([]):
                intake.doubt(*found)
        try:
            for found in walk(intake.problems):
                intake.take(*found)
                bar.update()
        finally:
            intake.record()
    intake.tell()
    added, already, rejected = intake.added, intake.already, intake.rejected
    if not added and not already:
        found = f"{len(rejected)} have an original's name but another content" if rejected else ""
        flag = f"`resegment data add {name} PATH --unverified` takes them all the same"
        if unverified and rejected:
            first = paths.raw(name) / next(iter(rejected))
            flag = f"the originals are held and stay: remove {first} to take yours instead"
        raise UserError("; ".join(filter(None, (
            f"{', '.join(map(str, given))} holds no {'' if unverified else 'original '}file of "
            f"{dataset.title}", found and f"{found}: {flag}", *intake.problems,
            getattr(registry.reader(name), "HINT", ""),
            f"see {dataset.homepage} for the originals",
        ))))  # fmt: skip
    now = _status(dataset)
    rejected = {file: shown for file, shown in rejected.items() if file in now["missing"]}
    wrong = dict.fromkeys(now["missing"], "missing") | dict.fromkeys(now["altered"], "altered")
    wrong |= {file: f"altered in {shown}" for file, shown in rejected.items()}
    now |= _ids(name, intake.sums, wrong)
    return {**now, "added": added, "already": already, "taken": len(intake.by_name),
            "rejected": rejected, "problems": intake.problems}  # fmt: skip


class Intake:
    """One `add`: decides file by file what is taken, and keeps the list of hashes in step."""

    def __init__(self, name: str, unverified: bool):
        self.name = name
        self.folder, self.list = paths.raw(name), paths.registry(name)
        self.sums = sums.read(self.list)
        self.unverified = unverified
        self.any = unverified or not self.sums.official
        self.place = getattr(registry.reader(name), "place", None)
        known = [] if self.place else [*self.sums.expected, *_needed(name, self.sums)]
        self.ends = {file.lower(): file for file in known}
        self.names: dict[str, list[str]] = {}  # two files may have the same name
        for file in self.ends.values():
            self.names.setdefault(Path(file).name.lower(), []).append(file)
        self.homes: dict[str, set[str]] = {}  # two files may have the same content
        for which in (self.sums.official, self.sums.unverified):
            for file, digest in which.items():
                self.homes.setdefault(digest, set()).add(file)
        self.added = self.already = 0
        self.by_name: dict[str, str] = {}  # file -> where it came from
        self.twice: dict[str, str] = {}  # ... and where another one of its name was found
        self.others: list[str] = []  # not taken: a file of that name was, by an earlier `add`
        self.rejected: dict[str, str] = {}
        self.problems: list[str] = []

    def _named(self, inside: str) -> list[str]:
        """The files of the set that one may be: by the end of its path, else by its name alone."""
        if self.place:
            return [file for file in [self.place(inside)] if file]
        parts = re.split(r"[/\\]", inside.lower())
        parts = [part for part in parts if part != f"{parts[-1]}.gz"]
        for k in range(max(2, len(parts) - 1)):  # a name alone is a path right below PATH only
            if (end := "/".join(parts[k:])) in self.ends:
                return [self.ends[end]]
        return self.names.get(parts[-1], [])

    def doubt(self, source: Path, shown: str, inside: str) -> None:
        """Raise UserError where neither content nor path tells which of two files this is."""
        named = self._named(inside)
        if len(named) > 1 and files.sha256(source) not in self.homes:
            raise UserError(
                f"{shown} may be {' or '.join(named)} of {self.name}: name its folder as there, or "
                "leave it out"
            )

    def take(self, source: Path, shown: str, inside: str) -> None:
        """Install `source` where its content or its name says. inside: `shown` from PATH on."""
        digest, named = files.sha256(source), self._named(inside)
        named = named[0] if len(named) == 1 else None
        homes = self.homes.get(digest, set())
        for file in [named] if named in homes else sorted(homes):
            if self.sums.official.get(file) == digest:
                self.sums.unverified.pop(file, None)
                self.by_name.pop(file, None)
                self._install(source, file, digest)
            elif self.sums.expected.get(file) == digest:
                self._install(source, file, digest)
        if not named or named in homes:
            return
        if homes and not self.any:
            return
        if not self.any or self._settled(named):
            if named in self.by_name and self.sums.unverified[named] != digest:
                self.twice.setdefault(named, shown)
            elif self.any and not self.unverified and named not in self.by_name:
                self.others.append(shown)
            self.rejected[named] = shown
            return
        self._install(source, named, digest)  # before its hash: a full disk records nothing
        self.sums.unverified[named] = digest
        self.by_name[named] = shown

    def _settled(self, file: str) -> bool:
        """Whether an unverified file may not take the place of `file`."""
        if file in self.by_name:
            return True  # two of one name in one PATH: the first
        if not self.unverified:
            return file in self.sums.expected  # as this copy, or a colleague's, was first taken in
        original, here = self.sums.official.get(file), self.folder / file
        return original is not None and here.is_file() and files.sha256(here) == original

    def _install(self, source: Path, file: str, digest: str) -> None:
        new = _install(source, self.folder / file, digest)
        self.added, self.already = self.added + new, self.already + (not new)

    def tell(self) -> None:
        """Raise UserError where two files claim one name; say which were passed over."""
        for file, other in self.twice.items():
            if file in self.by_name:  # no original has come since
                raise UserError(
                    f"{self.by_name[file]} and {other} are both {Path(file).name} and differ: the "
                    "first was taken; add the right one alone, with --unverified"
                )
        if self.others:
            self.problems.append(
                f"{len(self.others)} files, {self.others[0]} first, differ from those of their "
                "names that are held: --unverified takes them instead"
            )

    def record(self) -> None:
        """Write the list of hashes, if it has changed."""
        if self.sums != sums.read(self.list):
            sums.write(self.list, self.sums)


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
    """Name the folder where the system names no file."""
    try:
        yield
    except OSError as error:
        raise UserError(files.trouble(error, folder)) from error


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
    if not now["next"]:
        return {**now, "added": 0, "already": now["present"], "taken": 0,
                "rejected": {}, "problems": []}  # fmt: skip
    folder = Path(into) if into else paths.raw(name).parent / ".downloads" / name
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        targets = [download(a, folder / a.name, mirror) for a in dataset.archives]
    result = add(name, targets)
    if not into:
        shutil.rmtree(folder)
    return result
