"""Prepared pairs as batches: what an epoch draws, and how an item is read and augmented."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from resegment import variants
from resegment.augment import View, corners_inside, draw, see
from resegment.errors import UserError


class Pairs:
    """Prepared pairs: (h, w, 3) uint8 images and (h, w) uint8 {0, 1} labels.

    rows: those of manifest.csv to learn from, the untouched variant of each image among them. Only
    the untouched ones are read; their flips and rotations are made anew for every use, the same
    bytes as those on disk in less time than decoding them takes. Up to `RESIDENT` bytes stay in
    memory; larger sets are decoded anew for every use.
    """

    RESIDENT = 2 * 1024**3

    def __init__(self, folder: Path, rows: list[dict], how: dict, seed: int, epoch: int = 0):
        self.folder, self.rows, self.how = folder, rows, how
        self.seed, self.epoch = seed, epoch
        self.base = {row["id"]: row for row in rows if row["operation"] == "none"}
        resident = len(self.base) * sum(x.nbytes for x in self.first()) <= self.RESIDENT
        self.kept = {i: self.read(i) for i in self.base} if resident else None
        self.corners = [self.inside(row) for row in rows] if how["inside_fov"] else None

    def read(self, id: str) -> tuple[np.ndarray, np.ndarray]:
        """The untouched image and label of an id."""
        image, label = (self.folder / self.base[id][key] for key in ("image", "label"))
        pair = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB), cv2.imread(str(label), 0)
        if pair[0] is None or pair[1] is None:
            raise UserError(f"{image} or {label} cannot be read: run the prepare stage again")
        return pair[0], (pair[1] > 127).astype(np.uint8)

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """The first image, untouched: what size all have where a recipe gives them one."""
        return self.read(next(iter(self.base)))

    def inside(self, row: dict) -> np.ndarray:
        """Where a crop inside the field of view may begin."""
        file, crop = self.folder / self.base[row["id"]]["fov"], self.how["crop"]
        whole = cv2.imread(str(file), 0)
        turned = variants.apply(whole, row["operation"], float(row["angle"]), cv2.INTER_NEAREST)
        found = corners_inside(turned > 127, crop)
        if not len(found):
            raise UserError(f"{file} has no square of {crop} pixels: lower train.augment.crop")
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Item i as it stands on disk."""
        row = self.rows[i]
        how = row["operation"], float(row["angle"])
        image, label = self.kept[row["id"]] if self.kept else self.read(row["id"])
        return (variants.apply(image, *how, cv2.INTER_LINEAR),
                variants.apply(label, *how, cv2.INTER_NEAREST))  # fmt: skip

    def view(self, number: int, i: int, height: int, width: int) -> View | None:
        """How the draw of that number looks at item i; None: as it is."""
        rng = np.random.default_rng([self.seed, self.epoch, number])
        return draw(self.how, rng, height, width, self.corners and self.corners[i])

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        number, i = key
        image, label = self.pair(i)
        view = self.view(number, i, *label.shape)
        return see(image, label, view) if view else (image, label)

    def batches(self, order: list, size: int, threads: int = 0) -> Iterator[list[Tensor]]:
        """[(B, h, w, 3), (B, h, w)] uint8 in the order of `draws`, `threads` working ahead."""

        def batch(keys: list) -> list[Tensor]:
            items = [self[key] for key in keys]
            return [torch.from_numpy(np.stack(x)) for x in zip(*items, strict=True)]

        return ahead(batch, cut(order, size), threads)


def draws(n: int, count: int | None, seed: int, epoch: int) -> list[tuple[int, int]]:
    """(number of the draw, index of the item): shuffled passes over n items, cut at `count`."""
    rng = np.random.default_rng([seed, epoch])
    count = count or n
    passes = [rng.permutation(n) for _ in range(-(-count // n))]
    return list(enumerate(np.concatenate(passes)[:count].tolist()))


def cut(order: list, size: int) -> list[list]:
    return [order[k : k + size] for k in range(0, len(order), size)]


def ahead(work: Callable, items: Iterable, threads: int) -> Iterator:
    """map(work, items) in order, some computed before they are asked for: OpenCV frees the GIL."""
    if not threads:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
