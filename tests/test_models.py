"""Every network has the printed number of parameters, and is a function of images of any size."""

import pytest
import torch

from resegment import models
from resegment.errors import UserError
from resegment.models.layers import forward_padded, to_input

COUNTS = [  # name, options, trainable, total: counted for each reading of the papers
    ("unet", {}, 31_031_745, 31_031_745),  # HybridNetSeg, table 5: 31.03 M
    ("unet", {"width": 8, "depth": 3, "norm": True}, 29_785, 30_105),
    ("rga_net", {}, 38_903, 39_639),  # the chosen reading: "40K"
    ("rga_net", {"partial_decoder": "conv"}, 21_687, 22_263),  # equation 5 to the letter
    ("rga_net", {"attention": False}, 20_732, 21_244),  # table II: UNET
]
SMALL = [c for c in COUNTS if c[2] < 10**6]


@pytest.mark.parametrize(("name", "options", "trainable", "total"), COUNTS)
def test_parameters_are_those_of_the_paper(name, options, trainable, total):
    with torch.device("meta"):
        model = models.build(name, options)
    assert models.count(model) == {"trainable": trainable, "total": total}


@pytest.mark.parametrize(("name", "options", "trainable", "total"), SMALL)
@pytest.mark.parametrize("size", [(8, 8), (37, 61)])
def test_logits_have_the_images_size_and_every_parameter_a_gradient(
    name, options, trainable, total, size
):
    torch.manual_seed(0)
    model = models.build(name, options)
    logits = forward_padded(model, torch.rand(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    logits.square().mean().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key


def test_padding_never_reaches_into_the_result():
    class Widen(torch.nn.Module):
        stride = 8

        def forward(self, x):
            assert x.shape[2] % 8 == 0 and x.shape[3] % 8 == 0
            return x[:, :1]

    x = torch.rand(1, 3, 13, 21)
    assert torch.equal(forward_padded(Widen(), x), x[:, :1])


def test_input_is_scaled_to_one_and_keeps_its_channels():
    batch = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    batch[0, 1, 2] = torch.tensor([255, 51, 0])
    x = to_input(batch, torch.device("cpu"))
    assert x.shape == (1, 3, 2, 3) and x[0, :, 1, 2].tolist() == pytest.approx([1, 0.2, 0])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("resnet", {}, "resnet"), ("unet", {"depht": 3}, "depht"),
     ("rga_net", {"partial_decoder": "x"}, "partial_decoder")],
)  # fmt: skip
def test_a_wrong_model_is_named(name, options, said):
    with pytest.raises(UserError, match=said):
        models.build(name, options)
