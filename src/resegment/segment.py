"""Vessels in any fundus photograph, by weights that come with the package.

As a run's own maps are made, but for the scale: the photograph is brought to that of the training
images (datasets/photograph.py), and its map back to its own size.
"""

import csv
import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from resegment import metrics, models, png, predict, shipped
from resegment.datasets import photograph
from resegment.enhance import enhance
from resegment.errors import Unreadable, UserError
from resegment.files import atomic, md5, table, trouble, write_image
from resegment.geometry import restore, to_network
from resegment.unpack import plain

COLUMNS = ("file", "width", "height", "fov_found", "fov_diameter", "fov_share", "vessel_density",
           "mean_probability", "seconds", "model", "weights_md5", "threshold", "engine",
           "image_md5", "remarks")  # fmt: skip
TINT, THICK = (0, 220, 255), 0.6  # RGB that no retina has, and how much of it covers a vessel
ENLARGED = 2.5  # times; beyond it thin vessels are hardly there to be seen


def network(name: str) -> tuple[torch.nn.Module, dict]:
    """A shipped network, ready to infer, and what is known of it."""
    known = shipped.load(name)
    model = models.build(known["model"]["name"], known["model"]["options"])
    models.load(model, shipped.file(name, "safetensors"))
    return model.to(memory_format=torch.channels_last).eval(), known


def drawing(
    model: torch.nn.Module, device: torch.device, engine: str | None
) -> tuple[Callable[[Tensor], Tensor], str]:
    """As `predict.drawing`, and the engine's name.

    engine: None for ONNX Runtime on a CPU, or, where it cannot draw this network, torch, said in a
    line. Raises UserError where onnx is asked for and cannot.
    """
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    if engine not in (None, "onnx", "torch"):
        raise UserError(f"--engine {engine}: give onnx or torch")
    if device.type == "cpu" and engine != "torch":
        try:
            return predict.drawing(model, device, "onnx", threads), "onnx"
        except UserError as e:
            if engine:
                raise
            print(f"{e}: drawn by torch", file=sys.stderr)
    model.to(device)
    return predict.drawing(model, device, engine or "torch"), "torch"


def probability(
    image: np.ndarray, eye: photograph.Eye, draw: Callable, device: torch.device, known: dict
) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) uint16, 65535 meaning 1; 0 far from the field of view."""
    frame = tuple(known["scale"]["frame"])
    box = photograph.window(eye, known["scale"]["diameter"], frame)
    placed = enhance(photograph.cut(image, box, frame), known["enhance"])
    placed = to_network(placed, known["geometry"])
    drawn = predict.probability(draw, placed, device, known["inference"])
    return photograph.paste(restore(drawn, known["geometry"], frame), box, image.shape[:2])


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the photograph, vessels tinted."""
    out = image.copy()
    out[mask] = np.rint(image[mask] * (1 - THICK) + np.array(TINT) * THICK)
    return out


def segment(
    images: dict[str, Path], name: str, out: Path, device: str, engine: str | None = None
) -> list[str]:
    """Write STEM_{probability,mask,overlay}.png of every image and summary.csv into `out`.

    images: {stem: file} of `photograph.chosen`. Returns a sentence for each image that could not
    be used; the others are done. What summary.csv says of other images stays. Raises UserError
    where an image would take the place of another one's results.
    """
    _before(images, out)
    device = torch.device(device)
    model, known = network(name)
    draw, engine = drawing(model, device, engine)
    quiet, problems = not sys.stderr.isatty(), []
    bar = tqdm(images.items(), desc=f"segment {out}", unit="image", disable=quiet)
    for n, (stem, file) in enumerate(bar, 1):
        start = time.perf_counter()
        try:
            image, remarks = photograph.read(file)
            eye = photograph.eye(image)
            drawn = probability(image, eye, draw, device, known)
            digest = md5(file)
        except UserError as e:
            problems.append(str(e))
        except OSError as e:
            problems.append(trouble(e, file))
        else:
            mask = metrics.above(drawn, known["threshold"]["value"]) & eye.fov
            _write(out, stem, image, drawn, mask)
            scale = known["scale"]["diameter"] / eye.diameter
            if not eye.found:
                remarks.append("no field of view found: all of the frame is taken for it")
            if scale > ENLARGED:
                remarks.append(f"enlarged {scale:.1f} times: thin vessels may be missed")
            inside = int(eye.fov.sum())
            row = dict(zip(COLUMNS, (
                file.absolute(), image.shape[1], image.shape[0], "yes" if eye.found else "no",
                eye.diameter,
                f"{inside / eye.fov.size:.4f}", f"{mask.sum() / inside:.4f}",
                f"{drawn[eye.fov].mean() / predict.WHITE:.4f}",
                f"{time.perf_counter() - start:.2f}", name, known["weights_md5"],
                known["threshold"]["value"], engine, digest, "; ".join(remarks),
            ), strict=True))  # fmt: skip
            _summary(out, stem, row)
            if quiet:
                print(f"{n}/{len(images)} {plain(str(file))}: {row['width']}x{row['height']}, "
                      f"field of view {eye.diameter} px, {mask.sum() / inside:.1%} vessel, "
                      f"{row['seconds']} s{'; ' * bool(remarks)}{row['remarks']}",
                      flush=True)  # fmt: skip
    return problems


def _known(out: Path) -> dict[str, dict]:
    """{stem: row} of what summary.csv says. Raises UserError where it is not of this verb."""
    file = out / "summary.csv"
    try:
        return {Path(r["file"]).stem: r for r in table(file, *COLUMNS)} if file.is_file() else {}
    except Unreadable:
        raise UserError(f"{file} is not as `resegment segment` writes it: remove it, or give "
                        "another --out") from None  # fmt: skip


def _before(images: dict[str, Path], out: Path) -> None:
    """Raise UserError where results would take the place of another image's."""
    rows = _known(out)
    for stem in rows.keys() & images.keys():
        there, here = Path(rows[stem]["file"]), images[stem]
        if there.absolute() != here.absolute() and rows[stem]["image_md5"] != md5(here):
            raise UserError(f"{out} holds results of {there}, and those of {here} would take their "
                            "place: give another --out")  # fmt: skip


def _write(out: Path, stem: str, image: np.ndarray, drawn: np.ndarray, mask: np.ndarray) -> None:
    with atomic(out / f"{stem}_probability.png") as tmp:
        write_image(tmp, drawn, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    with atomic(out / f"{stem}_mask.png") as tmp:
        png.write(tmp, mask * np.uint8(255))
    with atomic(out / f"{stem}_overlay.png") as tmp:
        png.write(tmp, overlay(image, mask))


def _summary(out: Path, stem: str, row: dict) -> None:
    """Add a row to what is there now: another call may be at work on other images."""
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = _known(out) | {stem: row}
        with (
            atomic(out / "summary.csv") as tmp,
            open(tmp, "w", newline="", encoding="utf-8", errors="backslashreplace") as f,
        ):
            lines = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            lines.writeheader()
            lines.writerows(rows.values())
    finally:
        os.close(folder)
