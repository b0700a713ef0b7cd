"""The compiled deformable convolution: equal to the taps, the same bits always, and dispensable."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest
import torch
from torch import Tensor

from resegment import closure
from resegment.engines import plan
from resegment.models.hybridnetseg import deform
from resegment.models.hybridnetseg.deform import library

COMPILER = os.environ.get("CXX") or "c++"
needs_compiler = pytest.mark.skipif(
    not shutil.which(COMPILER) or os.environ.get("RESEGMENT_COMPILE") == "0",
    reason=f"no compiler {COMPILER}, or forbidden",
)


def inputs(batch=2, channels=3, outputs=5, size=(9, 7), kernel=(3, 3), padding=1, spread=2.0):
    """x, offset, mask, weight in float32, and the gradient of the result."""
    rng = torch.Generator().manual_seed(1)
    taps = kernel[0] * kernel[1]
    height, width = (n + 2 * padding - k + 1 for n, k in zip(size, kernel, strict=True))
    return [
        torch.randn(batch, channels, *size, generator=rng),
        spread * torch.randn(batch, 2 * taps, height, width, generator=rng),
        torch.rand(batch, taps, height, width, generator=rng),
        torch.randn(outputs, channels, *kernel, generator=rng),
        torch.randn(batch, outputs, height, width, generator=rng),
    ]


def result(conv, tensors: list[Tensor], padding: int = 1) -> list[Tensor]:
    """The result and the gradients of x, offset, mask and weight."""
    *given, above = tensors
    given = [t.detach().requires_grad_() for t in given]
    y = conv(*given, padding)
    return [y.detach(), *torch.autograd.grad(y, given, above)]


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_compiler
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"batch": 1, "channels": 1, "outputs": 1, "size": (1, 1)},
        {"kernel": (1, 1), "padding": 0, "channels": 4, "outputs": 16},
        {"channels": 16, "outputs": 16, "size": (31, 33)},
        {"batch": 3, "channels": 40, "outputs": 40, "size": (6, 17), "spread": 20.0},
        {"channels": 8, "outputs": 20, "size": (5, 300), "kernel": (5, 3), "padding": 0},
        {"batch": 1, "channels": 80, "outputs": 7, "kernel": (5, 5), "padding": 3},
        {"size": (4, 40), "channels": 6, "spread": 1e9},
    ],
    ids=str,
)
def test_compiled_is_the_taps_of_float64(case, layout):
    padding = case.get("padding", 1)
    tensors = [t.to(memory_format=layout) for t in inputs(**case)]
    found = result(deform.by_library, tensors, padding)
    expected = result(deform.by_taps, [t.double() for t in tensors], padding)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * b.abs().max().item())


@needs_compiler
def test_places_are_exact_far_from_the_origin():
    """Where float32 would round a position to 1/512 of a pixel, an offset still moves by 1/4096."""
    x = torch.arange(8192.0).remainder(2).expand(1, 4, 1, 8192).contiguous()
    offset, mask = torch.zeros(1, 2, 1, 8192), torch.ones(1, 1, 1, 8192)
    offset[:, 1] = 1 / 4096
    weight = torch.eye(4)[:, :, None, None]
    found = deform.by_library(x, offset, mask, weight, 0)
    expected = x + (1 - 2 * x) / 4096
    assert torch.equal(found[..., :-1], expected[..., :-1])


@needs_compiler
def test_compiled_is_used_for_float32_on_a_cpu():
    *given, _ = inputs()
    found = deform.deform_conv2d(*given, 1)
    assert deform.kernel_in_use() == "compiled"
    assert torch.equal(found, deform.by_library(*given, 1))
    assert found.is_contiguous(memory_format=torch.channels_last)
    given = [t.double() for t in given]
    if not deform.KERNEL:
        assert torch.equal(deform.deform_conv2d(*given, 1), deform.by_taps(*given, 1))


@needs_compiler
def test_compiled_under_autocast_has_gradients_of_its_parameters():
    torch.manual_seed(0)
    conv, x = deform.DeformConv2d(8, 8), torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.float32
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())


@needs_compiler
def test_compiled_gives_the_same_bits_with_any_number_of_threads():
    tensors = inputs(batch=3, channels=16, outputs=16, size=(40, 150))
    expected, threads = result(deform.by_library, tensors), torch.get_num_threads()
    try:
        for n in (1, 1, 2, 3, 7):
            torch.set_num_threads(n)
            assert_same_bits(result(deform.by_library, tensors), expected)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_compiled_keeps_nothing_but_its_inputs():
    kept = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.untyped_storage().data_ptr())
        return t

    *given, _ = (t.to(memory_format=torch.channels_last) for t in inputs(channels=4))
    given = [t.requires_grad_() for t in given]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        deform.by_library(*given, 1)
    assert sorted(kept) == sorted(t.untyped_storage().data_ptr() for t in given)


@needs_compiler
def test_what_is_not_a_number_stays_visible():
    *given, _ = inputs()
    for value in (float("nan"), float("inf")):
        given[1][0, 4, 2, 3] = value
        found, expected = (f(*given, 1).isnan() for f in (deform.by_library, deform.by_taps))
        assert found.any() and torch.equal(found, expected)


@needs_compiler
@pytest.mark.parametrize("which", range(4))
def test_tensors_that_do_not_fit_are_refused(which):
    *given, _ = inputs()
    given[which] = given[which][:, 1:]
    with pytest.raises(ValueError, match="do not fit each other"):
        deform.by_library(*given, 1)


@needs_compiler
def test_an_export_sees_pytorchs_own_operations():
    conv, x = deform.DeformConv2d(4, 4).eval(), torch.randn(1, 4, 8, 8)
    program = torch.export.export(conv, (x,), strict=False)
    assert sum("grid_sampler" in str(n.target) for n in program.graph.nodes) == 9
    torch.testing.assert_close(program.module()(x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process with an empty cache folder; builds are quick and not optimised."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RESEGMENT_COMPILE", raising=False)
    monkeypatch.setattr(deform, "FLAGS", ("-O0", *(f for f in deform.FLAGS if f != "-O3")))
    monkeypatch.setattr(deform, "KERNEL", None)
    library.cache_clear()
    yield tmp_path / "cache/resegment"
    library.cache_clear()


def assert_in_pytorch() -> None:
    *given, _ = inputs()
    for _ in range(2):
        assert deform.kernel_in_use() == "pytorch"
        assert torch.equal(deform.deform_conv2d(*given, 1), deform.by_taps(*given, 1))


def test_compilation_can_be_forbidden(fresh, monkeypatch, capfd):
    monkeypatch.setenv("RESEGMENT_COMPILE", "0")
    assert_in_pytorch()
    assert not fresh.exists() and capfd.readouterr().err == ""


def test_without_a_compiler_one_line_says_so(fresh, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_in_pytorch()
    (line,) = capfd.readouterr().err.splitlines()
    assert "not compiled here" in line and COMPILER in line


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch, tmp_path, capfd):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'cc1plus: missing' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert_in_pytorch()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("cc1plus: missing")


@needs_compiler
def test_a_library_is_built_once_and_one_that_was_cut_off_again(fresh):
    assert deform.kernel_in_use() == "compiled"
    (file,) = fresh.iterdir()
    whole, built = file.read_bytes(), file.stat().st_mtime_ns

    library.cache_clear()
    assert deform.kernel_in_use() == "compiled" and file.stat().st_mtime_ns == built

    file.unlink()  # this process has it loaded
    file.write_bytes(whole[: len(whole) // 2])
    library.cache_clear()
    assert deform.kernel_in_use() == "compiled"
    assert file.read_bytes() == whole and list(fresh.iterdir()) == [file]


@needs_compiler
def test_without_a_place_to_keep_it_the_library_is_built_all_the_same(fresh, capfd):
    fresh.parent.write_text("a file where the folder should be")
    assert deform.kernel_in_use() == "compiled" and capfd.readouterr().err == ""
    *given, _ = inputs()
    found, expected = (f(*given, 1) for f in (deform.deform_conv2d, deform.by_taps))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.slow
def test_processes_may_build_at_the_same_time(fresh, root):
    see = "from resegment.models.hybridnetseg import deform; print(deform.kernel_in_use())"
    env = os.environ | {"PYTHONPATH": str(root / "src")}
    started = [
        subprocess.Popen([sys.executable, "-c", see], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [p.communicate()[0].strip() for p in started] == ["compiled"] * 2
    assert all(f.suffix == ".so" and not f.name.startswith(".") for f in fresh.iterdir())


def test_the_source_is_code_of_the_networks_and_is_installed(root):
    assert "models/hybridnetseg/deform.cpp" in closure.files("resegment.models.hybridnetseg")
    assert "models/hybridnetseg/deform.cpp" not in closure.files("resegment.models.rga_net")
    assert "src/resegment/models/hybridnetseg/deform.cpp" in plan.code("models.hybridnetseg")
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = root / "src/resegment"
    listed = {f for g in data["package-data"]["resegment"] for f in package.glob(g)}
    assert deform.SOURCE.name in {f.name for f in listed}
