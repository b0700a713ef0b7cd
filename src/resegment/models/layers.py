"""Blocks that two papers or more share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV, Pillow and Keras turn RGB to gray


class Pointwise(nn.Conv2d):
    """1x1 convolution of (B, C, H, W); on a CPU every row goes in as an image of its own.

    The sums are the same; but PyTorch leaves float32 batches below 16 to a slower kernel where it
    has one thread.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.conv2d` for weight (O, C, 1, 1)."""
    if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, weight, bias)
    rows = x.permute(0, 2, 3, 1).flatten(0, 1)[:, None]  # (B H, 1, W, C), nothing copied
    y = F.conv2d(rows.permute(0, 3, 1, 2), weight, bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:1], *x.shape[2:], -1).permute(0, 3, 1, 2)


class Depthwise(nn.Conv2d):
    """k x k convolution of every channel by itself; from 5 x 5 on in float32 on a CPU.

    There bfloat16 takes twice the time of float32 instead of half.
    """

    def __init__(self, channels: int, kernel: int, bias: bool = False):
        super().__init__(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or self.kernel_size[0] < 5:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class SeparableConv2d(nn.Sequential):
    """Depthwise k x k without bias, then pointwise 1 x 1 with bias: Keras' SeparableConv2D."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__(Depthwise(inputs, kernel), Pointwise(inputs, outputs))


def to_gray(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    return sum(w * x[:, i : i + 1] for i, w in enumerate(LUMA))


def upsample_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize of (B, C, h, w) to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def forward_padded(model: nn.Module, x: Tensor) -> Tensor | list[Tensor]:
    """Logits of any size: (B, 3, H, W) -> (B, 1, H, W), zero-padded to the model's stride inside.

    A network with several outputs while training gives a list of them. The padding goes below and
    to the right and is cut off again; this is the only place for it.
    """
    height, width = x.shape[2:]
    below, right = -height % model.stride, -width % model.stride
    logits = model(F.pad(x, (0, right, 0, below)) if below or right else x)
    if isinstance(logits, list):
        return [y[:, :, :height, :width] for y in logits]
    return logits[:, :, :height, :width]


def to_input(batch: Tensor, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in 0..1 on the device, channels last in memory."""
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
