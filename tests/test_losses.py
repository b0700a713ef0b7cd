"""Losses against their definitions, and their limits."""

import math

import pytest
import torch

from resegment import losses


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 9, 7, generator=g, dtype=torch.float64)
    return logits, (torch.rand(2, 1, 9, 7, generator=g) < 0.2).double()


def test_definitions(pair):
    logits, y = pair
    p = 1 / (1 + torch.exp(-logits))
    inter, both = (p * y).sum(), p.sum() + y.sum()
    expected = {
        "bce": -(y * p.log() + (1 - y) * (1 - p).log()).mean(),
        "dice": 1 - (2 * inter + 1) / (both + 1),
        "iou": 1 - (inter + 1) / (both - inter + 1),
    }
    for name, value in expected.items():
        assert losses.TERMS[name](logits, y).item() == pytest.approx(value.item(), abs=1e-9), name
    total = losses.total(logits, y, {"dice": 1.0, "bce": 0.5})
    assert total.item() == pytest.approx(
        (expected["dice"] + 0.5 * expected["bce"]).item(), abs=1e-5
    )


@pytest.mark.parametrize("name", losses.TERMS)
def test_a_perfect_map_costs_nothing_and_a_wrong_one_everything(name, pair):
    y = pair[1]
    assert losses.TERMS[name](200 * y - 100, y).item() == pytest.approx(0, abs=1e-6)
    assert losses.TERMS[name](100 - 200 * y, y).item() > 0.9


@pytest.mark.parametrize("name", losses.TERMS)
def test_an_empty_label_has_a_finite_gradient(name):
    logits = torch.full((1, 1, 4, 4), -3.0, requires_grad=True)
    loss = losses.TERMS[name](logits, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(logits.grad).all()
