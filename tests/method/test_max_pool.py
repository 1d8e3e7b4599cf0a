"""Max pooling with a gradient of its own: torch's values and torch's gradient, in compiled steps as well."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcc_fast.method import max_pool
from tcc_fast.method.encoder import build_encoder
from tcc_fast.method.max_pool import MaxPool
from tcc_fast.settings import ModelConfig
from tests.absent_gpu import CAPABILITIES, Kernels
from tests.interpreted import interpret

KERNELS = "tcc_fast.method.max_pool_kernels"
SHAPES = [(3, 64, 12, 12), (2, 16, 9, 14), (2, 24, 7, 7), (1, 5, 1, 3), (2, 3, 2, 40)]


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Of few levels, so that windows have several largest values; channels-last."""
    levels = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return (levels.round().to(dtype) / 3).contiguous(memory_format=torch.channels_last)


def by_torch(x: Tensor, of_output: Tensor) -> tuple[Tensor, Tensor]:
    """Values, and the gradient of the input."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    largest = F.max_pool2d(leaf, 3, 2, 1)
    return largest.detach(), torch.autograd.grad(largest, leaf, of_output)[0]


# The kernels.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_kernels_do_what_torch_does(tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("triton", reason="torch was built without Triton")
    cases = {str(shape): images(shape, dtype) for shape in SHAPES}
    not_a_number = images((1, 4, 8, 8), dtype)
    not_a_number[0, 0, 3, 3] = torch.nan
    smallest = torch.full((1, 4, 5, 5), -torch.inf, dtype=dtype).contiguous(memory_format=torch.channels_last)
    cases |= {"not a number": not_a_number, "smallest": smallest}
    found = interpret({name: (KERNELS, "pool", [(x,)]) for name, x in cases.items()}, tmp_path)
    wanted, given = {}, {}
    for name, x in cases.items():
        largest, places = found[name]
        gradient = images(tuple(largest.shape), dtype) + 1
        wanted[name] = by_torch(x, gradient)
        torch.testing.assert_close(largest, wanted[name][0], rtol=0, atol=0, equal_nan=True)
        assert largest.stride() == wanted[name][0].stride()
        given[name] = (KERNELS, "gradient", [(gradient, places, *x.shape[2:])])
    for name, of_input in interpret(given, tmp_path).items():
        expected = wanted[name][1]
        tolerance = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(of_input, expected, rtol=tolerance, atol=tolerance)
        assert of_input.stride() == expected.stride()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("channels", [64, 96])
def test_kernels_compile_for_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: int, dtype: torch.dtype, channels: int
) -> None:
    pytest.importorskip("triton", reason="torch was built without Triton")
    from tcc_fast.method import max_pool_kernels

    launched = Kernels(max_pool_kernels, ["_pool", "_gradient"], capability, monkeypatch, tmp_path)
    x = images((2, channels, 12, 12), dtype)
    largest, places = max_pool_kernels.pool(x)
    max_pool_kernels.gradient(largest, places, 12, 12)
    launched.check(2)


# The operator, on a CPU that is taken for a GPU.


def places_on_cpu(x: Tensor) -> tuple[Tensor, Tensor]:
    largest, index = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    top, left = (2 * torch.arange(side) - 1 for side in largest.shape[2:])
    places = 3 * (index // x.shape[3] - top[:, None]) + index % x.shape[3] - left
    return largest, places.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def gradient_on_cpu(of_output: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    top, left = (2 * torch.arange(side) - 1 for side in places.shape[2:])
    index = (places // 3 + top[:, None]) * width + places % 3 + left
    of_input = of_output.new_zeros(*places.shape[:2], height * width)
    of_input.scatter_add_(2, index.flatten(2), of_output.flatten(2))
    return of_input.unflatten(2, (height, width)).contiguous(memory_format=torch.channels_last)


def register_cpu_kernels(places: Callable[[Tensor], tuple[Tensor, Tensor]] = places_on_cpu) -> None:
    max_pool.largest_and_places.register_kernel("cpu", places)
    max_pool.gradient.register_kernel("cpu", gradient_on_cpu)


@pytest.fixture
def cpu_as_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register_cpu_kernels()
    monkeypatch.setattr(max_pool, "OWN_GRADIENT_ON", {"cpu"})
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Code of what is compiled from here on, forwards and backwards."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    code: list[str] = []

    def keep(graph: Any, inputs: Any) -> Any:
        code.append(graph.code)
        return make_boxed_func(graph.forward)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda of: real(of, backend=aot_autograd(fw_compiler=keep), fullgraph=True))
    return code


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_pooling_has_torchs_values_and_gradient(
    cpu_as_gpu: None, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    x = images(shape)
    code = graphs_of(monkeypatch)
    pool = torch.compile(MaxPool())
    gradient = images((*shape[:2], (shape[2] + 1) // 2, (shape[3] + 1) // 2)) + 1
    largest, wanted = by_torch(x, gradient)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    found = pool(leaf)
    assert torch.equal(found, largest)
    assert found.stride() == largest.stride()
    (of_input,) = torch.autograd.grad(found, leaf, gradient.contiguous())  # channels first
    torch.testing.assert_close(of_input, wanted)
    assert ["tcc_fast.max_pool." in one for one in code] == [True, False]
    assert "tcc_fast.max_pool_gradient." in code[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a compiler of C++ on a CPU")
def test_inductor_calls_it_between_what_it_compiles(cpu_as_gpu: None) -> None:
    from torch._inductor.utils import fresh_cache, run_and_get_code

    stem = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), MaxPool(), nn.Tanh())
    x = images((2, 8, 9, 12)).requires_grad_()

    def gradients(of: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((of(x) * torch.arange(6)).sum(), [x, *stem.parameters()])

    wanted = gradients(stem)
    with fresh_cache():
        found, code = run_and_get_code(lambda: gradients(torch.compile(stem, fullgraph=True)))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert ["torch.ops.tcc_fast.max_pool_gradient.default(" in one for one in code] == [False, True]


def test_the_operator_is_what_it_says(cpu_as_gpu: None) -> None:
    """Shapes and strides for a compiler, and which gradient it has."""
    x = images((2, 8, 9, 12)).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(max_pool.largest_and_places, (x,), test_utils=checks)
    largest, places = max_pool.largest_and_places(x.detach())
    torch.library.opcheck(max_pool.gradient, (largest, places, 9, 12), test_utils=checks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_gradient_pooling_is_torchs(cpu_as_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a compiler puts into one kernel with what comes before it."""
    code = graphs_of(monkeypatch)
    pool, x = torch.compile(MaxPool()), images((2, 8, 9, 12))
    with torch.no_grad():
        assert torch.equal(pool(x), F.max_pool2d(x, 3, 2, 1))
    assert "tcc_fast" not in code[0]


def test_eager_pooling_is_torchs(cpu_as_gpu: None) -> None:
    x = images((2, 8, 9, 12)).requires_grad_()
    assert type(MaxPool()(x).grad_fn).__name__ == type(F.max_pool2d(x, 3, 2, 1).grad_fn).__name__


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet_small"])
def test_stems_of_7x7_have_it(backbone: str) -> None:
    for stem, expected in (("7x7", 1), ("3x3", 0)):
        parts = list(build_encoder(ModelConfig(backbone=backbone, stem=stem)).modules())
        assert sum(isinstance(part, MaxPool) for part in parts) == expected
        assert sum(isinstance(part, nn.MaxPool2d) for part in parts) == expected
