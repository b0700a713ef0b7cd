"""Maps: at once or in overlapping patches, and on other sets at the run's own thresholds."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from resegment import paths, predict, score
from resegment.errors import UserError
from resegment.protocols import COMMON

CPU = torch.device("cpu")
WHOLE = {"patch": None, "stride": None}


class Pointwise(nn.Module):
    """A network without neighbours: patches and the whole image must agree."""

    stride = 4

    def forward(self, x):
        return 6 * x[:, :1] - 3


class Corner(nn.Module):
    """1 in the first pixel of whatever it is shown, 0 elsewhere."""

    stride = 1

    def forward(self, x):
        y = torch.full_like(x[:, :1], -torch.inf)
        y[:, :, 0, 0] = torch.inf
        return y


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)


@pytest.mark.parametrize("inference", [(16, 5), (16, 16), (64, 64), (37, 3)])
def test_patches_average_to_the_whole_where_neighbours_do_not_matter(image, inference):
    tiles = dict(zip(("patch", "stride"), inference, strict=True))
    draw = predict.drawing(Pointwise(), CPU)
    whole = predict.probability(draw, image, CPU, WHOLE)
    tiled = predict.probability(draw, image, CPU, tiles)
    assert tiled.shape == image.shape[:2] and tiled.dtype == np.uint16
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_every_pixel_is_the_mean_of_the_patches_over_it(image):
    tiled = predict.probability(
        predict.drawing(Corner(), CPU), image, CPU, {"patch": 4, "stride": 2}
    )
    inner = tiled[2:34, 2:58] / 65535
    assert np.array_equal(np.argwhere(inner > 0) % 2, np.zeros_like(np.argwhere(inner > 0)))
    assert np.allclose(
        inner[::2, ::2], 1 / 4, atol=1e-5
    )  # first pixel of one of the four patches over it
    assert tiled[0, 0] == 65535


def test_tiling_is_the_plain_loop_over_patches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    model.stride = 1
    image = torch.rand(1, 3, 21, 26)
    total, times = torch.zeros(2, 23, 28, dtype=torch.float64)  # 8 + 5 k rows and columns
    padded = nn.functional.pad(image, (0, 2, 0, 2))
    with torch.no_grad():
        for y, x in product(range(0, 16, 5), range(0, 21, 5)):
            p = torch.sigmoid(model(padded[..., y : y + 8, x : x + 8]))[0, 0]
            total[y : y + 8, x : x + 8] += p
            times[y : y + 8, x : x + 8] += 1
        draw = predict.drawing(model, CPU)
        found = predict.tiled(draw, image, 8, 5, at_once=3)
        assert torch.equal(found, predict.tiled(draw, image, 8, 5, at_once=3))
    assert torch.allclose(found, (total / times)[:21, :26], rtol=0, atol=1e-6)


def test_a_drive_image_has_10710_patches_of_which_one_row_is_held():
    seen = []
    draw = lambda x: seen.append(x.shape) or x[:, :1].double()  # noqa: E731
    predict.tiled(draw, torch.zeros(1, 3, 584, 565), 64, 5)
    assert sum(x[0] for x in seen) == 10_710 and max(x[0] for x in seen) == 16
    assert {tuple(x[1:]) for x in seen} == {(3, 64, 64)}


def test_thresholds_of_another_set_are_the_runs_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="score a/b/s0 on its own images first"):
        score.frozen({"common": COMMON}, "a/b/s0")
    paths.scores("a/b/s0").mkdir(parents=True)
    (paths.scores("a/b/s0") / "metrics.json").write_text(json.dumps({"common": {"threshold": 0.4}}))
    frozen = score.frozen({"common": COMMON}, "a/b/s0")["common"]
    assert frozen.threshold == 0.4 and frozen.region == COMMON.region
