"""HybridNetSeg: a compact hybrid network for retinal vessel segmentation, arXiv 1911.09982.

A U-Net whose encoder is three hybrid convolution blocks (HCB), each a deformable convolution
followed by MobileNetV3-like blocks with depthwise kernels of several sizes (MNBlock), and whose
decoder is M2U-Net's (arXiv 1811.07738, the paper's [14]). The authors' code is
github.com/JACKYLUO1991/HybridNetSeg, commit 669f749 (later ones hold another network); this one is
written from the paper, and from the facts of that code where the paper is silent.

Where the paper is silent or its code disagrees (ids in data/published/deviations.csv):
1. The code splits most 1x1 convolutions of the MNBlocks into two groups. The paper does not say so,
   but only then has the network its 0.71 M parameters: deviation hybridnetseg-01-groups. Whole ones
   are `grouped: false`.
2. "se" in table 1 is a ratio of an unnamed width. Of the block's input channels, as in the code;
   with ReLU where MobileNetV3 has h-swish: deviation hybridnetseg-02-squeeze.
3. Neither convolutions nor initial weights of offsets and masks are given. As in the code: 3x3 with
   bias, weights 0 for offsets and 0.5 for masks, torch's own biases; masks are limited to 0..1 by
   a sigmoid: deviation hybridnetseg-03-deformable.
4. Table 1 prints 64^2 as the input of HCB2's first MNBlock, which has stride 2 and an output of
   64^2: it is 128^2, deviation hybridnetseg-04-misprint.
5. The decoder is [14]'s without a table. As in the code, expansion 0.15, concatenation with HCB2,
   HCB1, the first convolution and the image itself, and batch normalisation at the end of every
   block, hence on the logit; bilinear with half-pixel centres: deviation hybridnetseg-05-decoder.
6. Equation 3 sums n = 4 losses, times 1 + 1/n; the code sums five: of the mean of the four logits,
   of d1 and of three side outputs; d1 is what it predicts. Here d1 alone unless `supervised: true`,
   which is table 6's "no": deviation hybridnetseg-06-outputs. A side output is a 1x1 convolution
   before upsampling instead of after it: the same function for 1/4 to 1/64 of the work.
7. The paper does not give the input's range, the code's is 0..255. Images are 0..1 here and are
   multiplied by `input_scale` inside; batch normalisation takes the factor back in the encoder,
   but not in the last block, which sees the image beside features:
   deviation hybridnetseg-07-input-range.
"""

import torch
from torch import Tensor, nn

from resegment.models.hybridnetseg.deform import DeformConv2d
from resegment.models.hybridnetseg.deform import kernel_in_use as kernel_in_use
from resegment.models.layers import Depthwise, upsample_to

# Table 1, a row an MNBlock: channels out, stride, kernels, t, se (0: none), and what the code adds,
# the groups of the 1x1 convolutions that expand and project
Row = tuple[int, int, tuple[int, ...], int, float, int, int]
HCB1: list[Row] = [
    (24, 2, (3,), 6, 0, 2, 2),
    (24, 1, (3,), 3, 0, 2, 2),
    (40, 1, (3, 5, 7), 6, 0.5, 1, 1),
    (40, 1, (3, 5), 6, 0.5, 2, 2),
]
HCB2: list[Row] = [
    (80, 2, (3, 5, 7), 6, 0.25, 1, 2),
    (80, 1, (3, 5), 6, 0.25, 1, 2),
    (80, 1, (3, 5), 6, 0.25, 1, 2),
    (80, 1, (3, 5), 6, 0.25, 1, 2),
]
HCB3: list[Row] = [
    (80, 2, (3, 5, 7, 9), 6, 0.5, 2, 2),
    (120, 1, (3, 5), 3, 0.5, 2, 2),
    (120, 1, (3, 5), 3, 0.5, 2, 2),
]


def pointwise(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


def deformable_conv(channels: int) -> DeformConv2d:
    """DCN v2 with the initial weights of the code."""
    dcn = DeformConv2d(channels, channels)
    nn.init.zeros_(dcn.offset.weight)
    nn.init.constant_(dcn.mask.weight, 0.5)
    return dcn


class StridedDepthwise(Depthwise):
    """k x k convolution of every channel by itself, at every stride-th place."""

    def __init__(self, channels: int, kernel: int, stride: int):
        super().__init__(channels, kernel)
        self.stride = (stride, stride)


class MixedDepthwise(nn.Module):
    """MixConv: equal shares of the channels, each with its own size of kernel."""

    def __init__(self, channels: int, kernels: tuple[int, ...], stride: int):
        super().__init__()
        self.share = share = channels // len(kernels)
        self.convs = nn.ModuleList(StridedDepthwise(share, k, stride) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        shares = x.split(self.share, 1)
        return torch.cat([conv(s) for conv, s in zip(self.convs, shares, strict=True)], 1)


class SqueezeExcite(nn.Module):
    """Weighs the channels by what their means say."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class MNBlock(nn.Module):
    """Expand by t, mix depthwise, weigh the channels, project; around it a shortcut if it fits."""

    def __init__(self, inputs: int, row: Row, grouped: bool, squeeze: bool):
        super().__init__()
        outputs, stride, kernels, t, se, expand, project = row
        width = inputs * t
        self.trunk = nn.Sequential(
            pointwise(inputs, width, expand if grouped else 1), nn.ReLU(),
            MixedDepthwise(width, kernels, stride), nn.BatchNorm2d(width), nn.ReLU(),
            SqueezeExcite(width, int(inputs * se)) if se and squeeze else nn.Identity(),
            pointwise(width, outputs, project if grouped else 1),
        )  # fmt: skip
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(x) if self.shortcut else self.trunk(x)


def hybrid(
    inputs: int, rows: list[Row], deformable: bool, grouped: bool, squeeze: bool
) -> nn.Sequential:
    """HCB: a deformable convolution, with nothing after it, then MNBlocks."""
    widths = [inputs, *(row[0] for row in rows[:-1])]
    blocks = [MNBlock(i, row, grouped, squeeze) for i, row in zip(widths, rows, strict=True)]
    return nn.Sequential(*([deformable_conv(inputs)] if deformable else []), *blocks)


def contractive(inputs: int, outputs: int, t: float = 0.15) -> nn.Sequential:
    """[14]'s block: an inverted residual that narrows instead of widening, without a shortcut."""
    width = round(inputs * t)
    return nn.Sequential(
        pointwise(inputs, width), nn.ReLU6(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width), nn.ReLU6(),
        pointwise(width, outputs),
    )  # fmt: skip


class HybridNetSeg(nn.Module):
    """grouped: two groups in the 1x1 convolutions where the code has them. deformable, squeeze:
    false leaves out the deformable convolutions, the squeeze-and-excitation.

    supervised: while training, return the logits of the mixed loss's five terms as a list
    [fused, d1, side2, side3, side4], each of the input's size, instead of d1 alone. It changes no
    parameter: weights fit either setting, and without it the side heads stay as they began.
    """

    def __init__(
        self,
        *,
        grouped: bool = True,
        deformable: bool = True,
        squeeze: bool = True,
        supervised: bool = False,
        input_scale: float = 255.0,
    ):
        super().__init__()
        self.stride = 16
        self.supervised, self.input_scale = supervised, input_scale
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.hcb1, self.hcb2, self.hcb3 = (
            hybrid(inputs, rows, deformable, grouped, squeeze)
            for inputs, rows in ((16, HCB1), (40, HCB2), (80, HCB3))
        )
        self.dec4, self.dec3 = contractive(120 + 80, 100), contractive(100 + 40, 70)
        self.dec2, self.dec1 = contractive(70 + 16, 43), contractive(43 + 3, 1)
        self.side2, self.side3, self.side4 = (nn.Conv2d(c, 1, 1) for c in (43, 70, 100))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = x * self.input_scale  # (B, 3, H, W)
        s1 = self.stem(x)  # (B, 16, H/2, W/2)
        s2 = self.hcb1(s1)  # (B, 40, H/4, W/4)
        s3 = self.hcb2(s2)  # (B, 80, H/8, W/8)
        bottom = self.hcb3(s3)  # (B, 120, H/16, W/16)
        d4 = self.dec4(torch.cat([upsample_to(bottom, s3), s3], 1))  # (B, 100, H/8, W/8)
        d3 = self.dec3(torch.cat([upsample_to(d4, s2), s2], 1))  # (B, 70, H/4, W/4)
        d2 = self.dec2(torch.cat([upsample_to(d3, s1), s1], 1))  # (B, 43, H/2, W/2)
        d1 = self.dec1(torch.cat([upsample_to(d2, x), x], 1))  # (B, 1, H, W)
        if not (self.supervised and self.training):
            return d1
        heads = ((self.side2, d2), (self.side3, d3), (self.side4, d4))
        logits = [d1, *(upsample_to(head(d), x) for head, d in heads)]
        return [sum(logits) / 4, *logits]  # 5 x (B, 1, H, W)


build = HybridNetSeg
