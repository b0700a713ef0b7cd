"""Losses: functions of logits and target, both (B, 1, H, W); the target is 0 or 1. All -> scalar.

I is the sum of p * t over all pixels of the batch, P that of the probabilities p and T that of the
targets t. Overlap losses are smoothed by 1, so that an empty patch has a finite gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross entropy in nats per pixel; Mini-Net's equation 14."""
    return F.binary_cross_entropy_with_logits(logits, target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 I + 1) / (P + T + 1)."""
    p = torch.sigmoid(logits)
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def weighted_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice over vessels and background, each weighted by the inverse square of its area (Sudre et
    al., 2017): 1 - 2 sum of w I / sum of w (P + T). RGA-Net's weights: rga-18-weighted-dice."""
    p = torch.sigmoid(logits)
    classes = ((p, target), (1 - p, 1 - target))
    weights = [1 / (t.sum() + 1) ** 2 for _, t in classes]
    overlap = sum(w * (q * t).sum() for w, (q, t) in zip(weights, classes, strict=True))
    area = sum(w * (q.sum() + t.sum()) for w, (q, t) in zip(weights, classes, strict=True))
    return 1 - 2 * overlap / area


def squared_dice(logits: Tensor, target: Tensor) -> Tensor:
    """(1 - I / (P + T)) ** 2, Mini-Net's equation 12 to the letter: at least 0.25."""
    p = torch.sigmoid(logits)
    return (1 - ((p * target).sum() + 0.5) / (p.sum() + target.sum() + 1)) ** 2


def iou(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (I + 1) / (P + T - I + 1); the Jaccard loss of Mini-Net's equation 13."""
    p = torch.sigmoid(logits)
    intersection = (p * target).sum()
    return 1 - (intersection + 1) / (p.sum() + target.sum() - intersection + 1)


def pixel_iou(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean of p t / (p + t - p t): the second term of HybridNetSeg's equation 4 to the letter.

    At a vessel pixel the quotient is p and elsewhere 0, so background has no gradient.
    """
    return 1 - (torch.sigmoid(logits) * target).mean()


TERMS = {
    "bce": bce,
    "dice": dice,
    "iou": iou,
    "weighted_dice": weighted_dice,
    "squared_dice": squared_dice,
    "pixel_iou": pixel_iou,
}


def alpha(how: str, epoch: int) -> float:
    """The factor of Mini-Net's equation 15 in epoch 0, 1, ...: deviation mininet-08-alpha.

    linear: 1, 0.99, 0.98, ... not below 0.01. Everything else: 1.
    """
    return max(1 - 0.01 * epoch, 0.01) if how == "linear" else 1.0


def total(
    logits: Tensor | list[Tensor], target: Tensor, weights: dict[str, float], how: str = "one"
) -> Tensor:
    """The weighted sum of terms, in float32 whatever the network computed in.

    A list of logits (HybridNetSeg's mixed loss) gives the sum of their losses. how "error": the
    mean over the images of the batch, each weighted by its share of the error, L_i / mean L, which
    has no gradient of its own.
    """
    if isinstance(logits, list):
        return sum(total(x, target, weights, how) for x in logits)
    logits = logits.float()
    if how == "error":
        pairs = zip(logits.split(1), target.split(1), strict=True)
        each = torch.stack([total(x, t, weights) for x, t in pairs])
        share = each.detach()
        return (share / share.mean().clamp_min(1e-12) * each).mean()
    return sum(weight * TERMS[name](logits, target) for name, weight in weights.items())
