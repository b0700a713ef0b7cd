"""Modulated deformable convolution (DCN v2), compiled where it can be and in plain PyTorch.

Zhu, Hu, Lin, Dai: "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, arXiv
1811.11168. At every place p the k-th of K taps reads the input at p + p_k + offset_k, between
pixels bilinearly and outside the image as zero, times mask_k:

    y(p) = sum over k of w_k x(p + p_k + offset_k(p)) mask_k(p)

Offsets lie as torchvision's: (B, 2K, H, W), dy before dx for each tap, taps row by row.

Three forms compute it, all of them the definition and different in the last bits:
1. compiled: deform.cpp, for float32 on a CPU. The first use on a machine builds it, which takes
   seconds, and keeps it in ~/.cache/resegment (or under $XDG_CACHE_HOME). With one compiler, on one
   kind of CPU, it gives the same bits in every run and with any number of threads: forward shares
   out rows among them, backward images. RESEGMENT_COMPILE=0 in the environment forbids it.
2. torchvision: its kernel, where torchvision loads; it is no dependency, and a torchvision built
   for another torch does not load.
3. pytorch: each tap is one bilinear sampling and one 1x1 product. Also what torch.export sees.
Two trainings on CUDA may differ in either of its forms, which add the gradients of the input up in
no fixed order.

Memory: the taps keep 2 K C H W values a training image for the gradient (every tap before and after
its mask), 18 times the input for 3x3: 75 MB in float32 for 16 channels at 256 x 256, 265 MB at
480 x 480. Prediction holds one tap at a time. The compiled form keeps nothing but its inputs.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resegment.files import atomic, fingerprint, sha256

SOURCE = Path(__file__).with_suffix(".cpp")
# Nothing here lets the compiler reorder a sum
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread",
         "-shared", "-fPIC")  # fmt: skip
BLOCK = 16  # deform.cpp's


def torchvision_kernel() -> Callable[..., Tensor] | None:
    """torchvision's deform_conv2d, or None where torchvision is missing or does not load."""
    try:
        from torchvision.ops import deform_conv2d as kernel
    except (ImportError, OSError, RuntimeError):  # the last: built for another torch
        return None
    return kernel if hasattr(torch.ops.torchvision, "deform_conv2d") else None


KERNEL = torchvision_kernel()


def kernel_in_use(device: str = "cpu") -> str:
    """The form that computes float32 on `device`: compiled, torchvision or pytorch."""
    if device == "cpu" and library():
        return "compiled"
    return "torchvision" if KERNEL is not None else "pytorch"


def deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    """(B, C, H, W) -> (B, O, H', W') by weight (O, C, rows, columns), with stride 1.

    offset is (B, 2K, H', W') and mask (B, K, H', W') for the K = rows * columns taps. Positions are
    float32 at least: half precision could not tell the pixels of an image apart.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    x, offset, mask, weight = (t.to(dtype) for t in (x, offset, mask, weight))
    if _is_for_library(x) and library():
        return by_library(x, offset, mask, weight, padding)
    if KERNEL is not None:
        return KERNEL(x, offset, weight, padding=padding, mask=mask)
    return by_taps(x, offset, mask, weight, padding)


def by_taps(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`deform_conv2d` by PyTorch's own operations."""
    (height, width), (rows, columns) = x.shape[2:], weight.shape[2:]
    top = torch.arange(offset.shape[2], dtype=x.dtype, device=x.device)[:, None] - padding
    left = torch.arange(offset.shape[3], dtype=x.dtype, device=x.device) - padding
    moved = offset.unflatten(1, (rows * columns, 2))  # (B, K, 2, H', W')
    y = 0
    for k, (i, j) in enumerate(product(range(rows), range(columns))):
        down, right = top + i + moved[:, k, 0], left + j + moved[:, k, 1]  # (B, H', W') pixels
        place = torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], -1)
        tap = F.grid_sample(x, place, align_corners=False)  # (B, C, H', W')
        y = y + F.conv2d(tap * mask[:, k : k + 1], weight[:, :, i, j, None, None])
    return y


def _is_for_library(x: Tensor) -> bool:
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor
    return not traced and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


def by_library(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`deform_conv2d` of float32 on a CPU by deform.cpp; the result is channels_last."""
    places, taps = offset.shape[2:], weight.shape[2] * weight.shape[3]
    expected = ((len(x), n * taps, *places) for n in (2, 1))
    if (offset.shape, mask.shape) != tuple(expected) or x.shape[1] != weight.shape[1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, offset, mask, weight))
        raise ValueError(f"x, offset, mask and weight do not fit each other: {shapes}")
    if extra := -x.shape[1] % 4:  # vectors of four channels are the narrowest
        x, weight = (F.pad(t, (0, 0, 0, 0, 0, extra)) for t in (x, weight))
    x = x.contiguous(memory_format=torch.channels_last)
    return _Compiled.apply(x, _dense(offset), _dense(mask), weight, padding)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int):
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.padding = padding
        columns = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (taps x C, O)
        result = torch.empty(
            len(x), len(weight), *offset.shape[2:], memory_format=torch.channels_last
        )
        shape = _shape(x, offset, mask, weight, padding, result)
        _call(library().deform_forward, shape, x, offset, mask, _whole_blocks(columns), result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, of_result: Tensor):
        x, offset, mask, weight = ctx.saved_tensors
        of_result = _dense(of_result)
        rows = weight.permute(0, 2, 3, 1)  # (O, kernel rows, kernel columns, C)
        gradients = torch.zeros_like(x), torch.empty_like(offset), torch.empty_like(mask)
        of_rows = torch.empty(rows.shape)
        shape = _shape(x, offset, mask, weight, ctx.padding, of_result)
        given = x, offset, mask, _whole_blocks(rows.flatten(1)), of_result
        _call(library().deform_backward, shape, *given, *gradients, of_rows)
        return *gradients, of_rows.permute(0, 3, 1, 2), None


def _dense(t: Tensor) -> Tensor:
    kept = t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)
    return t if kept else t.contiguous()


def _whole_blocks(matrix: Tensor) -> Tensor:
    return F.pad(matrix, (0, -matrix.shape[1] % BLOCK)).contiguous()


def _shape(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int, result: Tensor
) -> ctypes.Array:
    """deform.cpp's Shape."""
    values = [*x.shape, *result.shape[1:], *weight.shape[2:], padding]
    for t in (offset, mask, result):  # the strides of a channel and of a place
        last = t.is_contiguous(memory_format=torch.channels_last)
        values += (1, t.shape[1]) if last else (t.shape[2] * t.shape[3], 1)
    values.append(torch.get_num_threads())
    return (ctypes.c_int64 * len(values))(*values)


def _call(function: Callable[..., int], shape: ctypes.Array, *tensors: Tensor) -> None:
    if function(shape, *(ctypes.c_void_p(t.data_ptr()) for t in tensors)):
        raise RuntimeError("a deformable convolution found no memory, or could start no thread")


@cache
def library() -> ctypes.CDLL | None:
    """deform.cpp, compiled; None where that is forbidden or fails, which is said once."""
    if os.environ.get("RESEGMENT_COMPILE") == "0":
        return None
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as e:
        reason = (getattr(e, "stderr", None) or str(e)).strip().splitlines()[0]
        print("deformable convolutions are not compiled here, which makes them several times "
              f"slower: {reason}", file=sys.stderr)  # fmt: skip
        return None


def _load() -> ctypes.CDLL:
    """The library that an earlier process built, or a new one.

    Its name holds what it was built from and the hash of its content: a file that somebody's full
    disk cut off is not loaded, and processes that build at the same time do not mind each other.
    """
    compiler = os.environ.get("CXX") or "c++"
    # the compiler's version and the instructions of this CPU: homes are shared between machines
    known = _run(compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    key = fingerprint([SOURCE.read_text(), FLAGS, known])[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(caches) / "resegment"
    for file in folder.glob(f"deform-{key}-*.so"):
        with contextlib.suppress(OSError):
            if file.stem.endswith(sha256(file)[:16]):
                return ctypes.CDLL(str(file))
    with tempfile.TemporaryDirectory(prefix="resegment-") as scratch:
        made = Path(scratch) / "deform.so"
        _run(compiler, *FLAGS, str(SOURCE), "-o", str(made))
        with contextlib.suppress(OSError):  # where nothing can be kept, the next process builds
            with atomic(folder / f"deform-{key}-{sha256(made)[:16]}.so") as kept:
                shutil.copyfile(made, kept)
        return ctypes.CDLL(str(made))  # stays loaded without its file


def _run(*words: str) -> str:
    done = subprocess.run(words, check=True, capture_output=True, timeout=300, errors="replace")
    return done.stdout


class DeformConv2d(nn.Conv2d):
    """A convolution without bias whose taps move and fade by two convolutions of its own input."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.offset = nn.Conv2d(inputs, 2 * kernel**2, kernel, padding=kernel // 2)
        self.mask = nn.Conv2d(inputs, kernel**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.sigmoid(self.mask(x))
        return deform_conv2d(x, self.offset(x), mask, self.weight, self.padding[0])
