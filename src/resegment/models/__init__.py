"""The networks: one file a paper, each a module with a `build(**options)`.

Every model maps (B, 3, H, W) float in 0..1 to (B, 1, H, W) logits, for H and W multiples of its
`stride`; `layers.forward_padded` takes any size.
"""

import importlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from resegment.errors import UserError


def build(name: str, options: dict) -> nn.Module:
    """The network `name` with its options, freshly initialised from torch's global generator."""
    try:
        module = importlib.import_module(f"resegment.models.{name}")
        return module.build(**options)
    except ModuleNotFoundError:
        file = f"src/resegment/models/{name}.py"
        raise UserError(f"params.yaml: model.name {name!r}: there is no {file}") from None
    except (TypeError, ValueError, RuntimeError) as e:
        raise UserError(f"params.yaml: model.options of {name}: {e}") from None


def kernel(name: str, device: str) -> str | None:
    """Which form of its own operator a network uses on "cpu" or "cuda"; None: it has none."""
    in_use = getattr(importlib.import_module(f"resegment.models.{name}"), "kernel_in_use", None)
    return in_use and in_use(device)


def load(model: nn.Module, file: Path) -> nn.Module:
    """Give the network the weights in `file`. Raises UserError where they are not of its kind."""
    try:
        model.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError, FileNotFoundError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"{file} holds no weights of this model ({reason}): train again") from None
    return model


def count(model: nn.Module) -> dict[str, int]:
    """Parameters as Keras counts them: trainable, and in all (with BN mean and variance)."""
    trainable = sum(p.numel() for p in model.parameters())
    norms = (m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    return {"trainable": trainable, "total": trainable + sum(2 * m.num_features for m in norms)}
