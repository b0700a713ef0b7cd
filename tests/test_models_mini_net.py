"""Mini-Net: both readings have the printed number of parameters and follow the equations."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from resegment import models
from resegment.errors import UserError
from resegment.models.layers import forward_padded
from resegment.models.mini_net import DualMultiResidual
from resegment.predict import probability

READINGS = ["rgb", "gray"]
CPU = torch.device("cpu")


def network(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("mini_net", options)


def shapes(n: int = 4, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images with noise in which the label, a few smooth blobs, can be seen."""
    rng = torch.Generator().manual_seed(7)
    label = F.interpolate(torch.randn(n, 1, 6, 6, generator=rng), size=size, mode="bilinear") > 0.3
    noise = torch.rand(n, 3, size, size, generator=rng)
    return 0.5 * label.float() + 0.5 * noise, label.float()


@pytest.mark.parametrize("options", [{}, {"reading": "rgb"}, {"reading": "gray"}])
def test_parameters_are_the_printed_ones(options):
    with torch.device("meta"):
        model = models.build("mini_net", options)
    assert models.count(model) == {"trainable": 36_657, "total": 37_685}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("size", [(8, 8), (37, 61)])
def test_logits_have_the_images_size_and_every_parameter_a_gradient(reading, size):
    model = network(reading=reading).train()
    logits = forward_padded(model, torch.rand(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    logits.square().mean().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key


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


@pytest.mark.parametrize("reading", READINGS)
def test_it_learns_four_images_by_heart(reading):
    model = network(reading=reading).train()
    image, label = shapes()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(model(image), label).backward()
        optimiser.step()
    with torch.inference_mode():
        right = ((model.eval()(image) > 0) == (label > 0.5)).float().mean().item()
    assert right > 0.95 > 0.8 > max(label.mean().item(), 1 - label.mean().item())


@pytest.mark.parametrize("reading", READINGS)
def test_saved_weights_predict_the_same_bytes(reading):
    model = network(seed=1, reading=reading).train()
    model(torch.rand(2, 3, 32, 32))  # moves the running averages
    image = (torch.rand(37, 45, 3) * 255).byte().numpy()
    before = probability(model.eval(), image, CPU)
    again = network(seed=2, reading=reading).eval()
    assert probability(again, image, CPU).tobytes() != before.tobytes()
    again.load_state_dict(load(save(model.state_dict())))
    assert probability(again, image, CPU).tobytes() == before.tobytes()


def test_a_wrong_reading_is_named():
    with pytest.raises(UserError, match="reading"):
        models.build("mini_net", {"reading": "lab"})
