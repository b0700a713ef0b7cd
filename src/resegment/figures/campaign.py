"""What all figures read of a campaign: its tables, its experiments in order, the run shown."""

import matplotlib
import numpy as np
import pandas as pd

from resegment import files, paths, stats
from resegment.errors import UserError
from resegment.protocols import Protocol, select


def table(campaign: str, name: str) -> pd.DataFrame:
    """Read reports/<campaign>/<name>.csv. Seeds and printed numbers are text."""
    path = paths.reports(campaign) / f"{name}.csv"
    if not path.exists():
        raise UserError(f"{path} is not here: run `snakemake` or `dvc repro` to make it")
    return pd.read_csv(path, dtype={"seed": str, "published": str})


def experiments(runs: list[dict]) -> list[str]:
    """The experiments in the order of the runs, each once."""
    return list(dict.fromkeys(r["experiment"] for r in runs))


def by_test_images(scores: pd.DataFrame) -> dict[str, list[str]]:
    """{"drive, 20 images": the experiments scored on these}, both in the order of scores.csv."""
    f1 = scores[(scores.protocol == "common") & (scores.metric == "f1")]
    tested = f1[f1.seed != "observer2"].groupby(["dataset", "n_images"], sort=False)
    return {f"{d}, {n} images": list(g) for (d, n), g in tested.experiment.unique().items()}


def shown(runs: list[dict], experiment: str) -> dict:
    """The run whose images are shown: seed 0, or the lowest there is."""
    return min((r for r in runs if r["experiment"] == experiment), key=lambda r: r["seed"])


def manifest(run: dict) -> dict:
    """What is recorded of a training: its network, what it cost, on which device."""
    path = paths.run(run["run"]) / "manifest.json"
    if not path.exists():
        raise UserError(f"{path} is not here: run `snakemake` or `dvc repro` to train the run")
    return files.read_json(path)


def test_histograms(run: dict) -> np.ndarray:
    """The common protocol's histograms of every test image of a run, (image, 2, 65536)."""
    folder = paths.scores(run["run"])
    if not (folder / "histograms.npz").exists():
        raise UserError(f"{folder}/histograms.npz is missing: score {run['run']} again")
    common = Protocol(**files.read_json(folder / "manifest.json")["protocols"]["common"])
    stored = stats.stored(folder)
    return select(stored["counts"], common, list(stored["spaces"]))[stored["splits"] == "test"]


def look(i: int) -> dict:
    """Colour and dash of the i-th experiment: 8 colours, then the same with another dash."""
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {"color": colours[i % 8], "ls": ("-", "--", ":", "-.")[i // 8 % 4]}
