"""The verbs that gather a campaign: `resegment ledger`, `figures` and `report`."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from resegment import closure, config, paths
from resegment.cli.record import alone, held, inside, settings
from resegment.errors import UserError

Campaign = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="e.g. sample-smoke")]


def campaign_runs(name: str) -> list[dict]:
    """The active runs of a campaign, e.g. sample-smoke, with what ledger and report need."""
    params = config.load()
    runs = [r for r in config.runs(params) if r["campaign"] == name]
    if not runs:
        have = ", ".join(sorted({r["campaign"] for r in config.runs(params)})) or "none"
        raise UserError(f"params.yaml: campaign {name!r} is not active; active: {have}")
    return runs


def with_splits(runs: list[dict]) -> list[dict]:
    """The runs, each with its {id: train|val|test}."""
    from resegment import native

    return [r | {"splits": native.split(r["split"], r["dataset"])} for r in runs]


@contextlib.contextmanager
def gathering(verb: str, campaign: str) -> Iterator[list[dict]]:
    """The runs of a campaign for `ledger`, `figures` or `report`: only if each can be proven."""
    used, runs = settings(), campaign_runs(campaign)
    read = {paths.PUBLISHED: None, paths.SPLITS: None}
    for run in runs:
        read |= dict.fromkeys(
            [
                paths.run(run["run"]) / "history.csv",
                paths.run(run["run"]) / "manifest.json",
                paths.scores(run["run"]),
                paths.native(run["dataset"]),
                *(paths.scores(paths.cross(run["run"], d)) for d in run["cross"]),
            ]
        )
    here = paths.reports(campaign)
    read |= {
        "ledger": {},
        "figures": dict.fromkeys([*here.glob("*.csv"), *(paths.predictions(r["run"]) for r in runs),
                                  closure.PACKAGE / "style.mplstyle"]),
        "report": dict.fromkeys([*here.glob("*.csv"), here / "figures", here / "pictures",
                                 paths.REGISTRY / "datasets.yaml", closure.PACKAGE / "templates"]),
    }[verb]  # fmt: skip
    inputs = [f for at in read for f in (inside(at) if at.is_dir() else [at])]
    roots = (f"resegment.{verb}", "resegment.proof")
    with alone(verb, campaign):
        from resegment import proof

        proof.demand(runs, config.load())  # a sentence for each link, before `held` says less
        with held(used, settings, inputs, roots):
            proof.demand(runs, config.load())
            yield runs


def ledger(campaign: Campaign):
    """Gather a campaign's scores, and put the published numbers beside them."""
    with gathering("ledger", campaign) as runs:
        from resegment import ledger as stage

        stage.build(campaign, runs)


def figures(campaign: Campaign):
    """Draw a campaign's curves and pictures."""
    with gathering("figures", campaign) as runs:
        from resegment import figures as stage

        stage.build(campaign, with_splits(runs))


def report(campaign: Campaign):
    """Write a campaign's report.html."""
    with gathering("report", campaign) as runs:
        from resegment import report as stage

        stage.build(campaign, with_splits(runs))
