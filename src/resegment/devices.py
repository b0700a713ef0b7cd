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


def cards() -> list[str]:
    """Ids of the NVIDIA cards this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [c for c in visible.split(",") if c.strip() and c.strip() != "-1"]
    return sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))


def per_card() -> int:
    """How many jobs share a card: RESEGMENT_PER_CARD, else one. Small networks leave room."""
    return max(1, int(os.environ.get("RESEGMENT_PER_CARD") or 1))


def slot_folder() -> Path:
    return Path(os.environ.get("RESEGMENT_SLOTS") or Path(tempfile.gettempdir()) / "resegment-gpu")


@contextlib.contextmanager
def claim(device: str = "auto") -> Iterator[str]:
    """Hold a GPU slot for the duration, or say in one line that the CPU is used.

    Yields "cuda" with CUDA_VISIBLE_DEVICES narrowed to the card held, or "cpu". Call before torch
    is imported. Waits for a place when all are taken; a dead holder's lock is free at once.
    """
    ids = cards() if device in ("auto", "cuda") else []
    if not ids:
        tune_allocator()
        if device == "auto":
            print("no GPU here: using the CPU", file=sys.stderr)
        yield "cpu"
        return
    folder = slot_folder()
    folder.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        for place, card in product(range(per_card()), ids):  # an empty card first
            with open(folder / f"{card}-{place}.lock", "w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = card
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                yield "cuda"
                return
        if not said:
            slots = len(ids) * per_card()
            print(f"waiting for one of {slots} place(s) on {len(ids)} GPU(s)", file=sys.stderr)
            said = True
        time.sleep(0.5)


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
