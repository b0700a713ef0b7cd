"""What several tests share: the checkout's root, real data where it is, a working pipeline."""

import os
from pathlib import Path

# Before numpy and torch come: the workers of pytest share the cores already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
