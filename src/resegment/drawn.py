"""Which images a run's maps show: its own, and the test images of other datasets."""

from resegment import native, paths
from resegment.errors import UserError


def of(run: dict, dataset: str | None = None) -> dict:
    """{"id" under which the maps stand, "dataset", "splits": {image: train|val|test}}.

    dataset: None for the run's own images, or one of its campaign's cross sets, of which the test
    images are drawn. Raises UserError for any other.
    """
    if dataset in (None, run["dataset"]):
        own = native.split(run["split"], run["dataset"])
        return {"id": run["run"], "dataset": run["dataset"], "splits": own}
    if dataset not in run["cross"]:
        have = ", ".join(run["cross"]) or "none"
        raise UserError(f"{paths.PARAMS}: {run['run']} is not scored on {dataset!r}; cross: {have}")
    tested = {i: p for i, p in native.split(dataset, dataset).items() if p == "test"}
    return {"id": paths.cross(run["run"], dataset), "dataset": dataset, "splits": tested}
