"""A small disk, and verbs that run on it.

The disk is a tmpfs in a mount namespace of one process, which needs no rights that a user lacks and
leaves nothing mounted, however it ends. That process has imported what the verbs need and forks for
each, so that a verb takes a fraction of a second; it also binds root to permissions, or removes a
file while a verb is at work.
"""

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

PAGE = 4096


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Disk:
    """`size` bytes that fill up, at `at` for the verbs and at `path` for the test; size 0: the
    folder `at` as it is. src: the sources that the verbs are of. Raises OSError where this machine
    lets nobody mount.
    """

    def __init__(self, at: Path, size: int, src: Path):
        self.at = at
        words = [sys.executable, __file__]
        if size:
            shell = f"mount -t tmpfs -o size={size} tmpfs '{at}' && exec \"$@\""
            user = ["-r"] * (os.geteuid() != 0)
            words = ["unshare", "-m", *user, "sh", "-c", shell, "sh", *words]
        env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1",
                            "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1",
                            "OPENCV_LOG_LEVEL": "ERROR",
                            "PYTHONPATH": str(src)}  # fmt: skip
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, **pipes)
        if self.server.stdout.readline() != "ready\n":
            raise OSError(self.server.communicate()[1])
        self.path = Path(f"/proc/{self.server.pid}/root{at}") if size else at

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()

    def ask(self, **request) -> Said:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Said(**json.loads(self.server.stdout.readline()))

    def verb(self, *words: object, at: str = ".", **how) -> Said:
        """`resegment WORDS` in the folder `at` of the disk.

        how: env; bound, whether permissions bind root, too; main, the function that is run instead;
        remove, {"call": a function of the package, "after": how many calls of it, "paths": what
        goes then}.
        """
        return self.ask(words=[str(w) for w in words], at=str(self.at / at), **how)

    def shell(self, command: str, at: str = ".", env: dict | None = None) -> Said:
        return self.ask(command=command, at=str(self.at / at), env=env or {})

    def free(self) -> int:
        now = os.statvfs(self.path)
        return now.f_bavail * now.f_frsize

    def leave(self, pages: int | None = None) -> None:
        """Fill the disk up to so many pages; None: empty it again."""
        filler = self.path / ".filler"
        filler.unlink(missing_ok=True)
        if pages is not None and (size := self.free() - pages * PAGE) > 0:
            with open(filler, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, size)
            assert self.free() == pages * PAGE


def tree(folder: Path, *without: str) -> dict[str, str]:
    """{path: MD5 of its content} of every file, but for those whose path holds one of `without`."""
    out = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not any(w in name for w in without):
            out[name] = hashlib.md5(file.read_bytes()).hexdigest()
    return out


def serve() -> None:
    import resegment.audit
    import resegment.cli
    import resegment.export
    import resegment.fetch
    import resegment.figures
    import resegment.report
    import resegment.score
    import resegment.train  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        do = _shell if "command" in request else _verb
        print(json.dumps(do(**request)), flush=True)


def _shell(command: str, at: str, env: dict) -> dict:
    r = subprocess.run(command, shell=True, cwd=at, capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, env=os.environ | env)  # fmt: skip
    return {"code": r.returncode, "out": r.stdout, "err": r.stderr}


def _verb(words: list[str], at: str, **how) -> dict:
    said = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if not child:
        code = 70
        try:
            for fd, to in zip(said, (1, 2), strict=True):
                os.dup2(fd, to)
            code = _run(words, at, **how)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    texts = []
    for fd in said:
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb") as f:
            texts.append(f.read().decode())
    return {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}


def _run(words: list[str], at: str, env=(), bound=False, remove=None, main="resegment.cli.main"):
    module, _, name = main.rpartition(".")
    __import__(module)
    os.environ.update(env)
    os.chdir(at)
    if bound:
        _obey()
    if remove:
        _removing(**remove)
    sys.argv = ["resegment", *words]
    try:
        return getattr(sys.modules[module], name)() or 0
    except SystemExit as e:
        return e.code or 0


def _obey() -> None:
    """Let permissions bind this process, though it be root's: without CAP_DAC_OVERRIDE and
    CAP_DAC_READ_SEARCH, bits 1 and 2."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for k in (0, 1):  # effective and permitted
        sets[k] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _removing(call: str, after: int, paths: list[str]) -> None:
    module, _, name = call.rpartition(".")
    __import__(module)
    true, left = getattr(sys.modules[module], name), [after]

    def counted(*given, **named):
        left[0] -= 1
        if left[0] == 0:
            for path in map(Path, paths):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return true(*given, **named)

    setattr(sys.modules[module], name, counted)


if __name__ == "__main__":
    serve()
