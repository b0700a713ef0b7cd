"""Modulated deformable convolution (DCN v2) in plain PyTorch.

Zhu, Hu, Lin, Dai: "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, arXiv
1811.11168. At every place p the k-th of K taps reads the input at p + p_k + offset_k, between
pixels bilinearly and outside the image as zero, times mask_k:

    y(p) = sum over k of w_k x(p + p_k + offset_k(p)) mask_k(p)

Offsets lie as torchvision's: (B, 2K, H, W), dy before dx for each tap, taps row by row.

torchvision's kernel computes it where torchvision loads; it is no dependency, and a torchvision
built for another torch does not load. Otherwise each tap is one bilinear sampling and one 1x1
product. Both are the definition, and differ in the last bits; so may two trainings on CUDA, where
either adds the gradients of the input up in no fixed order.

Memory: the taps keep 2 K C H W values a training image for the gradient (every tap before and after
its mask), 18 times the input for 3x3: 75 MB in float32 for 16 channels at 256 x 256, 265 MB at
480 x 480. Prediction holds one tap at a time.
"""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def torchvision_kernel() -> Callable[..., Tensor] | None:
    """torchvision's deform_conv2d, or None where torchvision is missing or does not load."""
    try:
        from torchvision.ops import deform_conv2d as kernel
    except (ImportError, OSError, RuntimeError):  # the last: built for another torch
        return None
    return kernel if hasattr(torch.ops.torchvision, "deform_conv2d") else None


KERNEL = torchvision_kernel()


def deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    """(B, C, H, W) -> (B, O, H', W') by weight (O, C, rows, columns), with stride 1.

    offset is (B, 2K, H', W') and mask (B, K, H', W') for the K = rows * columns taps. Positions are
    float32 at least: half precision could not tell the pixels of an image apart.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    x, offset, mask, weight = (t.to(dtype) for t in (x, offset, mask, weight))
    if KERNEL is not None:
        return KERNEL(x, offset, weight, padding=padding, mask=mask)
    return by_taps(x, offset, mask, weight, padding)


def by_taps(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`deform_conv2d` without torchvision."""
    (height, width), (rows, columns) = x.shape[2:], weight.shape[2:]
    top = torch.arange(offset.shape[2], dtype=x.dtype, device=x.device)[:, None] - padding
    left = torch.arange(offset.shape[3], dtype=x.dtype, device=x.device) - padding
    moved = offset.unflatten(1, (rows * columns, 2))  # (B, K, 2, H', W')
    y = 0
    for k, (i, j) in enumerate(product(range(rows), range(columns))):
        down, right = top + i + moved[:, k, 0], left + j + moved[:, k, 1]  # (B, H', W') pixels
        place = torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], -1)
        tap = F.grid_sample(x, place, align_corners=False)  # (B, C, H', W')
        y = y + F.conv2d(tap * mask[:, k : k + 1], weight[:, :, i, j, None, None])
    return y


class DeformConv2d(nn.Conv2d):
    """A convolution without bias whose taps move and fade by two convolutions of its own input."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.offset = nn.Conv2d(inputs, 2 * kernel**2, kernel, padding=kernel // 2)
        self.mask = nn.Conv2d(inputs, kernel**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.sigmoid(self.mask(x))
        return deform_conv2d(x, self.offset(x), mask, self.weight, self.padding[0])
