"""Maps of one DRIVE image by the small networks, and of a crop by overlapping patches; one thread.

The image is DRIVE's first test image where `data/native/drive` is, else noise of its size; weights
are the sample campaign's where it was run, else as initialised.
"""

from pathlib import Path

import numpy as np

from benchmarks import Case

SIZE = (584, 565)
DRIVE = Path("data/native/drive/01_image.png")
PATCH, STRIDE, CROP = 64, 5, 128  # 14 x 14 patches over 128 x 128 pixels
RUNS = {"rga_net": "rga-drive", "mini_net": "mininet-drive", "bcdu_net": "bcdu-drive"}


def image() -> np.ndarray:
    """(584, 565, 3) uint8."""
    if DRIVE.exists():
        import cv2

        return cv2.imread(str(DRIVE))[..., ::-1].copy()
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def network(name: str, options: dict, threads: int = 1):
    import torch

    from resegment import models

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = models.build(name, options)
    weights = Path(f"runs/sample-smoke/{RUNS[name]}/s0/weights.safetensors")
    if weights.exists() and (name != "bcdu_net" or options.get("width") == 16):
        models.load(model, weights)
    return model.eval()


def project(
    name: str,
    options: dict,
    engine: str,
    inference: dict,
    crop: int,
    repeats: int,
    threads: int = 1,
):
    """A map as `resegment predict` draws it."""

    def side():
        from resegment import devices

        devices.tune_allocator()
        import torch

        from resegment import predict

        cpu = torch.device("cpu")
        model = network(name, options, threads).to(memory_format=torch.channels_last)
        draw = predict.drawing(model, cpu, engine, threads)
        pixels = image()[200:, 200:][:crop, :crop]
        pixels = pixels if crop else image()
        few = pixels[: PATCH + STRIDE, : PATCH + 15 * STRIDE] if crop else pixels
        predict.probability(draw, few, cpu, inference)
        yield repeats
        for _ in range(repeats):
            found = predict.probability(draw, pixels, cpu, inference)
        return found

    return side


def eager(name: str, threads: int = 1, repeats: int = 10):
    """What a user writes: NCHW, float32, the default allocator."""

    def side():
        import torch
        import torch.nn.functional as F

        model = network(name, {}, threads)
        x = torch.from_numpy(image()).permute(2, 0, 1)[None].float().div(255).contiguous()
        below, right = (-n % model.stride for n in SIZE)
        with torch.no_grad():
            for k in range(repeats + 2):
                if k == 2:
                    yield repeats
                y = torch.sigmoid(model(F.pad(x, (0, right, 0, below))))[0, 0, : SIZE[0], : SIZE[1]]
                found = np.round(y.numpy() * 65535).astype(np.uint16)
        return found

    return side


def plain_tiling(options: dict):
    """Batches of 32 patches in NCHW, float32, the default allocator; patches added one by one."""

    def side():
        import torch

        model = network("bcdu_net", options)
        pixels = image()[200:, 200:][:CROP, :CROP]
        x = torch.from_numpy(pixels).permute(2, 0, 1).float().div(255)
        below = -(CROP - PATCH) % STRIDE
        x = torch.nn.functional.pad(x, (0, below, 0, below)).contiguous()
        starts = range(0, x.shape[1] - PATCH + 1, STRIDE)
        corners = [(i, j) for i in starts for j in starts]
        with torch.no_grad():
            model(x[None, :, :PATCH, :PATCH])
            yield 1
            total, times = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
            for k in range(0, len(corners), 32):
                some = corners[k : k + 32]
                batch = torch.stack([x[:, i : i + PATCH, j : j + PATCH] for i, j in some])
                for (i, j), p in zip(some, torch.sigmoid(model(batch))[:, 0].numpy(), strict=True):
                    total[i : i + PATCH, j : j + PATCH] += p
                    times[i : i + PATCH, j : j + PATCH] += 1
            return np.round((total / times)[:CROP, :CROP] * 65535).astype(np.uint16)

    return side


def activations(name: str, repeats: int = 10):
    """Copy as many bytes as all convolutions write: each is read once and written once."""

    def side():
        import torch

        sizes = []
        model = network(name, {})
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                module.register_forward_hook(lambda m, i, y: sizes.append(4 * y.numel()))
        with torch.no_grad():
            model(torch.zeros(1, 3, *(n + -n % model.stride for n in SIZE)))
        source = np.ones(2**24, np.float32)
        target = np.ones_like(source)
        yield repeats
        for _ in range(repeats * sum(sizes) // source.nbytes):
            np.copyto(target, source)

    return side


def products(options: dict, share: float = 0.2):
    """The multiply-adds of 196 patches as products of square matrices (a share, scaled)."""

    def side():
        import torch

        from resegment.costs import cost

        torch.set_num_threads(1)
        macs = 196 * cost("bcdu_net", options, PATCH, PATCH)["macs"]
        a = torch.rand(1024, 1024)
        a @ a
        times = round(share * macs / 1024**3)
        yield times * 1024**3 / macs
        for _ in range(times):
            a @ a

    return side


def levels(most: float, trained: bool = True):
    def same(ours: np.ndarray, other: np.ndarray) -> str:
        off = np.abs(ours.astype(int) - other).max() / 65535
        assert off <= most, f"maps differ by {off}"
        assert ours.std() > 65 or not trained, "a flat map proves nothing"
        return f"maps equal to {off:.1g}"

    return same


def whole(name: str, engine: str, threads: int) -> Case:
    label = {"rga_net": "rga", "mini_net": "mini"}[name]
    return Case(
        f"predict-{label}-{engine}-{threads}",
        f"map of a DRIVE image, {name}, {engine}, {threads} thread{'s' * (threads > 1)}",
        ratio=5 if engine == "onnx" else None,
        ours=project(name, {}, engine, {"patch": None, "stride": None}, 0, 10, threads),
        against="PyTorch eager, NCHW, fp32, default allocator", other=eager(name, threads),
        floor=activations(name), floor_is="outputs of all convolutions copied once in memory",
        same=levels(1e-4), rounds=3,
    )  # fmt: skip


def tiling(width: int, engine: str) -> Case:
    options, tiles = {"width": width}, {"patch": PATCH, "stride": STRIDE}
    return Case(
        f"tiling-{width}-{engine}",
        f"196 patches of 64x64 (128x128 pixels at stride 5), BCDU-Net of width {width}, {engine}",
        ours=project("bcdu_net", options, engine, tiles, CROP, 1), ratio=1.5,
        against="a plain loop over batches of 32 patches, eager NCHW", other=plain_tiling(options),
        floor=products(options), floor_is="its multiply-adds as a product of 1024x1024 matrices",
        same=levels(1e-4, trained=width == 16), rounds=3,
    )  # fmt: skip


CASES = [
    *(whole(n, e, t) for n in ("rga_net", "mini_net")
      for e, t in (("onnx", 1), ("onnx", 2), ("torch", 1))),
    *(tiling(w, e) for w in (16, 64) for e in ("torch", "onnx")),
]  # fmt: skip
