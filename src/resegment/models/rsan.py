"""RSAN: residual spatial attention network for retinal vessel segmentation, arXiv 2009.08829.

A U-Net of width 16 whose every level is a pre-activation residual block followed by a residual
spatial attention block (RSAB), with DropBlock (Ghiasi, Lin, Le 2018, the paper's [6]) after every
3x3 convolution. The authors' Keras code is github.com/clguo/RSAN; this one is written from the
paper, and from the facts of that code where the paper is silent.

Where the paper is silent or its code disagrees (ids in data/published/deviations.csv):
1. The text upsamples by a 2x2 transposed convolution, the code by 3x3. Code that ran is
   believed: 3x3, deviation rsan-01-deconvolution. The text is `deconvolution: 2`.
2. "Backbone" is not in the code, and one sentence of the paper: here two residual blocks a level
   without DropBlock, attention and the last BN -> ReLU; Backbone+DropBlock is RSAN without
   attention: deviation rsan-02-backbone.
3. DropBlock is cited, not described. As in the code every channel has its own mask, a block lies
   wholly inside the map, and what is kept is scaled by one factor for the batch. A map smaller than
   the block, which the code cannot take, shrinks the block to fit: deviation rsan-03-dropblock.
4. Where a block changes its channels, the 1x1 convolution takes the block's raw input, without the
   batch normalisation and ReLU that the trunk begins with: deviation rsan-04-shortcut.
5. Initial weights and the constants of batch normalisation are those of the code: Glorot uniform
   with zero biases, He normal for attention; epsilon 2e-5, running averages with 0.9: deviation
   rsan-05-initial-weights.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VARIANTS = ("rsan", "dropblock", "backbone")
Drop = Callable[[], nn.Module]


class DropBlock(nn.Module):
    """Zeroes blocks of about 1 - keep of a map while training and scales up the rest."""

    def __init__(self, keep: float, block: int):
        super().__init__()
        self.keep, self.block = keep, block

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        height, width = x.shape[2:]
        b = min(self.block, height, width)
        places = (height - b + 1) * (width - b + 1)  # where a block fits
        gamma = (1 - self.keep) / b**2 * height * width / places
        corners = torch.rand_like(x[:, :, b - 1 :, b - 1 :], dtype=torch.float32) < gamma
        dropped = dilated(dilated(F.pad(corners, [b - 1] * 4), b, 2), b, 3)  # (B, C, H, W)
        kept = ~dropped
        scale = kept.numel() / kept.count_nonzero().clamp(min=1)
        return x * (kept * scale.to(x.dtype))


def dilated(mask: Tensor, width: int, dim: int) -> Tensor:
    """Whether any of `width` neighbours is true: a maximum filter without padding, of bytes.

    The span doubles from step to step, so that it takes log2(width) passes.
    """
    span = 1
    while span < width:
        more = min(span, width - span)
        left = mask.shape[dim] - more
        mask = mask.narrow(dim, 0, left) | mask.narrow(dim, more, left)
        span += more
    return mask


def norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=2e-5, momentum=0.1), nn.ReLU())


def trunk(inputs: int, outputs: int, drop: Drop) -> nn.Sequential:
    """Figure 3c without its shortcut: [BN -> ReLU -> conv 3x3 -> DropBlock] x 2."""
    return nn.Sequential(
        norm_relu(inputs), nn.Conv2d(inputs, outputs, 3, padding=1), drop(),
        norm_relu(outputs), nn.Conv2d(outputs, outputs, 3, padding=1), drop(),
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """Figure 3c, with a 1x1 convolution as shortcut where the channels change."""

    def __init__(self, inputs: int, outputs: int, drop: Drop):
        super().__init__()
        self.trunk = trunk(inputs, outputs, drop)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.trunk(x)


class SpatialAttention(nn.Module):
    """Equations 2-4: features * sigmoid(conv 7x7 of their maximum and mean over the channels)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.conv(pooled))


class ResidualSpatialAttentionBlock(nn.Module):
    """Figure 4 and the BN -> ReLU that follows it in figure 1; either can be left out."""

    def __init__(self, channels: int, drop: Drop, attention: bool, after: bool):
        super().__init__()
        self.trunk = trunk(channels, channels, drop)
        self.attend = SpatialAttention() if attention else nn.Identity()
        self.after = norm_relu(channels) if after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.attend(self.trunk(x)))


def initialise(module: nn.Module) -> None:
    """Keras' initial weights: Glorot uniform and zero biases, He normal for attention."""
    if isinstance(module, SpatialAttention):
        nn.init.kaiming_normal_(module.conv.weight)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class RSAN(nn.Module):
    """variant: "rsan", "dropblock" (without attention) or "backbone" (without DropBlock, too).

    deconvolution: the kernel that upsamples, 3 (the code) or 2 (the text). keep: the probability
    of keeping a unit, 0.85 for DRIVE and 0.78 for CHASE; block: the side of a dropped block.
    """

    def __init__(
        self,
        *,
        variant: str = "rsan",
        deconvolution: int = 3,
        keep: float = 0.85,
        block: int = 7,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise TypeError(f"variant is rsan, dropblock or backbone, not {variant!r}")
        if deconvolution not in (2, 3):
            raise TypeError(f"deconvolution is 3 or 2, not {deconvolution!r}")
        if not 0 < keep <= 1 or block < 1:
            raise TypeError(f"keep is in (0, 1] and block at least 1, not {keep!r} and {block!r}")
        drop = nn.Identity if variant == "backbone" else partial(DropBlock, keep, block)
        attention, after = variant == "rsan", variant != "backbone"

        def level(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                ResidualBlock(inputs, outputs, drop),
                ResidualSpatialAttentionBlock(outputs, drop, attention, after),
            )

        def up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
            k = deconvolution
            return nn.ConvTranspose2d(inputs, outputs, k, 2, padding=k - 2, output_padding=k - 2)

        self.stride = 8
        self.enc1, self.enc2, self.enc3 = level(3, 16), level(16, 32), level(32, 64)
        self.bottleneck = level(64, 128)
        self.up3, self.up2, self.up1 = up(128, 64), up(64, 32), up(32, 16)
        self.dec3, self.dec2, self.dec1 = level(128, 64), level(64, 32), level(32, 16)
        self.head = nn.Conv2d(16, 1, 1)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        s1 = self.enc1(x)  # (B, 16, H, W)
        s2 = self.enc2(F.max_pool2d(s1, 2))  # (B, 32, H/2, W/2)
        s3 = self.enc3(F.max_pool2d(s2, 2))  # (B, 64, H/4, W/4)
        x = self.bottleneck(F.max_pool2d(s3, 2))  # (B, 128, H/8, W/8)
        x = self.dec3(torch.cat([self.up3(x), s3], 1))  # (B, 64, H/4, W/4)
        x = self.dec2(torch.cat([self.up2(x), s2], 1))  # (B, 32, H/2, W/2)
        x = self.dec1(torch.cat([self.up1(x), s1], 1))  # (B, 16, H, W)
        return self.head(x)  # (B, 1, H, W)


build = RSAN
