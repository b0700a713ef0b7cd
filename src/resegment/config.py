"""What an experiment is: params.yaml, and the runs it describes.

`load` validates the file and names every mistake by its path; `runs` resolves the campaigns into
plain dictionaries, which is all that training, prediction and scoring ever see.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import get_args, get_origin

from pydantic import ValidationError

from resegment import dialects, paths
from resegment.errors import UserError
from resegment.schema import Params, Reduction, Section, Train


def load(path: Path = paths.PARAMS) -> Params:
    """Read and validate params.yaml. Raises UserError naming the file, the key and the mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is not here: run resegment in the root of a checkout") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is no UTF-8 from byte {e.start} on: save it as UTF-8") from None
    return _parsed(text, str(path))


@lru_cache(maxsize=1)
def _parsed(text: str, path: str) -> Params:
    """Every verb asks several times, to see a change; a text that is known is not parsed again."""
    tree = dialects.read(text, path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no mapping: it needs the keys {', '.join(_KEYS)}")
    params = _validated(Params, tree, path)
    for budget, b in params.budgets.items():
        for part, reduction in b.parts().items():
            at = f"budgets.{budget}{part}.train"
            _validated(Train, _LEAST | reduction.train, path, at)
    runs(params, tuple(params.campaigns))  # an experiment must make sense under its budget, too
    return params


_KEYS = [f.alias or name for name, f in Params.model_fields.items()]
_LEAST = {"epochs": 1, "batch_size": 1, "loss": {"bce": 1.0}}  # what a part of a training lacks


def _validated(model: type[Section], tree: dict, where: str, at: str = ""):
    """The tree as JSON has it: a number is no text, and true is no number."""
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as e:
        lines = [": ".join([where, *_said(model, x, at)]) for x in e.errors(include_url=False)]
        more = f"\n{where}: and {len(lines) - 8} mistakes more" if len(lines) > 8 else ""
        raise UserError("\n".join(lines[:8]) + more) from None


def _said(model: type[Section], error: dict, at: str) -> list[str]:
    """Where below `at` a mistake is, if anywhere, and what it is."""
    loc, kind = list(error["loc"]), error["type"]
    of_key = loc[-1:] == ["[key]"] and kind != "extra_forbidden"  # pydantic's word for a key
    loc = loc[:-1] if of_key else loc
    said = error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        said = f"is none of the keys here: {', '.join(_keys(model, loc[:-1]))}"
    elif kind == "literal_error" and of_key:
        said = f"is none of {error['ctx']['expected']}"
    elif kind == "string_pattern_mismatch":
        said = (
            f"{error['input'][:40]!r} must be small letters, digits, - and _, and no - or _ first"
        )
    place = ".".join([*([at] if at else []), *map(_plain, loc)])
    return [place, said] if place else [said]


def _keys(model: type[Section], loc: list[str | int]) -> list[str]:
    """The keys of the section that stands at `loc` below one of `model`."""
    if not loc:
        return [f.alias or name for name, f in model.model_fields.items()]
    field = next(f for n, f in model.model_fields.items() if loc[0] in (n, f.alias))
    many = get_origin(field.annotation) is dict  # name: section
    within = get_args(field.annotation)[1] if many else field.annotation
    return _keys(within, loc[2 if many else 1 :])


def _plain(key: str | int) -> str:
    return str(key) if str(key).isprintable() else ascii(key)


def _merged(base: dict, change: dict) -> dict:
    """`change` laid over `base`, mappings key by key; a changed `loss` replaces the whole sum."""
    out = dict(base)
    for key, value in change.items():
        deep = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "loss"
        out[key] = _merged(out[key], value) if deep else value
    return out


def resolve(params: Params, campaign: str, experiment: str, seed: int) -> dict:
    """One run as a plain dictionary: the experiment under the campaign's budget and dataset."""
    c = params.campaigns[campaign]
    e = params.experiments[experiment]
    budget = params.budgets[c.budget]
    where = f"{paths.PARAMS}: experiments.{experiment} under budgets.{c.budget}"
    own = budget.experiments.get(experiment) or budget.models.get(e.model.name) or Reduction()
    reduced = _merged(_merged(e.train.model_dump(), budget.train), own.train)
    train = _validated(Train, reduced, where)
    dataset = c.dataset or e.dataset
    recipe = (budget.recipes | own.recipes).get(e.recipe, e.recipe)
    inference = own.inference or budget.inference or e.inference
    model = e.model.model_dump(mode="json")
    model["options"] |= budget.options | own.options
    full_model = model == e.model.model_dump(mode="json")
    if train.augment.inside_fov and not (params.recipes[recipe].fov and train.augment.crop):
        raise UserError(
            f"{where}: train.augment.inside_fov needs a crop and a recipe with "
            f"fov: true, which {recipe} has not"
        )
    return {
        "run": _id(params, campaign, experiment, seed),
        "campaign": f"{campaign}-{c.budget}",
        "experiment": experiment,
        "budget": c.budget,
        "seed": seed,
        "paper": e.paper,
        "rows": list(e.rows),
        "rows_dataset": e.dataset,
        "dataset": dataset,
        "split": (e.split if dataset == e.dataset else None) or dataset,
        "recipe": recipe,
        "geometry": params.recipes[recipe].model_dump(
            mode="json", include={"resize", "pad", "width"}
        ),
        "enhance": list(params.recipes[recipe].enhance),
        "model": model,
        "full_model": full_model,  # not narrowed by the budget
        "train": train.model_dump(mode="json"),
        "initial": e.initial and f"{campaign}-{c.budget}/{e.initial}/s{seed}",
        "inference": params.inference[inference].model_dump(),
        "inference_name": inference,
        "cross": [d for d in c.cross if d != dataset],
        "protocol": e.protocol,
    }


def runs(params: Params, campaigns: tuple[str, ...] | None = None) -> list[dict]:
    """The runs of the given campaigns (default: the active ones), in the file's order."""
    return [resolve(params, *named) for named in _named(params, campaigns)]


def _named(params: Params, campaigns: tuple[str, ...] | None) -> list[tuple[str, str, int]]:
    """(campaign, experiment, seed) of each of `runs`."""
    return [
        (campaign, experiment, seed)
        for campaign in (params.active if campaigns is None else campaigns)
        for experiment in params.campaigns[campaign].experiments
        for seed in params.campaigns[campaign].seeds
    ]


def _id(params: Params, campaign: str, experiment: str, seed: int) -> str:
    return f"{campaign}-{params.campaigns[campaign].budget}/{experiment}/s{seed}"


def find(params: Params, run_id: str) -> dict:
    """The run of that id, whether its campaign is active or not."""
    for named in _named(params, tuple(params.campaigns)):
        if _id(params, *named) == run_id:
            return resolve(params, *named)
    raise UserError(f"no run {run_id!r} in {paths.PARAMS}: `resegment plan --list` shows them all")


def trained_by(run: dict) -> dict:
    """The part of a run that decides its weights: what is fingerprinted beside data and code."""
    return {
        key: run[key]
        for key in ("model", "train", "seed", "split", "recipe", "geometry", "enhance", "initial")
    }
