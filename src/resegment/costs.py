"""What a network costs: its parameters, its size, and the multiply-adds of one image."""

import torch
from torch import Tensor, nn

from resegment import models
from resegment.models.layers import forward_padded

# (name, options, height, width, note): the networks of this project, at the size they work on
CATALOGUE: list[tuple[str, dict, int, int, str]] = [
    ("unet", {}, 512, 512, "plain baseline, 31.03 M in HybridNetSeg's table 5"),
    ("unet", {"width": 8, "depth": 3, "norm": True}, 512, 512, "baseline of the small networks"),
    ("rga_net", {}, 512, 512, "chosen reading, 40 K"),
    ("rga_net", {"partial_decoder": "conv"}, 512, 512, "equation 5 to the letter"),
    ("rga_net", {"partial_decoder": "none"}, 512, 512, "table II: IAA without partial decoder"),
    ("rga_net", {"attention": False}, 512, 512, "table II: UNET"),
    ("rsan", {}, 592, 592, "the authors' code, 3x3 deconvolution; DRIVE's size"),
    ("rsan", {}, 1008, 1008, "the same at CHASE_DB1's size"),
    ("rsan", {"deconvolution": 2}, 592, 592, "the text's 2x2 deconvolution"),
    ("rsan", {"variant": "dropblock"}, 592, 592, "tables 1 and 2: Backbone+DropBlock"),
    ("rsan", {"variant": "backbone"}, 592, 592, "tables 1 and 2: Backbone"),
    ("bcdu_net", {}, 64, 64, "D3, one patch"),
    ("bcdu_net", {"outputs": 2}, 64, 64, "D3 with two outputs, one patch"),
    ("bcdu_net", {"dense": 1}, 64, 64, "D1, one patch"),
    ("hybridnetseg", {}, 512, 512, "the authors' code at the paper's commit, 0.71 M"),
    ("hybridnetseg", {"grouped": False}, 512, 512, "1x1 convolutions ungrouped, as table 1 reads"),
    ("mini_net", {}, 512, 512, "chosen reading, 37,685 in all"),
    ("mini_net", {"reading": "gray"}, 512, 512, "the other exact reading"),
]


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


def _counted(device: str, name: str, options: dict, height: int, width: int) -> dict[str, int]:
    with torch.device(device):
        model, image = models.build(name, options).eval(), torch.zeros(1, 3, height, width)
    macs = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        # A weight meets every position once: of the input where it spreads, else of the output.
        if isinstance(layer, nn.Linear):
            positions = output[..., 0].numel()
        else:
            spreads = isinstance(layer, nn.ConvTranspose2d)
            positions = (inputs[0] if spreads else output)[:, 0].numel()
        macs += positions * layer.weight.numel()

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(add)
    with torch.no_grad():
        forward_padded(model, image)
    return {**models.count(model), "macs": macs}
