"""Mini-Net: a lightweight network for medical image segmentation, arXiv 2405.17520.

Three levels of 8, 16 and 32 channels, one dual multi-residual block (DMRes) each, downsampled and
upsampled by strided convolutions and deconvolutions; decoder and encoder are added, not
concatenated. No official code is known. The paper prints 37,685 parameters, 36,657 of them
trainable; both readings offered here have exactly these, which is a calibration, not a proof.

Where the paper is silent or contradicts itself (ids in data/published/deviations.csv):
1. "Expand and squeeze blocks" replace the k x k convolutions and have no equation: a separable
   convolution, then a 1x1 convolution, then the equation's batch normalisation; no ReLU is added
   to those of the equations. Without the 1x1 the count is 20 % low, with full convolutions it is
   3.5 times too high: deviation mininet-01-expand-squeeze.
2. Equation 9 adds the encoder's features as they are. The 1,028 statistics that are not trainable
   leave 24 channels of batch normalisation, 8 + 16, which only the two skips can hold: each is an
   expand and squeeze block: deviation mininet-02-skip.
3. Of those 1,028, two more channels remain: Xout (equation 10) has two, not the C of the text, and
   equation 11 makes one of them: deviation mininet-03-two-channel-output.
4. The input's channels, the kernel of the skips and the biases decide the last 2 %. The
   reading "rgb" has Keras' separable convolutions (bias after the pointwise step only) throughout,
   3x3 in the skips, and in Xout as well: deviation mininet-04-reading. The reading "gray" takes one
   channel, has biases after the depthwise step as well, 1x1 in the skips and a plain 1x1 in Xout.
   Images are RGB to both: "gray" forms the luma of ITU-R BT.601 inside.
5. Equation 9 writes the decoder's second k x k convolutions as deconvolutions f_d; the text says
   that the decoder mirrors the encoder. They do not change the size and are convolutions here:
   deviation mininet-05-decoder-block.
6. Initial weights and the constants of batch normalisation are not stated: PyTorch's defaults,
   deviation mininet-06-initial-weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resegment.models.layers import Depthwise, Pointwise, SeparableConv2d, pointwise, to_gray


def conv_norm(channels: int) -> nn.Sequential:
    return nn.Sequential(Pointwise(channels, channels), nn.BatchNorm2d(channels))


class ExpandSqueeze(nn.Sequential):
    """Expand (depthwise k x k, pointwise) -> squeeze (1x1) -> BN.

    In training the two 1x1 maps, nothing between them, are multiplied first: the same function of
    the same parameters, for two thirds of the memory traffic.
    """

    def __init__(self, channels: int, kernel: int, depthwise_bias: bool):
        super().__init__(
            nn.Sequential(
                Depthwise(channels, kernel, depthwise_bias), Pointwise(channels, channels)
            ),
            Pointwise(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        (depthwise, expand), squeeze, norm = self
        inner, outer = expand.weight[..., 0, 0], squeeze.weight[..., 0, 0]
        bias = torch.addmv(squeeze.bias, outer, expand.bias)
        return norm(pointwise(depthwise(x), (outer @ inner)[..., None, None], bias))


class DualMultiResidual(nn.Module):
    """Equations 2-4: 3x3 beside 5x5, a residual 1x1, 3x3 beside 5x5 again, a 1x1 around it all."""

    def __init__(self, channels: int, depthwise_bias: bool):
        super().__init__()
        self.first3, self.first5, self.second3, self.second5 = (
            ExpandSqueeze(channels, k, depthwise_bias) for k in (3, 5, 3, 5)
        )
        self.residual, self.around = conv_norm(channels), conv_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        s1 = F.relu(self.first3(x) + self.first5(x))  # equation 2
        s2 = F.relu(self.residual(s1) + s1)  # equation 3
        return self.around(x) + self.second3(s2) + self.second5(s2)  # equation 4


class MiniNet(nn.Module):
    """reading: "rgb" (chosen) or "gray", the two that have the printed number of parameters."""

    def __init__(self, *, reading: str = "rgb"):
        super().__init__()
        if reading not in ("rgb", "gray"):
            raise TypeError(f"reading is rgb or gray, not {reading!r}")
        gray = reading == "gray"

        def block(channels: int) -> DualMultiResidual:
            return DualMultiResidual(channels, depthwise_bias=gray)

        def skip(channels: int) -> ExpandSqueeze:
            return ExpandSqueeze(channels, 1 if gray else 3, depthwise_bias=gray)

        def down(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)

        def up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)

        self.stride = 4
        self.gray = gray
        self.stem = nn.Sequential(nn.Conv2d(1 if gray else 3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.enc1, self.enc2, self.bottleneck = block(8), block(16), block(32)
        self.down1, self.down2 = down(8, 16), down(16, 32)
        self.up1, self.up2 = up(32, 16), up(16, 8)
        self.dec1, self.dec2 = block(16), block(8)
        self.skip1, self.skip2 = skip(16), skip(8)
        xout = nn.Conv2d(8, 2, 1) if gray else SeparableConv2d(8, 2, 1)
        self.xout = nn.Sequential(xout, nn.BatchNorm2d(2), nn.ReLU())
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.gray:
            x = to_gray(x)  # (B, 1, H, W)
        s1 = self.enc1(self.stem(x))  # (B, 8, H, W), equations 1-4
        s2 = self.enc2(self.down1(s1))  # (B, 16, H/2, W/2), equation 5
        bottom = self.bottleneck(self.down2(s2))  # (B, 32, H/4, W/4)
        dec1 = self.skip1(s2) + self.dec1(self.up1(bottom))  # (B, 16, H/2, W/2), equations 6-9
        dec2 = self.skip2(s1) + self.dec2(self.up2(dec1))  # (B, 8, H, W)
        return self.head(self.xout(dec2))  # (B, 1, H, W), equations 10-11


build = MiniNet
