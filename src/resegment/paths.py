"""Where things are, relative to the checkout root (the current directory)."""

from pathlib import Path

PARAMS = Path("params.yaml")
REGISTRY = Path("data/registry")
SPLITS = Path("data/splits")
PUBLISHED = Path("data/published")
CHECKPOINTS = Path("checkpoints")  # outside every declared output: both engines delete those


def registry(dataset: str) -> Path:
    return REGISTRY / f"{dataset}.sha256"


def split(name: str) -> Path:
    return SPLITS / f"{name}.csv"


def raw(dataset: str) -> Path:
    return Path("data/raw") / dataset


def native(dataset: str) -> Path:
    return Path("data/native") / dataset


def prepared(dataset: str, recipe: str) -> Path:
    return Path("data/prepared") / dataset / recipe


def run(run_id: str) -> Path:
    return Path("runs") / run_id


def cross(run_id: str, dataset: str) -> str:
    """The id under which a run's maps and scores of another dataset stand."""
    return f"{run_id}/on-{dataset}"


def predictions(run_id: str) -> Path:
    return run(run_id) / "predictions"


def scores(run_id: str) -> Path:
    return run(run_id) / "scores"


def reports(campaign: str) -> Path:
    return Path("reports") / campaign
