"""From params.yaml to the pipeline: the stages of dvc.yaml, and what Snakemake needs of them.

The graph has one home, `templates` and `campaign_stages` below. `resegment plan` renders it into
dvc.yaml, which is committed and read by people; the Snakemake rules ask `stages` for the files of
each job.
"""

from dataclasses import asdict
from pathlib import Path

import yaml

from resegment import closure, config, paths, schema
from resegment.errors import UserError
from resegment.files import atomic, fingerprint

DVC_YAML = Path("dvc.yaml")
HEADER = """\
# Made by `resegment plan` from params.yaml: change that file, not this one.
# DVC decides by content what is stale; every command is a verb that you can type yourself.
# exec: no shell stays between DVC and a verb, which ends with DVC.
"""


def code(*modules: str) -> list[str]:
    """The source files behind a stage, so that an edit anywhere in them makes it stale."""
    names = closure.files(*(f"resegment.{m}" for m in modules))
    return [f"src/resegment/{name}" for name in names]


def templates() -> dict[str, dict]:
    """The stages that stand once for each item; ${key} is the item's name."""
    native, split = "data/native/${item.dataset}", "${item.split}"
    model = ["experiments.${item.experiment}.model", "${item.options}", "recipes.${item.recipe}",
             "${item.own}"]  # fmt: skip
    network = "src/resegment/models/${item.model}"  # a module, or a folder that holds nothing else
    prepare = {
        "cmd": "exec resegment prepare ${key}",
        "deps": [native, split, *code("prepare")],
        "params": ["recipes.${item.recipe}"],
    }
    train = {
        "cmd": "exec resegment train ${key}",
        "deps": ["data/prepared/${item.data}", network, *code("train")],
        "params": [*model, "experiments.${item.experiment}.train", "${item.shared}"],
        "outs": [
            "runs/${key}/weights.safetensors",
            "runs/${key}/history.csv",
            "runs/${key}/manifest.json",
        ],
    }
    other = ["runs/${item.initial}/weights.safetensors"]
    predict = {
        "cmd": "exec resegment predict ${item.run} --on ${item.dataset}",
        "deps": [
            "runs/${item.run}/weights.safetensors",
            native,
            split,
            network,
            *code("predict", "drawn"),
        ],
        "params": [*model, "inference.${item.inference}"],
        "outs": ["runs/${key}/predictions"],
    }
    score = {
        "cmd": "exec resegment score ${item.run} --on ${item.dataset}",
        "deps": ["runs/${key}/predictions", native, split, *code("score", "drawn")],
        "params": ["protocols", "recipes.${item.recipe}"],
        "outs": ["runs/${key}/scores"],
    }
    own = ["runs/${item.run}/scores"]  # the thresholds, chosen on the run's own training images
    return {
        "ingest": {
            "cmd": "exec resegment ingest ${key}",
            "deps": ["${item.originals}", "src/resegment/datasets/${key}.py",
                     *code("ingest", "datasets.registry", "datasets.fov", "datasets.record",
                           "datasets.isic")],
            "outs": ["data/native/${key}"],
        },
        "prepare": prepare | {"outs": ["data/prepared/${key}"]},
        "prepare-large": prepare | {"outs": [{"data/prepared/${key}": {"cache": False}}]},
        "train": train,
        "train-from": train | {"deps": [*train["deps"], *other]},
        "predict": predict | {"cmd": "exec resegment predict ${key}"},
        "score": score | {"cmd": "exec resegment score ${key}"},
        "predict-cross": predict,
        "score-cross": score | {"deps": [*score["deps"], *own]},
    }  # fmt: skip


def items(params: schema.Params) -> dict[str, dict[str, dict]]:
    """{template: {key: item}} of the active campaigns."""
    runs = config.runs(params)
    out: dict[str, dict] = {name: {} for name in templates()}
    for run in runs:
        data, key = f"{run['split']}/{run['recipe']}", run["run"]
        out["ingest"][run["dataset"]] = {"originals": originals(run["dataset"])}
        of_data = {"dataset": run["dataset"], "split": split_file(run["split"], run["dataset"]),
                   "recipe": run["recipe"]}  # fmt: skip
        large = "" if params.recipes[run["recipe"]].cache else "-large"
        out[f"prepare{large}"][data] = of_data
        network = closure.module(f"resegment.models.{run['model']['name']}").name
        of_run = {"experiment": run["experiment"], "model": network, "recipe": run["recipe"],
                  **reductions(params, run)}  # fmt: skip
        first = {"initial": run["initial"]} if run["initial"] else {}
        out["train-from" if first else "train"][key] = of_run | {"data": data} | first
        of_maps = {"run": key, "inference": run["inference_name"]}
        out["predict"][key] = of_run | of_data | of_maps
        out["score"][key] = of_data
        for dataset in run["cross"]:
            there = of_data | {"dataset": dataset, "split": split_file(dataset, dataset)}
            out["ingest"][dataset] = {"originals": originals(dataset)}
            out["predict-cross"][paths.cross(key, dataset)] = of_run | there | of_maps
            out["score-cross"][paths.cross(key, dataset)] = there | {"run": key}
    return out


def originals(dataset: str) -> str:
    """What says which files a dataset is: its list of sums, or a procedural set's own code."""
    given = paths.registry(dataset)
    return str(given) if given.exists() else f"src/resegment/datasets/{dataset}.py"


def reductions(params: schema.Params, run: dict) -> dict[str, str]:
    """Where its budget changes a run: for all, and for its model or its experiment alone.

    Where it does not, a key that the stage watches anyway stands in, as DVC takes no empty one.
    What a budget says of recipes and inference is in the plan already.
    """
    budget, at = params.budgets[run["budget"]], f"budgets.{run['budget']}"
    usual = f"experiments.{run['experiment']}.train"
    shared = f"{at}.train" if "train" in budget.model_fields_set else usual
    model = f"experiments.{run['experiment']}.model"
    options = f"{at}.options" if "options" in budget.model_fields_set else model
    own = shared
    if run["experiment"] in budget.experiments:
        own = f"{at}.experiments.{run['experiment']}"
    elif run["model"]["name"] in budget.models:
        own = f"{at}.models.{run['model']['name']}"
    return {"shared": shared, "own": own, "options": options}


def alike(params: schema.Params) -> list[str]:
    """A line for each two experiments of an active campaign between which its budget leaves no
    difference to a training's weights."""
    lines = []
    for name in params.active:
        campaign, first = params.campaigns[name], {}
        for experiment in campaign.experiments:
            run = config.resolve(params, name, experiment, campaign.seeds[0])
            same = first.setdefault(fingerprint(config.trained_by(run)), experiment)
            if replaced := _apart(params.experiments[same], params.experiments[experiment]):
                lines.append(
                    f"{run['campaign']}: {experiment} trains exactly as {same} does: "
                    f"budgets.{campaign.budget} replaces what sets them apart ({replaced}); put it "
                    f"under budgets.{campaign.budget}.experiments.{experiment}"
                )
    return lines


def _apart(one: schema.Experiment, other: schema.Experiment) -> str:
    """The parts of two experiments that a budget can replace and that differ."""
    a, b = ({"recipe": e.recipe, **_flat("train", e.train.model_dump()),
             **_flat("model.options", e.model.options)} for e in (one, other))  # fmt: skip
    return ", ".join(k for k in {**a, **b} if a.get(k) != b.get(k))


def _flat(at: str, tree: dict) -> dict[str, object]:
    parts = [_flat(f"{at}.{k}", v) if isinstance(v, dict) and k != "loss" else {f"{at}.{k}": v}
             for k, v in tree.items()]  # fmt: skip
    return {k: v for part in parts for k, v in part.items()}


def split_file(name: str, dataset: str) -> str:
    """What decides a split: its table, or the reader's rule where the ids are not known here."""
    given = paths.split(name)
    return str(given) if given.exists() else f"src/resegment/datasets/{dataset}.py"


def campaign_stages(params: schema.Params) -> dict[str, dict]:
    """The stages that gather a campaign's runs: their dependencies are listed one by one."""
    out = {}
    campaigns: dict[str, list[dict]] = {}
    for run in config.runs(params):
        campaigns.setdefault(run["campaign"], []).append(run)
    for name, runs in campaigns.items():
        folders = [f"runs/{r['run']}" for r in runs]
        # the campaign itself: DVC overlooks a dependency that left the list
        described = [f"campaigns.{name.removesuffix('-' + runs[0]['budget'])}",
                     *sorted({f"experiments.{r['experiment']}" for r in runs})]  # fmt: skip
        sets = sorted({f"data/native/{r['dataset']}" for r in runs})
        splits = sorted({split_file(r["split"], r["dataset"]) for r in runs})
        here = f"reports/{name}"
        tables = [f"{here}/{t}.csv" for t in TABLES]
        printed, noted = ([f"data/published/{t}.csv" for t in read] for read in (PRINTED, NOTED))
        manifests = [f"{f}/manifest.json" for f in folders]
        scores = [f"{f}/scores" for f in folders]
        crossed = [f"runs/{paths.cross(r['run'], d)}/scores" for r in runs for d in r["cross"]]
        out[f"ledger-{name}"] = {
            "cmd": f"exec resegment ledger {name}",
            "deps": [*scores, *crossed, *(f"{f}/history.csv" for f in folders), *manifests,
                     *printed,
                     *code("ledger", "proof")],
            "params": described,
            "outs": [{t: {"cache": False}} for t in tables],
        }  # fmt: skip
        out[f"figures-{name}"] = {
            "cmd": f"exec resegment figures {name}",
            "deps": [*tables, *manifests, *scores, *(f"{f}/predictions" for f in folders), *sets,
                     *splits,
                     "src/resegment/style.mplstyle", *code("figures", "proof")],
            "params": described[:1],
            "outs": [{f"{here}/figures": {"cache": False}}, f"{here}/pictures"],
        }  # fmt: skip
        out[f"report-{name}"] = {
            "cmd": f"exec resegment report {name}",
            "deps": [*tables, f"{here}/figures", f"{here}/pictures", *manifests, *scores, *noted,
                     *sets, *splits, str(paths.REGISTRY / "datasets.yaml"),
                     *(f"src/resegment/templates/{t}" for t in TEMPLATE_FILES),
                     *code("report", "proof")],
            "params": described,
            "outs": [f"{here}/report.html"],
        }  # fmt: skip
    return out


TABLES = ("scores", "ledger", "claims", "comparisons", "sensitivity", "audit", "calibration",
          "curves", "history", "images", "runs", "cross")  # fmt: skip
PRINTED = ("cells", "audit", "claims", "deviations")  # of data/published: what the ledger reads
NOTED = ("deviations", "notes")  # and the report
TEMPLATE_FILES = sorted(p.name for p in (closure.PACKAGE / "templates").glob("*"))


def document(params: schema.Params) -> dict:
    """dvc.yaml as a tree."""
    shapes = templates()
    each = {n: {"foreach": keys, "do": shapes[n]} for n, keys in items(params).items() if keys}
    runs = [r["run"] for r in config.runs(params)]
    crossed = [paths.cross(r["run"], d) for r in config.runs(params) for d in r["cross"]]
    return {
        "stages": each | campaign_stages(params),
        "metrics": [f"runs/{r}/scores/metrics.json" for r in (*runs, *crossed)],
        "plots": [
            {"roc": _plot("fpr", {f"runs/{r}/scores/roc.csv": "tpr" for r in runs}, "common")},
            {
                "pr": _plot(
                    "recall", {f"runs/{r}/scores/pr.csv": "precision" for r in runs}, "common"
                )
            },
            {"training": _plot("epoch", {f"runs/{r}/history.csv": "train_loss" for r in runs})},
        ],
    }


def _plot(x: str, y: dict, template: str = "simple") -> dict:
    """`common` is .dvc/plots/common.json: `simple`, the rows of the common protocol alone."""
    return {"x": x, "y": y, "template": template}


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data):
        return True


def render(params: schema.Params) -> str:
    text = yaml.dump(document(params), Dumper=_Dumper, sort_keys=False, width=200)
    return HEADER + text


def sensible(params: schema.Params) -> None:
    """Raise UserError where params.yaml names a dataset, a split or a published row that is none,
    or another common protocol.

    Of every campaign, active or not; `config.load` does not look beyond its file.
    """
    from resegment import protocols, published  # pandas is slow to come
    from resegment.datasets import registry

    def readable(dataset: str, where: str) -> None:
        try:
            registry.reader(dataset)
        except UserError as e:
            raise UserError(f"{paths.PARAMS}: {where}: {e}") from None

    common = params.protocols["common"].model_dump()
    if common != asdict(protocols.COMMON):
        raise UserError(f"{paths.PARAMS}: protocols.common is {common}: reports say and compare "
                        f"{asdict(protocols.COMMON)}, so give another protocol another name"
                        )  # fmt: skip
    known = published.cells()
    for name, experiment in params.experiments.items():
        readable(experiment.dataset, f"experiments.{name}.dataset")
        if experiment.split and not paths.split(experiment.split).exists():
            raise UserError(f"{paths.PARAMS}: experiments.{name}.split: there is no "
                            f"{paths.split(experiment.split)}")  # fmt: skip
        for row in experiment.rows:
            published.row(row, known)
    for name, campaign in params.campaigns.items():
        for dataset in filter(None, (campaign.dataset, *campaign.cross)):
            readable(dataset, f"campaigns.{name}")


def write(params: schema.Params) -> bool:
    """Bring dvc.yaml into step with params.yaml; True where it had to change."""
    text = render(params)
    if DVC_YAML.exists() and DVC_YAML.read_text() == text:
        return False
    with atomic(DVC_YAML) as tmp:
        tmp.write_text(text)
    return True


def check(params: schema.Params) -> None:
    """Raise UserError where dvc.yaml is not what params.yaml says."""
    if not DVC_YAML.exists() or DVC_YAML.read_text() != render(params):
        raise UserError(f"{DVC_YAML} is not in step with {paths.PARAMS}: run `resegment plan`")


def stages(params: schema.Params) -> dict[str, dict[str, list[str]]]:
    """{stage: {"inputs", "outputs"}}: the files of every job as Snakemake tracks them.

    A folder is tracked by the manifest.json in it; files that no stage makes are DVC's to watch.
    """
    flat = {}
    for name, shape in templates().items():
        for key, item in items(params)[name].items():
            flat[f"{name}@{key}"] = {
                side: [_filled(x, key, item) for x in shape[side]] for side in ("deps", "outs")
            }
    for name, stage in campaign_stages(params).items():
        flat[name] = {side: [_filled(x, "", {}) for x in stage[side]] for side in ("deps", "outs")}
    made = {o for s in flat.values() for o in s["outs"]}
    return {
        name: {
            "inputs": [_tracked(d) for d in s["deps"] if d in made],
            "outputs": [_tracked(o) for o in s["outs"]],
        }
        for name, s in flat.items()
    }


def _filled(entry: str | dict, key: str, item: dict) -> str:
    text = entry if isinstance(entry, str) else next(iter(entry))
    text = text.replace("${key}", key)
    for field, value in item.items():
        text = text.replace(f"${{item.{field}}}", str(value))
    return text


def _tracked(path: str) -> str:
    return path if Path(path).suffix else f"{path}/manifest.json"
