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
        "squared_dice": (1 - (inter + 0.5) / (both + 1)) ** 2,
        "pixel_iou": 1 - (p * y / (p + y - p * y)).mean(),
    }
    for name, value in expected.items():
        assert losses.TERMS[name](logits, y).item() == pytest.approx(value.item(), abs=1e-9), name
    total = losses.total(logits, y, {"dice": 1.0, "bce": 0.5})
    assert total.item() == pytest.approx(
        (expected["dice"] + 0.5 * expected["bce"]).item(), abs=1e-5
    )


def test_weighted_dice_is_dice_of_both_classes_weighted_by_area(pair):
    logits, y = pair
    p, area = torch.sigmoid(logits), (y.sum() + 1, (1 - y).sum() + 1)
    above = (p * y).sum() / area[0] ** 2 + ((1 - p) * (1 - y)).sum() / area[1] ** 2
    below = (p + y).sum() / area[0] ** 2 + (2 - p - y).sum() / area[1] ** 2
    assert losses.weighted_dice(logits, y).item() == pytest.approx((1 - 2 * above / below).item())


def test_a_list_of_logits_costs_the_sum(pair):
    logits, y = pair
    one = losses.total(logits, y, {"bce": 0.5, "dice": 0.5})
    two = losses.total(logits / 2, y, {"bce": 0.5, "dice": 0.5})
    both = losses.total([logits, logits / 2], y, {"bce": 0.5, "dice": 0.5})
    assert both.item() == pytest.approx((one + two).item())


def test_alpha_falls_by_a_hundredth_an_epoch_or_not_at_all():
    assert [losses.alpha("linear", e) for e in (0, 1, 50, 99, 300)] == pytest.approx(
        [1, 0.99, 0.5, 0.01, 0.01]
    )
    assert {losses.alpha(how, e) for how in ("one", "error") for e in (0, 50)} == {1.0}


def test_error_weights_each_image_by_its_share_and_has_no_gradient_of_its_own(pair):
    logits, y = pair
    logits = logits.clone().requires_grad_()
    each = torch.stack([losses.bce(logits[i : i + 1], y[i : i + 1]) for i in range(2)])
    value = losses.total(logits, y, {"bce": 1.0}, "error")
    assert value.item() == pytest.approx((each**2).mean().item() / each.mean().item(), abs=1e-6)
    value.backward()
    share = (each / each.mean()).detach()
    expected = torch.autograd.grad((share * each).mean(), logits)[0]
    assert torch.allclose(logits.grad, expected, atol=1e-7)


PERFECT = {"squared_dice": 0.25, "pixel_iou": None}  # None: one minus the share of vessels


@pytest.mark.parametrize("name", losses.TERMS)
def test_a_perfect_map_costs_nothing_and_a_wrong_one_everything(name, pair):
    y = pair[1]
    least = PERFECT.get(name, 0.0)
    least = 1 - y.mean().item() if least is None else least
    assert losses.TERMS[name](200 * y - 100, y).item() == pytest.approx(least, abs=1e-6)
    assert losses.TERMS[name](100 - 200 * y, y).item() > 0.9


@pytest.mark.parametrize("name", losses.TERMS)
def test_an_empty_label_has_a_finite_gradient(name):
    logits = torch.full((1, 1, 4, 4), -3.0, requires_grad=True)
    loss = losses.TERMS[name](logits, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(logits.grad).all()
