"""RGA-Net: region guided attention network for retinal vessel segmentation, arXiv 2407.18970.

A depthwise separable U-Net; a cascaded partial decoder (Wu, Su, Huang 2019, the paper's [46])
draws a first map, and inverse addition attention (IAA) carries it through the decoder levels.
No official code is known.

Where the paper is silent or contradicts itself (ids in data/published/deviations.csv):
1. Equations 6-7 add maps of different size and width (dec_par 16 channels at H/2, dec1 24 at H/4).
   "Replicate the segmentation map" makes sense for one channel only, so every map has one channel,
   is resized bilinearly and broadcast: deviation rga-02-attention-map.
2. dec_par = Conv(dec2) (equation 5) leaves half of the printed 40 K parameters unexplained; the
   cited cascaded partial decoder of width 8 gives 38,903: deviation rga-01-partial-decoder. The
   literal reading is `partial_decoder: conv`.
3. The deconvolution's n is not given: 3, deviation rga-03-deconvolution.
4. Separable convolutions carry a bias after the pointwise step only, as Keras':
   deviation rga-04-bias.
5. Rows without * do not say their filters: see params.yaml.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resegment.models.layers import SeparableConv2d, upsample_to


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Equation 1: [separable conv 3x3 -> BN -> ReLU] x 2."""
    return nn.Sequential(
        SeparableConv2d(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(),
        SeparableConv2d(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


def conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )


class CascadedPartialDecoder(nn.Module):
    """Aggregates three levels, the deepest first, into one map at the size of the finest."""

    def __init__(self, channels: tuple[int, int, int], width: int = 8):
        super().__init__()
        w = width
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1) for c in channels)
        self.gate1to2, self.gate1to3, self.gate2to3 = (conv_norm(w, w) for _ in range(3))
        self.up1, self.up2 = conv_norm(w, w), conv_norm(2 * w, 2 * w)
        self.merge2, self.merge3 = conv_norm(2 * w, 2 * w), conv_norm(3 * w, 3 * w)
        self.smooth = conv_norm(3 * w, 3 * w)
        self.head = nn.Conv2d(3 * w, 1, 1)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        x1, x2, x3 = (r(x) for r, x in zip(self.reduce, (x1, x2, x3), strict=True))
        y2 = self.gate1to2(upsample_to(x1, x2)) * x2  # (B, w, H/4, W/4)
        y3 = self.gate1to3(upsample_to(x1, x3)) * self.gate2to3(upsample_to(x2, x3)) * x3
        z2 = self.merge2(torch.cat([y2, self.up1(upsample_to(x1, x2))], 1))  # (B, 2w, H/4, W/4)
        z3 = self.merge3(torch.cat([y3, self.up2(upsample_to(z2, x3))], 1))  # (B, 3w, H/2, W/2)
        return self.head(self.smooth(z3))  # (B, 1, H/2, W/2)


class InverseAdditionAttention(nn.Module):
    """Equations 6-7: P = features * (1 - sigmoid(map)) + map, the map broadcast over channels."""

    def forward(self, features: Tensor, region: Tensor) -> Tensor:
        region = upsample_to(region, features)
        return features * (1 - torch.sigmoid(region)) + region


class RGANet(nn.Module):
    """filters: the three encoder levels and the bottleneck.

    partial_decoder: "cascaded" (chosen), "conv" (equation 5 to the letter) or "none", where the
    first map of an attending network is a 1x1 convolution of the bottleneck. attention: false is
    the plain separable U-Net of table II.
    """

    def __init__(
        self,
        *,
        filters: tuple[int, int, int, int] = (8, 16, 24, 32),
        partial_decoder: str = "cascaded",
        attention: bool = True,
    ):
        super().__init__()
        f1, f2, f3, f4 = filters
        self.stride = 8
        self.enc1, self.enc2, self.enc3 = block(3, f1), block(f1, f2), block(f2, f3)
        self.bottleneck = block(f3, f4)
        self.up1, self.up2, self.up3 = (
            nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=1)
            for i, o in ((f4, f3), (f3, f2), (f2, f1))
        )
        self.dec1, self.dec2, self.dec3 = block(2 * f3, f3), block(2 * f2, f2), block(2 * f1, f1)
        self.partial_decoder = partial_decoder if attention else "none"
        self.attend = InverseAdditionAttention() if attention else None
        if self.partial_decoder == "cascaded":
            self.first = CascadedPartialDecoder((f4, f3, f2))
        elif self.partial_decoder == "conv":
            self.first = nn.Sequential(block(f2, f2), nn.Conv2d(f2, 1, 1))
        elif self.partial_decoder != "none":
            raise TypeError(f"partial_decoder is cascaded, conv or none, not {partial_decoder!r}")
        elif attention:
            self.first = nn.Conv2d(f4, 1, 1)
        if attention:
            self.map1, self.map2 = nn.Conv2d(f3, 1, 1), nn.Conv2d(f2, 1, 1)
        self.head = nn.Conv2d(f1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        s1 = self.enc1(x)  # (B, f1, H, W)
        s2 = self.enc2(F.max_pool2d(s1, 2))  # (B, f2, H/2, W/2)
        s3 = self.enc3(F.max_pool2d(s2, 2))  # (B, f3, H/4, W/4)
        bottom = self.bottleneck(F.max_pool2d(s3, 2))  # (B, f4, H/8, W/8)
        dec1 = self.dec1(torch.cat([self.up1(bottom), s3], 1))  # (B, f3, H/4, W/4)
        dec2 = self.dec2(torch.cat([self.up2(dec1), s2], 1))  # (B, f2, H/2, W/2)
        dec3 = self.dec3(torch.cat([self.up3(dec2), s1], 1))  # (B, f1, H, W)
        if self.attend is None:
            return self.head(dec3)  # (B, 1, H, W)
        if self.partial_decoder == "cascaded":
            region = self.first(bottom, dec1, dec2)  # (B, 1, H/2, W/2)
        else:
            region = self.first(dec2 if self.partial_decoder == "conv" else bottom)
        p1 = self.attend(dec1, region)  # equation 6
        p2 = self.attend(dec2, self.map1(p1))
        p3 = self.attend(dec3, self.map2(p2))  # equation 7
        return self.head(p3)  # (B, 1, H, W)


build = RGANet
