"""Which device a job gets: one GPU slot a job, or the CPU, said in one line.

Snakemake's gpu resource counts but does not choose, and DVC knows no GPU; so the choice is an
advisory lock on a file per card, shared by every engine and every clone on the machine.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from resegment.errors import UserError

NONE = "no GPU is visible here (CUDA_VISIBLE_DEVICES?): use --device cpu"


def cards() -> list[str]:
    """Ids of the NVIDIA cards this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [c for c in visible.split(",") if c.strip() and c.strip() != "-1"]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]  # CUDA's own numbers


def per_card() -> int:
    """How many jobs share a card: RESEGMENT_PER_CARD, else one. Small networks leave room."""
    given = os.environ.get("RESEGMENT_PER_CARD") or "1"
    if not given.isdecimal() or not int(given):
        raise UserError(f"RESEGMENT_PER_CARD is {given!r}: give how many jobs share a card, 1 or "
                        "more")  # fmt: skip
    return int(given)


def slot_folder() -> Path:
    """Where the locks lie: of a machine, or of a job of Slurm, whose cards count from 0 again."""
    job = os.environ.get("SLURM_JOB_ID")
    usual = Path(tempfile.gettempdir()) / (f"resegment-gpu-{job}" if job else "resegment-gpu")
    return Path(os.environ.get("RESEGMENT_SLOTS") or usual)


def opened(file: Path) -> int:
    """The descriptor of a lock that every user of a machine may hold, in a folder as open as /tmp.

    Another user's lock is as good as one's own, and a link is none. Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        file.parent.mkdir(parents=True)
        file.parent.chmod(0o1777)  # all may add locks, nobody removes another's
    mode = os.O_RDWR | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        # no O_CREAT yet: in such a folder Linux refuses it for another user's file
        return os.open(file, mode)
    with contextlib.suppress(FileExistsError):
        made = os.open(file, mode | os.O_CREAT | os.O_EXCL, 0o666)
        os.fchmod(made, 0o666)
        return made
    return os.open(file, mode)


def slot(card: str, place: int) -> int:
    """The open lock of a place on a card. Raises UserError where there can be none."""
    file = slot_folder() / f"{card.strip().replace('/', '-')}-{place}.lock"
    try:
        return opened(file)
    except OSError as e:
        raise UserError(f"{file} cannot be opened ({e.strerror}): GPU slots are locks that all "
                        "users of a machine share; remove it, or name another folder for all of "
                        "them in RESEGMENT_SLOTS") from None  # fmt: skip


@contextlib.contextmanager
def claim(device: str = "auto") -> Iterator[str]:
    """Hold a GPU slot for the duration, or say in one line that the CPU is used.

    Yields "cuda" with CUDA_VISIBLE_DEVICES narrowed to the card held, or "cpu". Call before torch
    is imported. Waits for a place when all are taken; a dead holder's lock is free at once. Raises
    UserError where "cuda" is asked for and no card is visible.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: give auto, cpu or cuda")
    ids = cards() if device != "cpu" else []
    if device == "cuda" and not ids:
        raise UserError(NONE)
    if not ids:
        tune_allocator()
        if device == "auto":
            print("no GPU here: using the CPU", file=sys.stderr)
        yield "cpu"
        return
    said = False
    while True:
        for place, card in product(range(per_card()), ids):  # an empty card first
            with open(slot(card, place)) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                print(f"using GPU {card}", file=sys.stderr)
                os.environ["CUDA_VISIBLE_DEVICES"] = card
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                yield "cuda"
                return
        if not said:
            slots = len(ids) * per_card()
            print(f"waiting for one of {slots} place(s) on {len(ids)} GPU(s)", file=sys.stderr)
            said = True
        time.sleep(0.5)


def usable(device: str) -> None:
    """Raise UserError where a card is held that torch cannot use: no build for it, no driver."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"torch {torch.__version__} cannot use the GPU here: install a build for "
                        "its driver, or use --device cpu (of dvc and snakemake: put "
                        "CUDA_VISIBLE_DEVICES= in front)")  # fmt: skip


# What torch, oneDNN, cuBLAS and OpenCV call it; numpy and Python raise MemoryError.
EXHAUSTED = re.compile("out of memory|can't allocate memory|bad_alloc|insufficient memory|"
                       "ALLOC_FAILED", re.IGNORECASE)  # fmt: skip


@contextlib.contextmanager
def memory(what: str, remedy: str) -> Iterator[None]:
    """Raise UserError where the memory of card or machine does not hold `what`."""
    try:
        yield
    except Exception as e:
        if not isinstance(e, MemoryError) and not EXHAUSTED.search(str(e)):
            raise
        raise UserError(f"{what}: memory is exhausted: {remedy}") from None


def tune_allocator() -> None:
    """Keep large blocks instead of returning them: 2-4x on CPU, bit-identical results.

    glibc maps every block above 32 MiB afresh and faults it in again after each operation.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no separate mappings
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not give the top back
