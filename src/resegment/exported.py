"""An ONNX file that was compared with torch before anybody has it."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import torch

from resegment import export, models, paths, predict, shipped
from resegment.datasets import sample
from resegment.enhance import enhance
from resegment.errors import UserError
from resegment.files import atomic, write_json
from resegment.geometry import to_network
from resegment.models.layers import to_input

MOST = 1e-4  # of probability


def write(run: dict, file: Path) -> float:
    """Write a run's network as `export.write` does; returns the largest difference that ONNX
    Runtime's maps of a drawn eye have from torch's.

    Raises UserError as `export.write`, and where the difference is above MOST; then no file is
    left, or the old one.
    """
    with atomic(file) as tmp:
        export.write(run, tmp)
        model = models.build(run["model"]["name"], run["model"]["options"])
        models.load(model, paths.run(run["run"]) / "weights.safetensors")
        off = difference(model.eval(), tmp, run)
        if not off <= MOST:  # NaN, too
            raise UserError(f"{file} is not written: its maps differ from torch's by {off:.1e}, "
                            f"above {MOST:.0e}: predict with inference engine torch")  # fmt: skip
    return off


def of_shipped(name: str, file: Path) -> float:
    """As `write`, of weights that come with the package."""
    known, file = shipped.load(name), file.absolute()
    weights = shipped.file(name, "safetensors").absolute()
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):
        at = paths.run(known["run"])
        write_json(at / "manifest.json", {"fingerprints": known["fingerprints"]})
        (at / "weights.safetensors").symlink_to(weights)
        return write(known, file)


@torch.inference_mode()
def difference(model: torch.nn.Module, file: Path, run: dict) -> float:
    """The largest over a drawn fundus photograph as the recipe makes it, and over a piece of it
    whose sides are multiples of no stride."""
    _, runtime = export.packages()
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    image = to_network(enhance(sample.read(None, "01").image, run["enhance"]), run["geometry"])
    size = run["inference"]["patch"] or max(image.shape)
    draw, off = predict.drawing(model, torch.device("cpu")), []
    for piece in (image[:size, :size], image[50:133, 60:163]):
        x = to_input(torch.from_numpy(np.ascontiguousarray(piece))[None], torch.device("cpu"))
        (found,) = session.run(None, {"image": x.contiguous().numpy()})
        off.append(np.abs(found - draw(x).numpy()).max())
    return float(np.max(off))
