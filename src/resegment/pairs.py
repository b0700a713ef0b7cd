"""Prepared pairs as batches: what an epoch draws, and how an item is read and augmented."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from resegment.augment import augment, corners_inside, leaves_alone
from resegment.errors import UserError


class Pairs(Dataset):
    """Prepared pairs: (h, w, 3) uint8 images and (h, w) uint8 {0, 1} labels, decoded once.

    Sets of up to `RESIDENT` bytes stay in memory; larger ones are decoded anew for every use.
    """

    RESIDENT = 2 * 1024**3

    def __init__(self, folder: Path, names: list[dict], how: dict, seed: int, epoch: int = 0):
        self.folder, self.names, self.how = folder, names, how
        self.seed, self.epoch = seed, epoch
        first = self.read(0)
        resident = len(names) * (first[0].nbytes + first[1].nbytes) <= self.RESIDENT
        self.kept = [self.read(i) for i in range(len(names))] if resident else None
        self.corners = [self.inside(i) for i in range(len(names))] if how["inside_fov"] else None

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = (self.folder / self.names[i][key] for key in ("image", "label"))
        pair = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB), cv2.imread(str(label), 0)
        if pair[0] is None or pair[1] is None:
            raise UserError(f"{image} or {label} cannot be read: run the prepare stage again")
        return pair[0], (pair[1] > 127).astype(np.uint8)

    def inside(self, i: int) -> np.ndarray:
        """Where a crop inside the field of view may begin."""
        file, crop = self.folder / self.names[i]["fov"], self.how["crop"]
        found = corners_inside(cv2.imread(str(file), 0) > 127, crop)
        if not len(found):
            raise UserError(f"{file} has no square of {crop} pixels: lower train.augment.crop")
        return found

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        draw, i = key
        image, label = self.kept[i] if self.kept else self.read(i)
        if leaves_alone(self.how):
            return image, label
        rng = np.random.default_rng([self.seed, self.epoch, draw])
        return augment(image, label, self.how, rng, self.corners and self.corners[i])


def draws(n: int, count: int | None, seed: int, epoch: int) -> list[tuple[int, int]]:
    """(number of the draw, index of the item): shuffled passes over n items, cut at `count`."""
    rng = np.random.default_rng([seed, epoch])
    count = count or n
    passes = [rng.permutation(n) for _ in range(-(-count // n))]
    return list(enumerate(np.concatenate(passes)[:count].tolist()))


def batches(pairs: Pairs, order: list, train: dict, batch_size: int) -> DataLoader:
    return DataLoader(
        pairs,
        batch_size=batch_size,
        sampler=order,
        num_workers=train["workers"],
        collate_fn=lambda items: [torch.from_numpy(np.stack(x)) for x in zip(*items, strict=True)],
    )
