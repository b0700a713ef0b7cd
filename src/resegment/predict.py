"""Prediction: weights and canonical images -> 16-bit probability maps at the network's size."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from resegment import closure, models, native, paths
from resegment.enhance import enhance
from resegment.errors import UserError
from resegment.files import atomic_folder, md5, write_image, write_manifest
from resegment.geometry import to_network
from resegment.models.layers import forward_padded, to_input

WHITE = 65535  # the map's value for probability 1


def load(run: dict, device: torch.device) -> torch.nn.Module:
    """The run's network with its trained weights, ready to infer."""
    model = models.build(run["model"]["name"], run["model"]["options"])
    models.load(model, paths.run(run["run"]) / "weights.safetensors")
    return model.to(device, memory_format=torch.channels_last).eval()


def drawing(
    model: torch.nn.Module, device: torch.device, engine: str = "torch", threads: int = 1
) -> Callable[[Tensor], Tensor]:
    """(B, 3, h, w) float32 in 0..1 -> (B, 1, h, w) float64 probabilities, by the engine chosen."""
    if engine == "onnx" and device.type == "cpu":
        from resegment import export

        run = export.runner(model, threads)
        return lambda x: run(x).double()
    if engine == "onnx":
        print(f"inference engine onnx is of the CPU: torch draws on {device}", file=sys.stderr)
    return lambda x: torch.sigmoid(forward_padded(model, x).double())


@torch.inference_mode()
def probability(
    draw: Callable[[Tensor], Tensor], image: np.ndarray, device: torch.device, inference: dict
) -> np.ndarray:
    """(h, w, 3) uint8 -> (h, w) uint16, 65535 meaning 1; computed in float32.

    draw: of `drawing`. inference: the parameters of `schema.Inference`. Raises UserError where a
    probability is no number: as an integer it would pass for one.
    """
    batch = to_input(torch.from_numpy(np.ascontiguousarray(image))[None], device)
    if inference["patch"]:
        p = tiled(draw, batch, inference["patch"], inference["stride"])
    else:
        p = draw(batch)[0, 0]
    if p.isnan().any():
        raise UserError("the network's answer is no number (NaN) for some pixels: its weights "
                        "overflow: lower train.optimiser.lr in params.yaml and train "
                        "again")  # fmt: skip
    return torch.round(p * WHITE).to(torch.int32).cpu().numpy().astype(np.uint16)


def tiled(
    draw: Callable[[Tensor], Tensor], image: Tensor, patch: int, stride: int, at_once: int = 0
) -> Tensor:
    """(1, 3, h, w) -> (h, w) float64: the mean of the probabilities of all patches over a pixel.

    As BCDU-Net's code: zeros below and to the right until patch squares, `stride` apart, cover the
    image; a DRIVE image has 10,710 of 64 pixels at stride 5. Deviation bcdu-11-tiling. One row of
    patches is held at a time; a CPU draws few of them at once, those that its cache holds.
    """
    height, width = image.shape[2:]
    below, right = (-max(n - patch, 0) % stride + max(patch - n, 0) for n in (height, width))
    image = F.pad(image, (0, right, 0, below))
    total = torch.zeros(image.shape[2:], dtype=torch.float64, device=image.device)
    times = torch.zeros_like(total)
    at_once = at_once or (16 if image.device.type == "cpu" else 256)

    def laid(patches: Tensor) -> Tensor:
        """(n, 1, patch, patch) -> (patch, width): the sum of a row of patches."""
        return F.fold(patches.flatten(1).T, (patch, total.shape[1]), patch, stride=stride)[0]

    for top in range(0, total.shape[0] - patch + 1, stride):
        strip = image[0, :, top : top + patch].unfold(2, patch, stride)  # (3, patch, n, patch)
        patches = strip.permute(2, 0, 1, 3).split(at_once)
        found = torch.cat(
            [draw(some.contiguous(memory_format=torch.channels_last)) for some in patches]
        )
        total[top : top + patch] += laid(found)
        times[top : top + patch] += laid(torch.ones_like(found))
    return (total / times)[:height, :width]


def predict(run: dict, device: str, dataset: str, splits: dict[str, str], out: Path) -> None:
    """Write into the folder `out` a map for every id of `splits` in `dataset`, and a manifest."""
    torch.set_num_threads(run["train"]["threads"])
    device = torch.device(device)
    inference = run["inference"]
    draw = drawing(load(run, device), device, inference["engine"], run["train"]["threads"])
    rows = native.manifest(dataset)
    with atomic_folder(out) as folder:
        for i in tqdm(splits, desc=f"predict {out}", disable=not sys.stderr.isatty()):
            image = enhance(native.image(dataset, rows[i]), run["enhance"])
            image = to_network(image, run["geometry"])
            drawn = probability(draw, image, device, inference)
            write_image(folder / f"{i}.png", drawn, (cv2.IMWRITE_PNG_COMPRESSION, 1))
        weights = md5(paths.run(run["run"]) / "weights.safetensors")
        code = closure.files("resegment.predict", f"resegment.models.{run['model']['name']}")
        write_manifest(
            folder, run=run["run"], dataset=dataset, weights_md5=weights,
            **{k: run[k] for k in ("geometry", "enhance", "inference")},
            images=md5(paths.native(dataset) / "manifest.json"),
            code={name: md5(file) for name, file in code.items()},
        )  # fmt: skip
