"""A training step at the papers' size, and the same network as a plain script would train it."""

import time

import numpy as np

from benchmarks import Case

NETWORKS = {  # RSAN drops nothing: DropBlock draws other blocks where memory is laid out otherwise
    "rga": ("rga_net", {}, {"dice": 1.0, "bce": 1.0}),
    "rsan": ("rsan", {"keep": 1.0}, {"bce": 1.0}),
    "mininet": ("mini_net", {}, {"dice": 1.0}),
}
SIZE, BATCH = 512, 4
WARM, STEPS = 4, 3  # memory is taken from the system in the first steps only


def plain(name: str):
    """Stock PyTorch: eager, NCHW, float32, glibc's own allocator settings; one thread."""

    def side():
        import torch

        from resegment import losses, models

        torch.set_num_threads(1)
        torch.manual_seed(0)
        network, options, loss = NETWORKS[name]
        model = models.build(network, options).train()
        optimiser = torch.optim.Adam(model.parameters(), eps=1e-7)
        image, label = batch()
        x = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().float() / 255
        y = torch.from_numpy(label)[:, None].float()

        def step() -> float:
            optimiser.zero_grad()
            value = losses.total(model(x), y, loss)
            value.backward()
            optimiser.step()
            return value.item()

        found = [step() for _ in range(WARM)]
        yield STEPS
        return found + [step() for _ in range(STEPS)]

    return side


def ours(name: str, precision: str):
    def side():
        from resegment import devices

        devices.tune_allocator()
        import torch

        from resegment import models, train

        train.reproducible(0, threads=1)
        network, options, loss = NETWORKS[name]
        model = models.build(network, options).to(memory_format=torch.channels_last).train()
        how = {"loss": loss, "alpha": "one", "precision": precision}
        optimiser = torch.optim.Adam(model.parameters(), eps=1e-7)
        image, label = map(torch.from_numpy, batch())
        device = torch.device("cpu")

        def step():
            return train.step(model, optimiser, image, label, how, device).item()

        found = [step() for _ in range(WARM)]
        yield STEPS
        return found + [step() for _ in range(STEPS)]

    return side


def batch() -> tuple[np.ndarray, np.ndarray]:
    """(4, 512, 512, 3) and (4, 512, 512) uint8: smooth noise, a tenth of it foreground."""
    rng = np.random.default_rng(0)
    import cv2

    noise = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    image = np.stack([cv2.GaussianBlur(x, (0, 0), 3) for x in noise])
    level = np.quantile(image[..., 1], 0.9)
    return image, (image[..., 1] > level).astype(np.uint8)


def floor(name: str):
    """The slower of the two: every layer's output written and read once, its gradient likewise, as
    fast as memory copies; three times the multiply-adds of an image as fast as oneDNN multiplies.
    """

    def side():
        from resegment import devices

        devices.tune_allocator()
        import torch

        from resegment import costs, models

        torch.set_num_threads(1)
        network, options, _ = NETWORKS[name]
        sizes = []
        with torch.device("meta"):
            model = models.build(network, options)
            for module in model.modules():
                if not list(module.children()):
                    module.register_forward_hook(lambda *call: sizes.append(call[2].numel() * 4))
            model(torch.zeros(BATCH, 3, SIZE, SIZE))
        moved = sum(sizes) * 4  # bytes: written and read, forward and backward
        macs = 3 * BATCH * costs.cost(network, options, SIZE, SIZE)["macs"]
        blocks, n = torch.zeros(2, 2**25), 1024
        a, b = torch.ones(n, n), torch.ones(n, n)

        def copy() -> None:
            blocks[1].copy_(blocks[0])  # 128 MiB read and as much written

        def multiply() -> None:
            torch.mm(a, b)

        def seconds(work) -> float:
            work()
            return min(timed(work) for _ in range(3))

        copies, products = moved / (2 * blocks[0].nbytes), macs / n**3
        byte_bound = copies * seconds(copy) > products * seconds(multiply)
        work, times = (copy, copies) if byte_bound else (multiply, products)
        yield 1
        for _ in range(round(times)):
            work()

    return side


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alike(a: list, b: list, within: float) -> str:
    worst = max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))
    assert worst <= within, f"losses differ: {a} {b}"
    return f"losses of {len(a)} steps equal to {worst:.1g}"


def case(name: str, precision: str, ratio: float, within: float) -> Case:
    return Case(
        f"train-{name}-{precision}",
        f"training step, {NETWORKS[name][0]}, {SIZE}x{SIZE}, batch {BATCH}, {precision}",
        ours(name, precision),
        "the same network, PyTorch eager, NCHW, fp32, default allocator",
        plain(name),
        floor(name),
        "every layer's output and its gradient written and read once, or all products, in fp32",
        ratio=ratio,
        same=lambda a, b: alike(a, b, within),
        rounds=1 if name == "rsan" else 3,
    )


CASES = [
    case(name, precision, ratio, within)
    for name in NETWORKS
    for precision, ratio, within in (("fp32", 2.0, 0.001), ("bf16", 3.0, 0.02))
]
