"""What a verb records must be true: nothing may change while it runs, and code has a commit."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from resegment import closure, config, devices, paths
from resegment.engines import plan as planning
from resegment.errors import UserError
from resegment.files import atomic, fingerprint, md5, named, read_json, table

MANIFEST = "manifest.json"
TRACKED = ".json", ".csv"  # small files that rules of Snakemake name


def settings() -> dict:
    """All of params.yaml."""
    return config.load().model_dump(mode="json")


@contextlib.contextmanager
def alone(verb: str, target: str, folder: Path | None = None) -> Iterator[Path | None]:
    """Hold what a verb makes: another process that makes it, too, is waited for.

    Yields the checkout of that one, or None. The lock stands outside every output, in `folder` or
    in this checkout; death frees it.
    """
    file = (folder or paths.CHECKPOINTS / ".locks") / f"{verb}@{target.replace('/', ':')}"
    with open(devices.opened(file), "rb+") as lock:
        other = None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"`resegment {verb} {target}` is at work already: waiting for it",
                  file=sys.stderr, flush=True)  # fmt: skip
            fcntl.flock(lock, fcntl.LOCK_EX)
            other = Path(os.fsdecode(lock.read()) or ".")
            lock.seek(0)
        lock.truncate(0)
        lock.write(os.getcwdb())
        lock.flush()
        yield other


def shared() -> Path:
    """A folder for locks that hold for every clone with the same DVC cache.

    Raises UserError where DVC cannot read its settings, of this checkout, the user or the machine.
    """
    from dvc.config import Config, ConfigError

    try:
        return Path(Config(".dvc").get("cache", {}).get("dir", ".dvc/cache")) / "locks"
    except (ConfigError, TypeError) as e:  # of a list where a path must be
        raise UserError(f"DVC cannot read its settings: {' '.join(str(e).split())}") from None


def taken(run_id: str, checkout: Path) -> bool:
    """Whether the run stands trained in a checkout that was waited for, of the parameters, data and
    code here; then it is copied where that is another clone."""
    from resegment import proof

    run, here = config.find(config.load(), run_id), paths.run(run_id)
    at = checkout / here
    other = at.resolve() != here.resolve()
    try:
        for name in proof.TRAINED:
            (at / name).stat()
        if proof.unlike(read_json(at / "manifest.json"), run) or any(proof.kept(at, run_id)):
            return False
        for name in proof.TRAINED if other else ():
            with atomic(here / name) as tmp:
                shutil.copyfile(at / name, tmp)
        return not any(proof.kept(here, run_id))
    except proof.NOT_WHOLE:
        return False  # it failed, or takes its files away: trained here, then


@contextlib.contextmanager
def held(
    used: object, read: Callable[[], object], inputs: Iterable[Path], roots: tuple[str, ...]
) -> Iterator[None]:
    """Fail a stage whose parameters, code or data are other ones than those it began with.

    DVC would record what params.yaml and the files are at the end, whatever the stage read.
    used: the parameters that the verb goes by; read: asks for them again; inputs: every file that
    it reads; roots: the modules that do its work, which the verb must not import before.

    Parameters and code that are edited and put back do no harm: the ones were read once, the others
    are loaded here, at once. Data may have been read meanwhile, so a file that was only written
    anew fails the stage, too, but for the kinds whose times another `snakemake` moves. A file that
    its folder's manifest names must be that file, or nothing begins.
    """
    planning.check(config.load())
    inputs = list(dict.fromkeys(inputs))
    vouched, moved = _vouched(inputs), [f for f in inputs if f.suffix in TRACKED]
    code = closure.files(*roots).values()

    def now() -> dict[str, object]:
        data = {f: (s.st_size, s.st_mtime_ns, s.st_ino)
                for f, s in ((f, f.stat()) for f in inputs if f.is_file())}  # fmt: skip
        data |= {f: md5(f) for f in (*moved, *code) if f.is_file()}
        return {str(f): seen for f, seen in data.items()}

    def changed() -> list[str]:
        seen = now()
        return _params(used, read()) + [f for f in before | seen if before.get(f) != seen.get(f)]

    before = now()
    lies = [f for f, digest in vouched.items() if not f.is_file() or md5(f) != digest]
    if lies:
        params = config.load()
        every = params.model_copy(update={"active": [*params.campaigns]})
        made = planning.stages(every).items()
        makers = dict.fromkeys(
            stage for stage, files in made for f in lies
            if {str(f), str(f.parent / MANIFEST)} & {*files["outputs"]}
        )  # fmt: skip
        raise UserError(f"{', '.join(map(str, lies[:4]))}{' ...' * (len(lies) > 4)}: not what the "
                        "manifest beside it names: make it again with `dvc repro -f --single-item "
                        f"{' '.join(makers)}`, with a campaign active that has it")  # fmt: skip
    for module in closure.modules(*roots):
        closure.load(module)
    other = changed()
    if not other:
        yield
        other = changed()
    if other:
        raise UserError(f"{', '.join(sorted(other))} changed during the stage; nothing is "
                        "recorded: run it again")  # fmt: skip


def inside(*folders: Path) -> list[Path]:
    """Every file of some folders."""
    return [f for folder in folders for f in sorted(folder.rglob("*")) if f.is_file()]


def pairs(folder: Path) -> list[Path]:
    """What a training reads of prepared pairs: the untouched ones."""
    file = folder / "manifest.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing: `resegment prepare {folder.parent.name}/"
                        f"{folder.name}`, with a campaign active that has it")  # fmt: skip
    rows = [r for r in table(file, "operation", "image", "label") if r["operation"] == "none"]
    names = [row[k] for row in rows for k in ("image", "label", "fov") if row.get(k)]
    return [folder / name for name in (MANIFEST, file.name, *names)]


def _vouched(inputs: list[Path]) -> dict[Path, str]:
    """{file: MD5} of those inputs that the manifest beside them names."""
    of_run = {"weights.safetensors": "weights_md5", "history.csv": "history_md5"}
    known: dict[Path, dict] = {f.parent: {} for f in inputs}
    for folder in known:
        if (folder / MANIFEST).is_file():
            made = read_json(folder / MANIFEST)
            trained = {name: made[key] for name, key in of_run.items() if key in made}
            known[folder] = named(folder) | trained
    return {f: known[f.parent][f.name] for f in inputs if f.name in known[f.parent]}


def _params(used: object, now: object) -> list[str]:
    """The keys of params.yaml that are not what the verb goes by."""
    if fingerprint(used) == fingerprint(now):
        return []
    from resegment.proof import changes

    return [f"{paths.PARAMS} ({', '.join(changes(used, now)) or 'order'})"]


def origin() -> dict:
    """The commit the code comes from, and whether the tree differed from it."""

    def git(*words: str) -> str | None:
        answer = subprocess.run(["git", *words], capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else None

    with contextlib.suppress(FileNotFoundError):
        status = git("status", "--porcelain", "--untracked-files=all", "--", "src")
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(status)}
    return {"git_commit": None, "git_dirty": None}
