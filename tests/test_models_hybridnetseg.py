"""HybridNetSeg: its deformable convolution is the definition; side outputs and input range."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resegment import models
from resegment.models.hybridnetseg import deform

IMPLEMENTATIONS = [deform.by_taps, *([deform.deform_conv2d] if deform.KERNEL else [])]


def network(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("hybridnetseg", options)


def inputs(kernel: int = 3, size: tuple[int, int] = (4, 5)) -> list[Tensor]:
    """x, offset, mask, weight in float64; many offsets lead out of the image, some half way."""
    rng = torch.Generator().manual_seed(3)
    taps, (height, width) = kernel**2, size
    made = (
        torch.randn(2, 2, height, width, generator=rng, dtype=torch.float64),
        2 * torch.randn(2, 2 * taps, height, width, generator=rng, dtype=torch.float64),
        torch.rand(2, taps, height, width, generator=rng, dtype=torch.float64),
        torch.randn(3, 2, kernel, kernel, generator=rng, dtype=torch.float64),
    )
    return [t.requires_grad_() for t in made]


def definition(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Equation 2 of the paper; x(p) = sum over pixels q of max(0, 1-|dy|) max(0, 1-|dx|) x(q)."""
    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    images = []
    for b in range(len(x)):
        places = []
        for p in range(offset.shape[2] * offset.shape[3]):
            py, px = divmod(p, offset.shape[3])
            y = 0
            for k in range(mask.shape[1]):
                i, j = divmod(k, weight.shape[3])
                dy = (rows - (py - padding + i + offset[b, 2 * k, py, px])).abs()
                dx = (columns - (px - padding + j + offset[b, 2 * k + 1, py, px])).abs()
                near = (1 - dy).clamp(min=0)[:, None] * (1 - dx).clamp(min=0)
                y = y + weight[:, :, i, j] @ (x[b] * near).sum((1, 2)) * mask[b, k, py, px]
            places.append(y)
        images.append(torch.stack(places, -1).unflatten(-1, offset.shape[2:]))
    return torch.stack(images)


@pytest.mark.parametrize("conv", IMPLEMENTATIONS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_deformable_convolution_is_its_definition(conv, kernel):
    args = inputs(kernel)
    found, expected = conv(*args, kernel // 2), definition(*args, kernel // 2)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).reshape(found.shape)
    gradients = (torch.autograd.grad(y, args, weights) for y in (found, expected))
    for of_found, of_expected in zip(*gradients, strict=True):
        torch.testing.assert_close(of_found, of_expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("conv", IMPLEMENTATIONS)
def test_deformable_convolution_has_its_gradients(conv):
    assert torch.autograd.gradcheck(lambda *args: conv(*args, 1), inputs(size=(3, 4)))


@pytest.mark.parametrize("conv", IMPLEMENTATIONS)
@pytest.mark.parametrize(("size", "padding"), [((9, 7), 1), ((1, 1), 1), ((6, 8), 0)])
def test_taps_at_rest_are_a_convolution(conv, size, padding):
    x, offset, mask, weight = (t.detach() for t in inputs(size=size))
    height, width = (n + 2 * padding - 2 for n in size)
    offset = torch.zeros_like(offset)[:, :, :height, :width]
    mask = torch.ones_like(mask)[:, :, :height, :width]
    expected = F.conv2d(x, weight, padding=padding)
    torch.testing.assert_close(conv(x, offset, mask, weight, padding), expected)


def test_whole_offsets_shift_the_image_down_before_right():
    x, offset, mask, weight = (t.detach() for t in inputs(kernel=1, size=(5, 6)))
    offset[:, 0], offset[:, 1] = 1, -2
    expected = F.conv2d(F.pad(x, (2, 0, 0, 1))[:, :, 1:, :6], weight) * mask
    torch.testing.assert_close(deform.deform_conv2d(x, offset, mask, weight, 0), expected)


def test_half_precision_moves_taps_by_float32():
    half = [t.detach().bfloat16() for t in inputs(size=(4, 300))]
    found = deform.deform_conv2d(*half[:3], half[3].float(), 1)
    assert found.dtype == torch.float32
    expected = deform.by_taps(*(t.double() for t in half), 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_torchvision_is_used_only_if_it_loads(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    for module in (None, Broken("torchvision.ops")):  # None: not installed
        monkeypatch.setitem(sys.modules, "torchvision.ops", module)
        assert deform.torchvision_kernel() is None


def test_torchvisions_kernel_is_given_its_arguments(monkeypatch):
    def kernel(input, offset, weight, bias=None, stride=1, padding=0, dilation=1, mask=None):
        assert (bias, stride, dilation) == (None, 1, 1)
        return -deform.by_taps(input, offset, mask, weight, padding)

    args = [t.detach() for t in inputs()]
    monkeypatch.setattr(deform, "KERNEL", kernel)
    assert torch.equal(deform.deform_conv2d(*args, 1), -deform.by_taps(*args, 1))


def test_supervision_returns_five_logits_in_training_only():
    model = network(supervised=True).train()
    x = torch.rand(2, 3, 32, 48)
    logits = model(x)
    assert isinstance(logits, list) and [t.shape for t in logits] == [(2, 1, 32, 48)] * 5
    fused, *four = logits
    torch.testing.assert_close(fused, torch.stack(four).mean(0))
    sum(t.square().mean() for t in logits).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
    plain = network(seed=1).train()
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(plain(x), four[0])
        plain.load_state_dict(model.state_dict())  # training moved the running averages
        assert torch.equal(model.eval()(x), plain.eval()(x))


def test_side_outputs_do_not_mind_the_order_of_resize_and_convolution():
    torch.manual_seed(0)
    head, d = nn.Conv2d(43, 1, 1), torch.randn(1, 43, 8, 8)
    before, after = (
        F.interpolate(t, size=(32, 32), mode="bilinear", align_corners=False) for t in (d, head(d))
    )
    torch.testing.assert_close(head(before), after, rtol=1e-4, atol=1e-5)


def test_deformable_convolutions_begin_as_in_the_code():
    found = [m for m in network().modules() if isinstance(m, deform.DeformConv2d)]
    assert [(m.in_channels, m.out_channels) for m in found] == [(16, 16), (40, 40), (80, 80)]
    for m in found:
        assert (m.offset.weight == 0).all() and (m.mask.weight == 0.5).all()
        assert (m.offset.bias != 0).any() and m.bias is None


def test_the_input_is_scaled_inside():
    x = torch.rand(1, 3, 32, 32)
    scaled, raw = network().eval(), network(input_scale=1.0).eval()
    with torch.inference_mode():
        torch.testing.assert_close(scaled(x), raw(255.0 * x))
        assert not torch.allclose(scaled(x), raw(x))
