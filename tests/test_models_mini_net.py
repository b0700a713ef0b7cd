"""Mini-Net: what makes up the count of both readings, and the equations."""

import pytest
import torch
from torch import Tensor, nn

from resegment import models
from resegment.models.mini_net import DualMultiResidual

READINGS = ["rgb", "gray"]


def network(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("mini_net", options)


@pytest.mark.parametrize("reading", READINGS)
def test_normalised_channels_are_those_the_count_leaves(reading):
    model = network(reading=reading)
    norms = {n: m.num_features for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert sum(norms.values()) == 514
    part = {
        p: sum(c for n, c in norms.items() if n.startswith(p))
        for p in ("stem", "enc", "bottleneck", "dec", "skip", "xout")
    }
    assert part == {"stem": 8, "enc": 144, "bottleneck": 192, "dec": 144, "skip": 24, "xout": 2}


@pytest.mark.parametrize("reading", READINGS)
def test_the_readings_differ_in_input_biases_skips_and_output(reading):
    gray = reading == "gray"
    model = network(reading=reading)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert model.stem[0].in_channels == (1 if gray else 3)
    assert all((m.bias is not None) == (gray or m.groups == 1) for m in convolutions)
    for skip in (model.skip1, model.skip2):
        assert skip[0][0].kernel_size == ((1, 1) if gray else (3, 3))
    assert isinstance(model.xout[0], nn.Conv2d) == gray


def test_gray_sees_nothing_but_luma():
    model = network(reading="gray").eval()
    x = torch.rand(1, 3, 16, 16)
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    with torch.inference_mode():
        torch.testing.assert_close(model(luma.expand(1, 3, 16, 16)), model(x))
        assert not torch.equal(model(x.flip(1)), model(x))


def test_a_block_is_equations_2_to_4():
    torch.manual_seed(0)
    block = DualMultiResidual(4, depthwise_bias=False).eval()
    x = torch.randn(2, 4, 9, 7)

    def strands(pair: tuple[nn.Module, nn.Module], x: Tensor) -> Tensor:
        return sum(norm(squeeze(expand(x))) for expand, squeeze, norm in pair)

    s1 = torch.relu(strands((block.first3, block.first5), x))
    s2 = torch.relu(block.residual[1](block.residual[0](s1)) + s1)
    out = block.around[1](block.around[0](x)) + strands((block.second3, block.second5), s2)
    torch.testing.assert_close(block(x), out)
    kernels = [getattr(block, n)[0][0].kernel_size[0] for n in ("first3", "first5", "second3")]
    assert kernels == [3, 5, 3] and block.second5[0][0].kernel_size == (5, 5)
