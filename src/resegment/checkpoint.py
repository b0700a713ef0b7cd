"""The state of a training between two epochs, atomic on disk, named by what it belongs to."""

import shutil
from pathlib import Path

import torch

from resegment import paths
from resegment.files import atomic


def path(run_id: str, fingerprint: str) -> Path:
    """Outside every declared output, and named by parameters, data and code: see `train.fit`."""
    return paths.CHECKPOINTS / run_id / f"{fingerprint[:16]}.pt"


def save(file: Path, state: dict) -> None:
    with atomic(file) as tmp:
        torch.save(state, tmp)


def load(file: Path) -> dict | None:
    """The saved state, or None. Nothing but tensors and plain values is unpickled."""
    if not file.exists():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # a torn or foreign file costs the epochs it held, not the run
        print(f"checkpoint {file} is unreadable ({type(e).__name__}): starting afresh")
        return None


def remove(run_id: str) -> None:
    """Drop every checkpoint of a run, finished or outdated."""
    shutil.rmtree(paths.CHECKPOINTS / run_id, ignore_errors=True)
