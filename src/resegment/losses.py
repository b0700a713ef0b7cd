"""Losses: functions of logits and target, both (B, 1, H, W); the target is 0 or 1. All -> scalar.

Overlap losses run over the whole batch at once and are smoothed by 1, so that an empty patch has
a finite gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross entropy in nats per pixel."""
    return F.binary_cross_entropy_with_logits(logits, target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 I + 1) / (P + T + 1)."""
    p = torch.sigmoid(logits)
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def iou(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (I + 1) / (P + T - I + 1)."""
    p = torch.sigmoid(logits)
    intersection = (p * target).sum()
    return 1 - (intersection + 1) / (p.sum() + target.sum() - intersection + 1)


TERMS = {"bce": bce, "dice": dice, "iou": iou}


def total(logits: Tensor, target: Tensor, weights: dict[str, float]) -> Tensor:
    """The weighted sum of terms, in float32 whatever the network computed in."""
    logits = logits.float()
    return sum(weight * TERMS[name](logits, target) for name, weight in weights.items())
