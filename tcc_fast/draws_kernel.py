"""The hashing of `tcc_fast.draws` by Triton: one launch for each base, instead of some thirty for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tcc_fast import draws

_GOLDEN, _MIX_1, _MIX_2 = (tl.constexpr(number) for number in (draws.GOLDEN, draws.MIX_1, draws.MIX_2))
BLOCK = 512
"""Numbers of a program."""


@triton.jit
def _shift(x, BITS: tl.constexpr):
    """Bits of x shifted to the right, zeros from the left."""
    mask: tl.constexpr = (1 << (64 - BITS)) - 1
    return (x >> BITS) & mask


@triton.jit
def _mix(x):
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


@triton.jit(do_not_specialize=["base"])
def _bits(base, values, out, count, SLOTS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Draw whole numbers below 2^BITS. Grid: (ceil(count / BLOCK),), of as many numbers as there are."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    value, slot = tl.load(values + number // SLOTS, inside, other=0), (number % SLOTS).to(tl.int64)
    key = _mix(base + (value + 1) * _GOLDEN)
    tl.store(out + number, _shift(_mix(key + (slot + 1) * _GOLDEN), 64 - BITS).to(tl.float32), inside)


def bits_of_each(bases: Sequence[int], values: Tensor, slots: int, bits: int) -> Tensor:
    """Random whole numbers, as `tcc_fast.draws.bits_of_each` draws them, of values (B,) on a GPU."""
    out = torch.empty(len(bases), len(values), slots, device=values.device)
    count = len(values) * slots
    with torch.cuda.device_of(values):
        for base, part in zip(bases, out, strict=True):
            _bits[triton.cdiv(count, BLOCK),](
                base, values, part, count, SLOTS=slots, BITS=bits, BLOCK=BLOCK, num_warps=4
            )
    return out
