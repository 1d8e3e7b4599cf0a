"""Are our Triton kernels right on this device? What they make beside what torch makes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tcc_fast.draws import GUMBEL_BITS, bits_of_each, fastest_bits, scalar_key
from tcc_fast.method.max_pool import largest_and_places
from tcc_fast.precision import Precision

POOLED = ((64, 64, 48, 48), (3, 48, 15, 22))
"""Images, channels, height, width: as behind a 7×7 stem, and as nobody has them."""


def share_that_differs(device: torch.device) -> dict[str, float]:
    """Share of each kernel's numbers that are not torch's, up to rounding where it adds, by the kernel's name."""
    found = {f"max pooling, {precision}": pooling_that_differs(device, precision.dtype) for precision in Precision}
    return found | {"noise": noise_that_differs(device)}


def pooling_that_differs(device: torch.device, dtype: torch.dtype) -> float:
    """Share of max pooling's values and gradients; images have few levels, so windows have several largest values."""
    wrong = count = 0
    for shape in POOLED:
        levels = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).round() / 3
        x = levels.to(device, dtype).to(memory_format=torch.channels_last).requires_grad_()
        ours, torchs = largest_and_places(x)[0], F.max_pool2d(x, 3, 2, 1)
        (of_ours,), (of_torchs,) = (torch.autograd.grad(pooled, x, pooled.detach()) for pooled in (ours, torchs))
        rounding = 8 * torch.finfo(dtype).eps  # of a sum of four, in another order and of other precision
        for one, other, tolerance in ((ours, torchs, 0.0), (of_ours, of_torchs, rounding)):
            wrong += int((~torch.isclose(one, other, rtol=tolerance, atol=tolerance)).sum())
            count += one.numel()
    return wrong / count


def noise_that_differs(device: torch.device) -> float:
    """Share of the numbers that Gumbel noise of a large batch is made of."""
    bases = [scalar_key(stream) for stream in range(4)]
    what: tuple[list[int], Tensor, int, int] = (bases, torch.arange(1024, device=device) ** 3, 20, GUMBEL_BITS)
    return float((fastest_bits(device, compiled=True)(*what) != bits_of_each(*what)).float().mean())
