"""What every network must do, one set of tests for all: count, train, learn, be stored, take any
size. What is special to one of them stands in test_models_<name>.py."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from resegment import models
from resegment.catalogue import CATALOGUE, MIDDLE, WIDE
from resegment.errors import UserError
from resegment.models.layers import forward_padded, to_input

COUNTS = [  # name, options, trainable, total: counted for each reading of the papers
    ("unet", {}, 31_031_745, 31_031_745),
    ("unet", {"width": 8, "depth": 3, "norm": True}, 29_785, 30_105),
    ("rga_net", {}, 38_903, 39_639),
    ("rga_net", {"partial_decoder": "conv"}, 21_687, 22_263),
    ("rga_net", {"partial_decoder": "none"}, 20_807, 21_319),
    ("rga_net", {"attention": False}, 20_732, 21_244),
    ("rga_net", {"filters": WIDE}, 2_385_583, 2_391_439),
    ("rga_net", {"filters": WIDE, "partial_decoder": "none"}, 2_361_375, 2_367_007),
    ("rga_net", {"filters": WIDE, "attention": False}, 2_360_476, 2_366_108),
    ("rga_net", {"filters": MIDDLE}, 619_951, 622_991),
    ("rga_net", {"filters": MIDDLE, "partial_decoder": "none"}, 599_071, 601_887),
    ("rga_net", {"filters": MIDDLE, "attention": False}, 598_620, 601_436),
    ("rsan", {}, 1_051_029, 1_054_523),
    ("rsan", {"deconvolution": 2}, 997_269, 1_000_763),
    ("rsan", {"variant": "dropblock"}, 1_050_343, 1_053_837),
    ("rsan", {"variant": "backbone"}, 1_049_639, 1_052_429),
    ("bcdu_net", {}, 20_658_821, 20_659_717),
    ("bcdu_net", {"outputs": 2}, 20_658_824, 20_659_720),
    ("bcdu_net", {"dense": 1}, 8_860_293, 8_861_189),
    ("hybridnetseg", {}, 709_946, 725_474),
    ("hybridnetseg", {"supervised": True}, 709_946, 725_474),
    ("hybridnetseg", {"grouped": False}, 895_994, 911_522),
    ("hybridnetseg", {"deformable": False}, 602_513, 618_041),
    ("hybridnetseg", {"squeeze": False}, 530_304, 545_832),
    ("mini_net", {}, 36_657, 37_685),
    ("mini_net", {"reading": "gray"}, 36_657, 37_685),
]
# Those that a test can train: BCDU-Net at an eighth of its width, the others as they are.
TRAINED = [(name, options) for name, options, trainable, _ in COUNTS if trainable < 2_000_000]
TRAINED += [("bcdu_net", {**o, "width": 8}) for name, o, _, _ in COUNTS if name == "bcdu_net"]
STEPS, RATE = 120, {"rsan": 3e-3, "bcdu_net": 3e-3}  # of Adam; 0.01 for the others
SEED = {"bcdu_net": 2}  # other seeds kill both channels before the last layer: see its file
UNTRAINED = ("side2.", "side3.", "side4.")  # HybridNetSeg's heads, unless `supervised`


def named(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items()) or "default"
    return str(value)


every = pytest.mark.parametrize(("name", "options"), TRAINED, ids=named)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(name: str, options: dict, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(name, options)


def shapes(n: int = 4, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images with noise in which the label, a few smooth blobs, can be seen."""
    rng = torch.Generator().manual_seed(7)
    label = F.interpolate(torch.randn(n, 1, 6, 6, generator=rng), size=size, mode="bilinear") > 0.3
    noise = torch.rand(n, 3, size, size, generator=rng)
    return 0.5 * label.float() + 0.5 * noise, label.float()


def loss(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """Cross entropy, of all outputs where a network in training has several."""
    logits = model(image)
    several = logits if isinstance(logits, list) else [logits]
    return sum(F.binary_cross_entropy_with_logits(y, label) for y in several)


def test_every_network_of_the_catalogue_is_counted():
    assert [(e.name, e.options) for e in unique()] == [(n, o) for n, o, _, _ in COUNTS]


def unique():
    """The catalogue's entries, once each whatever their sizes."""
    return list({(e.name, repr(e.options)): e for e in reversed(CATALOGUE)}.values())[::-1]


@pytest.mark.parametrize(("name", "options", "trainable", "total"), COUNTS, ids=named)
def test_parameters_are_those_of_the_reading(name, options, trainable, total):
    with torch.device("meta"):
        model = models.build(name, options)
    assert models.count(model) == {"trainable": trainable, "total": total}


@every
def test_a_step_gives_every_parameter_a_gradient(name, options):
    model = network(name, options).train()
    loss(model, *shapes(2)).backward()
    for key, p in model.named_parameters():
        if key.startswith(UNTRAINED) and not options.get("supervised"):
            assert p.grad is None, key
        else:
            assert p.grad is not None and torch.isfinite(p.grad).all(), key


@every
def test_it_learns_four_images_by_heart(name, options):
    model = network(name, options, SEED.get(name, 0))
    image, label = shapes()
    assert 0.2 < label.mean() < 0.8
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE.get(name, 1e-2))
    for step in range(1, STEPS + 1):
        optimiser.zero_grad()
        loss(model.train(), image, label).backward()
        optimiser.step()
        if step % 10 == 0:
            with torch.inference_mode():
                right = ((model.eval()(image) > 0) == (label > 0.5)).float().mean().item()
            if right > 0.95:
                return
    raise AssertionError(f"{right:.3f} of the pixels are right after {STEPS} steps")


@every
def test_saved_and_read_again_it_predicts_the_same_bytes(name, options):
    model, again, (image, _) = network(name, options), network(name, options, 1), shapes(2)
    with torch.inference_mode():
        model.train()(image)  # moves the running averages
        before, other = model.eval()(image), again.eval()(image)
        assert not torch.equal(before, other)
        stored = save(model.state_dict())
        again.load_state_dict(load(stored))
        assert save(again.state_dict()) == stored
        assert again(image).numpy().tobytes() == before.numpy().tobytes()


@every
@pytest.mark.parametrize("size", [(1, 1), (37, 61)])
def test_logits_have_the_images_size(name, options, size):
    model = network(name, options).eval()
    with torch.inference_mode():
        logits = forward_padded(model, torch.rand(2, 3, *size))
    assert logits.shape == (2, 1, *size) and torch.isfinite(logits).all()


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
    [
        ("resnet", {}, "resnet"),
        ("unet", {"depht": 3}, "depht"),
        ("rga_net", {"partial_decoder": "x"}, "partial_decoder"),
        *(("bcdu_net", o, f"bcdu_net.*{next(iter(o))}") for o in (
            {"dense": 2}, {"outputs": 3}, {"depth": 3},
        )),
        *(("rsan", o, next(iter(o))) for o in (
            {"variant": "x"}, {"deconvolution": 4}, {"keep": 0}, {"keep": 1.5}, {"block": 0},
        )),
        ("hybridnetseg", {"dcn": False}, "dcn"),
        ("mini_net", {"reading": "lab"}, "reading"),
    ],
    ids=named,
)  # fmt: skip
def test_a_wrong_model_is_named(name, options, said):
    with pytest.raises(UserError, match=said):
        models.build(name, options)
