"""The command line: parse, call one function, and turn a user's mistake into one sentence."""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from resegment import closure, config, devices, files, paths
from resegment.cli import campaign, data, trace, weights
from resegment.cli.record import alone, held, inside, origin, pairs, settings, shared, taken
from resegment.cli.weights import Device
from resegment.engines import plan as planning
from resegment.errors import UserError
from resegment.files import fingerprint
from resegment.schema import Params

app = typer.Typer(
    help="Re-run published segmentation papers and put every printed number beside the measured.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(data.data, name="data")

ROOT = ("params.yaml", "dvc.yaml")
ANYWHERE = ("segment", "export", "schema")  # verbs that need no checkout
RunId = Annotated[str, typer.Argument(metavar="RUN", help="e.g. sample-smoke/rga-drive/s0")]
On = Annotated[str | None, typer.Option(metavar="DATASET", help="one of the campaign's cross sets")]


def resolved(run_id: str) -> dict:
    return config.find(config.load(), run_id)


@app.command()
def plan(
    list_: Annotated[bool, typer.Option("--list", help="show every run of every campaign")] = False,
    check: Annotated[bool, typer.Option("--check", help="write nothing: is all of it in step?"),
                     ] = False,
):  # fmt: skip
    """Bring dvc.yaml into step with params.yaml, and say what its campaigns will cost."""
    params = config.load()
    if check:
        planning.check(params)
    from resegment import estimate, sound
    from resegment.engines import leftovers

    sound.check(params)
    if check:
        return
    if list_:
        for run in config.runs(params, tuple(params.campaigns)):
            active = run["campaign"].removesuffix(f"-{run['budget']}") in params.active
            typer.echo(f"{run['run']:56} {run['dataset']:10} {run['model']['name']:13}"
                       f"{'active' if active else ''}".rstrip())  # fmt: skip
        typer.echo()
        typer.echo(estimate.summary(config.runs(params, tuple(params.campaigns)), params))
        return
    planning.sensible(params)
    costs = estimate.summary(config.runs(params), params)  # before anything is written
    leftovers.mend()
    changed = planning.write(params)
    count = len(planning.stages(params))
    typer.echo(f"dvc.yaml {'written' if changed else 'is in step'}: {count} stages")
    typer.echo(costs)
    for line in planning.alike(params):
        print(line, file=sys.stderr)


@app.command()
def schema():
    """Print the JSON schema of params.yaml, for editors."""
    tree = Params.model_json_schema(by_alias=True)
    typer.echo(json.dumps(tree, indent=1, sort_keys=True))


@app.command()
def ingest(dataset: str):
    """Bring a dataset's own files into the canonical form."""
    file = closure.PACKAGE / "datasets" / f"{dataset}.py"
    if not dataset.isidentifier() or not file.is_file():
        raise UserError(f"no reader for dataset {dataset!r} in src/resegment/datasets")
    inputs = [paths.registry(dataset), *inside(paths.raw(dataset))]
    roots = ("resegment.ingest", f"resegment.datasets.{dataset}")
    with alone("ingest", dataset), held(settings(), settings, inputs, roots):
        from resegment import ingest as stage

        stage.ingest(dataset)


@app.command()
def prepare(name: Annotated[str, typer.Argument(metavar="SPLIT/RECIPE")]):
    """Write the training pairs of a recipe to disk."""
    used, params = settings(), config.load()
    runs = {f"{r['split']}/{r['recipe']}": r for r in config.runs(params)}
    if name not in runs:
        raise UserError(f"params.yaml: no active run uses {name!r}; in use: {', '.join(runs)}")
    run = runs[name]
    recipe = params.recipes[run["recipe"]].model_dump(mode="json", exclude={"cache"})
    inputs = [*inside(paths.native(run["dataset"])), paths.split(run["split"])]
    with alone("prepare", name), held(used, settings, inputs, ("resegment.prepare",)):
        from resegment import prepare as stage

        stage.prepare(run["dataset"], run["split"], run["recipe"], recipe, run["geometry"])


@app.command()
def train(run_id: RunId, device: Device = "auto"):
    """Train one run; an unfinished training is taken up where it stopped."""
    run = resolved(run_id)
    folder = paths.prepared(run["split"], run["recipe"])
    roots = ("resegment.train", f"resegment.models.{run['model']['name']}")
    first = run["initial"] and paths.run(run["initial"]) / "weights.safetensors"
    if first and not first.exists():
        raise UserError(f"{first} is missing: train {run['initial']} first")
    inputs = [*pairs(folder), *([first, first.with_name("manifest.json")] if first else [])]
    same = f"{run_id}/{fingerprint(config.trained_by(run))[:8]}"
    with alone("train", run_id) as here, alone("train", same, shared()) as there:
        if (here or there) and taken(run_id, there or here):
            typer.echo(f"{run_id}: trained meanwhile by another process, and taken as it is")
            return
        with (
            devices.claim(device) as where,
            held(run, lambda: resolved(run_id), inputs, roots),
        ):
            from resegment import checkpoint
            from resegment.train import fit

            devices.usable(where)
            fit(run, config.trained_by(run), folder, paths.run(run_id), where, origin(), first)
        if "DVC_STAGE" not in os.environ:  # else killed before it records this, DVC would train
            checkpoint.remove(run_id)  # anew: the stage after it, `predict`, removes the checkpoint


@app.command()
def predict(run_id: RunId, on: On = None, device: Device = "auto"):
    """Draw the probability maps of one run."""
    run, where_from = resolved(run_id), paths.run(run_id)
    dataset = on or run["dataset"]
    inputs = [where_from / "weights.safetensors", where_from / "manifest.json",
              paths.split(dataset if on else run["split"]),
              *inside(paths.native(dataset))]  # fmt: skip
    roots = ("resegment.predict", "resegment.drawn", f"resegment.models.{run['model']['name']}")
    with (
        alone("predict", paths.cross(run_id, on) if on else run_id),
        devices.claim(device) as where,
        held(run, lambda: resolved(run_id), inputs, roots),
    ):
        from resegment import checkpoint, drawn
        from resegment import predict as stage

        devices.usable(where)
        maps, dataset, splits = drawn.of(run, on).values()
        stage.predict(run, where, dataset, splits, paths.predictions(maps))
    checkpoint.remove(run_id)


@app.command()
def bundle(
    names: Annotated[list[str], typer.Argument(metavar="RUN|CAMPAIGN...")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="made anew")] = Path("bundle"),
):
    """Make one folder that trains and predicts runs on a machine without DVC or network."""
    from resegment import bundle as stage

    params, source = config.load(), origin()
    runs = stage.chosen(params, names)
    made = stage.bundle(runs, params, out, source)
    typer.echo(f"{out}: {len(runs)} runs, {made['files']} files, {made['bytes'] / 1e6:.1f} MB; on "
               "the node: python run.py")  # fmt: skip
    drawn = {(r["run"], m["dataset"]) for r in runs for m in stage.maps(r)}
    if left := sorted({d for r in runs for d in r["cross"] if (r["run"], d) not in drawn}):
        typer.echo(f"without maps on {', '.join(left)}: not ingested here")
    if source["git_dirty"]:
        typer.echo("src differs from its commit: only a checkout with the same files can adopt it")


@app.command()
def adopt(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a bundle, with its results")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="also where another result of the run is here")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="prove only, take nothing")] = False,
):
    """Take results of a bundle that belong to this checkout; exit 1 if any does not."""
    from resegment.engines import adopt as stage

    found = stage.adopt(folder, names or [], replace, check)
    verb = {"taken": "would be taken" if check else "taken", "here": "here already"}
    for one in found:
        if one["state"] != "refused":
            typer.echo(f"{one['run']}: {verb[one['state']]}")
    for one in found:
        if one["state"] == "refused":
            print(f"refused  {one['why']}", file=sys.stderr)
    if any(one["state"] == "refused" for one in found):
        raise typer.Exit(1)


for verb in (weights.export, weights.ship, weights.segment):
    app.command()(verb)


@app.command()
def score(run_id: RunId, on: On = None):
    """Count and score the maps of one run under every protocol of params.yaml.

    On another dataset the thresholds are those chosen on the run's own training images.
    """

    def used() -> dict:
        return resolved(run_id) | {"protocols": settings()["protocols"]}

    run, own = used(), paths.scores(run_id)
    dataset, maps = on or run["dataset"], paths.cross(run_id, on) if on else run_id
    inputs = [paths.split(dataset if on else run["split"]), *inside(paths.native(dataset)),
              *inside(paths.predictions(maps)),
              *([own / "metrics.json", own / "manifest.json"] if on else [])]  # fmt: skip
    with (
        alone("score", maps),
        held(run, used, inputs, ("resegment.score", "resegment.drawn")),
    ):
        from resegment import drawn
        from resegment import score as stage
        from resegment.protocols import Protocol

        protocols = {n: Protocol(**p) for n, p in run["protocols"].items()}
        maps, dataset, splits = drawn.of(run, on).values()
        if maps != run_id:
            protocols = stage.frozen(protocols, run_id)
        stage.score(maps, dataset, run["geometry"], protocols, splits)


for verb in (campaign.ledger, campaign.figures, campaign.report):
    app.command()(verb)


@app.command()
def quote(
    texts: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Markdown; "
                     "default: README.md and reports/*.md")] = None,
    check: Annotated[bool, typer.Option("--check", help="only say which are out of step")] = False,
):  # fmt: skip
    """Bring the numbers that texts quote from the tables up to date.

    Between <!-- = score drive-lite rga-drive f1 --> and <!-- / --> it writes that number;
    src/resegment/quotes.py lists what else can stand there.
    """
    from resegment import quotes

    texts = texts or [Path("README.md"), *sorted(Path("reports").glob("*.md"))]
    stale = [text for text in texts if quotes.build(text, check)]
    for text in stale:
        typer.echo(f"{text}: {'out of step' if check else 'brought up to date'}")
    if check and stale:
        raise typer.Exit(1)


app.command()(trace.trace)


@app.command()
def audit(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ROW|PAPER]...")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    referee: Annotated[bool, typer.Option("--referee", help="ask mlscorecheck too")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="solve all rows anew: data/published/audit.csv")
    ] = False,
):
    """Say of every published row which protocol can have produced it, or that none can."""
    from resegment import audit as auditing

    if write:
        auditing.record()
    rows = auditing.table(names or [], True) if referee else auditing.recorded(names or [])
    typer.echo(json.dumps(rows, indent=1) if as_json else auditing.text(rows))


@app.command(name="models")
def models_(as_json: Annotated[bool, typer.Option("--json")] = False):
    """List every network with its options: parameters, multiply-adds, size, and what is printed."""
    from resegment import catalogue

    rows = catalogue.table()
    typer.echo(json.dumps(rows, indent=1) if as_json else catalogue.text(rows))


def main():
    from resegment.engines import leftovers

    # Before numpy comes: several verbs run side by side, and threads of OpenBLAS that wait for a
    # core burn it. Alone, too, what is multiplied here is too small for two.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # a file it cannot read is an error of ours
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that HOME cannot keep its cache
    files.open_streams()
    try:
        _at_the_root()
        leftovers.under_dvc()
        app()
    except UserError as e:
        _refuse(str(e))
    except OSError as e:
        if e.errno is None:
            raise
        _refuse(files.trouble(e))


def _at_the_root() -> None:
    """Raise UserError below the root of a checkout, before a verb makes anything there."""
    words = sys.argv[1:]
    if not words or words[0] in ANYWHERE or "--help" in words or paths.PARAMS.exists():
        return
    with contextlib.suppress(OSError):  # the folder may be gone
        for root in Path.cwd().parents:
            if all((root / f).is_file() for f in ROOT):
                raise UserError(
                    f"this folder is inside a checkout: type the same in its root, {root}"
                )


def _refuse(said: str) -> None:
    """End with a sentence; a name in it that holds control characters commands no terminal."""
    from resegment.unpack import plain

    print("resegment:", "\n".join(map(plain, said.split("\n"))), file=sys.stderr)
    sys.exit(1)
