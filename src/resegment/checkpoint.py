"""The state of a training between two epochs, atomic on disk, named by what it belongs to.

The one before the last stays beside it: where the newer is damaged, an epoch is lost, not all.
Each file ends in the SHA-256 of what precedes it, for torch.load notices no flipped bit.
"""

import hashlib
import io
import mmap
import os
import pickle
import shutil
from pathlib import Path

import torch

from resegment import paths
from resegment.files import atomic, fingerprint

DIGEST = 32  # bytes of a SHA-256


def path(run_id: str, prints: dict[str, str]) -> Path:
    """Outside every declared output, and named by parameters, data and code: see `train.fit`."""
    return paths.CHECKPOINTS / run_id / f"{fingerprint(prints)[:16]}.pt"


def older(file: Path) -> Path:
    return file.with_suffix(".before.pt")


def save(file: Path, state: dict) -> None:
    """state: tensors and plain values; `prints` and `code` say what it belongs to."""
    made = io.BytesIO()
    torch.save(state, made)  # into a file it says "unexpected pos" where the disk is full
    with atomic(file) as tmp:
        with open(tmp, "wb") as f:
            f.write(made.getbuffer())
            f.write(hashlib.sha256(made.getbuffer()).digest())
        if file.exists():
            os.replace(file, older(file))


def load(file: Path, prints: dict[str, str], code: dict[str, str]) -> dict | None:
    """The newest whole state of these fingerprints, or None; what is not used is said.

    code: {file: MD5} behind prints["code"]. Nothing but tensors and plain values is unpickled.
    """
    for one in (file, older(file)):
        state = _read(one) if one.exists() else None
        if state and state["prints"] == prints:
            return state
        if one.exists():
            why = f"belongs to other {_other(state, prints, code)}" if state else "is damaged"
            print(f"checkpoint {one} {why}: not used", flush=True)
    rest = [f for f in file.parent.glob("[!.]*.pt") if f not in (file, older(file))]
    rest.sort(key=os.path.getmtime)
    if rest and (state := _read(rest[-1])):
        print(f"checkpoint {rest[-1]} (epoch {state['epoch']}) belongs to other "
              f"{_other(state, prints, code)}: not resumed", flush=True)  # fmt: skip
    return None


def _read(file: Path) -> dict | None:
    """The state in a file, or None where it is not what `save` wrote."""
    if file.stat().st_size <= DIGEST:
        return None
    with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if hashlib.sha256(memoryview(whole)[:-DIGEST]).digest() != whole[-DIGEST:]:
            return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError):  # another torch's, or no plain values
        return None
    return (
        state if isinstance(state, dict) and {"prints", "code", "epoch"} <= state.keys() else None
    )


def _other(state: dict, prints: dict[str, str], code: dict[str, str]) -> str:
    """What a foreign state was made with: `parameters, code (train.py)`."""
    files = [n for n in sorted(code | state["code"]) if code.get(n) != state["code"].get(n)]
    named = {"code": f"code ({', '.join(files)})", "initial": "initial weights"}
    keys = [k for k in prints | state["prints"] if prints.get(k) != state["prints"].get(k)]
    return ", ".join(named.get(k, k) for k in keys)


def remove(run_id: str) -> None:
    """Drop every checkpoint of a run, finished or outdated."""
    shutil.rmtree(paths.CHECKPOINTS / run_id, ignore_errors=True)
