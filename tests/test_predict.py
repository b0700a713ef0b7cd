"""Maps: at once or in overlapping patches, and on other sets at the run's own thresholds."""

import json

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
    whole = predict.probability(Pointwise(), image, CPU, WHOLE)
    tiled = predict.probability(Pointwise(), image, CPU, tiles)
    assert tiled.shape == image.shape[:2] and tiled.dtype == np.uint16
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_every_pixel_is_the_mean_of_the_patches_over_it(image):
    tiled = predict.probability(Corner(), image, CPU, {"patch": 4, "stride": 2})
    inner = tiled[2:34, 2:58] / 65535
    assert np.array_equal(np.argwhere(inner > 0) % 2, np.zeros_like(np.argwhere(inner > 0)))
    assert np.allclose(
        inner[::2, ::2], 1 / 4, atol=1e-5
    )  # first pixel of one of the four patches over it
    assert tiled[0, 0] == 65535


def test_a_drive_image_has_10710_patches(monkeypatch):
    seen = []
    monkeypatch.setattr(predict, "forward_padded", lambda m, x: seen.append(len(x)) or x[:, :1])
    predict.tiled(None, torch.zeros(1, 3, 584, 565), 64, 5)
    assert sum(seen) == 10_710 and max(seen) == 64


def test_thresholds_of_another_set_are_the_runs_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="score a/b/s0 on its own images first"):
        score.frozen({"common": COMMON}, "a/b/s0")
    paths.scores("a/b/s0").mkdir(parents=True)
    (paths.scores("a/b/s0") / "metrics.json").write_text(json.dumps({"common": {"threshold": 0.4}}))
    frozen = score.frozen({"common": COMMON}, "a/b/s0")["common"]
    assert frozen.threshold == 0.4 and frozen.region == COMMON.region
