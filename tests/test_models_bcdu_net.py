"""BCDU-Net: Keras' ConvLSTM and initial weights, dropout, gray, and which output is returned."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resegment import models
from resegment.models.bcdu_net import ConvLSTM, to_gray


def narrow(seed=0, **options):
    torch.manual_seed(seed)
    return models.build("bcdu_net", {"width": 4, **options})


def convolve(x, kernel):
    """(C, H, W) with (O, C, 3, 3), zeros around."""
    height, width = x.shape[1:]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    return sum(
        np.einsum("chw,oc->ohw", x[:, i : i + height, j : j + width], kernel[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )


def keras_conv_lstm(steps, kernel, recurrent, bias):
    """The documented recurrence, one gate at a time, from a state of zeros."""

    def hard_sigmoid(x):
        return np.where(x < -2.5, 0, np.where(x > 2.5, 1, 0.2 * x + 0.5))

    f = len(bias) // 4
    h = c = np.zeros((f, *steps[0].shape[1:]))
    for x in steps:
        gate = [
            convolve(x, kernel[k * f : k * f + f])
            + bias[k * f : k * f + f, None, None]
            + convolve(h, recurrent[k * f : k * f + f])
            for k in range(4)
        ]
        i, forget, o = hard_sigmoid(gate[0]), hard_sigmoid(gate[1]), hard_sigmoid(gate[3])
        c = forget * c + i * np.tanh(gate[2])
        h = o * np.tanh(c)
    return h


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_conv_lstm_is_keras_by_its_definition(steps):
    torch.manual_seed(1)
    cell = ConvLSTM(3, 2).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.normal_()  # wide enough to reach both flat ends of the gates
    sequence = [torch.randn(1, 3, 4, 5, dtype=torch.float64) for _ in range(steps)]
    weights = (cell.input.weight, cell.recurrent.weight, cell.input.bias)
    expected = keras_conv_lstm(
        [x[0].numpy() for x in sequence], *(w.detach().numpy() for w in weights)
    )
    np.testing.assert_allclose(cell(*sequence)[0].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_a_new_network_has_keras_initial_weights():
    model = narrow()
    for key, p in model.named_parameters():
        if key.endswith("input.bias"):
            f = len(p) // 4
            assert p.tolist() == [0] * f + [1] * f + [0] * 2 * f  # unit forget bias
        elif key.endswith("bias"):
            assert not p.any(), key
    r = model.merge6.recurrent.weight.flatten(1)
    torch.testing.assert_close(r @ r.T, torch.eye(len(r)), atol=1e-5, rtol=0)
    wide = model.bottleneck.d3[0][0].weight  # (32, 64, 3, 3)
    std = (2 / (64 * 9)) ** 0.5
    assert wide.std().item() == pytest.approx(std, rel=0.02)
    assert wide.abs().max() <= 2 * std / 0.8796
    deconvolution = model.up6[0].weight  # (32, 16, 2, 2): Keras counts the outputs
    assert deconvolution.std().item() == pytest.approx((2 / (16 * 4)) ** 0.5, rel=0.05)


def test_the_skip_comes_last_and_only_its_copy_is_dropped():
    model, seen = narrow(dense=1).train(), {}
    for name in ("conv3", "up6", "bottleneck", "merge6", "conv1", "up8", "merge8"):
        getattr(model, name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs, output)})
        )
    model(torch.rand(2, 3, 32, 32))
    conv3, (first, skip) = seen["conv3"][1], seen["merge6"][0]
    assert torch.equal(first, seen["up6"][1])
    assert torch.equal(seen["bottleneck"][0][0], F.max_pool2d(conv3, 2))
    dropped = (skip == 0) & (conv3 > 0)
    assert 0.4 < dropped.sum() / (conv3 > 0).sum() < 0.6
    assert torch.equal(skip[~dropped], 2 * conv3[~dropped])
    assert torch.equal(seen["merge8"][0][0], seen["up8"][1])
    assert torch.equal(seen["merge8"][0][1], seen["conv1"][1])  # no dropout on this skip


def test_gray_is_luma():
    x = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    assert to_gray(x).item() == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4)
    assert to_gray(torch.ones(2, 3, 4, 5)).shape == (2, 1, 4, 5)


def test_of_two_outputs_the_second_is_the_vessels():
    model, seen = narrow(outputs=2).eval(), []
    model.conv9.register_forward_hook(lambda *a: seen.append(a[2]))
    logits = model(torch.rand(1, 3, 16, 16))
    assert seen[0].shape == (1, 2, 16, 16) and torch.equal(logits[:, 0], seen[0][:, 1])
