"""Prediction: weights and canonical images -> 16-bit probability maps at the network's size."""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from resegment import models, native, paths
from resegment.errors import UserError
from resegment.files import atomic_folder, write_manifest
from resegment.geometry import to_network
from resegment.models.layers import forward_padded, to_input

WHITE = 65535  # the map's value for probability 1


def load(run: dict, device: torch.device) -> torch.nn.Module:
    """The run's network with its trained weights, ready to infer."""
    file = paths.run(run["run"]) / "weights.safetensors"
    model = models.build(run["model"]["name"], run["model"]["options"])
    try:
        model.load_state_dict(load_file(file))
    except (RuntimeError, FileNotFoundError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"{file} holds no weights of this model ({reason}): train again") from None
    return model.to(device, memory_format=torch.channels_last).eval()


@torch.inference_mode()
def probability(model: torch.nn.Module, image: np.ndarray, device: torch.device) -> np.ndarray:
    """(h, w, 3) uint8 -> (h, w) uint16, 65535 meaning 1; computed in float32."""
    batch = to_input(torch.from_numpy(np.ascontiguousarray(image))[None], device)
    p = torch.sigmoid(forward_padded(model, batch).double())[0, 0]
    return torch.round(p * WHITE).to(torch.int32).cpu().numpy().astype(np.uint16)


def predict(run: dict, device: str) -> None:
    """Write runs/<run>/predictions/: a map for every image of the split, and a manifest."""
    torch.set_num_threads(run["train"]["threads"])
    device = torch.device(device)
    model = load(run, device)
    rows, splits = native.manifest(run["dataset"]), native.split(run["split"], run["dataset"])
    with atomic_folder(paths.predictions(run["run"])) as out:
        for i in tqdm(splits, desc=f"predict {run['run']}", disable=not sys.stderr.isatty()):
            image = to_network(native.image(run["dataset"], rows[i]), run["geometry"])
            write(out / f"{i}.png", probability(model, image, device))
        write_manifest(out, run=run["run"], geometry=run["geometry"])


def write(path: Path, probability: np.ndarray) -> None:
    if not cv2.imwrite(str(path), probability, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"{path} could not be written")
