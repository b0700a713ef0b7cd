"""U-Net, the plain baseline.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, arXiv 1505.04597. Width 64, depth 5, without batch normalisation, it has the 31.03 M
parameters that HybridNetSeg's table 5 quotes; width 8, depth 3, with batch normalisation, it is a
30 K baseline of the size of the small networks.

Where it departs from 2015: 'same' padding, so that logits have the input's size; batch
normalisation between convolution and ReLU as an option.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double_conv(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    """[conv 3x3 -> (BN) -> ReLU] x 2."""
    layers: list[nn.Module] = []
    for i in (inputs, outputs):
        layers += [nn.Conv2d(i, outputs, 3, padding=1)]
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """width: channels of the first level, doubled at each of `depth` levels."""

    def __init__(self, *, width: int = 64, depth: int = 5, norm: bool = False):
        super().__init__()
        w = [width * 2**level for level in range(depth)]
        self.stride = 2 ** (depth - 1)
        self.encoder = nn.ModuleList(
            double_conv(i, o, norm) for i, o in zip([3, *w[:-1]], w, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in reversed(w[:-1]))
        self.decoder = nn.ModuleList(double_conv(2 * c, c, norm) for c in reversed(w[:-1]))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.encoder[0](x), []  # (B, w, H, W)
        for level in self.encoder[1:]:
            skips.append(x)
            x = level(F.max_pool2d(x, 2))  # (B, 2w, H/2, W/2), ...
        for up, level in zip(self.up, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], 1))  # ..., (B, w, H, W)
        return self.head(x)  # (B, 1, H, W)


build = UNet
