"""What several tests share: the checkout's root, real data where it is, a working pipeline."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# Before numpy and torch come: the workers of pytest share the cores already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pipeline  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real archives, or a skip that says so."""
    folder = os.environ.get("RESEGMENT_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RESEGMENT_REAL_DATA names no folder with the real archives")
    return Path(folder)


@pytest.fixture
def empty_checkout(tmp_path, monkeypatch, root) -> Path:
    """An empty checkout with the registry."""
    (tmp_path / "data/registry").mkdir(parents=True)
    for file in (root / "data/registry").iterdir():
        (tmp_path / "data/registry" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tmp_path, monkeypatch, root) -> dict:
    """A run that trains in a second, in an empty folder with its pairs: see tests/training.py."""
    import training

    monkeypatch.chdir(tmp_path)
    return training.small(root)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make): a folder that `make(folder)` fills in one worker of pytest for all."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        path, made = base / name, base / f"{name}.made"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
                made.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def done(once, root) -> Path:
    """The finished pipeline: copy it, change the copy."""
    return once("done", lambda path: pipeline.build(path, root))
