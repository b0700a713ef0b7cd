"""What a network costs: its parameters, its size, and the multiply-adds of one image.

Trainings write it into their manifests and so depend on this file; what nothing but people read
stands in catalogue.py.
"""

import torch
from torch import Tensor, nn

from resegment import models
from resegment.models.layers import forward_padded

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def cost(name: str, options: dict, height: int, width: int) -> dict[str, int | float]:
    """Of the network `name` with its options, for one image of height x width:

    trainable, total: parameters, without and with the statistics of batch normalisation;
    macs: multiply-adds of its convolutions, transposed convolutions and linear layers, once a
    call, biases and everything else left out; mib: the size of `total` as float32, in MiB.
    The image is padded to the network's stride, as in prediction. Nothing is computed, unless a
    network looks at values and so refuses to run without any.
    """
    try:
        found = _counted("meta", name, options, height, width)
    except RuntimeError:
        found = _counted("cpu", name, options, height, width)
    return {**found, "mib": found["total"] * 4 / 2**20}


def multiply_adds(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Of one call of one of LAYERS: a weight meets every position once, of the input where it
    spreads, else of the output."""
    if isinstance(layer, nn.Linear):
        return output[..., 0].numel() * layer.weight.numel()
    positions = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output)[:, 0].numel()
    return positions * layer.weight.numel()


def _counted(device: str, name: str, options: dict, height: int, width: int) -> dict[str, int]:
    with torch.device(device):
        model, image = models.build(name, options).eval(), torch.zeros(1, 3, height, width)
    macs = 0

    def add(*call) -> None:
        nonlocal macs
        macs += multiply_adds(*call)

    for layer in model.modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(add)
    with torch.no_grad():
        forward_padded(model, image)
    return {**models.count(model), "macs": macs}
