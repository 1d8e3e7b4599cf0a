"""Weighted sums of neighbours on a CPU, and the blur that is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from tcc_fast.pipelines.cpu.blend import BLOCK, blend
from tcc_fast.pipelines.cpu.blur import blur, make_blur_scratch
from tcc_fast.views.resample import blur_kernel_size


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("n", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 3])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 23])
def test_sums_are_those_of_the_formula_and_nothing_else_is_written(count: int, n: int, dtype: type) -> None:
    """In double precision; neighbours that are a row apart, and those side by side."""
    rng = np.random.default_rng(n)
    source = rng.integers(0, 256, (count + 2, n + 5)).astype(dtype)
    weights = rng.random((3, count + 1), dtype=np.float32)
    flat = source.reshape(-1).astype(np.float64)
    for step in (source.shape[1], 1):
        out = np.full(n + 9, -1, np.float32)
        blend(source, 3, step, n, count, weights, 1, out, 4)
        wanted = sum(weights[1, k] * flat[3 + k * step : 3 + k * step + n] for k in range(count))
        np.testing.assert_allclose(out[4 : 4 + n], wanted, rtol=1e-6)
        assert (out[:4] == -1).all()
        assert (out[4 + n :] == -1).all()


@pytest.mark.parametrize("size", [4, 16, 31, 32, 33, 96, 224])
def test_a_blur_is_that_of_torchvision(size: int) -> None:
    """Whatever the width, although weights that single precision does not see are left out; in place."""
    kernel = blur_kernel_size(size)
    scratch = make_blur_scratch(size, kernel)
    planes = torch.rand(3, size, size, generator=torch.Generator().manual_seed(size))
    for sigma in (0.1, 0.3, 0.7, 1.3, 2.0):
        found = planes.clone()
        blur(found.flatten(1).numpy(), size, kernel, sigma, scratch)
        wanted = reference.gaussian_blur(planes.double(), [kernel, kernel], [sigma, sigma])
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)
