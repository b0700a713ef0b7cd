"""RSAN: its variants, its initial weights, and DropBlock as the authors define it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resegment import models
from resegment.models.rsan import DropBlock, SpatialAttention

VARIANTS = ["rsan", "dropblock", "backbone"]


def network(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("rsan", options)


def dropped(keep: float, shape: tuple[int, ...], block: int = 7) -> Tensor:
    """Where one draw of DropBlock is zero: (B, C, H, W) of 0 and 1."""
    return (DropBlock(keep, block).train()(torch.ones(shape)) == 0).float()


def test_dropblock_passes_everything_when_it_does_not_train():
    x = torch.rand(2, 3, 16, 16)
    assert DropBlock(0.5, 7).eval()(x) is x
    assert torch.equal(DropBlock(1.0, 7).train()(x), x)


@pytest.mark.parametrize("keep", [0.85, 0.78])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (16, 24), (8, 8)])
def test_dropblock_drops_about_one_minus_keep(keep, height, width):
    torch.manual_seed(0)
    share = dropped(keep, (32768 // (height * width), 128, height, width)).mean().item()
    places = (height - 6) * (width - 6)
    gamma = (1 - keep) / 49 * height * width / places
    covering = F.conv_transpose2d(torch.ones(1, 1, height - 6, width - 6), torch.ones(1, 1, 7, 7))
    expected = 1 - ((1 - gamma) ** covering).mean().item()
    assert share == pytest.approx(expected, abs=0.004)
    assert 0.85 * (1 - keep) < share < 1 - keep  # blocks overlap


def test_dropblock_scales_by_one_factor_for_the_batch():
    torch.manual_seed(0)
    x = torch.rand(3, 5, 20, 28) + 1
    y = DropBlock(0.85, 7).train()(x)
    kept = (y != 0).float()
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(y, x * (kept * (kept.numel() / kept.sum())))
    assert y[kept == 1].min() > 1  # nothing is kept at less than its value


def test_dropblock_gives_gradients_where_it_keeps():
    torch.manual_seed(0)
    x = torch.rand(1, 4, 20, 20, requires_grad=True)
    y = DropBlock(0.85, 7).train()(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


@pytest.mark.parametrize("block", [7, 5, 4])
def test_dropblock_drops_whole_blocks_inside_the_map(block):
    torch.manual_seed(0)
    zero = dropped(0.97, (4, 16, 33, 41), block)
    assert 0 < zero.mean() < 0.1
    whole = (F.avg_pool2d(zero, block, stride=1) > 1 - 1e-6).float()  # corners of full blocks
    again = F.max_pool2d(F.pad(whole, [block - 1] * 4), block, stride=1)
    assert torch.equal(again, zero)
    lone = zero.flatten(2).sum(2)
    assert lone[lone > 0].min() == block**2


def test_dropblock_has_a_mask_for_every_image_and_channel():
    torch.manual_seed(0)
    zero = dropped(0.7, (3, 4, 32, 32)).flatten(0, 1).flatten(1)
    assert len({bytes(row.byte().tolist()) for row in zero}) == 12


def test_a_map_smaller_than_the_block_is_dropped_by_the_block_that_fits():
    torch.manual_seed(0)
    zero = dropped(0.85, (200, 40, 4, 4)).flatten(2).mean(2)
    assert set(zero.unique().tolist()) == {0.0, 1.0}  # the whole map or nothing
    assert zero.mean().item() == pytest.approx(0.15, abs=0.015)
    columns = dropped(0.85, (50, 40, 4, 9))
    assert torch.equal(columns.amin(2), columns.amax(2)) and 0 < columns.mean() < 0.2


def test_dropblock_survives_dropping_everything():
    y = DropBlock(1e-9, 7).train()(torch.ones(2, 3, 1, 1))
    assert torch.equal(y, torch.zeros(2, 3, 1, 1))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_dropblock_follows_type_layout_and_torchs_generator(memory):
    x = torch.ones(2, 8, 16, 16, dtype=torch.bfloat16).contiguous(memory_format=memory)
    drop = DropBlock(0.85, 7).train()
    torch.manual_seed(3)
    first, then = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first) and not torch.equal(first, then)
    assert first.dtype == x.dtype and first.is_contiguous(memory_format=memory)


def test_attention_weighs_places_by_maximum_and_mean():
    torch.manual_seed(0)
    attend = SpatialAttention()
    assert sum(p.numel() for p in attend.parameters()) == 98
    x = torch.randn(2, 5, 9, 11)
    pooled = torch.stack([x.max(1).values, x.mean(1)], 1)
    weight = torch.sigmoid(F.conv2d(pooled, attend.conv.weight, padding=3))
    torch.testing.assert_close(attend(x), x * weight)
    with torch.no_grad():
        attend.conv.weight.zero_()
    assert torch.equal(attend(x), x / 2)


def test_a_level_is_figures_3c_and_4():
    level = network().eval().enc2
    x = torch.rand(2, 16, 10, 14) - 0.5
    with torch.no_grad():
        for _, bias in (n for n in level.named_parameters() if n[0].endswith("bias")):
            bias.normal_()

        def trunk(layers: nn.Module, x: Tensor) -> Tensor:
            norm1, conv1, _, norm2, conv2, _ = layers
            return conv2(torch.relu(norm2[0](conv1(torch.relu(norm1[0](x))))))

        first, second = level
        y = trunk(first.trunk, x) + first.shortcut(x)  # the raw input
        y = y + second.attend(trunk(second.trunk, y))
        torch.testing.assert_close(level(x), torch.relu(second.after[0](y)))


def test_the_variants_have_the_modules_of_their_names():
    for variant, blocks, attentions in [("rsan", 28, 7), ("dropblock", 28, 0), ("backbone", 0, 0)]:
        modules = list(network(variant=variant, keep=0.78, block=5).modules())
        drops = [m for m in modules if isinstance(m, DropBlock)]
        assert len(drops) == blocks and {(d.keep, d.block) for d in drops} <= {(0.78, 5)}
        assert sum(isinstance(m, SpatialAttention) for m in modules) == attentions


def test_the_variants_differ_by_attention_and_by_the_last_norm_alone():
    rsan, drop, backbone = (network(variant=v).eval() for v in VARIANTS)
    keys = [set(m.state_dict()) for m in (rsan, drop, backbone)]
    assert keys[0] > keys[1] > keys[2]
    assert len(keys[0] - keys[1]) == 7
    assert all(k.endswith("attend.conv.weight") for k in keys[0] - keys[1])
    assert len(keys[1] - keys[2]) == 7 * 5 and all(".after." in k for k in keys[1] - keys[2])
    x = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        for part, fuller, barer in [("attend", rsan, drop), ("after", drop, backbone)]:
            barer.load_state_dict(fuller.state_dict(), strict=False)
            assert not torch.equal(fuller(x), barer(x))
            for module in fuller.modules():
                if hasattr(module, part):
                    setattr(module, part, nn.Identity())
            assert torch.equal(fuller(x), barer(x))


def test_initial_weights_are_those_of_keras():
    model = network()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
    weight = model.bottleneck[1].trunk[1].weight  # 128 -> 128, 3x3
    limit = (6 / (9 * 256)) ** 0.5
    assert 0.99 * limit < weight.abs().max() <= limit
    attention = torch.cat([m.conv.weight.flatten() for m in model.modules() if hasattr(m, "conv")])
    assert attention.std().item() == pytest.approx((2 / 98) ** 0.5, rel=0.1)
