"""Multiply-adds and sizes are those counted for the papers, and those that torch counts."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resegment import costs, models
from resegment.catalogue import CATALOGUE
from resegment.models.layers import forward_padded

COUNTED = [  # name, options, side, GMACs: to the printed digits
    ("unet", {}, 512, "192.67"),
    ("rga_net", {}, 512, "1.48"),
    ("rsan", {}, 592, "25.16"),
    ("rsan", {}, 1008, "72.95"),
    ("rsan", {"deconvolution": 2}, 592, "24.49"),
    ("rsan", {"variant": "dropblock"}, 592, "25.07"),
    ("mini_net", {}, 512, "1.76"),
    ("bcdu_net", {}, 64, "4.64"),
    ("bcdu_net", {"dense": 1}, 64, "3.88"),
]


@pytest.mark.parametrize(("name", "options", "side", "giga"), COUNTED)
def test_multiply_adds_are_the_counted_ones(name, options, side, giga):
    macs = costs.cost(name, options, side, side)["macs"]
    assert isinstance(macs, int) and f"{macs / 1e9:.2f}" == giga


def test_parameters_and_size():
    found = costs.cost("unet", {}, 64, 64)
    assert found["trainable"] == found["total"] == 31_031_745
    assert found["mib"] == pytest.approx(118.377, abs=1e-3)
    small = costs.cost("unet", {"width": 8, "depth": 3, "norm": True}, 64, 64)
    assert (small["trainable"], small["total"]) == (29_785, 30_105)
    assert small["mib"] == 30_105 * 4 / 2**20


ONCE = {(entry.name, repr(entry.options)): entry for entry in CATALOGUE}.values()


@pytest.mark.parametrize("entry", ONCE, ids=lambda e: f"{e.name}-{e.note}")
def test_torch_counts_the_same_multiply_adds(entry):
    """Its counter looks below the layers, and so sees convolutions that no layer holds."""
    name, options, height, width = entry[:4]
    with torch.device("meta"):
        model, x = models.build(name, options).eval(), torch.zeros(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward_padded(model, x)
    assert 2 * costs.cost(name, options, height, width)["macs"] == counter.get_total_flops()


class Handmade(nn.Module):
    """One layer of each kind, one of them twice; `value` makes it look at its input."""

    stride = 4

    def __init__(self, look=False):
        super().__init__()
        self.look = look
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # 8 x 3 x 9 at a quarter of the pixels
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)  # 8 x 9, twice
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)  # 8 x 4 x 4 at each input
        self.mix = nn.Linear(4, 1)  # 4 at every pixel

    def forward(self, x):
        if self.look and x.sum().item() > 1e9:
            raise ValueError
        x = self.up(self.grouped(self.grouped(self.down(x))))
        return self.mix(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("look", [False, True])
def test_every_kind_of_layer_by_hand(monkeypatch, look):
    """Also at a size that is padded, and where a network cannot run without values."""
    monkeypatch.setattr(models, "build", lambda name, options: Handmade(**options))
    quarter = (216 + 2 * 72 + 128) * (8 * 12 // 4)
    for height, width in [(8, 12), (7, 9)]:
        found = costs.cost("handmade", {"look": look}, height, width)
        assert found["macs"] == quarter + 4 * 8 * 12
    assert found["trainable"] == found["total"] == 224 + 80 + 132 + 5
