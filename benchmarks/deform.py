"""Modulated deformable convolution, compiled, beside PyTorch's own operations and a dense one.

16 channels to 16, 3x3, one image of 512x512, channels_last, one thread. Offsets are random: two
pixels either way, as a rule.
"""

import ctypes

from benchmarks import Case
from benchmarks.side import memory

CHANNELS, SIZE = 16, 512


def inputs(size: int = SIZE):
    """x, offset, mask, weight, and the gradient of the result."""
    import torch

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)

    def drawn(channels: int, draw=torch.randn):
        made = draw(1, channels, size, size, generator=rng)
        return made.to(memory_format=torch.channels_last)

    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=rng) / 12
    return drawn(CHANNELS), 2 * drawn(18), drawn(9, torch.rand), weight, drawn(CHANNELS)


def compiled(x, offset, mask, weight):
    from resegment.models import deform

    assert deform.kernel_in_use() == "compiled"
    return deform.deform_conv2d(x, offset, mask, weight, 1)


def at_once(x, offset, mask, weight):
    """All taps in one sampling, one above the other, and one product: on a CPU the fastest of
    PyTorch's own forms, and with less memory than deform.by_taps."""
    import torch
    import torch.nn.functional as F

    size = x.shape[-1]
    step = torch.arange(size, dtype=x.dtype)
    tap = torch.arange(9)[:, None, None]
    down = step[:, None] - 1 + tap // 3 + offset[:, ::2]
    right = step - 1 + tap % 3 + offset[:, 1::2]
    place = torch.stack([(2 * right + 1) / size - 1, (2 * down + 1) / size - 1], -1)
    found = F.grid_sample(x, place.flatten(1, 2), align_corners=False).unflatten(2, (9, size))
    return torch.einsum("bckhw,ock->bohw", found * mask[:, None], weight.flatten(2))


def dense(x, offset, mask, weight):
    import torch.nn.functional as F

    return F.conv2d(x, weight, padding=1)


def forward(conv, *tensors):
    import torch

    with torch.no_grad():
        return [conv(*tensors[:4])]


def both(conv, *tensors):
    import torch

    asked = [t.detach().requires_grad_() for t in tensors[:4]]
    y = conv(*asked)
    return [y.detach(), *torch.autograd.grad(y, asked, tensors[4], allow_unused=True)]


def timed(work, conv, repeats: int):
    def side():
        from resegment import devices

        devices.tune_allocator()
        tensors = inputs()
        work(conv, *tensors)
        yield repeats
        for _ in range(repeats):
            found = work(conv, *tensors)
        return [None if t is None else thinned(t).numpy() for t in found]

    return side


def weighed(conv):
    """The growth of memory, MB. The allocator is not tuned: it would keep what warming up took."""

    def side():
        both(conv, *inputs(64))
        tensors = inputs()
        ctypes.CDLL(None).malloc_trim(0)  # nothing free is left to be used again
        yield 1
        before = memory("VmRSS")
        both(conv, *tensors)
        return memory("VmHWM") - before

    return side


def thinned(t):
    """Every eighth place of a map, all of the weights."""
    return t[..., ::8, ::8] if t.shape[-1] == SIZE else t


def weighs_less(ours: float, other: float) -> str:
    assert 5 * ours <= other, f"{ours:.0f} MB, more than a fifth of {other:.0f} MB"
    return f"{ours:.0f} MB, {ours / other:.2f} of {other:.0f} MB"


def agree(ours: list, other: list) -> str:
    """Against float64. In float32 the other form is no judge: it rounds places, now and then across
    the edge of a pixel, where the gradient of the offset jumps."""
    tensors = [t.double() for t in inputs()]
    right = (both if len(ours) > 1 else forward)(at_once, *tensors)
    right = [thinned(t).numpy() for t in right]
    worst = max(abs(a - r).max() / abs(r).max() for a, r in zip(ours, right, strict=True))
    assert worst <= 1e-5, worst
    ours, other = (
        max(
            (((a - r) ** 2).mean() / (r**2).mean()) ** 0.5
            for a, r in zip(found, right, strict=True)
        )
        for found in (ours, other)
    )
    return f"largest error {worst:.0e} (float64); rms {ours:.0e}, other {other:.0e}"


WHAT = "16 to 16 channels, 3x3, 512x512, float32, one thread"
OTHER = "all taps by one grid_sample, and an einsum"
FLOOR = "a dense 3x3 convolution of the same size"
CASES = [
    Case("deform", f"modulated deformable convolution forward and backward, {WHAT}",
         timed(both, compiled, 5), OTHER, timed(both, at_once, 1), timed(both, dense, 10), FLOOR,
         ratio=4, same=agree),
    Case("deform-forward", f"the same, forward alone, {WHAT}",
         timed(forward, compiled, 10), OTHER, timed(forward, at_once, 2),
         timed(forward, dense, 20), FLOOR, same=agree),
    Case("deform-memory", f"the same, forward and backward, {WHAT}: growth of memory, unwarmed",
         weighed(compiled), OTHER, weighed(at_once), weighed(dense), FLOOR, same=weighs_less),
]  # fmt: skip
