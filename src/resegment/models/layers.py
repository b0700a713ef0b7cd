"""Blocks that two papers or more share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV, Pillow and Keras turn RGB to gray


class SeparableConv2d(nn.Sequential):
    """Depthwise k x k without bias, then pointwise 1 x 1 with bias: Keras' SeparableConv2D."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1),
        )


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
