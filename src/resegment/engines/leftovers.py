"""What a killed engine leaves behind, mended before an engine is asked the next time.

DVC writes dvc.lock and .dvc/tmp/rwlock in place, so that a kill meanwhile cuts them short, and then
refuses everything; in the second it goes by PIDs, which other processes get. A killed Snakemake
leaves the list of its files, by which the next one thinks that it is still alive.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from resegment import dialects
from resegment.errors import UserError
from resegment.files import atomic

LOCK, TMP = Path("dvc.lock"), Path(".dvc/tmp")
SNAKEMAKE = Path(".snakemake")
ALIVE = SNAKEMAKE / "alive"  # locked by every Snakemake that lives here
_open: list = []  # files whose locks this process keeps until it dies


def mend() -> None:
    """Mend what DVC refuses, and say so in a line each. Nothing is touched while a DVC is at work,
    a file that it is writing looks cut, too, nor while a Snakemake is: its jobs may be on other
    machines, of whose processes this one knows nothing."""
    SNAKEMAKE.mkdir(exist_ok=True)
    ALIVE.touch()
    nothing = BlockingIOError, FileNotFoundError  # at work; never was
    with (
        contextlib.suppress(*nothing),
        _held(ALIVE),
        _held(TMP / "lock"),
        _held(TMP / "rwlock.lock"),
    ):
        _mend_rwlock(TMP / "rwlock")
        _mend_lock()


@contextlib.contextmanager
def _held(file: Path) -> Iterator[None]:
    """A lock as DVC takes it. Raises BlockingIOError where another process has it."""
    with open(file, "r+") as f:
        if os.fstat(f.fileno()).st_nlink > 1:  # core.hardlink_lock: its name is the lock
            raise BlockingIOError
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _mend_lock() -> None:
    """A dvc.lock that was cut short becomes that of the last commit. No stage is lost by that: DVC
    finds what was run since in its run cache. Raises UserError where git is merging two."""
    if not _cut():
        return
    if re.search(rb"^(<{7}|>{7}) ", LOCK.read_bytes(), re.M):
        raise UserError(f"{LOCK} holds conflicts of a merge: settle them, as by `git checkout "
                        f"--ours {LOCK}`, then type the same again")  # fmt: skip
    head = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True)
    if committed := head.returncode == 0 and _whole(head.stdout):
        with atomic(LOCK) as tmp:
            tmp.write_bytes(head.stdout)
    else:
        LOCK.unlink()
    what = "that of the last commit takes its place" if committed else "removed"
    _say(f"{LOCK} was cut short, as by a kill: {what}, and DVC takes from its run cache what was "
         "finished since")  # fmt: skip


def _cut() -> bool:
    return LOCK.exists() and not _whole(LOCK.read_bytes())


def _whole(text: bytes) -> bool:
    """Whether it is a dvc.lock that DVC has written to its end, or one cut after a whole entry,
    which cannot be told from it: then DVC makes up for the rest from its run cache."""
    if not text.endswith(b"\n"):
        return False
    try:
        stages = dialects.plain(text)["stages"].values()
        return all(
            s["cmd"]
            and all(item["path"] for side in ("deps", "outs") for item in s.get(side, []))
            and all(isinstance(known, dict) for known in s.get("params", {}).values())
            for s in stages
        )
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return False


def _mend_rwlock(file: Path) -> None:
    """Remove entries of the dead, and the file if it is cut short and no DVC is at work here."""
    try:
        known = json.loads(file.read_text())
        entries = {p: i for p, i in known.get("write", {}).items()}
        readers = {p: list(infos) for p, infos in known.get("read", {}).items()}
        pids = {i["pid"] for i in (*entries.values(), *(i for r in readers.values() for i in r))}
    except FileNotFoundError:
        return
    except (ValueError, AttributeError, KeyError, TypeError):
        if not _at_work():
            file.unlink()
            _say(f"{file} was cut short, as by a kill: removed")
        return
    written = file.stat().st_mtime
    dead = {pid for pid in pids if _dead(pid, written)}
    if dead:
        left = {p: [i for i in infos if i["pid"] not in dead] for p, infos in readers.items()}
        with atomic(file) as tmp:
            tmp.write_text(json.dumps({
                "write": {p: i for p, i in entries.items() if i["pid"] not in dead},
                "read": {p: infos for p, infos in left.items() if infos},
            }))  # fmt: skip


def _dead(pid: int, written: float) -> bool:
    """Whether the process that a lock file of that time names is certainly no more."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        other, name = process.create_time() > written and not _is_here(process), process.name()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    if other:
        _say(f"{TMP}/rwlock names PID {pid}, which is another process by now ({name}): "
             "its entries are removed")  # fmt: skip
    return other


def _at_work() -> bool:
    """Whether a process of DVC lives in this checkout."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _is_here(process) and "dvc" in (Path(word).name for word in process.cmdline()):
                return True
    return False


def _is_here(process) -> bool:
    """Whether a psutil.Process works in this checkout; a clock set forward makes it no stranger."""
    return Path(process.cwd()).is_relative_to(Path.cwd())


def unlock_snakemake() -> None:
    """Remove the locks of killed Snakemakes, unless another is alive here.

    Each keeps a lock of the kernel's, which ends with it; who gets it alone is alone.
    """
    SNAKEMAKE.mkdir(exist_ok=True)
    _open.append(open(ALIVE, "a"))
    with contextlib.suppress(OSError):  # a file system without locks: Snakemake refuses as ever
        try:
            fcntl.flock(_open[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left := list((SNAKEMAKE / "locks").glob("*.lock")):
                for file in left:
                    file.unlink()
                _say(f"a killed snakemake left {SNAKEMAKE}/locks: removed")
        except BlockingIOError:
            pass
        fcntl.flock(_open[-1], fcntl.LOCK_SH)


def under_dvc() -> None:
    """What a verb does first where DVC started it. It dies with DVC from now on: nobody would
    record what it makes, and the next DVC would start it again beside it.

    Raises UserError where dvc.lock was cut short: DVC reads some of these as if nothing else had
    ever been run.
    """
    if "DVC_STAGE" not in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if _orphan():
        raise UserError("the dvc that started this verb was killed: nothing is made")
    with contextlib.suppress(BlockingIOError, FileNotFoundError), _held(TMP / "lock"):
        if _cut():
            raise UserError(f"{LOCK} was cut short, as by a kill, so DVC does not know what is "
                            "finished: type `resegment plan`, then the same again")  # fmt: skip


def _orphan() -> bool:
    """Whether the parent died before it could be followed, so that init is the parent now."""
    try:
        return os.getppid() == 1 and not os.path.samefile("/proc/1/cwd", ".")  # DVC may be init
    except PermissionError:
        return True


def _say(what: str) -> None:
    print(f"resegment: {what}", file=sys.stderr)
