"""DropBlock of RSAN beside its definition: the blocks by a maximum filter."""

from benchmarks import Case

SHAPE, KEEP, BLOCK = (4, 16, 256, 256), 0.85, 7


def ours():
    from resegment.models.rsan import DropBlock

    return DropBlock(KEEP, BLOCK).train()


def defined():
    """As the authors write it: the corners of the blocks, widened by max-pooling."""
    import torch
    import torch.nn.functional as F

    def drop(x):
        height, width = x.shape[2:]
        places = (height - BLOCK + 1) * (width - BLOCK + 1)
        gamma = (1 - KEEP) / BLOCK**2 * height * width / places
        corners = torch.rand_like(x[:, :, BLOCK - 1 :, BLOCK - 1 :]) < gamma
        kept = 1 - F.max_pool2d(F.pad(corners.float(), [BLOCK - 1] * 4), BLOCK, stride=1)
        return x * (kept * (kept.numel() / kept.sum()))

    return drop


def drawing():
    import torch

    return torch.rand_like  # one number a unit: no DropBlock draws fewer


def timed(make):
    def side():
        import torch

        from resegment import devices

        devices.tune_allocator()
        torch.set_num_threads(1)
        work, x = make(), torch.ones(SHAPE).to(memory_format=torch.channels_last)
        torch.manual_seed(0)
        found = work(x).mean((2, 3)).numpy()
        yield 5
        for _ in range(5):
            work(x)
        return found

    return side


def alike(a, b) -> str:
    assert (a == b).all()
    return "the same bits"


CASES = [
    Case("dropblock", f"DropBlock, {' x '.join(map(str, SHAPE))} float32, one thread",
         timed(ours), "max-pooling of the blocks' corners", timed(defined),
         timed(drawing), "one random number a unit", ratio=2, same=alike),
]  # fmt: skip
