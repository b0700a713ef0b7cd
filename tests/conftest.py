"""What several tests share: the checkout's root, real data where it is, a working pipeline."""

import os
from pathlib import Path

import pytest

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
