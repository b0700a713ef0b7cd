"""Prediction: weights and canonical images -> 16-bit probability maps at the network's size."""

import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from resegment import models, native, paths
from resegment.enhance import enhance
from resegment.files import atomic_folder, md5, write_manifest
from resegment.geometry import to_network
from resegment.models.layers import forward_padded, to_input

WHITE = 65535  # the map's value for probability 1


def load(run: dict, device: torch.device) -> torch.nn.Module:
    """The run's network with its trained weights, ready to infer."""
    model = models.build(run["model"]["name"], run["model"]["options"])
    models.load(model, paths.run(run["run"]) / "weights.safetensors")
    return model.to(device, memory_format=torch.channels_last).eval()


@torch.inference_mode()
def probability(
    model: torch.nn.Module, image: np.ndarray, device: torch.device, inference: dict
) -> np.ndarray:
    """(h, w, 3) uint8 -> (h, w) uint16, 65535 meaning 1; computed in float32.

    inference: the parameters of `config.Inference`.
    """
    batch = to_input(torch.from_numpy(np.ascontiguousarray(image))[None], device)
    if inference["patch"]:
        p = tiled(model, batch, inference["patch"], inference["stride"])
    else:
        p = torch.sigmoid(forward_padded(model, batch).double())[0, 0]
    return torch.round(p * WHITE).to(torch.int32).cpu().numpy().astype(np.uint16)


def tiled(
    model: torch.nn.Module, image: Tensor, patch: int, stride: int, batch_size: int = 64
) -> Tensor:
    """(1, 3, h, w) -> (h, w) float64: the mean of the probabilities of all patches over a pixel.

    As BCDU-Net's code: zeros below and to the right until patch squares, `stride` apart, cover the
    image; a DRIVE image has 10,710 of 64 pixels at stride 5. Deviation bcdu-11-tiling.
    """
    height, width = image.shape[2:]
    below, right = (-max(n - patch, 0) % stride + max(patch - n, 0) for n in (height, width))
    image = F.pad(image, (0, right, 0, below))
    tops, lefts = (range(0, n - patch + 1, stride) for n in image.shape[2:])
    corners = list(product(tops, lefts))
    total = torch.zeros(image.shape[2:], dtype=torch.float64, device=image.device)
    times = torch.zeros_like(total)
    for k in range(0, len(corners), batch_size):
        some = corners[k : k + batch_size]
        patches = [image[0, :, y : y + patch, x : x + patch] for y, x in some]
        found = torch.sigmoid(forward_padded(model, torch.stack(patches)).double())
        for (y, x), p in zip(some, found[:, 0], strict=True):
            total[y : y + patch, x : x + patch] += p
            times[y : y + patch, x : x + patch] += 1
    return (total / times)[:height, :width]


def predict(run: dict, device: str, dataset: str, splits: dict[str, str], out: Path) -> None:
    """Write into the folder `out` a map for every id of `splits` in `dataset`, and a manifest."""
    torch.set_num_threads(run["train"]["threads"])
    device = torch.device(device)
    model = load(run, device)
    rows = native.manifest(dataset)
    with atomic_folder(out) as folder:
        for i in tqdm(splits, desc=f"predict {out}", disable=not sys.stderr.isatty()):
            image = enhance(native.image(dataset, rows[i]), run["enhance"])
            image = to_network(image, run["geometry"])
            write(folder / f"{i}.png", probability(model, image, device, run["inference"]))
        weights = md5(paths.run(run["run"]) / "weights.safetensors")
        write_manifest(folder, run=run["run"], dataset=dataset, geometry=run["geometry"],
                       weights_md5=weights)  # fmt: skip


def write(path: Path, probability: np.ndarray) -> None:
    if not cv2.imwrite(str(path), probability, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"{path} could not be written")
