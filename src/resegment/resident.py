"""The same pairs and the same draws on a GPU: uint8 images stay there, and are warped there.

Twenty DRIVE images are 21 MB; a batch costs a few kilobytes of matrices from the host and two
samplings on the card, so no loader stands between it and the network. The views are those of
`pairs.Pairs`; bytes differ by the rounding of another bilinear sampling (OpenCV's has fixed point).
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resegment import variants
from resegment.augment import View
from resegment.pairs import Pairs, ahead, cut


def fits(pairs: Pairs) -> bool:
    """True where the untouched images are in memory, of one size, and no view changes colours."""
    sizes = {label.shape for _, label in pairs.kept.values()} if pairs.kept else ()
    return len(sizes) == 1 and not any(pairs.how["jitter"].values())


class Resident:
    """`Pairs` whose batches are made on `device`; it must `fit`."""

    def __init__(self, pairs: Pairs, device: torch.device):
        self.pairs, self.device = pairs, device
        self.place = {id: k for k, id in enumerate(pairs.kept)}
        both = [np.dstack(pair) for pair in pairs.kept.values()]
        self.images = torch.from_numpy(np.stack(both)).to(device).permute(0, 3, 1, 2)
        self.height, self.width = self.images.shape[2:]

    def __len__(self) -> int:
        return len(self.pairs)

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        return self.pairs.first()

    @property
    def epoch(self) -> int:
        return self.pairs.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.pairs.epoch = epoch

    def batches(self, order: list, size: int, threads: int = 1) -> Iterator[list[Tensor]]:
        """[(B, h, w, 3), (B, h, w)] uint8 on the device, in the order of `draws`."""
        for where, turns, views in ahead(self.plan, cut(order, size), threads):
            x = self.images[self.send(where)]  # (B, 4, H, W): RGB and the label
            x = warp(x, self.send(turns), (self.height, self.width)) if turns is not None else x
            if views is not None:
                x = warp(x, self.send(np.stack([v.matrix for v in views])), views[0].size)
                if views[0].gain is not None:
                    tone = np.stack([np.append(v.gain, v.offset) for v in views])
                    x = shade(x, self.send(np.float32(tone)))
            yield [x[:, :3].permute(0, 2, 3, 1), x[:, 3]]

    def plan(self, keys: list) -> tuple[np.ndarray, np.ndarray | None, list[View] | None]:
        """Of a batch: places of the images, matrices of their variants, views; None: as it is."""
        rows = [self.pairs.rows[i] for _, i in keys]
        where = np.array([self.place[row["id"]] for row in rows])
        moved = any(row["operation"] != "none" for row in rows)
        size = self.height, self.width
        turns = np.stack([variants.matrix(row["operation"], float(row["angle"]), *size)
                          for row in rows]) if moved else None  # fmt: skip
        views = [self.pairs.view(*key, *size) for key in keys]
        return where, turns, views if views[0] else None

    def send(self, array: np.ndarray) -> Tensor:
        """To the device without waiting for it."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def warp(x: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 4, H, W) uint8 -> (B, 4, h, w) uint8, as cv2.warpAffine by (B, 2, 3) float64 matrices.

    RGB bilinearly, the label by nearest neighbour; outside is zero.
    """
    turn, shift = matrices[..., :2], matrices[..., 2:]
    back = torch.linalg.inv_ex(turn)[0]  # from a result's pixel to the source's
    height, width = x.shape[2:]
    rows, columns = (torch.arange(n, device=x.device, dtype=torch.float64) for n in size)
    where = torch.cartesian_prod(rows, columns).flip(1)  # (h w, 2): x before y
    where = where @ back.mT - (back @ shift).mT  # (B, h w, 2)
    scale = torch.tensor([width, height], dtype=torch.float64).to(x.device, non_blocking=True)
    grid = ((2 * where + 1) / scale - 1).float().reshape(-1, *size, 2)
    x = x.float()
    image = F.grid_sample(x[:, :3], grid, align_corners=False)
    label = F.grid_sample(x[:, 3:], grid, mode="nearest", align_corners=False)
    return torch.cat([image.round_(), label], 1).to(torch.uint8)


def shade(x: Tensor, tone: Tensor) -> Tensor:
    """RGB of (B, 4, h, w) uint8 times a gain each, plus an offset: (B, 4) float32."""
    image = x[:, :3] * tone[:, :3, None, None] + tone[:, 3, None, None, None]
    return torch.cat([image.round_().clamp_(0, 255).to(torch.uint8), x[:, 3:]], 1)
