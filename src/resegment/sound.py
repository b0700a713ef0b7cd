"""Whether the networks of params.yaml can be trained, said in a sentence before they are."""

import contextlib
import importlib
import inspect
import json
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from resegment import closure, models, paths, schema
from resegment.errors import UserError

SIDE = 128  # px of the smallest image on which a network is tried, but for its stride


def check(params: schema.Params) -> None:
    """Raise UserError where a network cannot be imported, or an option is none of its own."""
    said = [(f"experiments.{e}.model", x.model.name, x.model.options)
            for e, x in params.experiments.items()]  # fmt: skip
    for b, budget in params.budgets.items():
        said += [(f"budgets.{b}.models.{m}", m, r.options) for m, r in budget.models.items()]
        said += [(f"budgets.{b}.experiments.{e}", params.experiments[e].model.name, r.options)
                 for e, r in budget.experiments.items()]  # fmt: skip
        reduced = {e for c in params.campaigns.values() if c.budget == b for e in c.experiments}
        said += [(f"budgets.{b}", m, budget.options)
                 for m in sorted({params.experiments[e].model.name for e in reduced})]  # fmt: skip
    for where, name, options in said:
        known = inspect.signature(module(name).build).parameters.values()
        named = [p.name for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for p in known:
            if p.name in named and p.default is p.empty:
                raise UserError(f"{_file(name)}: {p.name} of build has no default: give it one")
        if other := [key for key in options if key not in named]:
            have = ", ".join(named) or "its build names none"
            raise UserError(f"{paths.PARAMS}: {where}.options.{other[0]} is none of the options of "
                            f"{name} ({have})")  # fmt: skip


@cache
def module(name: str) -> ModuleType:
    """The module of a network. Raises UserError where it cannot be imported or has no build."""
    with _blamed(name):
        found = importlib.import_module(f"resegment.models.{name}")
    if not callable(getattr(found, "build", None)):
        raise UserError(f"{_file(name)} has no build: name its network so, `build = MyNet`")
    return found


def _file(name: str, file: Path | str | None = None) -> Path:
    """`file`, or that of a network, as seen from the checkout."""
    file = Path(file or closure.module(f"resegment.models.{name}"))
    root = closure.PACKAGE.parents[1]
    return file.relative_to(root) if file.is_relative_to(root) else file


@contextlib.contextmanager
def _blamed(name: str) -> Iterator[None]:
    """Turn an error in a network's own code into a sentence with file and line."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as e:
        raise UserError(f"{_file(name, e.filename)}, line {e.lineno}: {e.msg}") from None
    except Exception as e:  # whatever may go wrong in code that was just written
        home = closure.module(f"resegment.models.{name}")
        frames = traceback.extract_tb(e.__traceback__)
        own = [f for f in frames if Path(f.filename).is_relative_to(home)]
        line = f"{_file(name, own[-1].filename)}, line {own[-1].lineno}" if own else _file(name)
        if isinstance(e, ModuleNotFoundError):
            raise UserError(f"{line}: imports {e.name}, which is not installed") from None
        said = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"{line}: {said}") from None


@cache
def whole(name: str, options: str) -> None:
    """Raise UserError unless a network makes one logit of each pixel, in training, too."""
    module(name)
    with _blamed(name):
        try:
            _whole("meta", name, json.loads(options))
        except RuntimeError:  # it looks at values
            _whole("cpu", name, json.loads(options))


def _whole(device: str, name: str, options: dict) -> None:
    with torch.device(device), torch.no_grad():
        model = models.build(name, options)
        stride = getattr(model, "stride", None)
        if type(stride) is not int or stride < 1:
            raise UserError(f"{_file(name)}: the network has no stride: set self.stride to 1, or "
                            "to what height and width must be multiples of")  # fmt: skip
        h = -(-SIDE // stride) * stride
        images = torch.zeros(2, 3, h, h + stride)  # two: batch normalisation may need them
        for training in (False, True):
            out = model.train(training)(images)
            for y in out if training and isinstance(out, list) else [out]:
                made = tuple(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
                if made != (wanted := (2, 1, h, h + stride)):
                    raise UserError(f"{_file(name)}: the network makes {made} of "
                                    f"{tuple(images.shape)}: it must be {wanted}, a logit for each "
                                    "pixel")  # fmt: skip
